"""Stratified batches: which examples are drawn, and what each one counts (Eq. 1), for any framework."""

import heapq
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcref.clustering.base import check_integer
from gcref.engine.trace import read_array

_BATCHES = 0xBA7C  # the stream of the batches of an epoch, apart from those of a clustering of the same seed


class Strata:
    """Examples grouped by label, and batches of B of them whose weighted sum is unbiased.

    With K labels in use, N_k examples of label k:

    - B ≥ K: n_k ≥ 1 examples of each label (`allocate`), each with the weight N_k / (N n_k).
    - B < K: the K labels are dealt at random into B groups whose counts K_g differ by at most one, and one example
      is drawn from each group, with its share N_g / N of all examples for a weight. It is the scheme of Rao, Hartley
      and Cochran (1962): label k with probability N_k / N_g, then any of its examples.

    Parameters
    ----------
    name : str
        What an error calls the labels.
    labels : array_like of int, shape (N,)
        At least 0; those that no example has are no stratum.
    batch_size : int or None
        B; None: K.
    replacement : bool
        Whether the n_k examples of a label are drawn independently.

    Attributes
    ----------
    labels : ndarray of int, shape (N,)
        A read-only copy.
    groups : list of ndarray of int
        The examples of each label in use, in ascending order of the labels.
    sizes : ndarray of int, shape (K,)
        N_k.
    n_draws : ndarray of int, shape (K,)
        n_k; where B < K 1, the draws of a label whose group has no other.
    batch_size : int
        B.

    Raises
    ------
    ValueError
        If the labels are not a vector of integers of at least 0, or batch_size is not a positive integer, or exceeds
        N without replacement.
    TypeError
        If the labels are a mapping.
    """

    def __init__(self, name: str, labels: ArrayLike, batch_size: int | None, replacement: bool) -> None:
        self.labels = _read_labels(name, labels)
        self.sizes = np.unique(self.labels, return_counts=True)[1]
        self._order = np.argsort(self.labels, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes
        self.groups = np.split(self._order, self._starts[1:])
        self.batch_size = len(self.sizes) if batch_size is None else check_batch_size(batch_size)
        self.replacement = replacement
        if not replacement and self.batch_size > len(self.labels):
            raise ValueError(
                f"batch_size={batch_size} but {name} gives labels of {len(self.labels)} examples; draw fewer, or use "
                "replacement=True"
            )
        self.n_draws = allocate(self.sizes, self.batch_size)
        self._weights = np.repeat(self.sizes / (len(self.labels) * self.n_draws), self.n_draws)

    @property
    def merging(self) -> float:
        """ρ = (Σ_g K_g² − K) / (K (K − 1)), the probability that two given labels share a group; 0 where B ≥ K."""
        n_strata = len(self.sizes)
        if self.batch_size >= n_strata:
            return 0.0
        counts = self._group_counts()
        return int(counts @ counts - n_strata) / (n_strata * (n_strata - 1))

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Draw a batch: the indices of B examples, and their weights, which sum to 1."""
        if self.batch_size < len(self.sizes):
            return self._draw_merged(rng)
        if self.replacement or self.batch_size == len(self.sizes):
            places = rng.integers(np.repeat(self.sizes, self.n_draws))
        else:
            pairs = zip(self.sizes.tolist(), self.n_draws.tolist(), strict=True)
            places = np.concatenate([rng.choice(size, n, replace=False) for size, n in pairs])
        return self._order[np.repeat(self._starts, self.n_draws) + places], self._weights.copy()

    def _draw_merged(self, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Deal the labels into groups and draw one example of each group, each of its examples as likely."""
        dealt = rng.permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[dealt])
        group_ends = ends[np.cumsum(self._group_counts()) - 1]
        group_sizes = np.diff(group_ends, prepend=0)
        places = group_ends - group_sizes + rng.integers(group_sizes)  # among the examples in the order dealt
        chosen = np.searchsorted(ends, places, side="right")
        within = places - (ends - self.sizes[dealt])[chosen]
        return self._order[self._starts[dealt[chosen]] + within], group_sizes / len(self.labels)

    def _group_counts(self) -> NDArray[np.intp]:
        """Return K_g, (B,): how many labels each group has."""
        each, over = divmod(len(self.sizes), self.batch_size)
        return each + (np.arange(self.batch_size) < over)


def allocate(sizes: NDArray[np.intp], batch_size: int) -> NDArray[np.intp]:
    """Deal B draws to strata of N_k examples: n_k (K,), one each and then where it lowers Σ_k N_k²/n_k the most.

    Σ_k N_k²/n_k is the variance, up to a constant, where all strata vary alike. One more draw lowers it by
    N_k² / (n_k (n_k + 1)); ties go to the first. That is above 1 as long as n_k < N_k and below 1 from there on, so
    that no stratum has more draws than examples before all have as many. Where B < K each has one.
    """
    members, n_draws = sizes.tolist(), [1] * len(sizes)

    def entry(k: int) -> tuple[float, int]:
        """Return what one more draw lowers the sum by, negative since a heap begins with the least."""
        return -(members[k] ** 2) / (n_draws[k] * (n_draws[k] + 1)), k

    heap = [entry(k) for k in range(len(sizes))]
    heapq.heapify(heap)
    for _ in range(batch_size - len(sizes)):
        k = heap[0][1]
        n_draws[k] += 1
        heapq.heapreplace(heap, entry(k))
    return np.array(n_draws, dtype=np.intp)


