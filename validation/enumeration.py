"""Unbiasedness and exact variance of every estimator against their definition: all draws, enumerated.

Run ``python -m gcref.validation.enumeration`` (a few seconds). On problems of at most seven examples each
mini-batch and each stratified draw is written out, and its estimate formed from gradients computed one
example at a time in plain loops. All draws being equally likely, their mean is the expectation and their
spread the variance, with no formula in between. It prints each estimator's worst deviation and exits with 0
if all are at most 1e-9, with 1 otherwise.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

import gcref
from gcref.engine.network import Network

Vector = NDArray[np.float64]
Draw = tuple[int, ...]

TOLERANCE = 1e-9
FLOOR = 1e-18  # share of the mean square from which a variance is expected to be right: rounding leaves 1e-29
PROBLEMS = ((5, (3, 4, 3)), (7, (2, 3)), (6, (1, 2, 2, 2)), (7, (4, 3, 3)), (2, (3, 2)), (1, (2, 3)))


# -------------------------------------------------------------------------------------------------- gradients


def gradients(theta: NDArray, sizes: Sequence[int], x: NDArray, y: NDArray) -> Vector:
    """Compute every example's gradient of softmax cross-entropy after an MLP, by hand.

    Parameters
    ----------
    theta : ndarray, shape (d,)
        For each layer the weights, (inputs, outputs) in C order, then the biases.
    sizes : sequence of int
        Inputs, hidden units (ReLU) and classes, as `gcref.mlp` takes them.
    x : ndarray, shape (N, sizes[0])
    y : ndarray of int, shape (N,)

    Returns
    -------
    ndarray, shape (N, d), float64
    """
    weights, start = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        stop = start + (n_in + 1) * n_out
        weights.append(np.array(theta[start:stop], dtype=np.float64).reshape(n_in + 1, n_out))
        start = stop
    return np.array([_gradient(weights, x[i], int(y[i])) for i in range(len(y))])


def _gradient(weights: Sequence[Vector], x: NDArray, label: int) -> Vector:
    """One example's gradient, flat: backpropagation written out."""
    inputs, out = [], np.array(x, dtype=np.float64)
    for depth, weight in enumerate(weights):
        if depth > 0:
            out = np.array([value if value > 0 else 0.0 for value in out])
        inputs.append(np.append(out, 1.0))
        out = np.array([sum(inputs[-1][i] * weight[i, o] for i in range(len(weight))) for o in range(weight.shape[1])])
    delta = np.exp(out - max(out)) / sum(np.exp(out - max(out)))
    delta[label] -= 1.0
    flat: list[Vector] = []
    for weight, a in zip(reversed(weights), reversed(inputs), strict=True):
        flat.insert(0, np.array([a_i * delta_o for a_i in a for delta_o in delta]))
        below = [sum(weight[i, o] * delta[o] for o in range(len(delta))) for i in range(len(a) - 1)]
        delta = np.array([value if a[i] > 0 else 0.0 for i, value in enumerate(below)])
    return np.concatenate(flat)


# ---------------------------------------------------------------------------------- draws and their estimates


def mini_batches(n_examples: int, batch_size: int, replacement: bool) -> list[Draw]:
    """Return all mini-batches, equally likely: the N^B ordered tuples with replacement, else the subsets."""
    if replacement:
        return list(itertools.product(range(n_examples), repeat=batch_size))
    return list(itertools.combinations(range(n_examples), batch_size))


def stratified_draws(labels: NDArray) -> list[Draw]:
    """Return all choices of one example from each cluster that has any; all equally likely."""
    clusters = [[i for i in range(len(labels)) if labels[i] == k] for k in sorted(set(labels.tolist()))]
    return list(itertools.product(*clusters))


def mini_batch_estimates(G: Vector, batches: Sequence[Draw]) -> Vector:
    """Return the mean gradient of each batch, shape (draws, d), of gradients G (N, d)."""
    return np.array([sum(G[i] for i in batch) / len(batch) for batch in batches])


def svrg_estimates(G: Vector, G_snapshot: Vector, batches: Sequence[Draw]) -> Vector:
    """Return, for each batch, the mean of g_i(θ) − g_i(θ̃) plus the full gradient at θ̃; shape (draws, d)."""
    full = sum(G_snapshot) / len(G_snapshot)
    return np.array([sum(G[i] - G_snapshot[i] for i in batch) / len(batch) + full for batch in batches])


def stratified_estimates(G: Vector, labels: NDArray) -> Vector:
    """Return Eq. 1, Σ_k (N_k/N) g_{j,k}, of each draw; shape (draws, d)."""
    size = {k: labels.tolist().count(k) for k in labels.tolist()}
    draws = stratified_draws(labels)
    return np.array([sum(size[int(labels[i])] / len(labels) * G[i] for i in draw) for draw in draws])


def estimates(
    estimator: gcref.MiniBatch | gcref.Stratified, sizes: Sequence[int], net: Network, ds: gcref.data.Dataset
) -> Vector:
    """Return every estimate that a prepared estimator of an MLP's gradient can draw, shape (draws, d)."""
    G = gradients(net.theta, sizes, ds.x, ds.y)
    if isinstance(estimator, gcref.Stratified):
        return stratified_estimates(G, estimator.labels_)
    batches = mini_batches(len(G), estimator.batch_size, estimator.replacement)
    if isinstance(estimator, gcref.SVRG):
        return svrg_estimates(G, gradients(estimator.theta_, sizes, ds.x, ds.y), batches)
    return mini_batch_estimates(G, batches)


