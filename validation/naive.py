"""Oracles: every kernel once more, one example at a time, in plain loops that anybody can check by eye.

Nothing here is fast and nothing is shared with the package; names and arguments are those of the kernels.
Arithmetic is float64 throughout.
"""

import numpy as np

# ------------------------------------------------------------------------------------------------ gradients


def gradient(A_i: np.ndarray, D_i: np.ndarray) -> np.ndarray:
    """g_i = Σ_t A_it D_itᵀ of one example; A_i (T, I), D_i (T, O), result (I, O)."""
    total = np.zeros((A_i.shape[1], D_i.shape[1]))
    for t in range(A_i.shape[0]):
        total += np.outer(A_i[t].astype(float), D_i[t].astype(float))
    return total


def per_example_gradients(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Every g_i flattened in C order; A (N, T, I), D (N, T, O), result (N, I O)."""
    N, _, I = A.shape  # noqa: E741
    G = np.zeros((N, I * D.shape[2]))
    for i in range(N):
        G[i] = gradient(A[i], D[i]).ravel()
    return G


def sq_norms(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """‖g_i‖², (N,)."""
    out = np.zeros(A.shape[0])
    for i in range(A.shape[0]):
        out[i] = np.sum(gradient(A[i], D[i]) ** 2)
    return out


def row_sq_norms(G: np.ndarray) -> np.ndarray:
    """‖g_i‖² of gradients written out, (N,)."""
    out = np.zeros(len(G))
    for i in range(len(G)):
        for g in G[i]:
            out[i] += float(g) ** 2
    return out


def gram(A: np.ndarray, D: np.ndarray, A2: np.ndarray, D2: np.ndarray) -> np.ndarray:
    """⟨g_i, g'_j⟩, (N, M)."""
    out = np.zeros((A.shape[0], A2.shape[0]))
    for i in range(A.shape[0]):
        for j in range(A2.shape[0]):
            out[i, j] = np.sum(gradient(A[i], D[i]) * gradient(A2[j], D2[j]))
    return out


def inner_products(A: np.ndarray, D: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """⟨c_k d_kᵀ, g_i⟩, (N, K)."""
    out = np.zeros((A.shape[0], c.shape[0]))
    for i in range(A.shape[0]):
        for k in range(c.shape[0]):
            out[i, k] = np.sum(np.outer(c[k].astype(float), d[k].astype(float)) * gradient(A[i], D[i]))
    return out


def inner_products_of_gradients(G: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """⟨c_k d_kᵀ, g_i⟩ of gradients written out, (N, K); G (N, I, O)."""
    out = np.zeros((len(G), len(c)))
    for i in range(len(G)):
        for k in range(len(c)):
            out[i, k] = np.sum(np.outer(c[k].astype(float), d[k].astype(float)) * G[i].astype(float))
    return out


def second_moment(A: np.ndarray, D: np.ndarray) -> np.ndarray:
    """Σ_i g_i∘g_i, (I, O)."""
    out = np.zeros((A.shape[2], D.shape[2]))
    for i in range(A.shape[0]):
        out += gradient(A[i], D[i]) ** 2
    return out


def add_moments(G: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    """Add Σ_i g_i and Σ_i g_i∘g_i of gradients written out; total and squares (M,) change in place."""
    for g in G:
        for j in range(len(g)):
            total[j] += float(g[j])
            squares[j] += float(g[j]) ** 2


def fold(
    total: np.ndarray, squares: np.ndarray, n: int, share: float, cancelled: float,
    out: np.ndarray, all_total: np.ndarray, all_squares: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Add share times the variance of each coordinate to out, and the sums to all; set them to 0.

    Returns the sum of what was added to out, of share times the mean squares, and the coordinates whose variance is
    less than `cancelled` of its mean square.
    """
    sums = np.zeros(3)
    for j in range(len(out)):
        mean_square = squares[j] / n
        variance = max(0.0, mean_square - (total[j] / n) ** 2)
        sums += (share * variance, share * mean_square, variance < cancelled * mean_square)
        out[j] += share * variance
        all_total[j] += total[j]
        all_squares[j] += squares[j]
        total[j] = squares[j] = 0.0
    return sums


# --------------------------------------------------------------------------------------------------- U step


def grouped_sums(X: np.ndarray, labels: np.ndarray, n_clusters: int, out: np.ndarray | None = None) -> np.ndarray:
    """Σ_{i: a_i = k} X_i, (K, M), added to `out` if there is one."""
    out = np.zeros((n_clusters, X.shape[1])) if out is None else out
    for i in range(X.shape[0]):
        out[labels[i]] = out[labels[i]] + X[i]
    return out


def center_sums(A: np.ndarray, D: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Σ_{i∈k} of the position-mean of A and the position-sum of D, (K, I) and (K, O)."""
    c, d = np.zeros((n_clusters, A.shape[2])), np.zeros((n_clusters, D.shape[2]))
    T = A.shape[1]
    for i in range(A.shape[0]):
        for t in range(T):
            c[labels[i]] = c[labels[i]] + A[i, t].astype(float) / T
            d[labels[i]] = d[labels[i]] + D[i, t].astype(float)
    return c, d


def u_step(A: np.ndarray, D: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 6: the mean over each cluster; 0 for a cluster without members."""
    c, d = center_sums(A, D, labels, n_clusters)
    for k in range(n_clusters):
        size = sum(1 for label in labels if label == k)
        if size > 0:
            c[k] /= size
            d[k] /= size
    return c, d


# --------------------------------------------------------------------------------------------------- A step


def sq_distance(cc: float, cg: float, gg: float) -> float:
    """‖C − g‖² from the three products, never negative."""
    return max(0.0, float(cc) - 2.0 * float(cg) + float(gg))


def a_step_fixed(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """argmin_k N_k ‖C_k − g_i‖², the first of equals."""
    labels = np.zeros(len(gg), dtype=np.int64)
    for i in range(len(gg)):
        costs = [sizes[k] * sq_distance(cc[k], cg[i, k], gg[i]) for k in range(len(cc))]
        labels[i] = costs.index(min(costs))
    return labels


def a_step_sequential(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, order: np.ndarray) -> np.ndarray:
    """argmin_k (N_k + 1) ‖C_k − g_i‖² in `order`, N_k the members so far; the first of equals."""
    labels = np.zeros(len(gg), dtype=np.int64)
    members: list[list[int]] = [[] for _ in cc]
    for i in order:
        costs = [(len(members[k]) + 1) * sq_distance(cc[k], cg[i, k], gg[i]) for k in range(len(cc))]
        labels[i] = costs.index(min(costs))
        members[labels[i]].append(i)
    return labels


# -------------------------------------------------------------------------------------------- the objective


def objective(labels: np.ndarray, G: np.ndarray) -> float:
    """Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² with C_k the mean of the cluster, Eq. 2."""
    total = 0.0
    for k in set(labels.tolist()):
        members = [G[i].astype(float) for i in range(len(labels)) if labels[i] == k]
        center = sum(members) / len(members)
        total += len(members) * sum(float(np.sum((center - g) ** 2)) for g in members)
    return total


def spread(G: np.ndarray, C: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² about given centres, (K,)."""
    out = np.zeros(C.shape[0])
    for i in range(G.shape[0]):
        out[labels[i]] += np.sum((C[labels[i]] - G[i].astype(float)) ** 2)
    return out


def spread_from_products(cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Σ_{i∈k} ‖C_k − g_i‖² from the products, (K,)."""
    out = np.zeros(len(cc))
    for i in range(len(gg)):
        k = labels[i]
        out[k] += sq_distance(cc[k], cg[i, k], gg[i])
    return out


# --------------------------------------------------------------------------------------------- the algorithm


def gradient_clustering(
    blocks: list[tuple[np.ndarray, np.ndarray]], n_clusters: int, sizes: str, n_iter: int, seed: int
) -> list[tuple[float, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]]:
    """Gradient clustering about rank-1 mean centres, step by step, on gradients and centres written out.

    blocks: A (N, T, I) and D (N, T, O) of each. Returns for each iteration Φ about its centres, the labels (N,), and
    the centres c (K, I) and d (K, O) of each block. Random numbers as documented for `gcref.GradientClustering`.
    """
    G = np.concatenate([per_example_gradients(A, D) for A, D in blocks], axis=1)
    labels = _stream(seed, 0).permutation(len(G)) % n_clusters
    centers = [u_step(A, D, labels, n_clusters) for A, D in blocks]
    counts, steps = np.bincount(labels, minlength=n_clusters), []
    for t in range(1, n_iter + 1):
        rng, C = _stream(seed, t), _written_out(centers)
        cc, cg, gg = np.sum(C**2, axis=1), np.sum(G[:, None] * C, axis=2), np.sum(G**2, axis=1)
        if sizes == "sequential":
            labels = a_step_sequential(cc, cg, gg, rng.permutation(len(G)))
        else:
            labels = a_step_fixed(cc, cg, gg, counts)
        for k in range(n_clusters):
            if k not in labels:
                _share_the_costliest(labels, k, G, C, rng)
        counts = np.bincount(labels, minlength=n_clusters)
        centers = [u_step(A, D, labels, n_clusters) for A, D in blocks]
        steps.append((float(counts @ spread(G, _written_out(centers), labels)), labels, centers))
    return steps


def _stream(seed: int, t: int) -> np.random.Generator:
    """The random numbers of iteration t."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(t,)))


def _written_out(centers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """c_k d_kᵀ of all blocks, flattened one after the other; (K, d)."""
    n_clusters = len(centers[0][0])
    return np.array([np.concatenate([np.outer(c[k], d[k]).ravel() for c, d in centers]) for k in range(n_clusters)])


def _share_the_costliest(
    labels: np.ndarray, empty: int, G: np.ndarray, C: np.ndarray, rng: np.random.Generator
) -> None:
    """Give cluster `empty` a random half of the cluster with the largest N_k Σ ‖C_k − g_i‖², or with most members."""
    counts = np.bincount(labels, minlength=len(C))
    costs = np.where(counts >= 2, counts * spread(G, C, labels), 0.0)
    members = np.flatnonzero(labels == (np.argmax(costs) if costs.any() else np.argmax(counts)))
    labels[rng.permutation(members)[: len(members) // 2]] = empty


# ------------------------------------------------------------------------------------------------- exchange


def exchange_sweep(
    G: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s: np.ndarray,
    threshold: float,
) -> int:
    """Try every move of every example, computing Φ from scratch; labels, sizes, e, s change in place."""
    n_clusters = len(sizes)
    moved = 0
    for i in order:
        a = labels[i]
        if np.sum(labels == a) == 1:
            continue
        before = objective(labels, G)
        changes = np.full(n_clusters, np.inf)
        for b in range(n_clusters):
            if b != a:
                trial = labels.copy()
                trial[i] = b
                changes[b] = objective(trial, G) - before
        b = int(np.argmin(changes))
        if changes[b] < -threshold:
            labels[i] = b
            moved += 1
    for k in range(n_clusters):
        members = G[labels == k].astype(float)
        sizes[k], e[k], s[k] = len(members), np.sum(members**2), members.sum(axis=0)
    return moved


def exchange_sweep_gram(
    gram: np.ndarray,
    order: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    e: np.ndarray,
    s_dot_g: np.ndarray,
    threshold: float,
) -> int:
    """`exchange_sweep` on vectors that have these inner products, gram = G Gᵀ."""
    values, vectors = np.linalg.eigh(gram)
    G = vectors * np.sqrt(np.maximum(values, 0.0))
    s = np.zeros((len(sizes), G.shape[1]))
    moved = exchange_sweep(G, order, labels, sizes, e, s, threshold)
    s_dot_g[:] = G @ s.T
    return moved
