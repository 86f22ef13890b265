"""The models of the studies that have fully connected layers only; images are flattened."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from gcref.engine.layers import Layer, Linear, RandomFeatures, ReLU, at_least
from gcref.engine.losses import Logistic, Loss, SoftmaxCrossEntropy
from gcref.engine.network import Network, float_dtype, seed_sequence
from gcref.engine.pooling import Flatten
from gcref.engine.trace import Array


def linear(
    n_features: int, n_classes: int, seed: int = 0, dtype: DTypeLike = "float64", label_smoothing: float = 0.0
) -> Network:
    """Return a softmax regression: one fully connected layer.

    Parameters
    ----------
    n_features, n_classes : int
        At least 1.
    seed : int
        Seed of the initial parameters, uniform in ±1/√n_features.
    dtype : "float64" or "float32"
    label_smoothing : float in [0, 1)

    Returns
    -------
    Network
        With d = (n_features + 1)·n_classes parameters.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    n_features, n_classes = at_least(n_features, "n_features", 1), at_least(n_classes, "n_classes", 1)
    return Network([Flatten(), Linear(n_features, n_classes)], SoftmaxCrossEntropy(label_smoothing), seed, dtype)


def mlp(sizes: Sequence[int], seed: int = 0, dtype: DTypeLike = "float64", label_smoothing: float = 0.0) -> Network:
    """Return a multi-layer perceptron with ReLU between its layers and softmax cross-entropy on top.

    Parameters
    ----------
    sizes : sequence of int
        The number of features, of each hidden layer's units, and of classes: at least two numbers.
    seed : int
        Seed of the initial parameters, uniform in ±1/√(fan-in).
    dtype : "float64" or "float32"
    label_smoothing : float in [0, 1)

    Returns
    -------
    Network

    Raises
    ------
    TypeError
        If sizes is no sequence.
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> mlp((64, 32, 10)).n_parameters
    2410
    """
    if not isinstance(sizes, Sequence):
        raise TypeError(f"sizes is {sizes!r}; a sequence of at least two ints is expected")
    checked = [at_least(n, f"sizes[{i}]", 1) for i, n in enumerate(sizes)]
    if len(checked) < 2:
        raise ValueError(f"sizes is {tuple(checked)}; at least two numbers, features and classes, are expected")
    layers: list[Layer] = [Flatten()]
    for n_in, n_out in pairwise(checked):
        layers += [Linear(n_in, n_out), ReLU()]
    return Network(layers[:-1], SoftmaxCrossEntropy(label_smoothing), seed, dtype)


def random_features(
    n_features: int, n_hidden: int = 1000, head: str = "softmax", seed: int = 0, dtype: DTypeLike = "float64"
) -> Network:
    """Return the student of the random-features study: fixed features, ReLU, and a trained second layer.

    Parameters
    ----------
    n_features : int
        The dimension of the input.
    n_hidden : int
        h_s, the number of random features, each a Gaussian vector scaled to unit norm.
    head : "softmax" or "logistic"
        Two classes, or one logit (the paper's text); both start as in `initialise_head`.
    seed : int
        Seed of the features and of the head.
    dtype : "float64" or "float32"

    Returns
    -------
    Network
        With d = (h_s + 1)·2 parameters, or h_s + 1 for the logistic head.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    n_features, n_hidden = at_least(n_features, "n_features", 1), at_least(n_hidden, "n_hidden", 1)
    heads: dict[str, tuple[int, Loss]] = {"softmax": (2, SoftmaxCrossEntropy()), "logistic": (1, Logistic())}
    if not isinstance(head, str) or head not in heads:
        raise ValueError(f"head is {head!r}; 'softmax' or 'logistic' is expected")
    n_outputs, loss = heads[head]
    dtype = float_dtype(dtype)
    features_rng, head_rng = [np.random.default_rng(s) for s in seed_sequence(seed).spawn(2)]
    features = unit_columns(features_rng, n_features, n_hidden).astype(dtype, copy=False)
    net = Network([RandomFeatures(features), Linear(n_hidden, n_outputs)], loss, seed, dtype)
    net.theta = initialise_head(head_rng, n_hidden, n_outputs).ravel()
    return net


def initialise_head(rng: np.random.Generator, n_hidden: int, n_outputs: int) -> Array:
    """Draw the initial second layer of the random-features student.

    Parameters
    ----------
    rng : Generator
    n_hidden, n_outputs : int

    Returns
    -------
    ndarray, shape (n_hidden + 1, n_outputs)
        Each output's n_hidden weights are standard normal and scaled to unit norm; the last row, the bias, is
        uniform in ±1/√n_hidden. The weights are drawn first.
    """
    weights = unit_columns(rng, n_hidden, n_outputs)
    bound = 1.0 / np.sqrt(n_hidden)
    return np.vstack([weights, rng.uniform(-bound, bound, (1, n_outputs))])


def unit_columns(rng: np.random.Generator, n_rows: int, n_columns: int) -> Array:
    """Draw a standard normal matrix and scale each column to unit norm; shape (n_rows, n_columns)."""
    matrix = rng.standard_normal((n_rows, n_columns))
    return matrix / np.linalg.norm(matrix, axis=0)
