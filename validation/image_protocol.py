"""What chance did in an image study, once more: the paper's Monte Carlo estimates, and the steps of SGD.

The draws are the study's own, from its named random streams; all that is computed from them is computed anew here, in
float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gcref.data import Augmentation
from gcref.engine.network import Network
from gcref.studies.image_data import ImageData
from gcref.studies.image_run import ImageRun
from gcref.studies.teacher import stream
from gcref.validation.tally import Check

Array = NDArray[np.float64]

FAMILY = 1e-4  # the probability that any one of the |z| is beyond the bound by chance
MOST_STEPS = 500  # of SGD to replay


class Estimate(NamedTuple):
    """The paper's average and normalized variance of T draws, and the standard error of the first."""

    average: float
    normalized: float
    standard_error: float


class Drawn(NamedTuple):
    """A stored estimate beside the exact variance."""

    method: str
    iteration: int
    stored: float
    standard_error: float
    exact: float


def estimate(draw: Callable[[], Array], n_estimates: int) -> Estimate:
    """Draw T times for the mean, and T times more for the spread around it and the squares (section 4 of the paper)."""
    mean = sum(draw() for _ in range(n_estimates)) / n_estimates
    spread, second, distances = np.zeros_like(mean), np.zeros_like(mean), []
    for _ in range(n_estimates):
        estimated = draw()
        spread += np.square(estimated - mean)
        second += np.square(estimated)
        distances.append(np.mean(np.square(estimated - mean)))
    ratio = np.divide(spread, second, out=np.zeros_like(mean), where=second > 0)
    # The mean of T draws has a share of 1/T in each distance.
    average = sum(distances) / (n_estimates + 1)
    return Estimate(average, float(ratio.mean()), float(np.std(distances, ddof=1) / np.sqrt(n_estimates)))


def z_scores(run: ImageRun, drawn: list[Drawn]) -> Check:
    """Compare every estimate with the exact variance.

    Notes
    -----
    Low estimates have low standard errors, so that their plain z-scores lie beyond Student's quantiles ten to a
    thousand times as often as they should. 3(∛(s/V) − 1)·s/se (Wilson and Hilferty, 1931) has nearly his distribution.
    """
    bound = float(stats.t.isf(FAMILY / (2 * max(len(drawn), 1)), run.n_estimates - 1))
    check = Check(
        "Monte Carlo", f"|z| of T = {run.n_estimates} estimates against the exact variance", float(f"{bound:.3g}")
    )
    for d in drawn:
        # Where nothing varies there is nothing to test; the draws are recomputed all the same.
        if d.exact > 0 and d.standard_error > 0:
            z = 3 * (np.cbrt(d.stored / d.exact) - 1) * d.stored / d.standard_error
            check.n += 1
            check.worst = max(check.worst, abs(z))
            if abs(z) > bound:
                check.fail(run.id, d.iteration, f"variance/{d.method}", d.stored, f"{d.exact:.6g} (z = {z:.1f})")
    return check


def replay(run: ImageRun, net: Network, data: ImageData, n_steps: int) -> None:
    """Move a network from its initial parameters: v ← μv + g + λθ, θ ← θ − ηv, batches from shuffled epochs."""
    n, size = len(data.train), run.batch_size
    augmentation = Augmentation() if run.augment else None
    velocity = np.zeros(net.n_parameters)
    for step in range(n_steps):
        epoch, place = divmod(step, n // size)
        rows = stream(run.seed, "batches", epoch).permutation(n)[place * size : (place + 1) * size]
        x, y = data.train.x[rows], data.train.y[rows]
        if augmentation is not None:
            x = augmentation(x, stream(run.seed, "augmentation", step))
        gradient = net.gradient(x, y, training=True)[1]
        velocity = run.momentum * velocity + gradient + run.weight_decay * net.theta
        drops = sum(step >= milestone for milestone in run.milestones)
        net.theta -= run.learning_rate * 0.1**drops * velocity
