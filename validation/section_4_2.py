"""What section 4.2 says of over-parametrization, learning rates and SVRG, judged by a results file."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from gcref.store import StoreError, open_results
from gcref.studies.sweep import config_of
from gcref.validation.structure import READ_ERRORS
from gcref.validation.verdicts import (
    FAILS,
    HOLDS,
    UNJUDGED,
    Claim,
    Table,
    geometric_mean,
    log10,
    ratio,
    share,
    verdict,
)

FIGURES_4B_4C = (0.01, 0.1)  # learning rates
TWO_ENDS = "needs two values of h_s/N at one learning rate, the larger above 1"
TWO_RATES = "needs two learning rates at the same h_s/N"

# ----------------------------------------------------------------------------------------- what matters


def axes_that_matter(table: Table) -> list[Claim]:
    """Judge which hyper-parameters move the variance."""
    rows = table.select(method="sgb")
    rows = rows[rows["variance_max70"] > 0]
    log = log10(rows["variance_max70"])
    cells = rows[["learning_rate", "overparametrization"]].tolist()
    axes = {"input dimension": "input_dim", "teacher": "teacher_hidden", "seed": "seed"}
    varied = {name: rows[field].tolist() for name, field in axes.items() if len(np.unique(rows[field])) > 1}
    both = float("nan")
    measured = "needs several pairs of learning rate and h_s/N, each at several seeds, inputs or teachers"
    if varied and len(set(cells)) > 1:
        fitted = _group_means(log, cells)
        both = _explained(log, fitted)
        rest = log - fitted
        shares = [
            f"{name} {_explained(rest, _group_means(rest, keys)) * (1 - both):.1%}" for name, keys in varied.items()
        ]
        measured = f"they explain {both:.1%} of the spread of log V (SG-B); {', '.join(shares)}"
    return [
        Claim(
            "4.2",
            "only the learning rate and h_s/N affect the variance",
            measured,
            "95 % or more; in part from 85 %",
            verdict(both, 0.95, 0.85),
        ),
        _teachers(rows["teacher_hidden"], log),
    ]


def _group_means(values: np.ndarray, keys: Sequence) -> np.ndarray:
    """Replace each value by the mean of those with its key."""
    groups: dict = {}
    for value, key in zip(values, keys, strict=True):
        groups.setdefault(key, []).append(value)
    return np.array([np.mean(groups[key]) for key in keys])


def _explained(values: np.ndarray, fitted: np.ndarray) -> float:
    """Share of the variance of `values` that the means of groups explain; 0 if there is none to explain."""
    total = np.var(values)
    return float(np.var(fitted) / total) if total else 0.0


def _teachers(hidden: np.ndarray, log: np.ndarray) -> Claim:
    """Judge whether the teacher's size moves the variance: its smallest against its largest."""
    sizes = np.unique(hidden)
    measured, result = "needs two teachers", UNJUDGED
    if len(sizes) > 1:
        factor = 10 ** abs(log[hidden == sizes[-1]].mean() - log[hidden == sizes[0]].mean())
        measured = f"a factor of {factor:.2f} between teachers of {sizes[0]} and {sizes[-1]}"
        result = HOLDS if factor <= 1.25 else FAILS
    return Claim(
        "4.2, Fig. 4", "the teacher's hidden units are not influential", measured, "within a factor of 1.25", result
    )


# ------------------------------------------------------------------------------- the over-parametrized regime


