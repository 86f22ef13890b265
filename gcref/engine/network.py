"""Network: a chain of layers and a loss over one flat parameter vector."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gcref.engine.chain import Chain
from gcref.engine.costs import Costs
from gcref.engine.layers import Layer, at_least
from gcref.engine.losses import Loss
from gcref.engine.trace import Array, Trace, first_bad_row, read_array, read_numbers
from gcref.kernels import memory


@dataclass(frozen=True)
class Block:
    """Where one parameter block lives in `Network.theta`.

    Attributes
    ----------
    name : str
        The layer's place in the network and the block's name in the layer, such as ``"2.weight"``.
    shape : (int, int)
        (I, O), the bias (where there is one) in the last row.
    slice : slice
        The block's part of theta.
    """

    name: str
    shape: tuple[int, int]
    slice: slice


class Network:
    """A chain of layers and a loss, with every parameter in one flat vector.

    Parameters
    ----------
    layers : sequence of Layer
        Applied in order.
    loss : Loss
        The loss of one example, given the last layer's output.
    seed : int
        Seed of the initial parameters; each layer draws from its own child of ``SeedSequence(seed)``.
    dtype : "float64" or "float32"
        The type of all computation. float64 is the reference, float32 is for speed.

    Attributes
    ----------
    theta : ndarray, shape (d,)
        The parameters. Written in place (``net.theta -= step``, ``net.theta[:] = 0``); assigning copies.
    blocks : list of Block
        Name, shape and place in theta of each parameter block.
    weights : list of ndarray, shape (I, O)
        Each block as a view of theta.
    n_parameters : int
        d.
    running : ndarray, shape (n,)
        The running statistics of batch norm, which training moves and which are no parameters; often none.

    Raises
    ------
    TypeError
        If dtype is no type.
    ValueError
        If no layer has parameters, dtype is another type, or seed is not an int of at least 0.
    """

    def __init__(self, layers: Sequence[Layer], loss: Loss, seed: int = 0, dtype: DTypeLike = "float64") -> None:
        self.chain = Chain(layers)
        self.layers = self.chain.layers
        self.loss = loss
        self.dtype = float_dtype(dtype)
        self.blocks = _blocks(self.chain)
        if not self.blocks:
            raise ValueError("layers has no trainable parameters; at least one layer with a weight is expected")
        self.n_parameters = self.blocks[-1].slice.stop
        self._trace_bytes: dict[tuple[int, ...], int] = {}
        self._theta = np.empty(self.n_parameters, self.dtype)
        self._running = np.concatenate([np.empty(0), *self.chain.initialise_running()]).astype(self.dtype)
        self._bind()
        seeds = seed_sequence(seed).spawn(len(self.layers))
        starts = [
            start
            for layer, child in zip(self.layers, seeds, strict=True)
            for start in layer.initialise(np.random.default_rng(child))
        ]
        for weight, start in zip(self.weights, starts, strict=True):
            weight[...] = start

    @property
    def theta(self) -> Array:
        """The parameters, shape (d,); the array itself, so writing into it moves the network."""
        return self._theta

    @theta.setter
    def theta(self, value: ArrayLike) -> None:
        if value is self._theta:  # what `net.theta -= step` ends with
            return
        new = read_numbers("theta", value)
        if new.shape != self._theta.shape:
            raise ValueError(f"theta has shape {new.shape}; {self._theta.shape} is expected")
        self._theta[:] = new

    @property
    def running(self) -> Array:
        """The running statistics, shape (n,); written in place, and assigning copies, as with `theta`."""
        return self._running

    @running.setter
    def running(self, value: ArrayLike) -> None:
        new = read_numbers("running", value)
        if new.shape != self._running.shape:
            raise ValueError(f"running has shape {new.shape}; {self._running.shape} is expected")
        self._running[:] = new

    def logits(self, x: ArrayLike) -> Array:
        """Return the last layer's output, one row an example.

        Parameters
        ----------
        x : array_like, shape (B, features) or (B, H, W, C)
            The inputs, cast to the network's type.

        Returns
        -------
        ndarray, shape (B, O)

        Raises
        ------
        TypeError
            If x holds something else than real numbers.
        ValueError
            If x has another shape than the layers expect, or holds NaN or infinity.
        """
        return self.chain.forward(self._check_x(x), self._all_weights)[0]

    def losses(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Return each example's own loss ℓ_i, shape (B,); x and y as in `gradient`."""
        logits = self.logits(x)
        return self.loss(logits, _check_y(y, len(logits)))[0]

    def gradient(
        self,
        x: ArrayLike,
        y: ArrayLike,
        weights: ArrayLike | None = None,
        out: Array | None = None,
        training: bool = False,
    ) -> tuple[float, Array]:
        """Return a weighted sum of the examples' losses and its gradient.

        Parameters
        ----------
        x : array_like, shape (B, features) or (B, H, W, C)
            The inputs, cast to the network's type.
        y : array_like of int, shape (B,)
            The labels.
        weights : array_like, shape (B,), optional
            w_i; 1/B each if not given, which makes it the mean.
        out : ndarray, shape (d,), optional
            Where to write the gradient; a loop that passes the same array spares an allocation a call.
        training : bool
            Whether batch norm uses the batch's statistics, and takes them into the running ones; without batch
            norm nothing depends on it.

        Returns
        -------
        loss : float
            Σ_i w_i ℓ_i; 0 for no example.
        gradient : ndarray, shape (d,)
            Σ_i w_i ∂ℓ_i/∂θ, in the order of theta.

        Raises
        ------
        TypeError, ValueError
            If x, y, weights or out has an unexpected type, shape or value; the network is then as it was.
        """
        x = self._check_x(x)
        y = _check_y(y, len(x))
        w = self._check_weights(weights, len(x))
        gradient = self._check_out(out)
        forward = self.chain.forward_training if training else self.chain.forward
        with self._running_restored_on_error():
            logits, caches = forward(x, self._all_weights)
            losses, dout = self.loss(logits, y)
        dout *= w[:, None]
        self.chain.backward(dout, caches, self._all_weights, self._views(gradient), need_dx=False)
        return float(np.sum(losses * w, dtype=np.float64)), gradient

    def traces(self, x: ArrayLike, y: ArrayLike, training: bool = False) -> tuple[Array, list[Trace]]:
        """Return each example's loss and, for each parameter block, the trace of its per-example gradients.

        Parameters
        ----------
        x, y
            As in `gradient`.
        training : bool
            Refused where there is batch norm.

        Returns
        -------
        losses : ndarray, shape (B,)
            ℓ_i.
        traces : list of Trace
            One a block, in the order of theta; D is ∂ℓ_i/∂output of the example's own loss, not divided by B,
            and g_i = Σ_t A_it D_itᵀ.

        Raises
        ------
        TypeError, ValueError
            As in `gradient`; and in training mode with batch norm, which ties the examples of a batch to one
            another, so that none has a gradient of its own.
        """
        if training and self.chain.batch_statistics:
            raise ValueError(
                "training=True, but batch norm then ties the examples of a batch together and none has a gradient of "
                "its own; training=False uses the running statistics"
            )
        x = self._check_x(x)
        y = _check_y(y, len(x))
        logits, caches = self.chain.forward(x, self._all_weights)
        losses, dout = self.loss(logits, y)
        return losses, self.chain.trace_backward(dout, caches, self._all_weights, need_dx=False)[0]

    def costs(self, in_shape: tuple[int, ...], n_clusters: int = 128) -> Costs:
        """Count the operations of gradient clustering, block by block, by Eq. 8 and by Eq. 9 (Table 1).

        Parameters
        ----------
        in_shape : tuple of int
            The shape of one example, such as (32, 32, 3).
        n_clusters : int
            K.

        Returns
        -------
        Costs
            Printed, a table with the form chosen for each block and quantity.

        Raises
        ------
        ValueError
            If n_clusters is below 1, or the network does not take examples of that shape.
        """
        n_clusters = at_least(n_clusters, "n_clusters", 1)
        try:
            traces = self._traces_of_one(tuple(in_shape))
        except (TypeError, ValueError) as error:
            raise type(error)(f"in_shape is {in_shape!r}: {error}") from None
        return Costs([block.name for block in self.blocks], [trace.shape for trace in traces], n_clusters)

    def trace_bytes(self, in_shape: tuple[int, ...]) -> int:
        """Return the memory that the traces of one example of shape `in_shape` take, patches not formed."""
        if tuple(in_shape) not in self._trace_bytes:
            self._trace_bytes[tuple(in_shape)] = sum(trace.nbytes for trace in self._traces_of_one(in_shape))
        return self._trace_bytes[tuple(in_shape)]

    def _traces_of_one(self, in_shape: tuple[int, ...]) -> list[Trace]:
        """Return the traces of one example of zeros."""
        with np.errstate(all="ignore"):
            return self.traces(np.zeros((1, *in_shape)), np.zeros(1, np.int64))[1]

    def copy(self, dtype: DTypeLike | None = None) -> "Network":
        """Return an independent network with the same parameters, in another type if `dtype` is given."""
        other = copy.copy(self)
        other.dtype = self.dtype if dtype is None else float_dtype(dtype)
        other._theta = self._theta.astype(other.dtype)
        other._running = self._running.astype(other.dtype)
        other._trace_bytes = {}
        other._bind()
        return other

    def __getstate__(self) -> dict[str, object]:
        # Pickle turns views into arrays of their own; they are cut anew from theta afterwards.
        return {k: v for k, v in self.__dict__.items() if k not in ("weights", "_all_weights")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._bind()

    def __repr__(self) -> str:
        chain = ", ".join(repr(layer) for layer in self.layers)
        return f"Network([{chain}], {self.loss!r}, {self.n_parameters} parameters, {self.dtype})"

    def _bind(self) -> None:
        """Cut the weights as views from theta."""
        self.weights: list[Array] = self._views(self._theta)
        lengths = self.chain.running_shapes
        running = np.split(self._running, np.cumsum(lengths)[:-1]) if lengths else []
        self._all_weights = self.weights + running

    def _views(self, vector: Array) -> list[Array]:
        """Cut a (d,) vector into each block's (I, O) view."""
        return [vector[b.slice].reshape(b.shape) for b in self.blocks]

    @contextmanager
    def _running_restored_on_error(self) -> Iterator[None]:
        """Put the running statistics back if the block fails: layers move them before a later one finds a mistake."""
        before = self._running.copy()
        try:
            yield
        except BaseException:
            self._running[:] = before
            raise

    def _check_x(self, x: ArrayLike) -> Array:
        """Cast x to the network's type; the layers check its shape, this its values."""
        given = read_numbers("x", x)
        if given.ndim < 2:
            raise ValueError(f"x has shape {given.shape}; one row an example, (B, ...), is expected")
        # A layer may write over what it is given, but never over the caller's array.
        overwritten = self.chain.overwrites_input
        cast = given.astype(self.dtype, copy=overwritten)
        row = first_bad_row(cast)
        if row is not None:
            kind = "NaN" if np.isnan(cast[row]).any() else "infinity"
            raise ValueError(f"x has {kind} at row {row}; finite numbers are expected")
        return cast

    def _check_weights(self, weights: ArrayLike | None, n_examples: int) -> Array:
        """Return the weight of each example."""
        if weights is None:
            return np.full(n_examples, 1.0 / max(n_examples, 1), self.dtype)
        w = read_numbers("weights", weights).astype(self.dtype, copy=False)
        if w.shape != (n_examples,):
            raise ValueError(f"weights has shape {w.shape}; ({n_examples},), one an example, is expected")
        row = first_bad_row(w)
        if row is not None:
            raise ValueError(f"weights has {w[row]} at {row}; finite numbers are expected")
        return w

    def _check_out(self, out: Array | None) -> Array:
        """Return the array to write a gradient to."""
        if out is None:
            return memory.empty((self.n_parameters,), self.dtype)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out is a {type(out).__name__}; an array of {self.dtype} is expected")
        if out.shape != (self.n_parameters,) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out has shape {out.shape} and dtype {out.dtype}; a contiguous ({self.n_parameters},) "
                f"array of {self.dtype} is expected"
            )
        if not out.flags.writeable:
            raise ValueError("out is read-only; an array that can be written to is expected")
        return out


def _blocks(chain: Chain) -> list[Block]:
    """Lay the layers' parameter blocks out one after the other."""
    blocks: list[Block] = []
    start = 0
    for name, shape in zip(chain.block_names, chain.shapes, strict=True):
        stop = start + shape[0] * shape[1]
        blocks.append(Block(name, shape, slice(start, stop)))
        start = stop
    return blocks


def float_dtype(dtype: DTypeLike) -> np.dtype:
    """Read a dtype, of which there are two; raises ValueError or TypeError if it is another, or none."""
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype is {dtype!r}; float32 or float64 is expected") from None
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {found}; float32 or float64 is expected")
    return found


def _check_y(y: ArrayLike, n_examples: int) -> NDArray:
    """Read the labels: one an example. The loss checks their values."""
    labels = read_array("y", y)
    if labels.shape != (n_examples,):
        raise ValueError(f"y has shape {labels.shape}; ({n_examples},), one label for each row of x, is expected")
    return labels


def seed_sequence(seed: int) -> np.random.SeedSequence:
    """Read a seed.

    Parameters
    ----------
    seed : int
        At least 0.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        return np.random.SeedSequence(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed is {seed!r}; an int of at least 0 is expected") from None
