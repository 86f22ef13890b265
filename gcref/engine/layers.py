"""Layers: forward and backward as mirror images, without hidden state.

To add one, subclass `Layer`, and let `gcref.check_gradients` compare it with finite differences.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gcref.engine.trace import Array, Trace
from gcref.kernels.elementwise import mask, relu
from gcref.kernels.threads import product


class Layer:
    """What a network asks of a layer; the defaults are those of a layer without parameters.

    A layer keeps neither parameters nor activations: it is given the views of its parameters, and what
    `forward` returns as cache comes back to `backward` and `traces`.
    """

    shapes: tuple[tuple[int, int], ...] = ()
    """(I, O) of each parameter block, the bias (where there is one) in the last row."""

    overwrites_input: bool = False
    """Whether `forward` writes its output over x, and `backward` over dout."""

    keeps_output: bool = False
    """Whether `backward` needs what `forward` returned, so that nobody may write over it."""

    running_shapes: tuple[int, ...] = ()
    """The length of each running statistic, which training moves and no gradient does."""

    batch_statistics: bool = False
    """Whether the examples of a batch share something in `forward_training`, so that none has a gradient of its own."""

    @property
    def block_names(self) -> tuple[str, ...]:
        """A name for each parameter block."""
        if len(self.shapes) == 1:
            return ("weight",)
        return tuple(f"weight{j}" for j in range(len(self.shapes)))

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Draw the initial value of each parameter block."""
        return []

    def initialise_running(self) -> list[Array]:
        """Return the initial value of each running statistic."""
        return []

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the output and the cache for the backward pass.

        Parameters
        ----------
        x : ndarray, shape (B, ...)
            The input; not written to unless the class says `overwrites_input`.
        weights : sequence of ndarray, shape (I, O)
            The views of the layer's parameter blocks, then those of its running statistics.
        """
        raise NotImplementedError

    def forward_training(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Do what `forward` does, for an SGD step: the one place where running statistics move."""
        return self.forward(x, weights)

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Return the gradient with respect to the input, and write that with respect to the parameters.

        Parameters
        ----------
        dout : ndarray, shape of the output
            ∂loss/∂output.
        cache
            What `forward` returned.
        weights : sequence of ndarray, shape (I, O)
            As given to `forward`.
        grads : sequence of ndarray, shape (I, O), or None
            Where to write the gradient of each parameter block, summed over the batch; None: not wanted.
        need_dx : bool
            Whether the gradient with respect to the input is wanted; if not, None is returned.
        """
        raise NotImplementedError

    def traces(self, dout: Array, cache: Any) -> list[Trace]:
        """Return one trace a parameter block, given dout of each example's own loss."""
        return []

    def trace_backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], need_dx: bool
    ) -> tuple[list[Trace], Array | None]:
        """Return the traces and the gradient with respect to the input, as `traces` and `backward` do.

        A layer made of layers says it in one pass.
        """
        return self.traces(dout, cache), self.backward(dout, cache, weights, None, need_dx)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Linear(Layer):
    """A fully connected layer, out = x W + b.

    Parameters
    ----------
    n_in, n_out : int
        The number of inputs and outputs.
    bias : bool
        Whether there is a bias b.

    Raises
    ------
    ValueError
        If n_in or n_out is not a positive integer.

    Notes
    -----
    The one parameter block is θ of shape (I, O): I = n_in + 1 with the bias as last row, I = n_in without.
    Its trace has T = 1: A_i = (x_i, 1) and D_i = ∂ℓ_i/∂out_i, so that g_i = A_i D_iᵀ.
    Weights and bias start uniform in ±1/√n_in.
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        self.n_in = at_least(n_in, "n_in", 1)
        self.n_out = at_least(n_out, "n_out", 1)
        self.bias = bias
        self.shapes = ((self.n_in + int(bias), self.n_out),)

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Draw θ uniformly in ±1/√n_in."""
        bound = 1.0 / np.sqrt(self.n_in)
        return [rng.uniform(-bound, bound, self.shapes[0])]

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Array]:
        """Return x W + b, and x as the cache.

        Raises
        ------
        ValueError
            If x is not of shape (B, n_in).
        """
        if x.ndim != 2 or x.shape[1] != self.n_in:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, {self.n_in})")
        (theta,) = weights
        out = product(x, theta[: self.n_in])
        if self.bias:
            out += theta[-1]
        return out, x

    def backward(
        self,
        dout: Array,
        cache: Array,
        weights: Sequence[Array],
        grads: Sequence[Array] | None,
        need_dx: bool,
    ) -> Array | None:
        """Write ∂loss/∂W = xᵀ dout and ∂loss/∂b = Σ_i dout_i; return ∂loss/∂x = dout Wᵀ."""
        (theta,) = weights
        if grads is not None:
            product(cache.T, dout, out=grads[0][: self.n_in])
            if self.bias:
                np.sum(dout, axis=0, out=grads[0][-1])
        return product(dout, theta[: self.n_in].T) if need_dx else None

    def traces(self, dout: Array, cache: Array) -> list[Trace]:
        """Return A = (x, 1) and D = dout."""
        A = cache
        if self.bias:
            A = np.empty((len(cache), self.n_in + 1), cache.dtype)
            A[:, :-1] = cache
            A[:, -1] = 1
        return [Trace(A, dout)]

    def __repr__(self) -> str:
        return f"Linear({self.n_in}, {self.n_out}{'' if self.bias else ', bias=False'})"


