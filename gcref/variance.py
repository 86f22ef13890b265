"""The variance of a gradient estimator, exact or by the paper's Monte Carlo (Eq. 1 and section 4 of the paper)."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref.closed_form import ClosedForm, Moments, Norms, share_of
from gcref.clustering.base import check_choice, check_integer
from gcref.engine.network import Network
from gcref.estimators import Data, Estimator, MiniBatch, Stratum

Vector = NDArray[np.float64]


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
    executor: Executor | None = None,
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
    executor : concurrent.futures.Executor, optional
        What sums the pieces of the closed form, see `variances`.

    Returns
    -------
    Variance

    Raises
    ------
    ValueError
        If method or n_estimates makes no sense, x and y differ in length, or the estimator does not fit them or is not
        prepared.
    TypeError
        If an argument is nothing of its kind, such as a pair (x, y) for the data set.

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
    _check_arguments({"estimator": estimator}, net, ds)
    check_choice("method", method, ("closed-form", "monte-carlo"))
    check_integer("n_estimates", n_estimates, 2)
    if method == "closed-form":
        return variances({"": estimator}, net, ds, executor)[""]
    return monte_carlo(estimator, net, ds, int(n_estimates), _generator(rng), noise_scale(net, ds))


def _check_arguments(estimators: Mapping[str, Any], net: Any, ds: Any) -> None:
    """Raise unless each argument has what its place asks for; two may be swapped, or x and y given for a data set."""
    places: list[tuple[str, Any, str, str]] = [
        *((name, estimator, "sample", "an estimator, such as MiniBatch,") for name, estimator in estimators.items()),
        ("net", net, "n_parameters", "a Network"),
        ("ds", ds, "y", "a data set, such as gcref.data.Dataset(x, y),"),
    ]
    for name, value, attribute, expected in places:
        if isinstance(value, type):
            raise TypeError(f"{name} is the class {value.__name__}; an instance is expected")
        if not hasattr(value, attribute):
            raise TypeError(f"{name} is a {type(value).__name__}; {expected} is expected")


def _generator(rng: Any) -> np.random.Generator:
    """Return `rng` if it is a generator, or one of that seed."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng is {rng!r}; a numpy.random.Generator, a seed or None is expected") from None


def noise_scale(net: Network, ds: Data) -> float:
    """Compute tr Σ / ‖ḡ‖², Σ the covariance of one example's gradient, by one pass over the data."""
    return variances({"": MiniBatch(1, replacement=True)}, net, ds)[""].noise_scale


def variances(
    estimators: Mapping[str, Estimator],
    net: Network,
    ds: Data,
    executor: Executor | None = None,
    normalized: bool = True,
) -> dict[str, Variance]:
    """Compute the exact variance of several estimators, sharing the passes over the data.

    Parameters
    ----------
    estimators : mapping of str to estimator
        Prepared, where they need that.
    net : Network
    ds : Dataset
    executor : concurrent.futures.Executor, optional
        What sums pieces of some thousand examples: processes, or `gcref.executor.dask_pool` for data beyond one
        machine. By default this process does. The numbers are the same to the last bit, as long as BLAS has one
        number of threads everywhere.
    normalized : bool, default True
        False leaves out the normalized variance, which alone needs the variance of every coordinate, and with it
        about half of the work: `normalized` is then NaN.

    Returns
    -------
    dict of str to Variance
        By the same names; the numbers of `variance`.

    Raises
    ------
    ValueError, TypeError
        As `variance`.

    Notes
    -----
    One pass, grouped by the strata of the first stratified estimator, serves it, every mini-batch and, with a second
    network pass for the gradients at the snapshot, every SVRG. Each further stratified estimator takes a pass of its
    own. Memory: a few vectors of d, and the traces of a bounded number of examples.
    """
    if not isinstance(estimators, Mapping):
        raise TypeError(f"estimators is a {type(estimators).__name__}; a mapping of names to estimators is expected")
    _check_arguments({f"estimators[{name!r}]": estimator for name, estimator in estimators.items()}, net, ds)
    strata = {name: estimator.strata(ds) for name, estimator in estimators.items()}
    plain = [name for name, estimator in estimators.items() if estimator.plain and len(strata[name]) > 1]
    apart = [name for name, estimator in estimators.items() if not estimator.plain]
    whole = [Stratum(np.arange(len(ds.y)), 1, True)]
    kind = Moments if normalized else Norms
    shared = ClosedForm(
        net, ds, strata[plain[0]] if plain else whole, {name: estimators[name] for name in apart}, executor, kind
    )
    coordinates = dict.fromkeys(estimators, np.zeros(0))
    if plain:
        coordinates[plain[0]] = shared.coordinates
    for name in plain[1:]:
        coordinates[name] = ClosedForm(net, ds, strata[name], {}, executor, kind).coordinates
    one = shared.of_everything()
    for name in estimators:
        if name in apart:
            coordinates[name] = share_of(strata[name][0], len(ds.y), len(ds.y)) * shared.of_everything(name)
        elif name not in plain:
            coordinates[name] = share_of(strata[name][0], len(ds.y), len(ds.y)) * one
    for name, estimator in estimators.items():
        if estimator.merging > 0:
            coordinates[name] = (1 - estimator.merging) * coordinates[name] + estimator.merging * one
    gradient = shared.everything.total / len(ds.y)
    noise = _noise_scale(float(one.sum()), gradient)
    return {
        name: Variance(
            float(V.sum()) / net.n_parameters, _normalized(V, gradient) if normalized else float("nan"), noise, 0.0
        )
        for name, V in coordinates.items()
    }


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
