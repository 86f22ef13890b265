"""Gradients given by their traces, and centres of low rank, as clustering sees them (Eq. 5, 6, 8, 9)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcref.clustering.alternating import Products, objective_from_products
from gcref.clustering.base import NotFiniteError
from gcref.clustering.passes import Passes
from gcref.engine import algebra
from gcref.engine.trace import Trace
from gcref.kernels.device import here

Centers = list[tuple[np.ndarray, np.ndarray]]
Vectors = list[np.ndarray | None]


class FactoredPoints:
    """Gradients given by their traces, with centres C_k = Σ_s c_ks d_ksᵀ for each block.

    A block's centres are c (K, r, I) and d (K, r, O), or (K, I) and (K, O) where r = 1. Every method is one pass over
    the traces that keeps nothing of a batch but its norms, sums or products.

    Parameters
    ----------
    traces : list of Trace, list of such lists, or callable
        As in `gcref.GradientClustering.fit`.
    blocks : sequence of int, optional
        The parameter blocks that count; all by default.

    Raises
    ------
    NotFiniteError
        If the gradient of an example is not finite in these blocks.
    ValueError
        If there is no such block.
    """

    def __init__(self, traces: Any, blocks: Sequence[int] | None = None) -> None:
        self._passes = Passes(traces)
        self._chosen = blocks
        self.dtypes: list[np.dtype] = []
        norms = [algebra.per_example_sq_norms(batch) for _, _, batch in self._batches()]
        self.sq_norms = np.concatenate(norms) if norms else np.zeros(0)
        bad = np.flatnonzero(~np.isfinite(self.sq_norms))
        if len(bad):
            raise NotFiniteError(f"the gradient of example {bad[0]} is not finite; its traces hold NaN or infinity")

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """(T, I, O) of each block that counts."""
        found = self._passes.blocks
        return found if self._chosen is None else [found[block] for block in self._chosen]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(I, O) of each block that counts."""
        return [(inputs, outputs) for _, inputs, outputs in self.blocks]

    def _batches(self, examples: NDArray | None = None) -> Iterator[tuple[slice, Any, list[Trace]]]:
        """Yield, batch by batch, the places among `examples` (ascending; all by default), these, and their traces."""
        for rows, batch in self._passes:
            if self._chosen is not None:
                self._check_chosen(len(batch))
                batch = [batch[block] for block in self._chosen]
            found = [trace.dtype for trace in batch]
            self.dtypes = [np.promote_types(*pair) for pair in zip(self.dtypes or found, found, strict=True)]
            if examples is None:
                yield rows, rows, list(batch)
                continue
            first, last = np.searchsorted(examples, [rows.start, rows.stop])
            if first < last:
                these = examples[first:last]
                yield slice(first, last), these, [trace.rows(these - rows.start) for trace in batch]

    def _check_chosen(self, n_blocks: int) -> None:
        """Raise if a chosen block is not there."""
        beyond = [block for block in self._chosen or () if block >= n_blocks]
        if beyond:
            raise ValueError(f"blocks has {beyond[0]} but the traces have only blocks 0 to {n_blocks - 1}")

    def centers(self, labels: NDArray, n_clusters: int) -> Centers:
        """Eq. 6, in the dtype of the traces."""
        return self.in_dtype(self.means(labels, n_clusters, None))

    def means(self, labels: NDArray, n_clusters: int, examples: NDArray | None) -> Centers:
        """Eq. 6 over some examples or all, in float64; 0 for a cluster with none of them."""
        sums = [(np.zeros((n_clusters, i)), np.zeros((n_clusters, o))) for i, o in self.shapes]
        for _, rows, batch in self._batches(examples):
            algebra.add_all_center_sums(batch, labels[rows], sums)
        taken = labels if examples is None else labels[examples]
        sizes = np.maximum(np.bincount(taken, minlength=n_clusters), 1)[:, None]
        return [
            (a_sums / (sizes * positions), d_sums / sizes)
            for (a_sums, d_sums), (positions, _, _) in zip(sums, self.blocks, strict=True)
        ]

    def sum_products(self, labels: NDArray, vectors: Vectors, transposed: bool, examples: NDArray | None) -> Vectors:
        """Σ_{i∈k} g_i V_ks over some examples or all, for each block that has vectors V (K, b, O).

        `transposed`: Σ_{i∈k} g_iᵀ V_ks, V (K, b, I).
        """
        sums = [
            None if v is None else np.zeros((*v.shape[:2], shape[int(transposed)]))
            for v, shape in zip(vectors, self.shapes, strict=True)
        ]
        if all(v is None for v in vectors):
            return sums
        for _, rows, batch in self._batches(examples):
            for trace, v, out in zip(batch, vectors, sums, strict=True):
                if v is not None and out is not None:
                    algebra.add_cluster_products(trace, labels[rows], v, out, transposed)
        return sums

    def products(self, centers: Centers, examples: NDArray | None = None) -> Products:
        """Eq. 5 and 8 or 9, for some of the examples or all."""
        cc = sq_norms(centers)
        cg = np.zeros((len(self.sq_norms) if examples is None else len(examples), len(cc)))
        factors = [_factors(c, d) for c, d in centers]
        for places, _, batch in self._batches(examples):
            algebra.add_all_inner_products(batch, factors, cg[places])
        return cc, cg

    def objective(self, labels: NDArray, centers: Centers) -> tuple[float, Products]:
        """Φ about the low-rank centres, with the products, which the next A step needs too."""
        cc, cg = self.products(centers)
        return objective_from_products(labels, cc, cg, self.sq_norms), (cc, cg)

    def objective_alone(self, labels: NDArray, centers: Centers) -> float:
        """Φ from Σ_{i∈k} ⟨C_k, g_i⟩, about K times cheaper than with all products."""
        cc, n_clusters = sq_norms(centers), len(centers[0][0])
        sizes = np.bincount(labels, minlength=n_clusters)
        vectors: Vectors = [_with_rank(d).astype(np.float64) for _, d in centers]
        own = np.zeros(n_clusters)
        for (c, _), sums in zip(centers, self.sum_products(labels, vectors, False, None), strict=True):
            own += np.sum(_with_rank(c) * np.asarray(sums), axis=(1, 2))
        spread = sizes * cc - 2.0 * own + np.bincount(labels, weights=self.sq_norms, minlength=n_clusters)
        return float(sizes @ np.maximum(spread, 0.0))

    def in_dtype(self, centers: Centers) -> Centers:
        """Return centres in the dtype of the traces."""
        return [(c.astype(dtype), d.astype(dtype)) for (c, d), dtype in zip(centers, self.dtypes, strict=True)]


def sq_norms(centers: Centers) -> np.ndarray:
    """‖C_k‖² over all blocks, (K,)."""
    wide = [(_with_rank(c).astype(np.float64), _with_rank(d).astype(np.float64)) for c, d in centers]
    return np.asarray(sum(here.sq_norms(c, d) for c, d in wide))


def _with_rank(factor: np.ndarray) -> np.ndarray:
    """(K, ·) → (K, 1, ·)."""
    return factor[:, None] if factor.ndim == 2 else factor


def _factors(c: np.ndarray, d: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return c_s (K, I) and d_s (K, O) for each s, transposed once for all batches, as BLAS likes them best."""
    c, d = _with_rank(c), _with_rank(d)
    return [(np.asfortranarray(c[:, s]), np.asfortranarray(d[:, s])) for s in range(c.shape[1])]
