"""What the caption of Fig. 1 says of the toy, point by point, judged by plain NumPy on what the toy took down.

The gradient of an example of a logistic classifier is (σ(w·x + b) − y)(x, 1).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import expit

from gcref.studies.toy import Toy
from gcref.validation.verdicts import UNJUDGED, Claim, share, verdict

Array = NDArray[np.float64]

ROUNDING = 1e-9  # relative


def gradients(toy: Toy, step: int) -> Array:
    """Return every example's gradient, shape (N, 3)."""
    x = np.column_stack([toy.x, np.ones(len(toy.x))])
    return (expit(x @ toy.theta[step]) - toy.y)[:, None] * x


def judge(toy: Toy, still: int) -> list[Claim]:
    """Judge the caption.

    Parameters
    ----------
    toy : Toy
    still : int
        The step that the still shows.
    """
    return [_separable(toy), _descent(toy), _clusters(toy), _lines(toy), _mixed(toy, still), _variance(toy, still)]


def _claim(says: str, measured: str, rule: str, result: str) -> Claim:
    return Claim("1, Fig. 1", says, measured, rule, result)


def _separable(toy: Toy) -> Claim:
    """Look for a line with w·x + b ≥ 1 on one class and ≤ -1 on the other."""
    side = 2.0 * toy.y - 1
    x = np.column_stack([toy.x, np.ones(len(toy.x))])
    found = linprog(np.zeros(3), A_ub=-side[:, None] * x, b_ub=-np.ones(len(x)), bounds=(None, None))
    right = float(np.mean((x @ toy.theta[-1] > 0) == (toy.y == 1)))
    return _claim(
        "a linear classifier, trained on 2 linearly separable classes",
        f"a separating line {'exists' if found.success else 'does not exist'}; the last boundary has {right:.0%} of "
        f"{len(x)} points on their side",
        "a line exists (linear programming)",
        verdict(share([bool(found.success)])),
    )


def _descent(toy: Toy) -> Claim:
    """Compare every step with η times the mean gradient."""
    moves = np.diff(toy.theta, axis=0)
    steps = [move + toy.learning_rate * gradients(toy, t).mean(0) for t, move in enumerate(moves)]
    worst = max((float(np.abs(step).max()) for step in steps), default=float("nan"))
    return _claim(
        "trained by gradient descent",
        f"{toy.n_steps} steps are θ − ηḡ to within {worst:.1g}" if steps else "there is no step",
        f"within {ROUNDING:g}",
        UNJUDGED if not steps else verdict(share([worst <= ROUNDING])),
    )


def _clusters(toy: Toy) -> Claim:
    """Count the clusters that have a point, and compare their means."""
    counts = [len(np.unique(labels)) for labels in toy.labels]
    fewest, most = min(counts), max(counts)
    return _claim(
        "the gradients are assigned to 4 clusters",
        f"{fewest} to {most} clusters with points at {len(counts)} steps" if fewest < most else
        f"{fewest} clusters with points at each of {len(counts)} steps",
        "4 at every step",
        verdict(share([count == 4 for count in counts])),
    )  # fmt: skip


def _lines(toy: Toy) -> Claim:
    """Compare the predicted boundaries with those by means of gradients written out."""
    apart = []
    for step, labels in enumerate(toy.labels):
        belongs = (labels == np.arange(toy.n_clusters)[:, None]).astype(float)
        with np.errstate(invalid="ignore"):  # an empty cluster predicts nothing, and is told
            means = belongs @ gradients(toy, step) / belongs.sum(1)[:, None]
        apart.append(np.abs(toy.theta[step] - toy.learning_rate * means - toy.predicted(step)))
    worst = float(np.max(apart))
    return _claim(
        "each dashed line is the boundary predicted from the current one and one cluster's gradient",
        f"θ − ηC_k to within {worst:.1g}",
        f"within {ROUNDING:g}",
        verdict(share([worst <= ROUNDING])),
    )


def _spread(points: NDArray[Any]) -> float:
    """Return the root mean square distance from the mean."""
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


def _mixed(toy: Toy, still: int) -> Claim:
    """Look for a cluster of both classes whose gradients are near one another and whose points are not."""
    found = {step: _of_both(toy, step) for step in range(toy.n_steps + 1)}
    apart = [step for step, pairs in found.items() if any(g <= 0.5 and x >= 1 for g, x in pairs)]
    shown = min(found[still], default=None)
    text = "none at the still's" if shown is None else (
        f"at the still's, step {still}, one whose gradients are spread {shown[0]:.2f} times as far as all, and whose "
        f"points {shown[1]:.2f} times"
    )  # fmt: skip
    return _claim(
        "one cluster's points belong to both classes: similar gradients, far apart in input space",
        f"at {len(apart)} of {len(found)} steps; {text}",
        "at the still's step: gradients at most half as spread as all, points at least as far; in part at some step",
        verdict(1.0 if still in apart else 0.5 if apart else 0.0),
    )


def _of_both(toy: Toy, step: int) -> list[tuple[float, float]]:
    """Return how far gradients and points spread in each cluster of both classes, over the spread of all."""
    found, labels = gradients(toy, step), toy.labels[step]
    mixed = [labels == k for k in range(toy.n_clusters) if len(np.unique(toy.y[labels == k])) == 2]
    return [(_spread(found[c]) / _spread(found), _spread(toy.x[c]) / _spread(toy.x)) for c in mixed]


def _variance(toy: Toy, still: int) -> Claim:
    """Compare GC with a plain mini-batch of as many points."""
    shares = toy.variance["gc"] / toy.variance["sgb"]
    return _claim(
        "with GC the average mini-batch gradient has low variance",
        f"{shares.min():.0%} to {shares.max():.0%} of SG-{toy.n_clusters}'s, {shares[still]:.0%} at the still's step",
        "below a half, SG-2B's, at every step; in part from half of them",
        verdict(share([bool(s < 0.5) for s in shares])),
    )
