"""Hold clusterings of small problems against their true optimum: ``python -m gcref.validation.optimum``.

Claims. (1) Exchange never raises Φ: after no sweep is Φ of the labels, computed pair by pair, larger than before it,
nor `objective_`, by more than rounding can account for: ROUNDING N Σ‖g_i − ḡ‖², 45 units in the last place of the
largest number in it and a hundredth of the least fall that a move must promise. (2) Enumeration finds the minimum over
all partitions: nothing is ever below it, and where N is small plain recursion finds the same. (3) One start of exchange
is within 2 % of the optimum in the median of the problems that leave a choice: K > 1 and an optimum that is not 0.

10,000 random problems, N = 2 to 10, d = 1 to 6, K = 1 to N, of six kinds, in both forms, take half a minute.
Exits with 0 if all claims hold, with 1 otherwise.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import gcref
from gcref.validation import naive_optimum

Vector = NDArray[np.float64]

ROUNDING = 1e-14
NOTHING = 1e-12  # of N Σ‖g_i − ḡ‖²: what no move needs to promise less than, so that an optimum below it is 0
CLOSE = 1.02
N_STARTS = 5
MOST_SWEEPS = 100
N_RECURSIONS = 300  # problems that plain recursion solves, too
LARGEST_RECURSION = 7
METHODS = ("exchange", f"exchange, best of {N_STARTS}", "alternating")


# ------------------------------------------------------------------------------------------------ the problems


def gaussian(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return independent standard normals."""
    return rng.standard_normal((N, d))


def clustered(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return a few modes, and a tenth of their distance around each."""
    return rng.standard_normal((3, d))[rng.integers(0, 3, N)] + 0.1 * rng.standard_normal((N, d))


def heavy_tailed(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return directions with lengths of Student's t with one and a half degrees of freedom."""
    return rng.standard_normal((N, d)) * rng.standard_t(1.5, (N, 1))


def duplicated(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return rows drawn with replacement."""
    return rng.standard_normal((N, d))[rng.integers(0, N, N)]


def sparse(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return numbers of which three in four are 0."""
    return rng.standard_normal((N, d)) * (rng.random((N, d)) < 0.25)


def common_mean(rng: np.random.Generator, N: int, d: int) -> Vector:
    """Return differences that are a millionth of what all have in common."""
    return 1e6 * rng.standard_normal(d) + rng.standard_normal((N, d))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Vector]] = {
    "Gaussian": gaussian,
    "clustered": clustered,
    "heavy tails": heavy_tailed,
    "duplicates": duplicated,
    "sparse": sparse,
    "common mean": common_mean,
}


@dataclass
class Problem:
    """Gradients G (N, d), the number of clusters, and how they are handed over."""

    kind: str
    G: Vector
    n_clusters: int
    form: str
    seed: int

    @property
    def scale(self) -> float:
        """N Σ‖g_i − ḡ‖², which no Φ exceeds: Φ of one cluster."""
        return float(len(self.G) * ((self.G - self.G.mean(axis=0)) ** 2).sum())

    def clusterer(
        self, update: str, start: int = 0, n_iter: int = 10, warm_start: bool = False
    ) -> gcref.ExactClustering:
        """Return an unfitted clusterer."""
        seed = N_STARTS * self.seed + start
        return gcref.ExactClustering(
            self.n_clusters, update, n_iter=n_iter, seed=seed, warm_start=warm_start, form=self.form
        )

    def objective(self, labels: NDArray[np.int64]) -> float:
        """Φ, pair by pair."""
        return naive_optimum.objective(labels.tolist(), self.G)


