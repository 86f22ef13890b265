"""The variance of a gradient estimator, exact or by the paper's Monte Carlo (Eq. 1 and section 4 of the paper)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.base import check_choice, check_integer
from gcref.engine.algebra import add_moments
from gcref.engine.network import Network
from gcref.engine.trace import Trace
from gcref.estimators import Data, Estimator, MiniBatch, Stratum, chunks
from gcref.kernels.moments import add_moments as add_gradient_moments
from gcref.kernels.moments import fold

Vector = NDArray[np.float64]
Passes = Callable[[], Iterator[list[Trace]]]

# Where V_j is less than this share of E[g_j²], E[g_j²] − ḡ_j² has lost more than six of float64's sixteen digits, and
# where Σ_j V_j is less than that of Σ_j E[g_j²], more than three of float32's seven: centre first.
CANCELLATION = 1e-6
CANCELLATION_FLOAT32 = 1e-3
# Below a share of RESOLUTION of float64 no digit is left even then: duplicates have variance 0.
RESOLUTION = (16 * np.finfo(np.float64).eps) ** 2
_AT_ONCE = 1 << 20  # numbers of explicit gradients formed at once by a centred pass


@dataclass(frozen=True)
class Variance:
    """The variance of an estimator of the full gradient.

    Attributes
    ----------
    average : float
        Average over the d coordinates of the variance: the trace of the covariance over d, in squared units
        of the gradient.
    normalized : float
        Average over coordinates of V_j / (V_j + ḡ_j²), ḡ the full gradient and 0/0 = 0: at most 1 by the
        closed form. By Monte Carlo the paper's raw ratio, which noise can lift above 1.
    noise_scale : float
        tr Σ / ‖ḡ‖², Σ the covariance of one example's gradient: exact, and the same for every estimator.
        Infinity where ḡ is 0 and Σ is not.
    standard_error : float
        That of `average`; 0 for the closed form.
    """

    average: float
    normalized: float
    noise_scale: float
    standard_error: float


def variance(
    estimator: Estimator,
    net: Network,
    ds: Data,
    method: str = "closed-form",
    n_estimates: int = 50,
    rng: np.random.Generator | int | None = None,
) -> Variance:
    """Compute the variance of an estimator at the network's present parameters.

    Parameters
    ----------
    estimator : MiniBatch, SVRG, Stratified
        Prepared, where it needs that.
    net : Network
    ds : Dataset
        Anything with ``x`` (N, …) and ``y`` (N,).
    method : {"closed-form", "monte-carlo"}
        The closed form is exact and costs a pass over the data (more where numbers cancel; one more for
        SVRG). Monte Carlo is the paper's protocol: `n_estimates` independent draws for the mean, as many
        more for the spread.
    n_estimates : int
        T ≥ 2, of Monte Carlo.
    rng : Generator, int or None
        Random numbers, or their seed, of Monte Carlo.

    Returns
    -------
    Variance

    Raises
    ------
    ValueError
        If method or n_estimates makes no sense, or the estimator does not fit the data set or is not
        prepared.

    Notes
    -----
    For strata k of N_k examples with n_k draws each, the variance of coordinate j is

        V_j = Σ_k (N_k/N)² (1/n_k) c_k (mean_{i∈k} g_ij² − ḡ_kj²),

    with c_k = (N_k − n_k)/(N_k − 1) for draws without replacement and 1 otherwise: SG-B is one stratum with B
    draws, Eq. 1 is K strata with one. Fewer draws than strata, B < K, are from B groups of strata, each of which
    is then a stratum. Over the dealings of groups that V_j is on average (1 − ρ) V_j(Eq. 1) + ρ V_j(SG-1), with ρ
    the probability that two given strata share a group: N_g² times a group's variance is a sum over pairs of its
    examples, those of one stratum are always together, and those of two with probability ρ.
    Memory: a few vectors of d, and the traces of a few hundred examples. Parameters that are not finite give NaN.
    """
    check_choice("method", method, ("closed-form", "monte-carlo"))
    check_integer("n_estimates", n_estimates, 2)
    if method == "closed-form":
        return variances({"": estimator}, net, ds)[""]
    return monte_carlo(estimator, net, ds, int(n_estimates), np.random.default_rng(rng), noise_scale(net, ds))


def noise_scale(net: Network, ds: Data) -> float:
    """Compute tr Σ / ‖ḡ‖², Σ the covariance of one example's gradient, by one pass over the data."""
    return variances({"": MiniBatch(1, replacement=True)}, net, ds)[""].noise_scale


