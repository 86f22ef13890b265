"""What section 4.3 of the paper says of Gradient Clustering and of duplicates, judged by a results file."""

from itertools import pairwise

import numpy as np

from gcref.validation.verdicts import FAILS, HOLDS, PART, UNJUDGED, Claim, Table, geometric_mean, ratio, share, verdict


def clustering(table: Table) -> list[Claim]:
    """Judge what the paper says of GC without duplicates."""
    worse, better = _shares(table)
    points = _points(table)
    between = [low <= gc <= high for gc, low, high in points.values()]
    ratios = table.values("overparametrization")
    to_double, to_single = (
        {x: geometric_mean([ratio(v[0], v[other]) for (_, at), v in points.items() if at == x]) for x in ratios}
        for other in (1, 2)
    )
    mild = [x for x in ratios if 1 <= x <= 4]
    room, result = "needs h_s/N below 1, from 1 to 4, and above 4", UNJUDGED
    if mild and ratios[0] < 1 and ratios[-1] > 4:
        inside, ends = min(to_single[x] for x in mild), [to_single[ratios[0]], to_single[ratios[-1]]]
        room = (
            f"GC/SG-B {ends[0]:.2f} at {ratios[0]:g}, {inside:.2f} at best from 1 to 4, {ends[1]:.2f} at {ratios[-1]:g}"
        )
        result = HOLDS if inside < min(ends) else PART if inside < max(ends) else FAILS
    return [
        Claim(
            "4.3",
            "without duplicates GC lies between SG-B and SG-2B",
            f"at {sum(between)} of {len(between)} points (rate × h_s/N)",
            "at every point; in part from half",
            verdict(share(between)),
        ),
        Claim(
            "4.3",
            "GC is almost never worse than SG-B",
            f"worse in {worse:.1%} of the trajectories",
            "in 5 % or fewer; in part up to 25 %",
            verdict(1 - worse, 0.95, 0.75),
        ),
        Claim(
            "4.3",
            "GC is never better than SG-2B",
            f"better in {better:.1%} of the trajectories",
            "in none; in part up to 25 %",
            verdict(1 - better, 1.0, 0.75),
        ),
        Claim(
            "4.3",
            "GC is as good as SG-2B at mild over-parametrization (1 to 4)",
            "GC/SG-2B " + (", ".join(f"{to_double[x]:.2f} at {x:g}" for x in mild) or "needs h_s/N from 1 to 4"),
            "within 15 % at each ratio; in part at half",
            verdict(share([to_double[x] <= 1.15 for x in mild])),
        ),
        Claim(
            "4.3",
            "GC needs some over-parametrization, and too much leaves it no room",
            room,
            "lower inside than at both ends",
            result,
        ),
    ]


def _points(table: Table) -> dict[tuple[float, float], tuple[float, float, float]]:
    """Return the mean variance of GC, SG-2B and SG-B at each (learning rate, ratio)."""
    return {
        (lr, x): tuple(
            table.mean("variance_mean70", method=m, learning_rate=lr, overparametrization=x)
            for m in ("gc", "sg2b", "sgb")
        )
        for lr, x in table.points()
    }


def _shares(table: Table) -> tuple[float, float]:
    """Return the shares of trajectories in which GC is worse than SG-B, and better than SG-2B."""
    single, double = table.pairs("gc", "sgb"), table.pairs("gc", "sg2b")
    return float(np.mean(single[:, 0] > single[:, 1])), float(np.mean(double[:, 0] < double[:, 1]))


def duplicates(table: Table) -> list[Claim]:
    """Judge what the paper says of training sets with duplicates (Fig. 8), at the h_s/N that have every share."""
    points = [(fraction, x) for fraction, x in table.points("duplicate_fraction") if fraction > 0]
    fractions = sorted({fraction for fraction, _ in points})
    ratios = [x for x in table.values("overparametrization") if all((f, x) in points for f in fractions)]
    gap = {(f, x): _gap(table, f, x) for f in fractions for x in ratios}
    none = "no duplicates in this file" if not fractions else ""
    rising, overall_text = float("nan"), none or "needs two shares of duplicates at the same h_s/N"
    if ratios and len(fractions) > 1:
        overall = {f: geometric_mean([gap[f, x] for x in ratios]) for f in fractions}
        rising = float(all(overall[a] < overall[b] for a, b in pairwise(fractions)))
        overall_text = "SG-2B/GC " + ", ".join(f"{overall[f]:.2f} at {f:.0%}" for f in fractions)
    kept, kept_text = float("nan"), none or "needs two values of h_s/N"
    if fractions and len(ratios) > 1:
        most = fractions[-1]
        kept = ratio(gap[most, ratios[-1]], gap[most, ratios[0]])
        shown = sorted({ratios[0], ratios[len(ratios) // 2], ratios[-1]})
        kept_text = f"at {most:.0%} duplicates SG-2B/GC " + ", ".join(f"{gap[most, x]:.2f} at {x:g}" for x in shown)
    return [
        Claim(
            "4.3, Fig. 8",
            "the gap between GC and the others grows with the share of duplicates",
            overall_text,
            "it rises from each share to the next",
            verdict(rising),
        ),
        Claim(
            "4.3, Fig. 8",
            "with duplicates the gap does not shrink with over-parametrization",
            kept_text,
            "at the largest h_s/N at least what it is at the smallest; in part at least two thirds",
            verdict(kept, 1.0, 2 / 3),
        ),
    ]


def _gap(table: Table, fraction: float, x: float) -> float:
    """Return how many times the variance of SG-2B is that of GC."""
    double, gc = (
        table.mean("variance_mean70", method=m, duplicate_fraction=fraction, overparametrization=x)
        for m in ("sg2b", "gc")
    )
    return ratio(double, gc)
