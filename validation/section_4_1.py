"""What section 4.1 of the paper, with Figs. 3, 6 and 7, says of images, judged by results files of one run each.

The start, where the network is as it was drawn and clusters are those of that network, is left out of every sentence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcref.image_figures import read_run
from gcref.store import read_trajectory
from gcref.validation.verdicts import UNJUDGED, Claim, share, verdict

Series = NDArray[np.float64]

FLUCTUATION = 1.5  # how many times GC's variance over SG-B's must rise, and fall again by, between two renewals
FEWEST = 4  # measuring points after the start, below which no sentence is judged


@dataclass(frozen=True, eq=False)
class Course:
    """A run after its start: the measuring points and what was measured at them, (L,) each."""

    iteration: NDArray[np.int64]
    variance: dict[str, Series]
    normalized: Series  # SG-B's
    train_loss: Series
    refresh_every: int
    milestones: tuple[int, ...]

    def over_sgb(self, method: str) -> Series:
        """Return the variance of a method over SG-B's."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.variance[method] / self.variance["sgb"]

    def periods(self) -> list[NDArray[np.bool_]]:
        """Return which points belong to each clustering: those after its making, up to the next one's."""
        number = (self.iteration - 1) // self.refresh_every
        return [number == n for n in np.unique(number)]


def read_course(path: Path) -> Course:
    """Read a results file of the image study.

    Raises
    ------
    gcref.store.StoreError
        If it cannot be read or is of another study.
    ValueError
        If it lacks one of the paper's four methods, or has too few measuring points.
    """
    run = read_run(path)
    _, series = read_trajectory(path)
    after = run.iteration > 0
    if missing := {"sgb", "sg2b", "svrg", "gc"} - run.variance.keys():
        raise ValueError(f"{path} lacks the methods {', '.join(sorted(missing))}")
    if after.sum() < FEWEST:
        raise ValueError(f"{path} has {after.sum()} measuring points after the start; at least {FEWEST} are expected")
    variance = {method: values[after].astype(np.float64) for method, values in run.variance.items()}
    return Course(
        run.iteration[after], variance, run.normalized_variance["sgb"][after].astype(np.float64),
        series["train_loss"][after].astype(np.float64), run.config["refresh_every"], tuple(run.config["milestones"]),
    )  # fmt: skip


def correlation(values: Series) -> float:
    """Return the rank correlation of a series with time."""
    return float(np.corrcoef(np.argsort(np.argsort(values)), np.arange(len(values)))[0, 1])


