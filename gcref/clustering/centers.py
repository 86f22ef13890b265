"""U steps of low rank: means of inputs and output gradients, or singular vectors; full, or online (section 3.2)."""

from dataclasses import dataclass

import numpy as np

from gcref.clustering.alternating import stream
from gcref.clustering.factored import Centers, FactoredPoints, Vectors
from gcref.clustering.svd import best_of_rank

# What the streams of an iteration are for, beside the A step.
SVD_START, MINI_BATCH = 1, 2


@dataclass(frozen=True)
class CenterStep:
    """A U step: labels, the centres before, and the number of the iteration → centres.

    Parameters
    ----------
    points : FactoredPoints
    n_clusters : int
        K.
    center : {"mean", "svd"}
        Means of inputs and output gradients (Eq. 6), or the best approximation of the mean gradient.
    rank : int
        r of the latter.
    seed : int
    batch_size : int or None
        Examples of the mini-batch of an online step; None takes all.
    decay : float
        The share of a centre that an online step keeps.
    """

    points: FactoredPoints
    n_clusters: int
    center: str
    rank: int
    seed: int
    batch_size: int | None
    decay: float

    def __call__(self, labels: np.ndarray, last: Centers | None, iteration: int) -> Centers:
        """Return the centres in the dtype of the traces; without `last`, from all examples."""
        examples = None
        if last is not None and self.batch_size is not None:
            drawn = stream(self.seed, iteration, MINI_BATCH).choice(len(labels), self.batch_size, replace=False)
            examples = np.sort(drawn)
        taken = labels if examples is None else labels[examples]
        sizes = np.bincount(taken, minlength=self.n_clusters)
        share = np.ones(self.n_clusters) if examples is None else np.where(sizes > 0, 1.0 - self.decay, 0.0)
        if self.center == "mean":
            found = self.points.means(labels, self.n_clusters, examples)
            return self.points.in_dtype(found if examples is None or last is None else _averages(last, found, share))
        found = self._singular(labels, last, iteration, examples, share / np.maximum(sizes, 1), 1.0 - share)
        found = self.points.in_dtype(found)
        return found if examples is None or last is None else _kept(last, found, share == 0.0)

    def _singular(
        self,
        labels: np.ndarray,
        last: Centers | None,
        iteration: int,
        examples: np.ndarray | None,
        of_sum: np.ndarray,
        of_last: np.ndarray,
    ) -> Centers:
        """Return the best rank-r approximation of of_sum_k Σ_{i∈k} g_i + of_last_k C_k, both weights (K,)."""

        def product(vectors: Vectors, transposed: bool) -> Vectors:
            sums = self.points.sum_products(labels, vectors, transposed, examples)
            out: Vectors = []
            for block, (v, y) in enumerate(zip(vectors, sums, strict=True)):
                if v is None or y is None:
                    out.append(None)
                    continue
                y *= of_sum[:, None, None]
                if examples is not None and last is not None:
                    left, right = last[block][::-1] if transposed else last[block]
                    y += of_last[:, None, None] * ((v @ right.transpose(0, 2, 1)) @ left)
                out.append(y)
            return out

        rng = stream(self.seed, iteration, SVD_START)
        return best_of_rank(product, self.points.shapes, self.n_clusters, self.rank, rng)


def _averages(last: Centers, means: Centers, share: np.ndarray) -> Centers:
    """Move each factor of a centre by its share (K,) towards the mean of the mini-batch, in float64."""
    w = share[:, None]
    return [
        (w * c + (1.0 - w) * c_last, w * d + (1.0 - w) * d_last)
        for (c, d), (c_last, d_last) in zip(means, last, strict=True)
    ]


def _kept(last: Centers, found: Centers, keeps: np.ndarray) -> Centers:
    """Let the clusters of `keeps` (K,) keep their centres, number for number."""
    where = keeps[:, None, None]
    return [
        (np.where(where, c_last, c), np.where(where, d_last, d))
        for (c, d), (c_last, d_last) in zip(found, last, strict=True)
    ]
