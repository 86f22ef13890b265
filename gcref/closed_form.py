"""The exact variance of an estimator, coordinate by coordinate: sums over the data, piece by piece.

A pass is cut into pieces that depend on the strata alone. Each is summed for itself, here or by a worker elsewhere, and
the sums are merged in order, so that the numbers are the same wherever they come from.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref.engine.algebra import add_moments, add_total, sq_norms
from gcref.engine.network import Network
from gcref.engine.trace import Trace
from gcref.estimators import SVRG, Data, Estimator, Stratum, chunks
from gcref.executor import in_order, share
from gcref.kernels.elementwise import fold_total
from gcref.kernels.moments import add_moments as add_gradient_moments
from gcref.kernels.moments import fold

Vector = NDArray[np.float64]
Passes = Callable[[], Iterator[list[Trace]]]

PIECE = 4096  # examples that are summed in one go: enough for the merging of d numbers not to count
# Where V_j is less than this share of E[g_j²], E[g_j²] − ḡ_j² has lost more than six of float64's sixteen digits, and
# where Σ_j V_j is less than that of Σ_j E[g_j²], more than three of float32's seven: centre first.
CANCELLATION = 1e-6
CANCELLATION_FLOAT32 = 1e-3
# The mean of g_i − g̃_i, as a difference of means, is off by some roundings of ‖g‖: of the variance, by no more than
DROWNED = 1e-9
DROWNED_FLOAT32 = 1e-3
# Below a share of RESOLUTION of float64 no digit is left even then: duplicates have variance 0.
RESOLUTION = (16 * np.finfo(np.float64).eps) ** 2
_AT_ONCE = 1 << 20  # numbers of explicit gradients formed at once by a centred pass


class Moments:
    """Sums over n examples: Σ g_i and Σ g_i∘g_i, each (d,), in float64."""

    def __init__(self, d: int) -> None:
        self.n = 0
        self.total, self.squares = np.zeros(d), np.zeros(d)

    def add(self, traces: list[Trace]) -> None:
        """Take in the gradients of a batch of traces."""
        self.n += traces[0].n_examples
        start = 0
        for trace in traces:
            block = slice(start, start + trace.n_parameters)
            self._add(trace, block)
            start = block.stop

    def _add(self, trace: Trace, block: slice) -> None:
        """Take in one block of the parameters."""
        add_moments(trace, self.total[block], self.squares[block])

    def end(self, share: float, cancelled: float, out: Vector, everything: "Moments") -> Vector:
        """End a stratum: add its variance to `out`, move its sums on, and return what `fold` does."""
        size, self.n = self.n, 0
        everything.n += size
        sums = everything.total, everything.squares
        return fold(self.total, self.squares, size, share, cancelled, out, *sums)

    def merge(self, other: "Moments") -> None:
        """Take in the sums over further examples."""
        self.n += other.n
        self.total += other.total
        self.squares += other.squares


class Norms(Moments):
    """Σ g_i, (d,), and Σ‖g_i‖², (1,): enough for the average of the variance, at less than half the cost."""

    def __init__(self, d: int) -> None:
        self.n = 0
        self.total, self.squares = np.zeros(d), np.zeros(1)

    def _add(self, trace: Trace, block: slice) -> None:
        self.squares += add_total(trace, self.total[block])

    def end(self, share: float, cancelled: float, out: Vector, everything: Moments) -> Vector:
        """The same of the sum over coordinates, which counts as one."""
        size, self.n = self.n, 0
        everything.n += size
        second = float(self.squares[0]) / size
        one = max(0.0, second - fold_total(self.total, everything.total) / size**2)
        everything.squares += self.squares
        self.squares[:] = 0.0
        out += share * one
        return np.array([share * one, share * second, float(one < cancelled * second)])


class NormsAlone(Norms):
    """Σ‖g_i − g̃_i‖² alone, (1,): the mean of g_i − g̃_i is known from those of g_i and g̃_i."""

    def __init__(self) -> None:
        super().__init__(0)

    def _add(self, trace: Trace, block: slice) -> None:
        self.squares += sq_norms(trace).sum()


@dataclass(frozen=True)
class Piece:
    """Consecutive whole strata of a pass, or a part of one stratum; `ends` says whether that is its last."""

    strata: list[Stratum]
    whole: bool
    ends: bool


def pieces(strata: Sequence[Stratum]) -> list[Piece]:
    """Cut a pass into pieces of about `PIECE` examples, in order."""
    found: list[Piece] = []
    small: list[Stratum] = []
    for stratum in strata:
        n = len(stratum.indices)
        if n <= PIECE and len(strata) > 1:
            small.append(stratum)
            if sum(len(s.indices) for s in small) < PIECE:
                continue
        if small:
            found.append(Piece(small, True, True))
            small = []
        if n > PIECE or len(strata) == 1:
            for start in range(0, n, PIECE):
                part = Stratum(stratum.indices[start : start + PIECE], stratum.n_draws, stratum.replacement)
                found.append(Piece([part], False, start + PIECE >= n))
    return [*found, Piece(small, True, True)] if small else found


@dataclass(frozen=True)
class _Context:
    """What every piece of a pass needs; `estimators` are those whose examples contribute something of their own."""

    net: Network
    ds: Data
    n_examples: int
    estimators: dict[str, Estimator]
    kind: type[Moments]
    known: frozenset[str]

    def no_contributions(self) -> dict[str, Moments]:
        """Return empty sums for what each estimator has of an example, without the mean where that is known."""
        d = self.net.n_parameters
        return {name: NormsAlone() if name in self.known else self.kind(d) for name in self.estimators}


class _Sums:
    """What a piece adds up to: moments of g_i and of what others contribute; of whole strata their variance, too."""

    def __init__(self, context: _Context, in_strata: bool) -> None:
        self.everything = context.kind(context.net.n_parameters)
        self.coordinates = np.zeros(len(self.everything.squares) if in_strata else 0)
        self.contributions = context.no_contributions()
        self.lost = np.zeros(3)  # Σ_j V_j, Σ_j E[g_j²], and how many coordinates have lost their digits


def _sum(context: _Context, piece: Piece) -> _Sums:
    """Sum over the examples of a piece."""
    net, ds = context.net, context.ds
    out = _Sums(context, piece.whole)
    own = context.kind(net.n_parameters) if piece.whole else out.everything
    for stratum in piece.strata:
        for traces, x, y in chunks(net, ds, stratum.indices):
            own.add(traces)
            for name, estimator in context.estimators.items():
                out.contributions[name].add(estimator.contribution(traces, x, y))
        if piece.whole:
            out.lost += _end(stratum, context.n_examples, own, out.coordinates, out.everything)
    return out


def _end(stratum: Stratum, n: int, own: Moments, coordinates: Vector, everything: Moments) -> Vector:
    """Add the variance of a stratum, or of that which this is a part of, to the coordinates; move its sums on.

    `own` holds the sums of the whole stratum; they are added to those of everything, and cleared.
    """
    weight = share_of(stratum, own.n, n)
    return own.end(weight, CANCELLATION if weight > 0 else 0.0, coordinates, everything)


class ClosedForm:
    """One pass over the data, stratum by stratum.

    Parameters
    ----------
    net, ds
    strata : list of Stratum
        Which together hold every example once.
    estimators : dict of str to Estimator
        Those whose examples contribute something else than their gradients; each draws from all examples.
    executor : Executor, optional
        What sums the pieces; by default this process.
    kind : {Moments, Norms}
        What is summed: for the variance of every coordinate, or only for their sum.

    Attributes
    ----------
    coordinates : ndarray, shape (d,) or (1,)
        The variance of the estimator that draws from the strata, or its sum over coordinates.
    everything : Moments
        Of g_i over all examples.
    """

    def __init__(
        self,
        net: Network,
        ds: Data,
        strata: list[Stratum],
        estimators: dict[str, Estimator],
        executor: Executor | None,
        kind: type[Moments] = Moments,
    ) -> None:
        self.net, self.ds, self.strata, self.estimators = net, ds, strata, estimators
        d, n = net.n_parameters, len(ds.y)
        self.everything = kind(d)
        self.coordinates = np.zeros_like(self.everything.squares)
        known = frozenset(
            name for name, e in estimators.items() if kind is Norms and type(e) is SVRG and e.prepared_on(ds)
        )
        context = _Context(net, ds, n, estimators, kind, known)
        self.contributions = context.no_contributions()
        own = self.everything if len(strata) == 1 else kind(d)
        lost = np.zeros(3)
        plan = pieces(strata)
        found = in_order(executor, _sum, share(executor, context), plan)
        for piece, sums in zip(plan, found, strict=True):
            for name, moments in sums.contributions.items():
                self.contributions[name].merge(moments)
            if piece.whole:
                self.everything.merge(sums.everything)
                self.coordinates += sums.coordinates
                lost += sums.lost
                continue
            own.merge(sums.everything)
            if piece.ends and len(strata) > 1:
                lost += _end(piece.strata[0], n, own, self.coordinates, self.everything)
        if self._cancels(*lost):
            self._recompute()

    def _cancels(self, variance: float, second: float, n_cancelled: float) -> bool:
        """Tell whether too little is left of E[g²] − ḡ²: of any coordinate in float64, of their sum in float32."""
        if self.net.dtype == np.float64:
            return n_cancelled > 0
        return variance < CANCELLATION_FLOAT32 * second

    def _recompute(self) -> None:
        """Compute the coordinates anew from g_i − ḡ_k, as nothing but rounding may be left of E[g²] − ḡ_k²."""
        self.coordinates.fill(0.0)
        for stratum in self.strata:
            passes = _passes(self.net, self.ds, stratum.indices, None)
            own = Moments(self.net.n_parameters)
            for traces in passes():
                own.add([trace.astype(np.dtype(np.float64)) for trace in traces])
            weight = share_of(stratum, len(stratum.indices), len(self.ds.y))
            self.coordinates += weight * self._of_kind(_centered(own, passes))

    def of_everything(self, name: str | None = None) -> Vector:
        """Return the variance (divisor n) of one example's g_i, or of what an estimator has of it; (d,) or (1,)."""
        moments = self.everything if name is None else self.contributions[name]
        if moments.n <= 1:
            return np.zeros_like(self.coordinates)
        second = moments.squares / moments.n
        out = np.maximum(second - self._of_kind(self._mean(moments, name) ** 2), 0.0)
        lost = self._cancels(out.sum(), second.sum(), float(np.count_nonzero(out < CANCELLATION * second)))
        if lost or self._drowns(moments, float(second[0]), float(out[0])):
            out = self._of_kind(self._centered_anew(moments, name))
        by_coordinate = len(out) == self.net.n_parameters
        return self._without_rounding(out, second) if name is not None and by_coordinate else out

    def _mean(self, moments: Moments, name: str | None) -> Vector:
        """Return the mean of one example's g_i, or of what an estimator has of it, (d,)."""
        if name is not None and isinstance(moments, NormsAlone):
            estimator: Any = self.estimators[name]
            return np.asarray(self.everything.total / moments.n - estimator.gradient_)
        return moments.total / moments.n

    def _drowns(self, moments: Moments, second: float, variance: float) -> bool:
        """Tell whether the mean of differences, as a difference of means, is off by too much of their variance."""
        if not isinstance(moments, NormsAlone):
            return False
        resolution = 4.0 * float(np.finfo(self.net.dtype).eps)
        off = resolution * (second * float(self.everything.squares[0]) / moments.n) ** 0.5
        return off > (DROWNED if self.net.dtype == np.float64 else DROWNED_FLOAT32) * variance

    def _centered_anew(self, moments: Moments, name: str | None) -> Vector:
        """Return the same coordinate by coordinate, from another pass in which nothing cancels."""
        estimator = None if name is None else self.estimators[name]
        passes = _passes(self.net, self.ds, np.arange(len(self.ds.y)), estimator)
        if isinstance(moments, Norms):
            moments = Moments(self.net.n_parameters)
            for traces in passes():
                moments.add(traces)
        return _centered(moments, passes)

    def _of_kind(self, coordinates: Vector) -> Vector:
        """Return the coordinates as they are, or their sum, (1,)."""
        return coordinates if len(self.coordinates) == len(coordinates) else coordinates.sum(keepdims=True)

    def _without_rounding(self, out: Vector, second: Vector) -> Vector:
        """Set to 0 what rounding alone leaves of differences g_i − g̃_i in coordinates where both gradients are 0.

        A difference over several positions, A (D − D̃)ᵀ + (A − Ã) D̃ᵀ, cancels there but for rounding, and where the
        full gradient is 0, too, V / (V + ḡ²) would read 1 in place of 0.
        """
        resolution = (16 * float(np.finfo(self.net.dtype).eps)) ** 2
        for block in self.net.blocks:
            part = out[block.slice]
            part[part < resolution * second[block.slice].mean()] = 0.0
        return out


