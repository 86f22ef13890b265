"""The variance of a gradient estimator, exact or by the paper's Monte Carlo (Eq. 1 and section 4 of the paper)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.base import check_choice, check_integer
from gcref.engine.network import Network
from gcref.engine.trace import Trace, per_example_gradients
from gcref.estimators import Data, Estimator, MiniBatch, Stratum, chunks
from gcref.kernels.cpu import second_moment

Vector = NDArray[np.float64]
Passes = Callable[[], Iterator[list[Trace]]]

# Where V_j is less than this share of E[g_j²], E[g_j²] − ḡ_j² has lost more than six of float64's sixteen
# digits: centre first. Below a share of RESOLUTION no digit is left even then: duplicates have variance 0.
CANCELLATION = 1e-6
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
    draws, Eq. 1 is K strata with one. Memory: a few vectors of d, and the traces of a few hundred examples.
    Parameters that are not finite give NaN.
    """
    check_choice("method", method, ("closed-form", "monte-carlo"))
    check_integer("n_estimates", n_estimates, 2)
    if method == "closed-form":
        return _closed_form(estimator, net, ds)
    return _monte_carlo(estimator, net, ds, int(n_estimates), np.random.default_rng(rng))


# ------------------------------------------------------------------------------------------------ closed form


@dataclass
class _Moments:
    """Sums over n examples: Σ g_i and Σ g_i∘g_i, each (d,)."""

    n: int
    total: Vector
    squares: Vector

    def add(self, other: "_Moments") -> None:
        """Take in the sums over further examples."""
        self.n += other.n
        self.total += other.total
        self.squares += other.squares


def _moments(batches: Iterator[list[Trace]], n_parameters: int) -> _Moments:
    """Sum gradients and their squares over batches of traces, in float64."""
    out = _Moments(0, np.zeros(n_parameters), np.zeros(n_parameters))
    for traces in batches:
        out.n += traces[0].n_examples
        start = 0
        for trace in map(_in_float64, traces):
            block = slice(start, start + trace.n_parameters)
            out.total[block] += np.tensordot(trace.A, trace.D, axes=((0, 1), (0, 1))).ravel()
            out.squares[block] += second_moment(trace.A, trace.D).ravel()
            start = block.stop
    return out


def _variance_of_one(moments: _Moments, passes: Passes) -> Vector:
    """Variance (divisor n) of one example's gradient, (d,); by a centred pass where a coordinate cancels."""
    if moments.n <= 1:
        return np.zeros_like(moments.total)
    mean, second = moments.total / moments.n, moments.squares / moments.n
    out = second - mean**2
    if not np.any(out < CANCELLATION * second):
        return out
    deviations = _deviations(passes(), mean)
    out = deviations.squares / moments.n - (deviations.total / moments.n) ** 2
    out[out < RESOLUTION * second] = 0.0
    return np.maximum(out, 0.0)


def _deviations(batches: Iterator[list[Trace]], mean: Vector) -> _Moments:
    """Sum g_i − ḡ, which is 0 but for ḡ's rounding, and its squares, a few explicit gradients at a time."""
    out = _Moments(0, np.zeros_like(mean), np.zeros_like(mean))
    for traces in batches:
        start = 0
        for trace in map(_in_float64, traces):
            block = slice(start, start + trace.n_parameters)
            step = max(1, _AT_ONCE // trace.n_parameters)
            for first in range(0, trace.n_examples, step):
                rows = slice(first, first + step)
                g = per_example_gradients([Trace(trace.A[rows], trace.D[rows])]) - mean[block]
                out.total[block] += g.sum(axis=0)
                out.squares[block] += np.einsum("ij,ij->j", g, g)
            start = block.stop
        out.n += traces[0].n_examples
    return out


def _in_float64(trace: Trace) -> Trace:
    """Return the trace in float64, itself if it is."""
    return Trace(trace.A.astype(np.float64, copy=False), trace.D.astype(np.float64, copy=False))


def _closed_form(estimator: Estimator, net: Network, ds: Data) -> Variance:
    """Exact variance, stratum by stratum; see `variance`."""
    n, d = len(ds.y), net.n_parameters
    coordinates = np.zeros(d)
    everything = _Moments(0, np.zeros(d), np.zeros(d))
    for stratum in estimator.strata(ds):
        passes = _passes(estimator, net, ds, stratum.indices)
        moments = _moments(passes(), d)
        coordinates += _share(stratum, n) * _variance_of_one(moments, passes)
        everything.add(moments)
    plain = _passes(MiniBatch(1), net, ds, np.arange(n))
    if not estimator.plain:
        everything = _moments(plain(), d)
    gradient = everything.total / n
    noise = _variance_of_one(everything, plain).sum()
    return Variance(float(coordinates.mean()), _normalized(coordinates, gradient), _noise_scale(noise, gradient), 0.0)


def _passes(estimator: Estimator, net: Network, ds: Data, indices: NDArray[np.intp]) -> Passes:
    """Return a function that goes through the traces of `indices` anew at each call."""
    return lambda: chunks(estimator, net, ds, indices)


def _share(stratum: Stratum, n: int) -> float:
    """(N_k/N)² c_k / n_k: what the variance of one example of the stratum counts in that of the estimate."""
    size = len(stratum.indices)
    finite = 1.0 if stratum.replacement else (size - stratum.n_draws) / max(size - 1, 1)
    return (size / n) ** 2 * finite / stratum.n_draws


def _normalized(coordinates: Vector, gradient: Vector) -> float:
    """Average over coordinates of V_j / (V_j + ḡ_j²), 0/0 = 0."""
    second = coordinates + gradient**2
    return float(np.divide(coordinates, second, out=np.zeros_like(second), where=second != 0).mean())


def _noise_scale(trace: float, gradient: Vector) -> float:
    """Tr Σ / ‖ḡ‖², 0/0 = 0."""
    squared = float(gradient @ gradient)
    if squared == 0:
        return 0.0 if trace == 0 else float("inf")
    return float(trace / squared)


# ------------------------------------------------------------------------------------------------ Monte Carlo


def _monte_carlo(estimator: Estimator, net: Network, ds: Data, n_estimates: int, rng: np.random.Generator) -> Variance:
    """Follow the paper's protocol: T draws for the mean, T more for the spread around it and the squares."""
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
    plain = _passes(MiniBatch(1), net, ds, np.arange(len(ds.y)))
    one = _moments(plain(), d)
    noise = _noise_scale(_variance_of_one(one, plain).sum(), one.total / one.n)
    return Variance(
        float(distances.sum() / (n_estimates + 1)),
        float(ratio.mean()),
        noise,
        float(distances.std(ddof=1) / np.sqrt(n_estimates)),
    )
