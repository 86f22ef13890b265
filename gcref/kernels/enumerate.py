"""The true optimum of small problems: every partition is tried, or cannot be better."""

import numpy as np

from gcref.kernels.jit import jit


@jit
def best_partition(sq_distances: np.ndarray, n_clusters: int) -> np.ndarray:
    """Argmin Φ over the partitions into exactly K clusters, Φ = Σ_k Σ_{i<j∈k} ‖g_i − g_j‖² (Eq. 2); (N,) int64.

    sq_distances (N, N) = ‖g_i − g_j‖², not below 0; 1 ≤ K ≤ N. Clusters are numbered as they are met (a restricted
    growth string), and ties go to the labels first in the order of the alphabet. Φ never falls as examples are added,
    so that labels of the first few which cost as much as the best partition so far are not gone on with. Cost N times
    the number of partitions, S(N, K), at most.
    """
    N = len(sq_distances)
    labels = np.full(N, -1)
    best = np.zeros(N, dtype=np.int64)
    best_cost = np.inf
    costs = np.zeros(N + 1)  # of the first i examples
    used = np.zeros(N + 1, dtype=np.int64)  # clusters that they are in
    i = 0
    while i >= 0:
        labels[i] += 1
        k = labels[i]
        if k > used[i] or k >= n_clusters:
            i -= 1
            continue
        cost = costs[i]
        for j in range(i):
            if labels[j] == k:
                cost += sq_distances[i, j]
        n_used = max(used[i], k + 1)
        if cost >= best_cost or n_clusters - n_used > N - 1 - i:
            continue
        if i == N - 1:
            best_cost = cost
            best[:] = labels
            continue
        i += 1
        costs[i], used[i], labels[i] = cost, n_used, -1
    return best
