"""Verdicts and findings from the samples that the workers of ``gcref validate`` bring home."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from gcref.studies.methods import clustered
from gcref.validation.protocol import N_ESTIMATES, N_REPETITIONS, Drawn
from gcref.validation.tally import Check

POOLED = 4.0  # a pooled |z| beyond it has a probability of 6e-5
N_LAST = 35  # measuring points in the last 70 % of the default grid's 51
FAMILY = 1e-4  # the probability that any one of the |z| is beyond the bound by chance


class Gap(NamedTuple):
    """Φ of the stored clusters, as ratios to exact clusterings of the same gradients."""

    to_alternating: float
    to_exchange: float


def monte_carlo(drawn: Sequence[Drawn]) -> list[Check]:
    """Three rows: the pooled z-score, the largest one, and what the paper's T = 10 would have reported."""
    drawn = [d for d in drawn if d.error > 0]
    bound = NormalDist().inv_cdf(1 - FAMILY / (2 * max(len(drawn), 1)))
    what = f"the paper's protocol, T = {N_ESTIMATES}, {N_REPETITIONS} times, against the closed form"
    pooled = Check("Monte Carlo: pooled", f"{what}: |z| of all together", POOLED, n=len(drawn))
    largest = Check("Monte Carlo: largest", f"{what}: the largest |z|", round(bound, 2), n=len(drawn))
    if drawn:
        pooled.worst = abs(_pooled_z(drawn))
        largest.worst = max(abs(d.z) for d in drawn)
    if pooled.worst > POOLED:
        pooled.fail("all sampled trajectories", None, "pooled z", pooled.worst, f"at most {POOLED:g}")
    for d in drawn:
        if abs(d.z) > bound:
            largest.fail(d.trajectory, d.iteration, f"variance/{d.method}", d.average, f"{d.mean:.6g} (z = {d.z:.1f})")
    return [pooled, largest, raw_normalized(drawn)]


def _pooled_z(drawn: Sequence[Drawn]) -> float:
    """Z of the mean relative deviation; a mean of z-scores would be biased, as low means have low errors."""
    deviation = sum(d.mean / d.average - 1 for d in drawn)
    return deviation / float(np.sqrt(sum((d.error / d.average) ** 2 for d in drawn)))


def raw_normalized(drawn: Sequence[Drawn]) -> Check:
    """The normalized variance in closed form, beside the paper's ratio of ten noisy estimates."""
    what = f"closed form → the paper's ratio: median, largest of {N_LAST} (share of measurements above 1)"
    check = Check("normalized at T = 10", what, None)
    notes = []
    for method in dict.fromkeys(d.method for d in drawn):
        mine = [d for d in drawn if d.method == method]
        raw = np.concatenate([d.raw for d in mine])
        closed = np.median([d.normalized for d in mine])
        largest = np.median([_largest(d.raw) for d in mine])
        notes.append(f"{method} {closed:.3f} → {np.median(raw):.3f}, {largest:.3g} ({np.mean(raw > 1):.0%})")
        check.n += len(raw)
    check.note = ", ".join(notes)
    return check


def _largest(raw: np.ndarray) -> float:
    """Mean of the largest of as many measurements as Fig. 5's maximum is taken over."""
    return float(raw[: len(raw) // N_LAST * N_LAST].reshape(-1, N_LAST).max(axis=1).mean())


def optimum_gap(gaps: Sequence[Gap]) -> Check:
    """How far rank-1 clusterings are from exact ones."""
    check = Check("optimum gap", "Φ of rank-1 clusters over Φ of exact ones, median (worst)", None, n=len(gaps))
    if gaps:
        ratios = np.array(gaps)
        check.note = ", ".join(
            f"{name} {np.median(column):.3f} ({column.max():.3f})"
            for name, column in zip(("alternating", "exchange"), ratios.T, strict=True)
        )
    return check


def reference(methods: Sequence[str]) -> str:
    """Return the one of clustered methods to whose Φ the others are compared."""
    return next((name for name in ("exchange", "gc") if name in methods), methods[0])


def objectives(methods: Sequence[str], beside: Sequence[tuple[str, float]]) -> list[Check]:
    """One row, how Φ of the clusterings of a sweep compare; none where it is the paper's alone."""
    names = clustered(methods)
    if len(names) < 2:
        return []
    what = f"Φ of new labels over that of {reference(names)}'s at the same gradients, median (worst)"
    check, notes = Check("objectives", what, None, n=len(beside)), []
    for name in dict.fromkeys(method for method, _ in beside):
        ratios = [ratio for method, ratio in beside if method == name]
        notes.append(f"{name} {np.median(ratios):.3f} ({max(ratios):.3f})")
    check.note = ", ".join(notes)
    return [check]


def undecided(ratios: Sequence[float]) -> str:
    """Say how labels that hang on rounding compare with those of the plain clustering."""
    if not ratios:
        return ""
    low, median, high = np.percentile(ratios, [5, 50, 95])
    return (
        f"{len(ratios)} clusterings hang on rounding (copies of one example); their Φ over that of the plain "
        f"clustering's: median {median:.3f}, 90 % from {low:.3f} to {high:.3f}"
    )


def unknown(places: Sequence[str]) -> str:
    """Say where the numbers cannot be computed again."""
    if not places:
        return ""
    return (
        f"at {len(places)} measuring points (first {places[0]}) the numbers cannot be recomputed, as SGD is chaotic or "
        "diverges before the labels are kept; only snapshots and digests vouch for them"
    )
