"""Unbiasedness and exact variance of every estimator against their definition: all draws, enumerated.

Run ``python -m gcref.validation.enumeration`` (a few seconds). On problems of at most seven examples, with fully
connected, convolutional and residual networks, each mini-batch and each stratified draw is written out, and its
estimate formed from gradients computed one example at a time by complex steps in the loss. All draws being equally
likely, their mean is the expectation and their spread the variance, with no formula in between. It prints each
estimator's worst deviation and exits with 0 if all are at most 1e-9, with 1 otherwise.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import gcref
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d
from gcref.validation.complex_step import gradients

Vector = NDArray[np.float64]
Draw = tuple[int, ...]
Strata = Sequence[Draw]  # the examples of each stratum, or those drawn from each
Estimator = gcref.MiniBatch | gcref.Stratified

TOLERANCE = 1e-9
FLOOR = 1e-18  # share of the mean square from which a variance is expected to be right: rounding leaves 1e-29
IMAGE = (5, 4, 2)


class Model(NamedTuple):
    """A network to be made from a seed, with three classes or as many as it says, and the shape of its inputs."""

    kind: str
    build: Callable[[int], Network]
    in_shape: tuple[int, ...]
    n_classes: int = 3


# ---------------------------------------------------------------------------------------------------- networks


def mlp(*sizes: int) -> Model:
    """Return a multilayer perceptron."""
    return Model("perceptrons", lambda seed: gcref.mlp(sizes, seed=seed), sizes[:1], sizes[-1])


def pooled(seed: int) -> Network:
    """Return convolutions at 20 positions and at 1, where a pass takes gradients and where it takes products."""
    layers = [
        Conv2d(2, 3, 3, padding=1), ReLU(), MaxPool2d(2),
        Conv2d(3, 2, (2, 1), stride=(1, 2)), Flatten(), Linear(2, 3),
    ]  # fmt: skip
    return Network(layers, SoftmaxCrossEntropy(label_smoothing=0.1), seed)


def strided(seed: int) -> Network:
    """Return convolutions at 9 positions and, without bias, at 2: with SVRG's differences 18 and 4."""
    layers = [
        Conv2d(2, 2, (3, 2), stride=(2, 1), padding=(1, 0)), ReLU(), AvgPool2d(2, stride=1),
        Conv2d(2, 3, (2, 1), bias=False), ReLU(), GlobalAvgPool(), Linear(3, 3),
    ]  # fmt: skip
    return Network(layers, SoftmaxCrossEntropy(), seed)


def resnet8(norm: str | None) -> Model:
    """Return ResNet8 of the smallest width."""
    kind = "ResNet8" if norm is None else "ResNet8 with batch norm"
    return Model(kind, lambda seed: gcref.resnet8(IMAGE, 3, norm, seed, "float64", width=1), IMAGE)


PROBLEMS = (
    (5, mlp(3, 4, 3)), (7, mlp(2, 3)), (6, mlp(1, 2, 2, 2)), (7, mlp(4, 3, 3)), (2, mlp(3, 2)), (1, mlp(2, 3)),
    (6, Model("convolutional networks", pooled, IMAGE)), (5, Model("convolutional networks", strided, IMAGE)),
    (6, resnet8(None)), (6, resnet8("batch")),
)  # fmt: skip


# ---------------------------------------------------------------------------------- draws and their estimates


def mini_batches(n_examples: int, batch_size: int, replacement: bool) -> list[Draw]:
    """Return all mini-batches, equally likely: the N^B ordered tuples with replacement, else the subsets."""
    if replacement:
        return list(itertools.product(range(n_examples), repeat=batch_size))
    return list(itertools.combinations(range(n_examples), batch_size))


def allocation(sizes: Sequence[int], batch_size: int, replacement: bool) -> Draw:
    """Return the n_k ≥ 1 of sum B with the least Σ_k N_k²/n_k, of several those with most at the front: by trying."""
    limits = [batch_size if replacement else size for size in sizes]
    every = [n for n in itertools.product(*(range(1, limit + 1) for limit in limits)) if sum(n) == batch_size]
    spread = {n: sum(Fraction(N**2, n_k) for N, n_k in zip(sizes, n, strict=True)) for n in every}
    return min(every, key=lambda n: (spread[n], [-n_k for n_k in n]))


def several_draws(strata: Strata, batch_size: int, replacement: bool) -> list[Strata]:
    """Return all choices of n_k examples from each of at most B strata; all equally likely."""
    counts = allocation([len(stratum) for stratum in strata], batch_size, replacement)
    choices = (
        itertools.product(stratum, repeat=n) if replacement else itertools.combinations(stratum, n)
        for stratum, n in zip(strata, counts, strict=True)
    )
    return list(itertools.product(*choices))


