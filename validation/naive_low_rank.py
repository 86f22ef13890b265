"""Oracle of gradient clustering with centres of any rank, online U steps and partial A steps, on gradients written out.

Nothing here is fast and nothing is shared with the package. Arithmetic is float64 throughout.
"""

import numpy as np

Step = tuple[float, np.ndarray, list[np.ndarray]]


def best_of_rank(M: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of a matrix of rank at most `rank`, from its dense SVD."""
    U, s, W = np.linalg.svd(M)
    out = np.zeros(M.shape)
    for j in range(min(rank, len(s))):
        out += s[j] * np.outer(U[:, j], W[j])
    return out


def add_cluster_products(G: np.ndarray, labels: np.ndarray, V: np.ndarray, transposed: bool) -> np.ndarray:
    """Σ_{i∈k} g_i V_ks, or with g_iᵀ; G (N, I, O), V (K, b, O) or (K, b, I)."""
    out = np.zeros((*V.shape[:2], G.shape[1 + int(transposed)]))
    for i in range(len(G)):
        for s in range(V.shape[1]):
            v = V[labels[i], s].astype(float)
            out[labels[i], s] += (G[i].T if transposed else G[i]).astype(float) @ v
    return out


def a_step_sequential(
    cc: np.ndarray, cg: np.ndarray, gg: np.ndarray, order: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """argmin_k (N_k + 1) ‖C_k − g_i‖² in `order`, N_k the members so far and those in `kept`; the first of equals."""
    labels, members = np.zeros(len(gg), dtype=np.int64), [int(n) for n in kept]
    for i in order:
        costs = [(members[k] + 1) * max(0.0, cc[k] - 2.0 * cg[i, k] + gg[i]) for k in range(len(cc))]
        labels[i] = costs.index(min(costs))
        members[labels[i]] += 1
    return labels


class Clustering:
    """The algorithm on `blocks`, A (N, T, I) and D (N, T, O) of each; parameters as of `gcref.GradientClustering`."""

    def __init__(
        self, blocks: list, n_clusters: int, center: str = "mean", rank: int = 1, sizes: str = "sequential",
        seed: int = 0, batch_size: int | None = None, decay: float = 0.9, a_share: float = 1.0,
    ) -> None:  # fmt: skip
        self.blocks = [(A.astype(float), D.astype(float)) for A, D in blocks]
        self.K, self.center, self.rank, self.sizes, self.seed = n_clusters, center, rank, sizes, seed
        self.batch_size, self.decay, self.a_share = batch_size, decay, a_share
        self.G = [np.einsum("nti,nto->nio", A, D) for A, D in self.blocks]
        self.N = len(self.G[0])
        self.gg = sum((G**2).sum(axis=(1, 2)) for G in self.G)

    def run(self, n_iter: int) -> list[Step]:
        """Φ, labels and centres written out, (K, I, O) of each block, after each iteration."""
        labels = self.stream(0).permutation(self.N) % self.K
        factors = self.u_step(labels, list(range(self.N)), None)
        counts, steps = np.bincount(labels, minlength=self.K), []
        for t in range(1, n_iter + 1):
            rng = self.stream(t)
            labels = self.a_step(labels, factors, counts, rng)
            counts = np.bincount(labels, minlength=self.K)
            batch = list(range(self.N))
            if self.batch_size is not None:
                batch = sorted(self.stream(t, 2).choice(self.N, self.batch_size, replace=False))
            factors = self.u_step(labels, batch, None if self.batch_size is None else factors)
            steps.append((self.objective(labels, factors), labels, self.written_out(factors)))
        return steps

    def stream(self, *key: int) -> np.random.Generator:
        """The random numbers of an iteration."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def written_out(self, factors: list) -> list[np.ndarray]:
        """Centres (K, I, O) of each block."""
        if self.center == "svd":
            return factors
        return [np.array([np.outer(c[k], d[k]) for k in range(self.K)]) for c, d in factors]

    def products(self, factors: list) -> tuple[np.ndarray, np.ndarray]:
        """‖C_k‖² and ⟨C_k, g_i⟩."""
        C = self.written_out(factors)
        cc = sum((c**2).sum(axis=(1, 2)) for c in C)
        return cc, sum(np.einsum("nio,kio->nk", G, c) for G, c in zip(self.G, C, strict=True))

    def a_step(self, labels: np.ndarray, factors: list, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Assign all examples, or a share of them, and let no cluster be empty."""
        cc, cg = self.products(factors)
        order = np.arange(self.N)
        if self.a_share < 1.0 or self.sizes == "sequential":
            order = rng.permutation(self.N)
        order = order[: max(1, round(self.a_share * self.N))]
        labels, kept = (
            labels.copy(),
            np.bincount([labels[i] for i in range(self.N) if i not in order], minlength=self.K),
        )
        if self.sizes == "sequential":
            labels[order] = a_step_sequential(cc, cg, self.gg, order, kept)[order]
        else:
            for i in order:
                costs = [counts[k] * max(0.0, cc[k] - 2.0 * cg[i, k] + self.gg[i]) for k in range(self.K)]
                labels[i] = costs.index(min(costs))
        for empty in [k for k in range(self.K) if k not in labels]:
            members = self.costliest(labels, cc, cg)
            labels[rng.permutation(members)[: len(members) // 2]] = empty
        return labels

    def costliest(self, labels: np.ndarray, cc: np.ndarray, cg: np.ndarray) -> np.ndarray:
        """The members of the cluster with the largest N_k Σ ‖C_k − g_i‖² and at least two, or of the largest."""
        costs, sizes = np.zeros(self.K), np.bincount(labels, minlength=self.K)
        for i, k in enumerate(labels):
            costs[k] += sizes[k] * max(0.0, cc[k] - 2.0 * cg[i, k] + self.gg[i])
        costs[sizes < 2] = 0.0
        return np.flatnonzero(labels == (np.argmax(costs) if costs.any() else np.argmax(sizes)))

    def u_step(self, labels: np.ndarray, batch: list, last: list | None) -> list:
        """Centres from the examples of `batch`, averaged with the last ones if there are some."""
        found = []
        for block, (A, D) in enumerate(self.blocks):
            means = [A.mean(axis=1), D.sum(axis=1)] if self.center == "mean" else [self.G[block]]
            factors = [np.zeros((self.K, *X.shape[1:])) for X in means]
            for k in range(self.K):
                members = [i for i in batch if labels[i] == k]
                for f, (X, C) in enumerate(zip(means, factors, strict=True)):
                    old = None if last is None else (last[block][f] if self.center == "mean" else last[block])[k]
                    C[k] = self.average(X, members, old)
            found.append(tuple(factors) if self.center == "mean" else factors[0])
        return found

    def average(self, X: np.ndarray, members: list, old: np.ndarray | None) -> np.ndarray:
        """The mean over the members, averaged with the old one if there is one; of a matrix its best of rank r."""
        if not members:
            return np.zeros(X.shape[1:]) if old is None else old
        new = np.asarray(sum(X[i] for i in members)) / len(members)
        if old is not None:
            new = self.decay * old + (1 - self.decay) * new
        return best_of_rank(new, self.rank) if self.center == "svd" else new

    def objective(self, labels: np.ndarray, factors: list) -> float:
        """Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖² from the differences."""
        counts, total = np.bincount(labels, minlength=self.K), 0.0
        for G, C in zip(self.G, self.written_out(factors), strict=True):
            for i in range(self.N):
                total += counts[labels[i]] * float(((C[labels[i]] - G[i]) ** 2).sum())
        return total
