"""SGD against steps worked out by hand."""

import math

import numpy as np
import pytest

import gcref


def test_plain_step():
    theta = np.array([1.0, -2.0])
    gcref.SGD(0.5).step(theta, np.array([2.0, 4.0]))
    np.testing.assert_array_equal(theta, [0.0, -4.0])


def test_momentum_and_weight_decay_by_hand():
    theta, optimizer = np.array([1.0]), gcref.SGD(0.5, momentum=0.5, weight_decay=0.25)
    gradient = np.array([1.0])
    optimizer.step(theta, gradient)  # g = 1 + 0.25·1 = 1.25, v = 1.25, θ = 1 − 0.625
    np.testing.assert_array_equal(theta, [0.375])
    optimizer.step(theta, gradient)  # g = 1 + 0.25·0.375 = 1.09375, v = 0.625 + 1.09375, θ = 0.375 − 0.859375
    np.testing.assert_array_equal(theta, [-0.484375])
    np.testing.assert_array_equal(optimizer.velocity, [1.71875])
    np.testing.assert_array_equal(gradient, [1.0])


def test_learning_rate_may_change_between_steps():
    theta, optimizer = np.array([1.0]), gcref.SGD(0.5, momentum=0.5)
    optimizer.step(theta, np.array([1.0]))
    optimizer.learning_rate = 0.25  # the velocity holds no learning rate
    optimizer.step(theta, np.array([0.0]))
    np.testing.assert_array_equal(theta, [1 - 0.5 - 0.25 * 0.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_a_network_in_place(dtype):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 6)), rng.integers(0, 3, 30)
    net, optimizer = gcref.mlp((6, 16, 3), dtype=dtype), gcref.SGD(0.3, momentum=0.5, weight_decay=1e-4)
    first = net.losses(x, y).mean()
    for _ in range(200):
        optimizer.step(net.theta, net.gradient(x, y)[1])
    assert net.theta.dtype == optimizer.velocity.dtype == np.dtype(dtype)
    assert net.losses(x, y).mean() < 0.1 * first


def test_sizes_must_agree():
    optimizer = gcref.SGD(0.1)
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\) but theta has \(2,\)"):
        optimizer.step(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"theta has shape \(2, 1\); \(d,\) is expected"):
        optimizer.step(np.ones((2, 1)), np.ones((2, 1)))
    optimizer.step(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"theta has shape \(3,\) but earlier steps had \(2,\)"):
        optimizer.step(np.ones(3), np.ones(3))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay"])
def test_arguments_are_checked(name, bad):
    with pytest.raises(ValueError, match=f"{name} is"):
        gcref.SGD(**{"learning_rate": 0.1, name: bad})


def test_words_are_refused():
    with pytest.raises(TypeError, match="learning_rate is 'fast'"):
        gcref.SGD("fast")


def test_without_momentum_an_overflow_is_forgotten():
    optimizer, theta = gcref.SGD(0.1), np.zeros(2)
    optimizer.step(theta, np.array([np.inf, 1.0]))
    theta[:] = 0.0
    optimizer.step(theta, np.array([1.0, 1.0]))
    assert np.allclose(theta, -0.1)


def test_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match=r"momentum is 1\.0"):
        gcref.SGD(0.1, momentum=1.0)


def test_step_schedule():
    schedule = gcref.StepSchedule(0.5, milestones=(10, 20), factor=0.5)
    assert [schedule(i) for i in (0, 9, 10, 19, 20, 99)] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert gcref.StepSchedule(0.3)(10**6) == 0.3


@pytest.mark.parametrize("milestones", [(20, 10), (10, 10), (-5, 3)])
def test_milestones_must_increase(milestones):
    with pytest.raises(ValueError, match="milestones is"):
        gcref.StepSchedule(0.5, milestones)


@pytest.mark.parametrize("name", ["learning_rate", "factor"])
def test_schedule_arguments_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is -1"):
        gcref.StepSchedule(**{"learning_rate": 0.1, name: -1})