def problems(n_problems: int, seed: int) -> Iterator[Problem]:
    """Yield problems of every kind in turn, in both forms."""
    kinds = list(KINDS)
    for number, child in enumerate(np.random.SeedSequence(seed).spawn(n_problems)):
        rng = np.random.default_rng(child)
        N, d = int(rng.integers(2, 11)), int(rng.integers(1, 7))
        kind = kinds[number % len(kinds)]
        form = ("explicit", "gram")[number // len(kinds) % 2]
        yield Problem(kind, KINDS[kind](rng, N, d), int(rng.integers(1, N + 1)), form, number)


# --------------------------------------------------------------------------------------------------- the checks


@dataclass
class Found:
    """What became of the problems; differences of Φ are shares of N Σ‖g_i − ḡ‖²."""

    ratios: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # by method and kind, where K > 1, Φ* > 0
    zeros: dict[str, list[bool]] = field(default_factory=dict)  # by method, where Φ* is 0: was it found?
    sweeps: int = 0  # that moved something
    rise: float = -np.inf  # the largest change of Φ in one of them
    below: float = -np.inf  # the farthest that any clustering is below the optimum
    recursions: int = 0
    gap: float = 0.0  # the largest between enumeration and recursion

    def note(self, problem: Problem, method: str, phi: float, optimum: float) -> None:
        """Hold Φ of a method's labels against the optimum."""
        self.below = max(self.below, share(optimum - phi, problem.scale))
        if problem.n_clusters == 1:
            return
        if optimum > NOTHING * problem.scale:
            of_method = self.ratios.setdefault(method, {})
            of_method.setdefault(problem.kind, []).append(phi / optimum)
        else:
            self.zeros.setdefault(method, []).append(phi <= NOTHING * problem.scale)


def share(difference: float, scale: float) -> float:
    """Return the difference as a share of the scale; where all gradients are equal, itself."""
    return difference / scale if scale > 0.0 else difference


def start_labels(problem: Problem, seed: int) -> NDArray[np.int64]:
    """Return the labels that a cold start is documented to begin with."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    return rng.permutation(len(problem.G)) % problem.n_clusters


def sweep_by_sweep(problem: Problem, found: Found) -> float:
    """Run exchange a sweep at a time until one moves nothing, note the changes of Φ, and return the last one."""
    fit = problem.clusterer("exchange", n_iter=1, warm_start=True)
    labels = start_labels(problem, fit.seed)
    before, shown_before = problem.objective(labels), np.inf
    for _ in range(MOST_SWEEPS):
        if (fit.fit(problem.G).last_labels_ == labels).all():
            break
        labels, phi, shown = fit.last_labels_, problem.objective(fit.last_labels_), float(fit.objective_[0])
        change = max(phi - before, shown - shown_before)
        found.sweeps, found.rise = found.sweeps + 1, max(found.rise, share(change, problem.scale))
        before, shown_before = phi, shown
    return before


def solve(problem: Problem, found: Found) -> None:
    """Cluster a problem by every method."""
    optimum = problem.objective(problem.clusterer("enumeration").fit(problem.G).labels_)
    if found.recursions < N_RECURSIONS and len(problem.G) <= LARGEST_RECURSION:
        found.recursions += 1
        all_labels = naive_optimum.partitions(len(problem.G), problem.n_clusters)
        gap = abs(min(naive_optimum.objective(labels, problem.G) for labels in all_labels) - optimum)
        found.gap = max(found.gap, share(gap, problem.scale))
    single = sweep_by_sweep(problem, found)
    others = [problem.clusterer("exchange", start, n_iter=50).fit(problem.G) for start in range(1, N_STARTS)]
    best = min([single, *(problem.objective(fit.labels_) for fit in others)])
    alternating = problem.objective(problem.clusterer("alternating").fit(problem.G).labels_)
    for method, phi in zip(METHODS, (single, best, alternating), strict=True):
        found.note(problem, method, phi, optimum)


def run(n_problems: int, seed: int) -> Found:
    """Solve all problems."""
    found = Found()
    for problem in problems(n_problems, seed):
        solve(problem, found)
    return found


# --------------------------------------------------------------------------------------------------- the report


def median(found: Found) -> float:
    """Return the median ratio of a single start of exchange, 1 where every optimum is 0."""
    ratios = found.ratios.get(METHODS[0], {})
    return float(np.median(np.concatenate(list(ratios.values())))) if ratios else 1.0


def claims(found: Found) -> dict[str, bool]:
    """Return each claim, and whether it holds."""
    return {
        f"exchange never raises Φ: {found.rise:+.1e} at most, of {found.sweeps:,} sweeps": found.rise <= ROUNDING,
        f"no clustering is below the optimum: by {found.below:+.1e} at most": found.below <= ROUNDING,
        f"plain recursion finds the same of {found.recursions} problems: gap {found.gap:.1e}": found.gap <= ROUNDING,
        f"exchange is within 2 % in the median: {median(found):.6f}": median(found) <= CLOSE,
    }


def table(found: Found) -> Iterator[str]:
    """Yield the ratios to the optimum, for each method and kind."""
    yield f"{'Φ over the optimum':28s}{'median':>9s}{'90 %':>9s}{'worst':>13s}{'within 2 %':>12s}{'problems':>10s}"
    for method, of_method in found.ratios.items():
        everything = {method: np.concatenate(list(of_method.values()))}
        for name, ratios in (everything | {f"  {kind}": np.array(r) for kind, r in of_method.items()}).items():
            middle, high, worst = np.quantile(ratios, [0.5, 0.9, 1.0])
            close = f"{(ratios <= CLOSE).mean():.1%}"
            yield f"{name:28s}{middle:9.4f}{high:9.4f}{worst:13,.4f}{close:>12s}{len(ratios):10,d}"
    for method, hits in found.zeros.items():
        yield f"Where the optimum is 0, {method} finds it in {np.mean(hits):.1%} of {len(hits):,} problems."


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gcref.validation.optimum", description=(__doc__ or "")[:74])
    parser.add_argument("--problems", type=int, default=10_000, help="number of random problems (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default 0)")
    given = parser.parse_args(argv)
    if given.problems < 1 or given.seed < 0:
        parser.error(f"--problems {given.problems} --seed {given.seed}: at least 1 and 0 are expected")
    found = run(given.problems, given.seed)
    print(f"{given.problems:,} random problems, N = 2 to 10, d = 1 to 6, K = 1 to N; differences as shares of")
    print(f"N Σ‖g_i − ḡ‖², of which {ROUNDING:g} may be rounding.")
    for line in table(found):
        print(line)
    held = claims(found)
    for claim, holds in held.items():
        print(f"{'PASS' if holds else 'FAIL'}  {claim}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