def overparametrized(table: Table) -> list[Claim]:
    """Judge what the paper says of the over-parametrized regime."""
    low, high, rates = _two_ends(table)
    shown = [lr for lr in rates if lr in FIGURES_4B_4C] or rates
    methods = [name.decode() for name in np.unique(table.rows["method"])]
    v = {
        (m, lr, x): table.mean(method=m, learning_rate=lr, overparametrization=x)
        for m in methods
        for lr in rates
        for x in (low, high)
    }
    worst = {lr: max(v[m, lr, high] for m in methods) for lr in shown}
    falls = {lr: ratio(v["sgb", lr, low], v["sgb", lr, high]) for lr in rates}
    gain = {(lr, x): ratio(v["sgb", lr, x], v["svrg", lr, x]) for lr in rates for x in (low, high)}
    spread = {}
    for lr, x in gain:
        means = [v[m, lr, x] for m in methods]
        spread[lr, x] = ratio(max(means), min(means))
    return [
        Claim(
            "4.2, Fig. 4",
            "variance is low in the over-parametrized regime",
            f"at h_s/N = {high:g} lower than at {low:g} by a factor of "
            + ", ".join(f"{_three_digits(fall)} (rate {lr:g})" for lr, fall in falls.items())
            if falls
            else TWO_ENDS,
            "10 × lower or more at every rate",
            verdict(share([fall >= 10 for fall in falls.values()])),
        ),
        Claim(
            "4.2, Figs. 4b, 4c",
            "at the same rate all methods are alike in the over-parametrized regime",
            "; ".join(f"rate {lr:g}: max/min {spread[lr, low]:.2f} → {spread[lr, high]:.2f}" for lr in shown)
            or TWO_ENDS,
            f"closer together at {high:g} than at {low:g} at every rate shown there",
            verdict(share([spread[lr, high] < spread[lr, low] for lr in shown])),
        ),
        Claim(
            "4.2, Figs. 4b, 4c",
            f"at h_s/N = {high:g} the variance of all methods is below 1e-5",
            "largest " + "; ".join(f"rate {lr:g}: {worst[lr]:.2g}" for lr in shown) if shown else TWO_ENDS,
            "below at every rate shown there",
            verdict(share([worst[lr] < 1e-5 for lr in shown])),
        ),
        Claim(
            "4.2, Figs. 4b, 4c",
            f"the gain of SVRG vanishes at h_s/N = {high:g}",
            "; ".join(f"rate {lr:g}: SG-B/SVRG {gain[lr, low]:.2f} → {gain[lr, high]:.2f}" for lr in shown) or TWO_ENDS,
            f"less than a factor of 2 left at {high:g}, at every rate shown there",
            verdict(share([gain[lr, high] < 2 for lr in shown])),
        ),
    ]


def _three_digits(number: float) -> str:
    """Round to three digits, with commas between thousands."""
    return f"{float(f'{number:.3g}'):,.10g}"


def _two_ends(table: Table) -> tuple[float, float, list[float]]:
    """Return the smallest and largest h_s/N, and the learning rates with both; none if none is above 1."""
    ratios, points = table.values("overparametrization"), table.points()
    low, high = ratios[0], ratios[-1]
    if not high > max(low, 1.0):
        return low, high, []
    return low, high, [lr for lr in table.values("learning_rate") if (lr, low) in points and (lr, high) in points]


def staleness(path: Path, table: Table) -> list[Claim]:
    """Judge whether SVRG's trouble is its stale snapshot: just after a refresh and just before the next."""
    high = table.values("overparametrization")[-1]
    every = config_of(path).measure_every
    names = table.select(method="svrg", overparametrization=high)["trajectory"]
    fresh, stale = _svrg_over_sgb(path, [name.decode() for name in names])
    measured, result = "needs h_s/N above 1, and measurements just after a refresh and just before one", UNJUDGED
    if fresh and stale and high > 1:
        after, before = geometric_mean(fresh), geometric_mean(stale)
        measured = f"SVRG/SG-B {after:.3f} at {every} steps from a refresh, {before:.2f} at the next"
        result = HOLDS if before <= 2 * after else FAILS
    return [
        Claim(
            "4.2",
            f"at h_s/N = {high:g} SVRG fails as all variances are low, not because its snapshot is stale",
            measured,
            "the same to within a factor of 2",
            result,
        )
    ]


def _svrg_over_sgb(path: Path, names: list[str]) -> tuple[list[float], list[float]]:
    """Return each trajectory's median ratio of variances at the first measurement after a refresh, and at the next."""
    sweep = config_of(path)
    fresh: list[float] = []
    stale: list[float] = []
    try:
        with open_results(path) as file:
            for name in names:
                group = file["trajectories"][name]
                iteration, svrg, sgb = (group[key][()] for key in ("iteration", "variance/svrg", "variance/sgb"))
                age = iteration % sweep.refresh_every
                for when, out in ((age == sweep.measure_every, fresh), ((age == 0) & (iteration > 0), stale)):
                    when = when & (sgb > 0)
                    if when.any():
                        out.append(float(np.median(svrg[when] / sgb[when])))
    except StoreError:
        raise
    except READ_ERRORS as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    return fresh, stale


# ------------------------------------------------------------------------------------------ learning rates