# ------------------------------------------------------------------------------------------------ definitions


def average_variance(draws: Vector) -> float:
    """Average over coordinates of the variance among the draws (draws, d)."""
    return float(((draws - draws.mean(axis=0)) ** 2).mean())


def normalized_variance(draws: Vector, full: Vector) -> float:
    """Average over coordinates of V_j / (V_j + ḡ_j²), 0/0 = 0, with ḡ = `full` (d,)."""
    V = ((draws - draws.mean(axis=0)) ** 2).mean(axis=0)
    shares = [V[j] / (V[j] + full[j] ** 2) if V[j] > 0 else 0.0 for j in range(len(full))]
    return float(sum(shares) / len(shares))


def noise_scale(G: Vector) -> float:
    """Return tr Σ / ‖ḡ‖² of the gradients G (N, d), Σ with divisor N."""
    full = G.mean(axis=0)
    return float(sum(np.sum((g - full) ** 2) for g in G) / len(G) / np.sum(full**2))


def deviations(
    estimator: gcref.MiniBatch | gcref.Stratified, sizes: Sequence[int], net: Network, ds: gcref.data.Dataset
) -> dict[str, float]:
    """Compare an estimator with its definition.

    Parameters
    ----------
    estimator : MiniBatch, SVRG or Stratified
        Prepared.
    sizes, net, ds
        An MLP with these sizes, and few examples.

    Returns
    -------
    dict of str to float
        Relative deviations: of the mean of all draws from the full gradient, and of `gcref.variance` in
        closed form from the enumeration.
    """
    G = gradients(net.theta, sizes, ds.x, ds.y)
    full, scale = G.mean(axis=0), float((G**2).mean())
    draws = estimates(estimator, sizes, net, ds)
    found = gcref.variance(estimator, net, ds)
    return {
        "mean": float(np.sqrt(((draws.mean(axis=0) - full) ** 2).mean() / scale)),
        "average": relative(found.average, average_variance(draws), FLOOR * scale),
        "normalized": relative(found.normalized, normalized_variance(draws, full), FLOOR),
        "noise scale": relative(found.noise_scale, noise_scale(G), FLOOR),
    }


def relative(found: float, expected: float, floor: float) -> float:
    """Return |found − expected| as a share of what is expected, or of `floor` where that is larger."""
    return abs(found - expected) / max(abs(expected), floor)


# ------------------------------------------------------------------------------------------------- the report


def problem(n_examples: int, sizes: Sequence[int], seed: int, n_copies: int = 0) -> tuple[Network, gcref.data.Dataset]:
    """Draw an MLP and a data set whose last `n_copies` examples are copies of its first ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_examples, sizes[0]))
    y = rng.integers(0, sizes[-1], n_examples)
    originals = n_examples - n_copies
    for i in range(originals, n_examples):
        x[i], y[i] = x[i % originals], y[i % originals]
    return gcref.mlp(tuple(sizes), seed=seed), gcref.data.Dataset(x, y)


def estimators(n_examples: int, seed: int) -> Iterator[tuple[str, gcref.MiniBatch | gcref.Stratified]]:
    """Yield a name and an estimator, for every kind, batch size and number of clusters up to three."""
    for size in range(1, min(3, n_examples) + 1):
        for kind, name in ((gcref.MiniBatch, "SG-B"), (gcref.SVRG, "SVRG")):
            yield f"{name}, without replacement", kind(size)
            yield f"{name}, with replacement", kind(size, replacement=True)
        labels = 5 * np.random.default_rng(seed).integers(0, size, n_examples) + 2
        yield "Stratified, given labels with gaps", gcref.Stratified(labels)
        yield "Stratified, GradientClustering", gcref.Stratified(gcref.GradientClustering(size, seed=seed))
        for update in ("alternating", "exchange"):
            clusterer = gcref.ExactClustering(size, update=update, seed=seed)
            yield f"Stratified, ExactClustering, {update}", gcref.Stratified(clusterer)


def worst_deviations(n_seeds: int = 3) -> dict[str, dict[str, float]]:
    """Return each estimator's worst deviations over the problems, as `deviations` names them."""
    worst: dict[str, dict[str, float]] = {}
    for (n_examples, sizes), seed in itertools.product(PROBLEMS, range(n_seeds)):
        net, ds = problem(n_examples, sizes, seed, n_copies=seed % 2 * (n_examples // 2))
        for name, estimator in estimators(n_examples, seed):
            net.theta = gcref.mlp(sizes, seed=seed).theta
            estimator.prepare(net, ds)
            # SVRG's snapshot, and the gradients that were clustered, are a step behind.
            net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)
            found = deviations(estimator, sizes, net, ds)
            before = worst.setdefault(name, dict.fromkeys(found, 0.0))
            worst[name] = {key: max(before[key], value) for key, value in found.items()}
    return worst


def main() -> int:
    """Print the claim and each estimator's worst deviations; return 0 if the claim holds, 1 if not."""
    print("Claim: the mean of all draws is the full gradient, and gcref.variance in closed form their variance,")
    print(f"to {TOLERANCE:g} relative (float64; N at most 7, B and K at most 3). Worst deviations:")
    passed = True
    for name, found in worst_deviations().items():
        holds = max(found.values()) <= TOLERANCE
        passed = passed and holds
        shown = "  ".join(f"{key} {value:.1e}" for key, value in found.items())
        print(f"  {'PASS' if holds else 'FAIL'}  {name:41s} {shown}")
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
