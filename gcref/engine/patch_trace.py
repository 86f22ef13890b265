"""The trace of a convolution, whose patches are formed only where someone asks for them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcref.engine.trace import Array, Trace
from gcref.kernels import convolution, memory
from gcref.kernels.elementwise import position_sums


class _Part(NamedTuple):
    """Some of the positions: an input (B, H, W, C), output gradients (B, H', W', O), and the bias's input, 1 or 0."""

    x: Array
    dout: Array
    one: float


class PatchTrace(Trace):
    """A trace whose A are the patches of an image, read where they lie; see `Trace` and `Conv2d`.

    ``A`` and ``D`` are made anew at each reading, A with h·w times the memory of the input; gradients, norms and
    moments come from the input itself.
    """

    def __init__(self, parts: Sequence[_Part], win: convolution.Window, bias: bool) -> None:
        object.__setattr__(self, "parts", list(parts))
        object.__setattr__(self, "win", win)
        object.__setattr__(self, "bias", bias)

    parts: list[_Part]
    win: convolution.Window
    bias: bool

    @classmethod
    def of_layer(cls, x: Array, dout: Array, win: convolution.Window, bias: bool) -> "PatchTrace":
        """Return the trace of a convolution of x (B, H, W, C) with output gradients dout (B, H', W', O)."""
        return cls([_Part(x, dout, 1.0)], win, bias)

    @property
    def A(self) -> Array:
        """The patches, with a trailing 1 where there is a bias; (B, T, I)."""
        return np.concatenate([self._patches(part) for part in self.parts], axis=1)

    @property
    def D(self) -> Array:
        """The output gradients, (B, T, O)."""
        return np.concatenate([_rows(part.dout) for part in self.parts], axis=1)

    @property
    def n_examples(self) -> int:
        """B."""
        return len(self.parts[0].x)

    @property
    def n_positions(self) -> int:
        """T."""
        return self.win.n_positions * len(self.parts)

    @property
    def n_inputs(self) -> int:
        """I, with the bias's trailing 1."""
        return self.win.n_inputs + int(self.bias)

    @property
    def n_outputs(self) -> int:
        """O."""
        return self.parts[0].dout.shape[3]

    @property
    def dtype(self) -> np.dtype:
        """The type of the numbers."""
        return self.parts[0].x.dtype

    @property
    def nbytes(self) -> int:
        """The memory that is held, without patches."""
        return sum(part.x.nbytes + part.dout.nbytes for part in self.parts)

    def arrays(self) -> list[tuple[str, Array]]:
        """Return what stands for A and D, by name."""
        return [pair for part in self.parts for pair in (("A", part.x), ("D", part.dout))]

    def rows(self, examples: slice | NDArray[np.intp]) -> "PatchTrace":
        """Return the trace of some of the examples."""
        return PatchTrace([_Part(p.x[examples], p.dout[examples], p.one) for p in self.parts], self.win, self.bias)

    def astype(self, dtype: np.dtype) -> "PatchTrace":
        """Return the trace in another type, itself where it has it."""
        if dtype == self.dtype:
            return self
        return PatchTrace(
            [_Part(p.x.astype(dtype), p.dout.astype(dtype), p.one) for p in self.parts], self.win, self.bias
        )

    def gradients(self) -> Array:
        """Form g_i = Σ_t A_it D_itᵀ, (B, I, O), without patches."""
        out = memory.empty((self.n_examples, self.n_inputs, self.n_outputs), self.dtype)
        for number, part in enumerate(self.parts):
            if number == 0 or part.x.any():  # x − x̃ of the data themselves is 0
                convolution.conv_gradients(part.x, part.dout, self.win, out, fresh=number == 0)
        if self.bias:
            out[:, -1] = sum(part.one * position_sums(_rows(part.dout)) for part in self.parts)
        return out

    def projections(self, R: Array) -> Array:
        """R A_it, (B, T, m), by convolving the input with the rows of R (m, I), without patches."""
        w = np.ascontiguousarray(R[:, : self.win.n_inputs].T)
        found = []
        for part in self.parts:
            bias = R[:, -1] * R.dtype.type(part.one) if self.bias else None
            out = convolution.conv_forward(part.x, w, self.win, bias)
            found.append(out.reshape(self.n_examples, self.win.n_positions, len(R)))
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def position_sums(self) -> tuple[Array, Array]:
        """Σ_t A_it, (B, I), and Σ_t D_it, (B, O)."""
        a = sum(convolution.patch_sums(part.x, self.win) for part in self.parts)
        d = sum(position_sums(_rows(part.dout)) for part in self.parts)
        if self.bias:
            ones = sum(part.one * self.win.n_positions for part in self.parts)
            a = np.hstack([np.asarray(a), np.full((self.n_examples, 1), ones, self.dtype)])
        return np.asarray(a), np.asarray(d)

    def join(self, others: Sequence[Trace]) -> Trace:
        """Return one trace with the examples of this and the others."""
        traces = [self, *(other for other in others if isinstance(other, PatchTrace))]
        if len(traces) <= len(others):
            return super().join(others)
        columns = zip(*[trace.parts for trace in traces], strict=True)
        parts = [
            _Part(np.concatenate([p.x for p in c]), np.concatenate([p.dout for p in c]), c[0].one) for c in columns
        ]
        return PatchTrace(parts, self.win, self.bias)

    def minus(self, reference: Trace) -> Trace:
        """Return the trace of g_i − g̃_i, A (D − D̃)ᵀ + (A − Ã) D̃ᵀ, where patches of x − x̃ are A − Ã."""
        if not isinstance(reference, PatchTrace):
            return super().minus(reference)
        parts = []
        for here, there in zip(self.parts, reference.parts, strict=True):
            parts.append(_Part(here.x, here.dout - there.dout, here.one))
            parts.append(_Part(here.x - there.x, there.dout, here.one - there.one))
        return PatchTrace(parts, self.win, self.bias)

    def _patches(self, part: _Part) -> Array:
        """A of one part."""
        a = convolution.patches(part.x, self.win)
        if not self.bias:
            return a
        return np.concatenate([a, np.full((*a.shape[:2], 1), part.one, a.dtype)], axis=2)


def _rows(dout: Array) -> Array:
    """(B, H', W', O) → (B, T, O)."""
    return dout.reshape(len(dout), dout.shape[1] * dout.shape[2], dout.shape[3])
