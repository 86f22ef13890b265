"""Per-example gradients from traces against PyTorch's autograd, one backward pass an example, in float64.

Run ``python -m gcref.validation.torch_autograd`` (a few seconds). It prints the worst relative deviation of
each model and exits with 0 if all are at most 1e-10, with 1 otherwise.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import gcref
from gcref.engine.layers import Layer, Linear, RandomFeatures, ReLU
from gcref.engine.losses import Logistic, Loss, SoftmaxCrossEntropy
from gcref.engine.network import Network

TOLERANCE = 1e-10


def autograd_gradients(net: Network, x: NDArray, y: NDArray) -> NDArray:
    """Compute every example's gradient with PyTorch's own layers, losses and autograd.

    Parameters
    ----------
    net : Network
        Gives the architecture and the parameters; none of its passes is used.
    x : ndarray, shape (B, features)
    y : ndarray of int, shape (B,)

    Returns
    -------
    ndarray, shape (B, d), float64
    """
    theta = torch.tensor(net.theta, dtype=torch.float64, requires_grad=True)
    weights = [theta[block.slice].reshape(block.shape) for block in net.blocks]
    gradients = np.empty((len(x), net.n_parameters))
    for i in range(len(x)):
        out = torch.tensor(x[i : i + 1], dtype=torch.float64)
        start = 0
        for layer in net.layers:
            stop = start + len(layer.shapes)
            out = _forward(layer, out, weights[start:stop])
            start = stop
        loss = _loss(net.loss, out, torch.tensor(y[i : i + 1]))
        gradients[i] = torch.autograd.grad(loss, theta, retain_graph=True)[0].numpy()
    return gradients


def worst_deviation(net: Network, x: NDArray, y: NDArray) -> float:
    """Return the largest ‖g_i − g_i(autograd)‖ / ‖g_i(autograd)‖ over the examples."""
    expected = autograd_gradients(net, x, y)
    found = gcref.per_example_gradients(net.traces(x, y)[1])
    return float(np.max(np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)))


def models() -> dict[str, Callable[[], Network]]:
    """Return the models that are compared, all of 12 features and at least 2 classes."""
    return {
        "linear": lambda: gcref.linear(12, 5, seed=1),
        "linear, label smoothing 0.1": lambda: gcref.linear(12, 5, seed=1, label_smoothing=0.1),
        "mlp": lambda: gcref.mlp((12, 9, 7, 5), seed=2),
        "mlp, label smoothing 0.1": lambda: gcref.mlp((12, 9, 7, 5), seed=2, label_smoothing=0.1),
        "random features, softmax head": lambda: gcref.random_features(12, 30, seed=3),
        "random features, logistic head": lambda: gcref.random_features(12, 30, head="logistic", seed=3),
    }


def batch(seed: int = 0, n_examples: int = 16) -> tuple[NDArray, NDArray]:
    """Draw inputs of 12 features and labels in {0, 1}, of which every model has at least two classes."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_examples, 12)), rng.integers(0, 2, n_examples)


def _forward(layer: Layer, x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    """Apply PyTorch's counterpart of a layer."""
    if isinstance(layer, Linear):
        bias = weights[0][-1] if layer.bias else None
        return F.linear(x, weights[0][: layer.n_in].T, bias)
    if isinstance(layer, ReLU):
        return F.relu(x)
    if isinstance(layer, RandomFeatures):
        return F.relu(x @ torch.tensor(layer.features, dtype=torch.float64))
    raise TypeError(f"no PyTorch counterpart of {layer!r} is known here")


def _loss(loss: Loss, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Apply PyTorch's counterpart of a loss to one example."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return F.cross_entropy(logits, y, label_smoothing=loss.label_smoothing)
    if isinstance(loss, Logistic):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(torch.float64))
    raise TypeError(f"no PyTorch counterpart of {loss!r} is known here")


def main() -> int:
    """Print the claim and every model's worst deviation; return 0 if the claim holds, 1 if not."""
    print(f"Claim: per-example gradients from traces equal PyTorch's autograd to {TOLERANCE:g} (float64).")
    x, y = batch()
    worst = 0.0
    for name, build in models().items():
        deviation = worst_deviation(build(), x, y)
        worst = max(worst, deviation)
        print(f"  {name:32s} {deviation:.1e}")
    passed = worst <= TOLERANCE
    print(f"{'PASS' if passed else 'FAIL'}: worst relative deviation {worst:.1e}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