class ReLU(Layer):
    """max(x, 0), its derivative at 0 taken as 0.

    It writes over its input and over dout, which nobody else needs any more: x is the output of the layer
    before, which that layer must not keep, and dout is the input gradient of the layer after.
    """

    overwrites_input = True
    keeps_output = True

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Array]:
        """Return max(x, 0), which is its own cache."""
        x = np.ascontiguousarray(x)
        relu(x)
        return x, x

    def backward(
        self,
        dout: Array,
        cache: Array,
        weights: Sequence[Array],
        grads: Sequence[Array] | None,
        need_dx: bool,
    ) -> Array | None:
        """Return dout where the output is positive, 0 elsewhere."""
        if not need_dx:
            return None
        dout = np.ascontiguousarray(dout)
        mask(dout, cache)
        return dout


class RandomFeatures(Layer):
    """Fixed features under a trained head, out = max(x F, 0).

    Parameters
    ----------
    features : array_like, shape (I, h)
        F, one column a feature. It is not trained.

    Raises
    ------
    ValueError
        If features is not a matrix.
    """

    def __init__(self, features: ArrayLike) -> None:
        self.features: Array = np.asarray(features)
        if self.features.ndim != 2:
            raise ValueError(f"features has shape {self.features.shape}; (I, h) is expected")

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, None]:
        """Return max(x F, 0); there is no backward pass, so nothing to keep.

        Raises
        ------
        ValueError
            If x is not of shape (B, I).
        """
        n_in = len(self.features)
        if x.ndim != 2 or x.shape[1] != n_in:
            raise ValueError(f"x has shape {x.shape}; {self!r} expects (B, {n_in})")
        out = product(x, self.features.astype(x.dtype, copy=False))
        return np.maximum(out, 0, out=out), None

    def backward(
        self, dout: Array, cache: None, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> None:
        """Return None: the features are the first layer, below which nothing is trained.

        Raises
        ------
        ValueError
            If the gradient with respect to the input is asked for.
        """
        if need_dx:
            raise ValueError("RandomFeatures has no input gradient; it must come before every trained layer")

    def __repr__(self) -> str:
        return "RandomFeatures({}, {})".format(*self.features.shape)


def at_least(value: int, name: str, lowest: int) -> int:
    """Read a size, or raise a ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
        raise ValueError(f"{name} is {value!r}; an int of at least {lowest} is expected")
    return int(value)