def learning_rates(table: Table) -> list[Claim]:
    """Judge what the paper says of learning rates, at the h_s/N that have them all."""
    rates, points = table.values("learning_rate"), table.points()
    ratios = [x for x in table.values("overparametrization") if all((lr, x) in points for lr in rates)]
    ratios = ratios if len(rates) > 1 else []
    v = {(lr, x): table.mean(method="sgb", learning_rate=lr, overparametrization=x) for lr in rates for x in ratios}
    ordered = [x for x in ratios if all(v[b, x] < v[a, x] for a, b in pairwise(rates))]
    exceptions = ", ".join(f"{x:g}" for x in ratios if x not in ordered) or "none"
    rank_correlation, gap = float("nan"), "needs two learning rates at two values of h_s/N"
    if len(ratios) > 1:
        gaps = [float(log10(ratio(v[rates[0], x], v[rates[-1], x]))) for x in ratios]
        rank_correlation = float(np.corrcoef(np.argsort(np.argsort(gaps)), np.arange(len(gaps)))[0, 1])
        gap = (
            f"rate {rates[0]:g} over {rates[-1]:g}: 10^{gaps[0]:.1f} → 10^{gaps[-1]:.1f}, "
            f"rank correlation with h_s/N {rank_correlation:.2f}"
        )
    return [
        Claim(
            "4.2, Fig. 4a",
            "variance is smaller for larger learning rates",
            f"at {len(ordered)} of {len(ratios)} ratios (not at {exceptions})" if ratios else TWO_RATES,
            "at every ratio; in part from half of them",
            verdict(share([x in ordered for x in ratios])),
        ),
        Claim(
            "4.2, Fig. 4a",
            "that gap grows with over-parametrization",
            gap,
            "rank correlation 0.9 or more; in part from 0.5",
            verdict(rank_correlation, 0.9, 0.5),
        ),
    ]


# ------------------------------------------------------------------------------------- normalized variance


def normalized(table: Table) -> list[Claim]:
    """Judge what the paper says of the normalized variance below h_s/N = 5."""
    below = {
        (lr, x): table.select(method="sgb", learning_rate=lr, overparametrization=x)
        for lr, x in table.points()
        if x < 5
    }
    means = {point: float(rows["normalized_variance_mean70"].mean()) for point, rows in below.items()}
    alike = [[mean for (_, at), mean in means.items() if at == x] for x in table.values("overparametrization")]
    across = max((max(group) - min(group) for group in alike if len(group) > 1), default=float("nan"))
    few = table.rows["normalized_variance_max70"][table.rows["overparametrization"] < 5]
    largest = float(few.max()) if len(few) else float("nan")
    noisy = sum(mean > 0.5 for mean in means.values())
    bars = [float(rows["normalized_variance_max70"].std()) for rows in below.values() if len(rows) > 1]
    longest = max(bars, default=float("nan"))
    return [
        Claim(
            "4.2, Fig. 5",
            "below h_s/N = 5 all learning rates have a similar normalized variance",
            TWO_RATES if np.isnan(across) else f"they differ by at most {across:.2f}",
            "by at most 0.1; in part up to 0.25",
            verdict(-across, -0.1, -0.25),
        ),
        Claim(
            "4.2, Fig. 5",
            "there it is larger than one",
            f"largest exact value {largest:.7g}, since V/(V + ḡ²) cannot exceed 1 (the paper's is a ratio of "
            f"ten noisy draws); noise outweighs the gradient above 1/2, at {noisy} of {len(means)} points"
            if len(few)
            else "needs h_s/N below 5",
            "above 1 somewhere",
            verdict(share([largest > 1] if len(few) else [])),
        ),
        Claim(
            "4.2, Fig. 5a",
            "the error bars of its maximum are long below 5",
            f"standard deviation at most {longest:.3f}; long bars come from Monte Carlo too"
            if bars
            else "needs two trajectories that differ in neither learning rate nor h_s/N",
            "0.1 or more at some point",
            verdict(share([longest >= 0.1] if bars else [])),
        ),
    ]


def mean_and_max(table: Table) -> list[Claim]:
    """Judge whether Fig. 9 looks like Fig. 4."""
    rows = table.rows[table.rows["variance_mean70"] > 0]
    logs = np.stack([log10(rows["variance_mean70"]), log10(rows["variance_max70"])])
    correlation, measured = float("nan"), "needs two different variances"
    if len(rows) and np.ptp(logs, axis=1).min() > 0:
        correlation = float(np.corrcoef(logs)[0, 1])
        times = 10 ** float(np.median(logs[1] - logs[0]))
        measured = f"correlation of the logarithms {correlation:.3f}; maximum over mean {times:.2f}"
    return [
        Claim(
            "C, Fig. 9",
            "plots of the mean look like those of the maximum",
            measured,
            "0.95 or more; in part from 0.8",
            verdict(correlation, 0.95, 0.8),
        )
    ]


def beyond_the_file() -> list[Claim]:
    """List what these sections also say, and a file of variances cannot judge."""
    reason = "needs the test error or the direction of single steps"
    return [
        Claim(
            "4.2",
            "models that generalize better are not necessarily ones that train faster",
            reason,
            "",
            UNJUDGED,
        ),
        Claim(
            "4.2",
            "the loss drops after the learning rate does, and not by less variance alone",
            reason,
            "",
            UNJUDGED,
        ),
    ]