def dealings(strata: Strata, n_groups: int) -> list[Strata]:
    """Return all ways of dealing strata in turn to groups, each then a stratum; all orders are equally likely."""
    orders = itertools.permutations(strata)
    return [tuple(sum(order[g::n_groups], ()) for g in range(n_groups)) for order in orders]


def mini_batch_estimates(G: Vector, batches: Sequence[Draw]) -> Vector:
    """Return the mean gradient of each batch, shape (draws, d), of gradients G (N, d)."""
    return np.array([sum(G[i] for i in batch) / len(batch) for batch in batches])


def svrg_estimates(G: Vector, G_snapshot: Vector, batches: Sequence[Draw]) -> Vector:
    """Return, for each batch, the mean of g_i(θ) − g_i(θ̃) plus the full gradient at θ̃; shape (draws, d)."""
    full = sum(G_snapshot) / len(G_snapshot)
    return np.array([sum(G[i] - G_snapshot[i] for i in batch) / len(batch) + full for batch in batches])


def stratified_estimates(G: Vector, labels: NDArray, batch_size: int | None, replacement: bool) -> Vector:
    """Return every estimate from strata, as often as it is likely; shape (draws, d).

    It is Σ_k (N_k/N) × the mean gradient of what is drawn from stratum k: Eq. 1 at B = K. Where B < K the strata are
    those of a dealing, and its estimates are repeated until every dealing has as many.
    """
    strata = [tuple(np.flatnonzero(labels == k).tolist()) for k in np.unique(labels)]
    size = len(strata) if batch_size is None else batch_size
    dealt = [strata] if size >= len(strata) else dealings(strata, size)
    parts = [_weighted(G, groups, several_draws(groups, size, replacement)) for groups in dealt]
    most = math.lcm(*(len(part) for part in parts))
    return np.concatenate([np.repeat(part, most // len(part), axis=0) for part in parts])


def _weighted(G: Vector, strata: Strata, draws: Sequence[Strata]) -> Vector:
    """Return Σ_k (N_k/N) × the mean gradient of the examples drawn from stratum k, of each draw."""
    shares = [len(stratum) / len(G) for stratum in strata]
    means = ([w * sum(G[i] for i in chosen) / len(chosen) for w, chosen in zip(shares, d, strict=True)] for d in draws)
    return np.array([sum(parts) for parts in means])


def estimates(estimator: Estimator, G: Vector, G_snapshot: Vector) -> Vector:
    """Return every estimate that a prepared estimator can draw, (draws, d), of gradients (N, d) now and then."""
    if isinstance(estimator, gcref.Stratified):
        return stratified_estimates(G, estimator.labels_, estimator.batch_size, estimator.replacement)
    batches = mini_batches(len(G), estimator.batch_size, estimator.replacement)
    if isinstance(estimator, gcref.SVRG):
        return svrg_estimates(G, G_snapshot, batches)
    return mini_batch_estimates(G, batches)


# ------------------------------------------------------------------------------------------------ definitions


def _deviations(draws: Vector) -> Vector:
    """Draws less their mean; less the first draw before, so that equal ones leave 0 and not their mean's rounding."""
    shifted = draws - draws[0]
    return shifted - shifted.mean(axis=0)


def average_variance(draws: Vector) -> float:
    """Average over coordinates of the variance among the draws (draws, d)."""
    return float((_deviations(draws) ** 2).mean())


def normalized_variance(draws: Vector, full: Vector) -> float:
    """Average over coordinates of V_j / (V_j + ḡ_j²), 0/0 = 0, with ḡ = `full` (d,)."""
    V = (_deviations(draws) ** 2).mean(axis=0)
    shares = [V[j] / (V[j] + full[j] ** 2) if V[j] > 0 else 0.0 for j in range(len(full))]
    return float(sum(shares) / len(shares))


def noise_scale(G: Vector) -> float:
    """Return tr Σ / ‖ḡ‖² of the gradients G (N, d), Σ with divisor N."""
    full = G.mean(axis=0)
    return float(sum(np.sum((g - full) ** 2) for g in G) / len(G) / np.sum(full**2))


def deviations(
    estimator: Estimator, net: Network, ds: gcref.data.Dataset, G: Vector, G_snapshot: Vector
) -> dict[str, float]:
    """Compare an estimator with its definition.

    Parameters
    ----------
    estimator : MiniBatch, SVRG or Stratified
        Prepared.
    net, ds
        A small network and few examples.
    G, G_snapshot : ndarray, shape (N, d)
        Every example's gradient, now and when the estimator was prepared.

    Returns
    -------
    dict of str to float
        Relative deviations: of the mean of all draws from the full gradient, and of `gcref.variance` in
        closed form from the enumeration.
    """
    full, scale = G.mean(axis=0), float((G**2).mean())
    draws = estimates(estimator, G, G_snapshot)
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
    return draw(n_examples, mlp(*sizes), seed, n_copies)


def draw(n_examples: int, model: Model, seed: int, n_copies: int = 0) -> tuple[Network, gcref.data.Dataset]:
    """Draw a network and a data set whose last `n_copies` examples are copies of its first ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_examples, *model.in_shape))
    y = rng.integers(0, model.n_classes, n_examples)
    originals = n_examples - n_copies
    for i in range(originals, n_examples):
        x[i], y[i] = x[i % originals], y[i % originals]
    return model.build(seed), gcref.data.Dataset(x, y)


def move(net: Network, ds: gcref.data.Dataset, seed: int) -> None:
    """Move the parameters, and the running statistics where there is batch norm, as training does."""
    net.gradient(ds.x, ds.y, training=True)
    net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)


def estimators(n_examples: int, seed: int) -> Iterator[tuple[str, Estimator]]:
    """Yield a name and an estimator, for every kind, batch size and number of clusters up to three, labels to four."""
    labels = 2 * np.random.default_rng([seed, 4]).integers(0, 4, n_examples) + 1
    n_strata = len(np.unique(labels))
    for size in range(1, min(3, n_examples) + 1):
        for kind, name in ((gcref.MiniBatch, "SG-B"), (gcref.SVRG, "SVRG")):
            yield f"{name}, without replacement", kind(size)
            yield f"{name}, with replacement", kind(size, replacement=True)
        gaps = 5 * np.random.default_rng(seed).integers(0, size, n_examples) + 2
        yield "Stratified, given labels with gaps", gcref.Stratified(gaps)
        yield "Stratified, GradientClustering", gcref.Stratified(gcref.GradientClustering(size, seed=seed))
        for update in ("alternating", "exchange"):
            clusterer = gcref.ExactClustering(size, update=update, seed=seed)
            yield f"Stratified, ExactClustering, {update}", gcref.Stratified(clusterer)
        yield "Stratified, B < K", gcref.Stratified(labels, min(size, n_strata))
        larger = min(n_strata + size, n_examples)
        yield "Stratified, B > K, without replacement", gcref.Stratified(labels, larger)
        yield "Stratified, B > K, with replacement", gcref.Stratified(labels, larger, replacement=True)


def worst_deviations(n_seeds: int = 3) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for each kind of network and estimator, the worst deviations, as `deviations` names them."""
    worst: dict[str, dict[str, dict[str, float]]] = {}
    for (n_examples, model), seed in itertools.product(PROBLEMS, range(n_seeds)):
        of_kind = worst.setdefault(model.kind, {})
        net, ds = draw(n_examples, model, seed, n_copies=seed % 2 * (n_examples // 2))
        move(net, ds, seed + n_seeds)
        # SVRG's snapshot, and the gradients that are clustered, are a step behind.
        prepared = [(name, estimator.prepare(net, ds)) for name, estimator in estimators(n_examples, seed)]
        G_snapshot = gradients(net, ds.x, ds.y)
        move(net, ds, seed)
        G = gradients(net, ds.x, ds.y)
        for name, estimator in prepared:
            found = deviations(estimator, net, ds, G, G_snapshot)
            before = of_kind.setdefault(name, dict.fromkeys(found, 0.0))
            of_kind[name] = {key: max(before[key], value) for key, value in found.items()}
    return worst


def main() -> int:
    """Print the claim and each estimator's worst deviations; return 0 if the claim holds, 1 if not."""
    print("Claim: the mean of all draws is the full gradient, and gcref.variance in closed form their variance,")
    print(f"to {TOLERANCE:g} relative (float64; N, B and K at most 7). Worst deviations:")
    passed = True
    for kind, of_kind in worst_deviations().items():
        print(kind)
        for name, found in of_kind.items():
            holds = max(found.values()) <= TOLERANCE
            passed = passed and holds
            shown = "  ".join(f"{key} {value:.1e}" for key, value in found.items())
            print(f"  {'PASS' if holds else 'FAIL'}  {name:41s} {shown}")
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