class WeightedIndex(int):
    """The index of an example, an ``int``, with the ``weight`` that its gradient has in its batch.

    It survives the way to another process and copies; arithmetic gives plain integers.
    """

    weight: float

    def __new__(cls, index: int, weight: float) -> "WeightedIndex":
        """Attach `weight` to an index."""
        self = super().__new__(cls, index)
        self.weight = weight
        return self

    def __reduce__(self) -> tuple[type["WeightedIndex"], tuple[int, float]]:
        return type(self), (int(self), self.weight)


class StratifiedBatchSampler:
    """Batches of `Stratified`, as lists of indices: a PyTorch DataLoader's ``batch_sampler``, or any other loop's.

    Each index is an int that carries its ``weight``. The sum over a batch of weight × gradient, or of weight × loss,
    is an unbiased estimate of the mean over the data set; the weights of a batch sum to 1.

    Parameters
    ----------
    labels : array_like of int, shape (N,)
        The stratum of each example, at least 0, such as the ``labels_`` of a clusterer; those that no example has are
        no stratum.
    batch_size : int, optional
        B; by default K, the number of labels in use. More: several draws of the larger strata. Fewer: strata are
        merged at random, anew for each batch.
    seed : int, default 0
    n_batches : int, optional
        Batches an epoch; by default ⌊N/B⌋, at least 1.
    replacement : bool, default False
        Whether an example can be twice in a batch.

    Attributes
    ----------
    epoch : int
        Number of the next epoch: the first batch of each iteration begins the stream of (seed, epoch) and adds 1.
    batch_size, n_batches : int

    Raises
    ------
    ValueError
        If the labels are not a vector of integers of at least 0; if batch_size or n_batches is not a positive
        integer, or seed an integer of at least 0; if batch_size exceeds N without replacement.
    TypeError
        If the labels are a mapping, such as the open file of ``gcref cluster``, whose "labels" are meant.

    Notes
    -----
    Batches are independent of one another, so that an epoch need not show every example.

    Examples
    --------
    >>> sampler = StratifiedBatchSampler([0, 0, 0, 1], seed=0)
    >>> [[(int(i), i.weight) for i in batch] for batch in sampler]
    [[(1, 0.75), (3, 0.25)], [(1, 0.75), (3, 0.25)]]

    In PyTorch, ``DataLoader(dataset, batch_sampler=sampler, num_workers=2)`` with a dataset that hands the weight on,

    >>> class Weighted:
    ...     def __getitem__(self, i):
    ...         return x[i], y[i], i.weight

    and the loss ``(weight * cross_entropy(model(x), y, reduction="none")).sum()``.
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int | None = None,
        seed: int = 0,
        n_batches: int | None = None,
        replacement: bool = False,
    ) -> None:
        check_integer("seed", seed, 0)
        if n_batches is not None:
            check_integer("n_batches", n_batches, 1)
        self._strata = Strata("labels", labels, batch_size, bool(replacement))
        self.batch_size, self.seed, self.epoch = self._strata.batch_size, int(seed), 0
        self.n_batches = max(1, len(self._strata.labels) // self.batch_size) if n_batches is None else int(n_batches)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(labels of {len(self._strata.labels)} examples, batch_size={self.batch_size}, "
            f"seed={self.seed}, n_batches={self.n_batches}, replacement={self._strata.replacement})"
        )

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[WeightedIndex]]:
        # An epoch begins with its first batch: a DataLoader makes two iterators and takes batches from the second only.
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_BATCHES, self.epoch)))
        self.epoch += 1
        for _ in range(self.n_batches):
            yield self._batch(rng)

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration be the epoch of that number, an integer of at least 0 (else a ValueError)."""
        check_integer("epoch", epoch, 0)
        self.epoch = int(epoch)

    @staticmethod
    def weights(batch: Sequence[WeightedIndex]) -> NDArray[np.float64]:
        """Return the weights of a batch, (B,).

        Raises
        ------
        TypeError
            If an index has no weight, as it is not of a sampler, or has been through a tensor or an array.
        """
        if not isinstance(batch, Sequence):
            raise TypeError(f"batch is a {type(batch).__name__}; a list of a sampler's indices is expected")
        for i in batch:
            if not isinstance(i, WeightedIndex):
                raise TypeError(f"batch holds {i!r} of type {type(i).__name__}; the indices of a sampler are expected")
        return np.array([i.weight for i in batch], dtype=np.float64)

    def _batch(self, rng: np.random.Generator) -> list[WeightedIndex]:
        """Draw one batch."""
        indices, weights = self._strata.draw(rng)
        return [WeightedIndex(i, weight) for i, weight in zip(indices.tolist(), weights.tolist(), strict=True)]


def check_batch_size(batch_size: int) -> int:
    """Return B as an int; raise unless it is a positive integer."""
    check_integer("batch_size", batch_size, 1)
    return int(batch_size)


def _read_labels(name: str, labels: ArrayLike) -> NDArray[np.intp]:
    """Copy labels into a read-only vector; raise unless they are integers of at least 0."""
    if isinstance(labels, Mapping):
        there = ", such as its ['labels']," if "labels" in labels else ""
        raise TypeError(f"{name} is a {type(labels).__name__}; a vector of integer labels{there} is expected")
    found = read_array(name, labels)
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        raise ValueError(
            f"{name} has shape {found.shape} and dtype {found.dtype}; a vector of integer labels, one an example, is "
            "expected"
        )
    for where in (int(np.argmin(found)), int(np.argmax(found))):
        if not 0 <= found[where] <= np.iinfo(np.intp).max:
            raise ValueError(f"{name} has the label {found[where]} at {where}; labels start at 0, and fit an index")
    copied = found.astype(np.intp)
    copied.flags.writeable = False
    return copied
