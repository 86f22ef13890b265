import numpy as np
import pytest

from gcref.validation import explicit, naive_random_features, replay


def problem(rng, n=60, n_inputs=20):
    features = np.maximum(rng.standard_normal((n, n_inputs)), 0)
    targets = rng.integers(0, 2, n).astype(np.int8)
    batches = np.stack([rng.choice(n, 5, replace=False) for _ in range(400)]).astype(np.int32)
    return features, targets, batches


def test_sgd_is_that_of_plain_loops():
    rng = np.random.default_rng(0)
    features, targets, batches = problem(rng)
    start = rng.standard_normal((20, 1))
    w = start[:, 0].copy()
    naive_random_features.sgd_steps(features, targets, w, batches, 0.1, 1e-3)
    found = replay.sgd(features, targets, start[None], batches, 0.1, 1e-3)
    assert np.allclose(found[0, :, 0], w, rtol=1e-12, atol=0)


def test_starts_do_not_feel_one_another():
    rng = np.random.default_rng(1)
    features, targets, batches = problem(rng)
    starts = rng.standard_normal((3, 20, 2))
    together = replay.sgd(features, targets, starts, batches, 0.1, 1e-3)
    for start, found in zip(starts, together, strict=True):
        assert np.allclose(replay.sgd(features, targets, start[None], batches, 0.1, 1e-3)[0], found, rtol=1e-11)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs an extended precision")
@pytest.mark.parametrize(("learning_rate", "low", "high"), [(0.01, 0, 1e-12), (0.3, 0, 1e-12), (5.0, 1e-9, 1e-5)])
def test_rounding_is_at_most_what_the_shadow_tells(learning_rate, low, high):
    rng = np.random.default_rng(2)
    features, targets, batches = problem(rng)
    both = replay.with_shadow(rng.standard_normal((20, 2)))
    found = replay.sgd(features, targets, both, batches, learning_rate, 1e-4)
    extended = both.astype(np.longdouble)
    exact = replay.sgd(features.astype(np.longdouble), targets, extended, batches, learning_rate, 1e-4)
    size = float(np.linalg.norm(found[0]))
    error = float(np.linalg.norm(found[0] - exact[0])) / size
    told = replay.rounding_of(found, len(batches)) / size
    assert error <= max(told, len(batches) * explicit.EPS)
    assert low <= told <= high


def test_nothing_is_known_of_chaos():
    rng = np.random.default_rng(3)
    features, targets, batches = problem(rng)
    both = replay.with_shadow(rng.standard_normal((20, 2)))
    found = replay.sgd(features, targets, both, batches, 20.0, 1e-4)
    assert replay.rounding_of(found, len(batches)) == np.inf
    assert replay.rounding_of(np.stack([np.ones((3, 2)), np.full((3, 2), np.inf)]), 1) == np.inf
    assert replay.rounding_of(np.full((2, 3, 2), np.nan), 1) == np.inf
