"""The numbers of an image study from moments and logits, and what rounding can do to each.

A run computes in float32 or float64, of machine precision ε. A gradient's entry is then known to δ: ε times its own
size, times a constant C for all that it is summed from and 1/‖p − t‖, as p is a number near 1; and ε times the typical
size in its parameter block, as inputs and output gradients of a layer may be all but rounding. An entry that is zero
for every example is zero in any arithmetic. A variance w(E[g²] − ḡ²) moves by up to w(2δ√E[g²] + δ²). SVRG's is that of
g − g̃, a sum of terms that may cancel, each of the size that differences have in the block. Over the N examples of ḡ
errors average out but for a few ε.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.validation.explicit import Numbers
from gcref.validation.image_moments import Found, Moments

Array = NDArray[np.float64]

SLACK = 16.0  # C
TERMS = 4.0  # ε that are common to all examples, or to the terms of a difference of gradients
AT_ONCE = 64  # examples that pass through the network together


class Outputs(NamedTuple):
    """What a network gives for each of N examples; each (N,).

    `residual` is ‖p − t‖₁, `margin` that between the two largest logits, `largest` that of the |logits|.
    """

    losses: Array
    right: NDArray[np.bool_]
    residual: Array
    margin: Array
    largest: Array


def outputs(net: Network, ds: Dataset, label_smoothing: float) -> Outputs:
    """Compute ℓ_i = −Σ_o t_o log softmax(logits_i)_o and the like, t = (1 − s) onehot + s/O, s the label smoothing."""
    logits = np.concatenate([net.logits(ds.x[i : i + AT_ONCE]) for i in range(0, len(ds), AT_ONCE)])
    n, n_classes = logits.shape
    target = np.full((n, n_classes), label_smoothing / n_classes)
    target[np.arange(n), ds.y] += 1.0 - label_smoothing
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    ordered = np.sort(logits, axis=1)
    return Outputs(
        -(target * log_p).sum(axis=1),
        logits.argmax(axis=1) == ds.y,
        np.abs(np.exp(log_p) - target).sum(axis=1),
        ordered[:, -1] - ordered[:, -2] if n_classes > 1 else np.full(n, np.inf),
        np.abs(logits).max(axis=1),
    )


def fit_numbers(out: Outputs, split: str, eps: float) -> Numbers:
    """Compute mean loss and accuracy of a split; an example whose largest logits are within rounding may count as not.

    Parameters
    ----------
    out : Outputs
    split : {"train", "test"}
    eps : float
        ε.
    """
    error = SLACK * eps * (1 + out.largest)
    # ∂ℓ/∂logits is p − t; beside it, the logarithm of a number near 1 is known to ε.
    loss_error = np.mean(out.residual * error) + SLACK * eps / np.sqrt(len(error))
    values = {f"{split}_loss": out.losses.mean(), f"{split}_accuracy": np.mean(out.right)}
    floors = {f"{split}_loss": loss_error, f"{split}_accuracy": np.mean(out.margin <= error)}
    return Numbers(values, floors)


class Rounding:
    """What rounding does to the moments of gradients.

    Parameters
    ----------
    eps : float
        ε.
    out : Outputs
        Of the training set.
    blocks : sequence of slice
        The parameter blocks.
    """

    def __init__(self, eps: float, out: Outputs, blocks: Sequence[slice]) -> None:
        self.eps, self.blocks = eps, blocks
        self.relative = eps * (SLACK + 1 / max(float(np.sqrt(np.mean(out.residual**2))), eps))

    def of_gradients(self, moments: Moments) -> Array:
        """δ, (d,)."""
        second = moments.square / moments.n
        delta = self.relative * np.sqrt(second) + self.eps * np.sqrt(self._of_block(second))
        return np.where(second > 0, delta, 0.0)

    def of_square_mean(self, moments: Moments) -> Array:
        """How far ḡ² may be off, (d,)."""
        return moved(moments.mean**2, self.of_gradients(moments) * (TERMS / SLACK + 1 / np.sqrt(moments.n)))

    def of_differences(self, difference: Moments) -> Array:
        """How far the terms of E[(g − g̃)²] may be off, (d,)."""
        second = difference.square / difference.n
        return np.where(second > 0, TERMS * self.eps * (second + self._of_block(second)), 0.0)

    def _of_block(self, second: Array) -> Array:
        """Replace every entry by the mean of its parameter block."""
        out = np.empty_like(second)
        for block in self.blocks:
            out[block] = second[block].mean()
        return out


def moved(square: Array, delta: Array) -> Array:
    """2δ√s + δ², by which the square s of a number moves when the number moves by δ."""
    return 2 * delta * np.sqrt(square) + delta**2


def variance_numbers(found: Found, methods: Sequence[str], batch_size: int, rounding: Rounding) -> Numbers:
    """Compute average and normalized variance of every method, and the noise scale.

    Parameters
    ----------
    found : Found
    methods : sequence of str
    batch_size : int
        B, and the number of clusters.
    rounding : Rounding
    """
    values, floors = {}, {}
    square, square_error = found.own.mean**2, rounding.of_square_mean(found.own)
    for method in methods:
        variance, error = _coordinates(found, method, batch_size, rounding)
        ratio, ratio_error = _normalized(variance, error, square, square_error)
        values[f"variance/{method}"], floors[f"variance/{method}"] = variance.mean(), error.mean()
        name = f"normalized_variance/{method}"
        values[name], floors[name] = ratio.mean(), ratio_error.mean()
    values["noise_scale"], floors["noise_scale"] = _noise_scale(found.own, float(square_error.sum()), rounding)
    return Numbers(values, floors)


def _coordinates(found: Found, method: str, batch_size: int, rounding: Rounding) -> tuple[Array, Array]:
    """V_j of a method and how far it may be off, both (d,)."""
    own, n = found.own, found.own.n
    delta = rounding.of_gradients(own)
    if clustering := found.clusterings.get(method):
        shift = np.sqrt(clustering.square_sizes) / n * delta
        return clustering.within / n**2, moved(clustering.weighted / n**2, shift)
    size = 2 * batch_size if method == "sg2b" else batch_size
    weight = (n - size) / (size * max(n - 1, 1))  # of the variance of one example, drawn without replacement
    if method != "svrg":
        return weight * own.about / n, weight * moved(own.square / n, delta)
    reference, difference = found.reference, found.difference
    assert reference is not None
    assert difference is not None
    delta = np.where(difference.square > 0, delta + rounding.of_gradients(reference), 0.0)
    error = rounding.of_differences(difference) + moved(difference.square / n, delta)
    return weight * difference.about / n, weight * error


def _normalized(variance: Array, error: Array, square: Array, square_error: Array) -> tuple[Array, Array]:
    """V/(V + ḡ²) with 0/0 = 0, and how far it may be off: anywhere in 0…1 where all is rounding."""
    total, total_error = variance + square, error + square_error
    known = total_error < 0.5 * total
    ratio = np.divide(variance, total, out=np.zeros_like(total), where=total > 0)
    slope = np.divide(square * error + variance * square_error, total**2, out=np.zeros_like(total), where=known)
    return ratio, np.where(known, np.minimum(2 * slope, 1.0), (total_error > 0).astype(np.float64))


def _noise_scale(own: Moments, square_error: float, rounding: Rounding) -> tuple[float, float]:
    """Tr Σ/‖ḡ‖² and how far it may be off."""
    trace, norm = float(own.about.sum()) / own.n, float(own.mean @ own.mean)
    if norm == 0:
        return (np.inf if trace else 0.0), 0.0
    trace_error = float(moved(own.square / own.n, rounding.of_gradients(own)).sum())
    return trace / norm, (trace_error + trace / norm * square_error) / norm