def _passes(net: Network, ds: Data, indices: NDArray[np.intp], estimator: Estimator | None) -> Passes:
    """Return a function that goes through the traces of `indices` anew at each call."""

    def passes() -> Iterator[list[Trace]]:
        for traces, x, y in chunks(net, ds, indices):
            yield traces if estimator is None else estimator.contribution(traces, x, y)

    return passes


def _centered(moments: Moments, passes: Passes) -> Vector:
    """Variance (divisor n) of one example's gradient, (d,), from g_i − ḡ written out, a few at a time."""
    if moments.n <= 1:
        return np.zeros_like(moments.total)
    mean, second = moments.total / moments.n, moments.squares / moments.n
    deviations = _deviations(passes(), mean)
    out = deviations.squares / moments.n - (deviations.total / moments.n) ** 2
    out[out < RESOLUTION * second] = 0.0
    return np.maximum(out, 0.0)


def _deviations(batches: Iterator[list[Trace]], mean: Vector) -> Moments:
    """Sum g_i − ḡ, which is 0 but for ḡ's rounding, and its squares, a few explicit gradients at a time."""
    out = Moments(len(mean))
    for traces in batches:
        start = 0
        for trace in traces:
            block = slice(start, start + trace.n_parameters)
            step = max(1, _AT_ONCE // trace.n_parameters)
            for first in range(0, trace.n_examples, step):
                part = trace.rows(slice(first, first + step)).astype(np.dtype(np.float64))
                g = part.gradients().reshape(part.n_examples, part.n_parameters) - mean[block]
                add_gradient_moments(g, out.total[block], out.squares[block])
            start = block.stop
        out.n += traces[0].n_examples
    return out


def share_of(stratum: Stratum, size: int, n: int) -> float:
    """(N_k/N)² c_k / n_k: what the variance of one example of a stratum of N_k counts in that of the estimate."""
    if size == 1:
        return 0.0
    finite = 1.0 if stratum.replacement else (size - stratum.n_draws) / (size - 1)
    return (size / n) ** 2 * finite / stratum.n_draws
