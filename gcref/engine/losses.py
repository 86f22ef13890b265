"""Losses of one example each: nothing here is divided by the batch size."""

import numpy as np
from numpy.typing import NDArray

from gcref.engine.trace import Array


class Loss:
    """What a network asks of a loss."""

    def __call__(self, logits: Array, y: NDArray) -> tuple[Array, Array]:
        """Return each example's loss ℓ_i, shape (B,), and ∂ℓ_i/∂logits_i, shape (B, O), in a fresh array."""
        raise NotImplementedError


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of a softmax over O classes, ℓ_i = −Σ_o t_io log softmax(logits_i)_o.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        ε; the target is t_i = (1 − ε) onehot(y_i) + ε/O (Szegedy et al., 2016, section 7).

    Raises
    ------
    ValueError
        If label_smoothing is outside [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not isinstance(label_smoothing, (int, float, np.floating)) or not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing!r}; a number in [0, 1) is expected")
        self.label_smoothing = float(label_smoothing)

    def __call__(self, logits: Array, y: NDArray) -> tuple[Array, Array]:
        """Return the losses and softmax(logits) − t.

        Parameters
        ----------
        logits : ndarray, shape (B, O)
        y : ndarray of int, shape (B,)
            The classes, in 0…O−1.

        Returns
        -------
        losses : ndarray, shape (B,)
        dlogits : ndarray, shape (B, O)

        Raises
        ------
        ValueError
            If logits is not (B, O), or a label is not an int in 0…O−1.
        """
        if logits.ndim != 2:
            raise ValueError(f"logits has shape {logits.shape}; (B, O) is expected")
        n_classes = logits.shape[1]
        labels = _check_labels(y, n_classes)
        rows = np.arange(len(labels))
        shifted = logits - logits.max(axis=1, keepdims=True)
        dlogits = np.exp(shifted)
        total = dlogits.sum(axis=1, keepdims=True)
        log_total = np.log(total[:, 0])
        losses = log_total - shifted[rows, labels]
        dlogits /= total
        dlogits[rows, labels] -= 1.0 - self.label_smoothing
        if self.label_smoothing:
            losses *= 1.0 - self.label_smoothing
            losses += self.label_smoothing * (log_total - shifted.mean(axis=1))
            dlogits -= self.label_smoothing / n_classes
        return losses, dlogits

    def __repr__(self) -> str:
        smoothing = f"label_smoothing={self.label_smoothing}" if self.label_smoothing else ""
        return f"SoftmaxCrossEntropy({smoothing})"


class Logistic(Loss):
    """The logistic loss of one logit s and a label in {0, 1}, ℓ_i = log(1 + exp(−(2y_i − 1) s_i))."""

    def __call__(self, logits: Array, y: NDArray) -> tuple[Array, Array]:
        """Return the losses and sigmoid(s) − y.

        Parameters
        ----------
        logits : ndarray, shape (B, 1)
        y : ndarray of int, shape (B,)
            0 or 1.

        Returns
        -------
        losses : ndarray, shape (B,)
        dlogits : ndarray, shape (B, 1)

        Raises
        ------
        ValueError
            If logits is not (B, 1), or a label is neither 0 nor 1.
        """
        if logits.ndim != 2 or logits.shape[1] != 1:
            raise ValueError(f"logits has shape {logits.shape}; (B, 1) is expected")
        sign = 2 * _check_labels(y, 2).astype(logits.dtype) - 1
        margin = sign * logits[:, 0]
        # Only the exponential of a negative number is taken, so nothing overflows.
        decay = np.exp(-np.abs(margin))
        losses = np.log1p(decay) + np.maximum(-margin, 0)
        miss = np.where(margin > 0, decay, 1) / (1 + decay)  # sigmoid(−margin)
        return losses, (-sign * miss)[:, None]

    def __repr__(self) -> str:
        return "Logistic()"


def _check_labels(y: NDArray, n_classes: int) -> NDArray:
    """Return the labels as indices; raise unless each is an int in 0…n_classes−1."""
    labels = np.asarray(y)
    expected = f"ints in 0…{n_classes - 1} are expected"
    if labels.size == 0:
        return labels.astype(np.intp)
    if labels.dtype.kind not in "iub":
        raise ValueError(f"y has dtype {labels.dtype}, first value {labels.ravel()[:1].tolist()[0]!r}; {expected}")
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= n_classes:
        raise ValueError(f"y has the value {lowest if lowest < 0 else highest}; {expected}")
    return labels.astype(np.intp, copy=False)