def growth(values: Series) -> float:
    """Return the mean of the last third over that of the first."""
    third = max(1, len(values) // 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(values[-third:].mean(), values[:third].mean()))


def fluctuations(run: Course) -> int:
    """Count the clusterings in whose time GC's variance, over SG-B's, rises and comes back by itself."""
    found = 0
    for period in run.periods():
        ratio = run.over_sgb("gc")[period]
        found += any(
            ratio[i] >= FLUCTUATION * max(ratio[:i].min(), ratio[i + 1 :].min()) for i in range(1, len(ratio) - 1)
        )
    return found


def _halved(run: Course) -> Claim:
    ratio = run.over_sgb("sg2b")
    return Claim(
        "4.1, Fig. 3",
        "the variance of SG-2B is always half of SG-B's",
        f"{ratio.min():.3f} to {ratio.max():.3f} of it",
        "0.45 to 0.5 at every point (drawn without replacement, it is below half)",
        verdict(share([bool(0.45 <= r <= 0.5 + 1e-9) for r in ratio])),
    )


def _below(method: str, other: str, run: Course, section: str, says: str) -> Claim:
    below = run.variance[method] < run.variance[other]
    return Claim(
        section, says, f"at {below.sum()} of {len(below)} points", "at every point; in part from half",
        verdict(float(below.mean())),
    )  # fmt: skip


def mnist(run: Course) -> list[Claim]:
    """Judge what is said of an MLP on MNIST (Figs. 3a and 3d)."""
    falls = {method: correlation(run.variance[method]) for method in ("sgb", "sg2b", "svrg", "gc")}
    last = max(run.variance[method][-1] for method in falls)
    trend, end = correlation(run.normalized), float(run.normalized[-1])
    svrg, loss = float(run.over_sgb("svrg")[-1]), float(run.train_loss[-1])
    return [
        _halved(run),
        Claim(
            "4.1, Fig. 3a",
            "the variance of all methods falls constantly",
            "rank correlation with time " + ", ".join(f"{m} {r:.2f}" for m, r in falls.items()),
            "-0.9 or less for every method; in part to -0.5",
            verdict(-max(falls.values()), 0.9, 0.5),
        ),
        Claim(
            "4.1, Fig. 3a",
            "in the end it is numerically zero, below 1e-8",
            f"largest {last:.2g}",
            "below for every method",
            verdict(share([last < 1e-8])),
        ),
        _below("gc", "sg2b", run, "4.1, Fig. 3a", "GC is consistently below SG-2B"),
        Claim(
            "4.1, Fig. 3d",
            "normalized variance falls and is well below 1",
            f"rank correlation with time {trend:.2f}, {end:.3f} in the end",
            "-0.5 or less, and below 0.5 in the end; in part one of them",
            verdict(share([trend <= -0.5, end < 0.5])),
        ),
        Claim(
            "4.1, Fig. 3a",
            "SVRG is particularly good in the end, where the training loss is below 0.005",
            f"{svrg:.2g} of SG-B, training loss {loss:.2g}",
            "below a tenth of SG-B's, and the loss below 0.005; in part one of them",
            verdict(share([svrg < 0.1, loss < 0.005])),
        ),
    ]


def cifar10(run: Course) -> list[Claim]:
    """Judge what is said of ResNet8 on CIFAR-10 (Figs. 3b and 3e)."""
    svrg = [np.diff(run.variance["svrg"][period]) > 0 for period in run.periods()]
    rising = float(np.mean(np.concatenate(svrg))) if any(len(up) for up in svrg) else float("nan")
    periods, found = len(run.periods()), fluctuations(run)
    largest = float(run.normalized.max())
    most = max(float(run.variance[method].max()) for method in ("sgb", "sg2b", "svrg", "gc"))
    above = float(np.mean(run.variance["gc"] >= run.variance["sg2b"]))
    return [
        _halved(run),
        *_increasing(run, "4.1, Figs. 3b, 3e"),
        Claim(
            "4.1, Fig. 3b",
            "the variance reaches 1e-4",
            f"largest {most:.2g}",
            "3e-5 to 3e-4",
            verdict(share([3e-5 <= most <= 3e-4])),
        ),
        Claim(
            "4.1, Fig. 3e",
            "normalized variance is always below 1",
            f"largest {largest:.3f} (exactly, it cannot exceed 1)",
            "below at every point",
            verdict(share([largest < 1])),
        ),
        Claim(
            "4.1, Fig. 3b",
            "the variance of GC suddenly goes up and comes back before any update of the clusters",
            f"in the time of {found} of {periods} clusterings",
            f"once or more (a rise over SG-B's by {FLUCTUATION:g} and as much down again)",
            verdict(share([found > 0])),
        ),
        Claim(
            "4.1, Fig. 3b",
            "SVRG's rises monotonically between updates",
            f"in {rising:.0%} of the steps between measurements",
            "in all; in part from half",
            verdict(rising),
        ),
        _below("gc", "sgb", run, "4.1, Fig. 3b", "GC is below SG-B"),
        Claim(
            "4.1, Fig. 3b",
            "GC is not below SG-2B, but when it fluctuates",
            f"at or above it at {above:.0%} of the points",
            "at 90 %; in part from half",
            verdict(above, 0.9),
        ),
    ]


def _increasing(run: Course, section: str) -> list[Claim]:
    """Judge whether noise grows during training, and when the learning rate drops."""
    grown = {m: growth(run.variance[m]) for m in ("sgb", "sg2b", "svrg", "gc")}
    grown["normalized sgb"] = growth(run.normalized)
    first, last = (run.milestones or (0, 0))[0], (run.milestones or (0, 0))[-1]
    before, after = run.iteration <= first, run.iteration > last
    at_drops, text = float("nan"), "needs measurements before the first drop and after the last"
    if first and before.any() and after.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            at_drops = float(np.divide(run.variance["sgb"][after].mean(), run.variance["sgb"][before].mean()))
        text = f"SG-B after the last drop {at_drops:.2f} times that before the first"
    return [
        Claim(
            section,
            "variance and normalized variance of all methods increase during training",
            "last third over first third: " + ", ".join(f"{m} {r:.2f}" for m, r in grown.items()),
            "above 1 for all; in part for half",
            verdict(share([r > 1 for r in grown.values()])),
        ),
        Claim(
            section,
            "especially after the learning rate drops",
            text,
            "above 1",
            UNJUDGED if np.isnan(at_drops) else verdict(share([at_drops > 1])),
        ),
    ]


def imagenet(run: Course) -> list[Claim]:
    """Judge what is said of ResNet18 on ImageNet (Figs. 3c and 3f)."""
    most, largest = float(run.variance["sgb"].max()), float(run.normalized.max())
    apart = float(np.median(np.abs(run.over_sgb("gc") - 1)))
    return [
        _halved(run),
        *_increasing(run, "4.1, Figs. 3c, 3f"),
        Claim(
            "4.1, Fig. 3c", "the variance is below 1e-6", f"largest {most:.2g}", "below", verdict(share([most < 1e-6]))
        ),
        Claim(
            "4.1, Fig. 3f",
            "normalized variance quickly goes above 1",
            f"largest {largest:.3f} (exactly, it cannot exceed 1)",
            "above 1 somewhere",
            verdict(share([largest > 1])),
        ),
        Claim(
            "4.1, Fig. 3c",
            "the variance of GC is that of SG-B",
            f"median distance {apart:.1%}",
            "10 % or less",
            verdict(share([apart <= 0.1])),
        ),
    ]


def label_noise(plain: Course, smooth: Course, corrupt: Course) -> list[Claim]:
    """Judge what is said of label smoothing and corrupt labels (Fig. 6)."""
    found = [fluctuations(run) for run in (plain, smooth, corrupt)]
    ratios = [float(np.median(run.over_sgb("gc"))) for run in (plain, corrupt)]
    text = "clusterings in whose time GC rises and comes back: {} plain, {} with smoothing, {} with corrupt labels"
    none = not found[0]
    return [
        Claim(
            "4.1, Fig. 6",
            "label smoothing reduces GC's fluctuations, but not completely",
            text.format(*found) + ("; needs one in the plain run" if none else ""),
            "fewer, but some",
            UNJUDGED if none else verdict(share([0 < found[1] < found[0]])),
        ),
        Claim(
            "4.1, Fig. 6",
            "corrupt labels eliminate them",
            text.format(*found) + ("; needs one in the plain run" if none else ""),
            "none left",
            UNJUDGED if none else verdict(share([found[2] == 0])),
        ),
        Claim(
            "4.1, Fig. 6",
            "the improvement by GC is more noticeable with corrupt labels",
            f"GC/SG-B, median: {ratios[0]:.2f} plain, {ratios[1]:.2f} with corrupt labels",
            "lower with corrupt labels",
            verdict(share([ratios[1] < ratios[0]])),
        ),
    ]


def duplicates(plain: Course, copies: Course, of: str) -> list[Claim]:
    """Judge what is said of duplicates (Fig. 7), of one data set."""
    ratios = [float(np.median(run.over_sgb("gc"))) for run in (plain, copies)]
    return [
        Claim(
            "4.3, Fig. 7",
            f"GC significantly reduces the variance when there are duplicates ({of})",
            f"GC/SG-B, median: {ratios[0]:.2f} without, {ratios[1]:.2f} with",
            "two thirds or less of what it is without; in part, lower",
            verdict(ratios[0] / ratios[1] if ratios[1] else np.inf, 1.5, 1.0 + 1e-9),
        )
    ]


_PANELS: dict[str, Callable[[Course], list[Claim]]] = {"a": mnist, "b": cifar10, "c": imagenet}


def judge(figure: str, paths: Sequence[Path]) -> list[Claim]:
    """Judge the sentences that belong to a figure.

    Parameters
    ----------
    figure : {"3", "3a", "3b", "3c", "6", "7"}
    paths : sequence of Path
        The files of its runs, in the order of `gcref.validation.reproduction.plan`.

    Raises
    ------
    gcref.store.StoreError, ValueError
        As `read_course`.
    """
    runs = [read_course(path) for path in paths]
    if figure == "6":
        return label_noise(*runs)
    if figure == "7":
        return [
            claim
            for pair, path in zip(zip(runs[::2], runs[1::2], strict=True), paths[::2], strict=True)
            for claim in duplicates(*pair, of=path.stem)
        ]
    return [claim for letter, run in zip(figure[1:] or "abc", runs, strict=False) for claim in _PANELS[letter](run)]
