"""The caption of Fig. 1, of a toy that is as it says and of others that are not."""

from dataclasses import replace

import numpy as np
import pytest

from gcref.data import Dataset
from gcref.studies.toy import separable, train
from gcref.validation.figure_1 import gradients, judge
from gcref.validation.verdicts import FAILS, HOLDS, UNJUDGED

STILL = 5


@pytest.fixture(scope="module")
def toy():
    return train(separable(60, 1.0), n_steps=8)


def verdicts(toy):
    return [claim.verdict for claim in judge(toy, min(STILL, toy.n_steps))]


def test_the_caption_holds(toy):
    assert verdicts(toy) == [HOLDS] * 6


def test_gradients_are_those_of_finite_differences(toy):
    def losses(theta):
        z = toy.x @ theta[:2] + theta[2]
        return np.logaddexp(0, z) - toy.y * z

    found, h = gradients(toy, 3), 1e-5
    for j, e in enumerate(np.eye(3)):
        slope = (losses(toy.theta[3] + h * e) - losses(toy.theta[3] - h * e)) / (2 * h)
        assert found[:, j] == pytest.approx(slope, abs=1e-9)


def test_classes_that_no_line_separates():
    rng = np.random.default_rng(0)
    mixed = train(Dataset(rng.standard_normal((60, 2)), np.arange(60) % 2), n_steps=6)
    assert verdicts(mixed)[0] == FAILS


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (lambda toy: {"theta": toy.theta + 1e-6 * np.arange(9)[:, None]}, {1, 3}),
        (lambda toy: {"labels": np.minimum(toy.labels, 2)}, {2, 3}),
        (lambda toy: {"centers": toy.centers * (1 + 1e-6)}, {3}),
        (lambda toy: {"variance": toy.variance | {"gc": toy.variance["sgb"]}}, {5}),
    ],
)
def test_what_does_not_hold_is_seen(toy, change, which):
    found = verdicts(replace(toy, **change(toy)))
    assert {i for i in (0, 1, 2, 3, 5) if found[i] == FAILS} == which
    assert {i for i in (0, 1, 2, 3, 5) if found[i] == HOLDS} == {0, 1, 2, 3, 5} - which


def test_clusters_of_one_class_each(toy):
    """Two clusters a class, by whether a point's first coordinate is above the class's median."""
    median = np.array([np.median(toy.x[toy.y == c, 0]) for c in (0, 1)])
    labels = 2 * toy.y + (toy.x[:, 0] > median[toy.y])
    assert verdicts(replace(toy, labels=np.tile(labels, (9, 1))))[4] == FAILS


def test_without_a_step_descent_cannot_be_judged():
    assert verdicts(train(separable(20, 1.0), n_steps=0))[1] == UNJUDGED
