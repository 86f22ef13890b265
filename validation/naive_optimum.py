"""The true optimum of clustering by plain recursion over all partitions: an oracle that owes nothing to the package."""

import math

import numpy as np


def objective(labels: list[int], G: np.ndarray) -> float:
    """Φ = Σ_k Σ_{i<j∈k} ‖g_i − g_j‖², Eq. 2 pair by pair, in which nothing cancels; G (N, d)."""
    terms = []
    for i in range(len(G)):
        for j in range(i):
            if labels[i] == labels[j]:
                terms += [(float(x) - float(y)) ** 2 for x, y in zip(G[i], G[j], strict=True)]
    return math.fsum(terms)


def partitions(n_examples: int, n_clusters: int) -> list[list[int]]:
    """All partitions into exactly `n_clusters` clusters, as labels numbered in the order they are met."""
    if n_examples == 0:
        return [[]] if n_clusters == 0 else []
    found = []
    for used in (n_clusters - 1, n_clusters):
        if used >= 0:
            for labels in partitions(n_examples - 1, used):
                if used < n_clusters:
                    found.append([*labels, used])
                else:
                    found += [[*labels, k] for k in range(used)]
    return found


def best_partition(sq_distances: np.ndarray, n_clusters: int) -> np.ndarray:
    """The labels of the least Σ_k Σ_{i<j∈k} of squared distances (N, N), of several those first in the alphabet."""
    N = len(sq_distances)

    def cost(labels: list[int]) -> float:
        total = 0.0
        for i in range(N):
            for j in range(i):
                if labels[j] == labels[i]:
                    total += float(sq_distances[i, j])
        return total

    return np.array(min(partitions(N, n_clusters), key=lambda labels: (cost(labels), labels)))