def variances(estimators: Mapping[str, Estimator], net: Network, ds: Data) -> dict[str, Variance]:
    """Compute the exact variance of several estimators, sharing the passes over the data.

    Parameters
    ----------
    estimators : mapping of str to estimator
        Prepared, where they need that.
    net : Network
    ds : Dataset

    Returns
    -------
    dict of str to Variance
        By the same names; the numbers of `variance`.

    Raises
    ------
    ValueError
        As `variance`.

    Notes
    -----
    One pass, grouped by the strata of the first stratified estimator, serves it, every mini-batch and, with a second
    network pass for the gradients at the snapshot, every SVRG. Each further stratified estimator takes a pass of its
    own. Memory: a few vectors of d, and the traces of a bounded number of examples.
    """
    strata = {name: estimator.strata(ds) for name, estimator in estimators.items()}
    plain = [name for name, estimator in estimators.items() if estimator.plain and len(strata[name]) > 1]
    apart = [name for name, estimator in estimators.items() if not estimator.plain]
    whole = [Stratum(np.arange(len(ds.y)), 1, True)]
    shared = _ClosedForm(net, ds, strata[plain[0]] if plain else whole, {name: estimators[name] for name in apart})
    coordinates = dict.fromkeys(estimators, np.zeros(0))
    if plain:
        coordinates[plain[0]] = shared.coordinates
    for name in plain[1:]:
        coordinates[name] = _ClosedForm(net, ds, strata[name], {}).coordinates
    one = shared.of_everything()
    for name in estimators:
        if name in apart:
            coordinates[name] = _share(strata[name][0], len(ds.y)) * shared.of_everything(name)
        elif name not in plain:
            coordinates[name] = _share(strata[name][0], len(ds.y)) * one
    for name, estimator in estimators.items():
        if estimator.merging > 0:
            coordinates[name] = (1 - estimator.merging) * coordinates[name] + estimator.merging * one
    gradient = shared.everything.total / len(ds.y)
    noise = _noise_scale(float(one.sum()), gradient)
    return {name: Variance(float(V.mean()), _normalized(V, gradient), noise, 0.0) for name, V in coordinates.items()}


# ------------------------------------------------------------------------------------------------ closed form


class _Moments:
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
            add_moments(trace, self.total[block], self.squares[block])
            start = block.stop


class _ClosedForm:
    """One pass over the data, stratum by stratum.

    Parameters
    ----------
    net, ds
    strata : list of Stratum
        Which together hold every example once.
    apart : dict of str to Estimator
        Those whose examples contribute something else than their gradients; each draws from all examples.

    Attributes
    ----------
    coordinates : ndarray, shape (d,)
        The variance of the estimator that draws from the strata.
    everything : _Moments
        Of g_i over all examples.
    """

    def __init__(self, net: Network, ds: Data, strata: list[Stratum], apart: dict[str, Estimator]) -> None:
        self.net, self.ds, self.strata, self.estimators = net, ds, strata, apart
        d = net.n_parameters
        self.coordinates = np.zeros(d)
        self.everything = _Moments(d)
        self.apart = {name: _Moments(d) for name in apart}
        own = self.everything if len(strata) == 1 else _Moments(d)
        sums = np.zeros(3)
        for stratum in strata:
            for traces, x, y in chunks(net, ds, stratum.indices):
                own.add(traces)
                for name, estimator in apart.items():
                    self.apart[name].add(estimator.contribution(traces, x, y))
            if len(strata) > 1:
                sums += self._end(stratum, own)
        if self._cancels(*sums):
            self._recompute()

    def _end(self, stratum: Stratum, own: _Moments) -> Vector:
        """Add a stratum's variance to the coordinates and its sums to those of everything; clear its sums."""
        share = _share(stratum, len(self.ds.y))
        self.everything.n += own.n
        n, own.n = own.n, 0
        cancelled = CANCELLATION if share > 0 and self.net.dtype == np.float64 else 0.0
        all_sums = self.everything.total, self.everything.squares
        return fold(own.total, own.squares, n, share, cancelled, self.coordinates, *all_sums)

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
            own = _Moments(self.net.n_parameters)
            for traces in passes():
                own.add([trace.astype(np.dtype(np.float64)) for trace in traces])
            self.coordinates += _share(stratum, len(self.ds.y)) * _centered(own, passes)

    def of_everything(self, name: str | None = None) -> Vector:
        """Return the variance (divisor n) of one example's g_i, or of its contribution to an estimator, (d,)."""
        moments = self.everything if name is None else self.apart[name]
        if moments.n <= 1:
            return np.zeros(self.net.n_parameters)
        mean, second = moments.total / moments.n, moments.squares / moments.n
        out = np.maximum(second - mean**2, 0.0)
        if self._cancels(out.sum(), second.sum(), float(np.count_nonzero(out < CANCELLATION * second))):
            estimator = None if name is None else self.estimators[name]
            out = _centered(moments, _passes(self.net, self.ds, np.arange(len(self.ds.y)), estimator))
        return out if name is None else self._without_rounding(out, second)

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


