import itertools

import numpy as np
import pytest
from scipy.special import expit

from gcref.studies.toy import MARGIN, match, separable, train


@pytest.fixture(scope="module")
def ds():
    return separable(60, 1.0, seed=0)


@pytest.fixture(scope="module")
def toy(ds):
    return train(ds, 4, 0.5, 12, seed=0)


def gradients(toy, step):
    """Every example's gradient at a step, (N, 3), by the formula of the logistic loss."""
    inputs = np.column_stack([toy.x, np.ones(len(toy.x))])
    return (expit(inputs @ toy.theta[step]) - toy.y)[:, None] * inputs


def phi(g, labels):
    """Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖²."""
    return sum(
        len(part) * ((part - part.mean(axis=0)) ** 2).sum() for k in np.unique(labels) for part in [g[labels == k]]
    )


@pytest.mark.parametrize("noise", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_line_separates_the_classes(noise, seed):
    ds = separable(101, noise, seed)
    assert np.bincount(ds.y).tolist() == [50, 51]
    angles = np.linspace(0, 2 * np.pi, 20_000)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    margin = ((2 * ds.y - 1)[:, None] * (ds.x @ directions)).min(axis=0).max()
    assert margin > MARGIN * (1 - 1e-6)


def test_the_spread_of_a_class_is_the_noise():
    ds = separable(10_000, 0.4, seed=1)  # nothing is near the boundary
    for y in (0, 1):
        assert ds.x[ds.y == y].std(axis=0) == pytest.approx([0.4, 0.4], rel=0.03)
        assert np.linalg.norm(ds.x[ds.y == y].mean(axis=0)) == pytest.approx(2, rel=0.01)


def test_gradient_descent(toy):
    for step in range(toy.n_steps):
        expected = toy.theta[step] - 0.5 * gradients(toy, step).mean(axis=0)
        np.testing.assert_allclose(toy.theta[step + 1], expected, rtol=0, atol=1e-14)
    inputs = np.column_stack([toy.x, np.ones(60)])
    margins = (2 * toy.y - 1) * (toy.theta @ inputs.T)
    np.testing.assert_allclose(toy.loss, np.log1p(np.exp(-margins)).mean(axis=1), rtol=1e-13)


def test_centres_and_predicted_boundaries(toy):
    for step in range(toy.n_steps + 1):
        g, labels = gradients(toy, step), toy.labels[step]
        means = [g[labels == k].mean(axis=0) for k in range(4)]
        np.testing.assert_allclose(toy.centers[step], means, rtol=0, atol=1e-14)
        np.testing.assert_allclose(toy.predicted(step), toy.theta[step] - 0.5 * np.array(means), rtol=0, atol=1e-14)


def test_variances_are_those_of_the_explicit_gradients(toy):
    for step in range(toy.n_steps + 1):
        g, n = gradients(toy, step), 60
        plain = (n - 4) / (n - 1) * g.var(axis=0).mean() / 4
        np.testing.assert_allclose(toy.variance["sgb"][step], plain, rtol=1e-12)
        np.testing.assert_allclose(toy.variance["gc"][step], phi(g, toy.labels[step]) / n**2 / 3, rtol=1e-12)


def test_every_step_clusters_at_least_as_well_as_the_clusters_before(toy):
    changed = 0
    for step in range(1, toy.n_steps + 1):
        g = gradients(toy, step)
        before, now = phi(g, toy.labels[step - 1]), phi(g, toy.labels[step])
        assert now <= before * (1 + 1e-12)
        changed += now < before
        assert np.unique(toy.labels[step]).tolist() == [0, 1, 2, 3]
    assert changed > toy.n_steps // 2


def test_clusters_keep_their_numbers(toy):
    for before, now in itertools.pairwise(toy.labels):
        others = [np.take(order, now) for order in itertools.permutations(range(4))]
        assert (now == before).sum() == max((other == before).sum() for other in others)


def test_match_undoes_another_numbering():
    rng = np.random.default_rng(0)
    before = rng.integers(6, size=200)
    now = before.copy()
    now[:20] = rng.integers(6, size=20)
    for _ in range(20):
        np.testing.assert_array_equal(match(rng.permutation(6)[now], before, 6), now)


def test_the_first_cluster_is_that_of_the_caption(toy):
    """Blue points belong to both classes, have similar gradients and are far apart in input space (Fig. 1)."""
    assert np.all(np.diff(np.linalg.norm(toy.centers[-1], axis=1)) > 0)
    blue, g = toy.labels[-1] == 0, gradients(toy, toy.n_steps)
    zeros, ones = toy.x[blue & (toy.y == 0)], toy.x[blue & (toy.y == 1)]
    assert min(len(zeros), len(ones)) >= 10
    assert np.linalg.norm(zeros.mean(axis=0) - ones.mean(axis=0)) > np.linalg.norm(
        toy.x[toy.y == 0].mean(axis=0) - toy.x[toy.y == 1].mean(axis=0)
    )
    assert g[blue].std(axis=0).mean() < 0.5 * g.std(axis=0).mean()


def test_a_seed_gives_the_same_numbers(ds, toy):
    np.testing.assert_array_equal(separable(60, 1.0, seed=0).x, ds.x)
    assert not np.array_equal(separable(60, 1.0, seed=1).x, ds.x)
    again, other = train(ds, 4, 0.5, 12, seed=0), train(ds, 4, 0.5, 12, seed=1)
    np.testing.assert_array_equal(again.labels, toy.labels)
    np.testing.assert_array_equal(again.theta, toy.theta)
    assert not np.array_equal(other.theta, toy.theta)


@pytest.mark.parametrize(("n_points", "n_clusters"), [(5, 5), (2, 1), (8, 8)])
def test_as_few_points_as_can_be(n_points, n_clusters):
    toy = train(separable(n_points, 0.5), n_clusters, n_steps=2)
    assert toy.labels.shape == (3, n_points)
    if n_points == n_clusters:
        assert toy.variance["gc"].tolist() == toy.variance["sgb"].tolist() == [0, 0, 0]


def test_a_learning_rate_whose_gradients_vanish():
    toy = train(separable(20, 1.0), 3, learning_rate=1000.0, n_steps=3)
    assert np.isfinite(toy.theta).all()
    assert all(np.isfinite(values).all() for values in toy.variance.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: separable(1, 1.0), r"n_points=1; an integer not below 2 is expected"),
        (lambda: separable(20_000, 1.0), r"n_points=20000; at most 10000 is expected"),
        (lambda: separable(10.0, 1.0), r"n_points=10.0"),
        (lambda: separable(10, 0), r"noise=0; a number above 0 and at most 100 is expected"),
        (lambda: separable(10, float("nan")), r"noise=nan"),
        (lambda: separable(10, 1.0, -1), r"seed=-1"),
        (lambda: train(separable(10, 1.0), 11), r"n_clusters=11, but there are only n_points=10"),
        (lambda: train(separable(10, 1.0), 0), r"n_clusters=0"),
        (
            lambda: train(separable(10, 1.0), learning_rate=-0.1),
            r"learning_rate=-0.1; a number above 0 and at most 1000",
        ),
        (lambda: train(separable(10, 1.0), learning_rate=True), r"learning_rate=True"),
        (lambda: train(separable(10, 1.0), n_steps=-1), r"n_steps=-1"),
        (lambda: train(separable(10, 1.0), n_steps=10**9), r"n_steps=1000000000; at most 1000"),
    ],
)
def test_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