def _centered(moments: _Moments, passes: Passes) -> Vector:
    """Variance (divisor n) of one example's gradient, (d,), from g_i − ḡ written out, a few at a time."""
    if moments.n <= 1:
        return np.zeros_like(moments.total)
    mean, second = moments.total / moments.n, moments.squares / moments.n
    deviations = _deviations(passes(), mean)
    out = deviations.squares / moments.n - (deviations.total / moments.n) ** 2
    out[out < RESOLUTION * second] = 0.0
    return np.maximum(out, 0.0)


def _deviations(batches: Iterator[list[Trace]], mean: Vector) -> _Moments:
    """Sum g_i − ḡ, which is 0 but for ḡ's rounding, and its squares, a few explicit gradients at a time."""
    out = _Moments(len(mean))
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


def _share(stratum: Stratum, n: int) -> float:
    """(N_k/N)² c_k / n_k: what the variance of one example of the stratum counts in that of the estimate."""
    size = len(stratum.indices)
    if size == 1:
        return 0.0
    finite = 1.0 if stratum.replacement else (size - stratum.n_draws) / (size - 1)
    return (size / n) ** 2 * finite / stratum.n_draws


def _normalized(coordinates: Vector, gradient: Vector) -> float:
    """Average over coordinates of V_j / (V_j + ḡ_j²), 0/0 = 0."""
    second = coordinates + gradient**2
    return float(np.divide(coordinates, second, out=np.zeros_like(second), where=second != 0).mean())


def _noise_scale(trace: float, gradient: Vector) -> float:
    """Tr Σ / ‖ḡ‖², 0/0 = 0."""
    squared = float(np.square(gradient).sum())  # BLAS would let the number of threads decide
    if squared == 0:
        return 0.0 if trace == 0 else float("inf")
    return float(trace / squared)


# ------------------------------------------------------------------------------------------------ Monte Carlo


def monte_carlo(
    estimator: Estimator, net: Network, ds: Data, n_estimates: int, rng: np.random.Generator, noise: float
) -> Variance:
    """Follow the paper's protocol: T draws for the mean, T more for the spread around it and the squares.

    `noise` is the `noise_scale`, which takes a pass over the data and is the same for every estimator.
    """
    d = net.n_parameters
    mean = np.zeros(d)
    for _ in range(n_estimates):
        mean += estimator.sample(net, ds, rng)
    mean /= n_estimates
    spread, second = np.zeros(d), np.zeros(d)
    distances = np.empty(n_estimates)
    for t in range(n_estimates):
        draw = estimator.sample(net, ds, rng).astype(np.float64)
        deviation = (draw - mean) ** 2
        spread += deviation
        second += draw**2
        distances[t] = deviation.sum() / d
    ratio = np.divide(spread, second, out=np.zeros(d), where=second != 0)
    return Variance(
        float(distances.sum() / (n_estimates + 1)),
        float(ratio.mean()),
        noise,
        float(distances.std(ddof=1) / np.sqrt(n_estimates)),
    )
