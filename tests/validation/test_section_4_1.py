"""What is said of images: true, half true and false by construction."""

import numpy as np
import pytest
from results_cases import RUN, image_file

from gcref.validation import section_4_1
from gcref.validation.section_4_1 import Course, cifar10, duplicates, fluctuations, imagenet, label_noise, mnist
from gcref.validation.verdicts import FAILS, HOLDS, PART, UNJUDGED

T = np.arange(1, 13) * 100


def course(sgb, gc=0.4, svrg=0.3, normalized=0.5, loss=0.5, milestones=(), refresh_every=400):
    """A run of 12 measuring points whose clusters are renewed every 4."""
    sgb = np.broadcast_to(np.asarray(sgb, float), T.shape)
    variance = {"sgb": sgb, "sg2b": 0.49 * sgb, "svrg": svrg * sgb, "gc": np.asarray(gc) * sgb}
    full = [np.broadcast_to(np.asarray(values, float), T.shape) for values in (normalized, loss)]
    return Course(T, variance, *full, refresh_every, milestones)


def verdicts(claims):
    return [claim.verdict for claim in claims]


FALLING, RISING = 10.0 ** -np.linspace(6, 9.0, 12), 10.0 ** np.linspace(-6, -4, 12)
UP_AND_DOWN = np.tile([0.5, 0.9, 0.55, 0.5], 3)
STAIRS = np.tile([0.5, 0.6, 0.7, 0.9], 3)  # falls only where clusters are renewed


def test_mnist_as_the_paper_has_it():
    run = course(FALLING, normalized=np.linspace(0.4, 0.1, 12), svrg=0.05, loss=0.001)
    assert verdicts(mnist(run)) == [HOLDS] * 6


def test_mnist_otherwise():
    run = course(RISING, gc=0.6, normalized=np.linspace(0.6, 0.9, 12))
    assert verdicts(mnist(run)) == [HOLDS] + [FAILS] * 5
    half = course(FALLING, gc=np.where(T > 500, 0.4, 0.6), normalized=0.3 + 0.01 * np.sin(T), svrg=0.05)
    assert verdicts(mnist(half))[3:] == [PART, PART, PART]


def test_cifar10_as_the_paper_has_it():
    run = course(
        RISING, gc=UP_AND_DOWN, svrg=np.tile([0.1, 0.2, 0.3, 0.4], 3), normalized=np.linspace(0.5, 0.9, 12),
        milestones=(600, 900),
    )  # fmt: skip
    found = dict(zip([claim.says for claim in cifar10(run)], verdicts(cifar10(run)), strict=True))
    assert {says for says, verdict in found.items() if verdict != HOLDS} == set()


def test_cifar10_otherwise():
    run = course(FALLING, gc=0.3, svrg=np.tile([0.4, 0.3, 0.2, 0.1], 3), normalized=np.linspace(0.9, 0.5, 12))
    found = verdicts(cifar10(run))
    assert found == [HOLDS, FAILS, UNJUDGED, FAILS, HOLDS, FAILS, FAILS, HOLDS, FAILS]


def test_imagenet():
    run = course(1e-3 * RISING, gc=0.95, normalized=np.linspace(0.5, 1.2, 12), milestones=(600,))
    assert verdicts(imagenet(run)) == [HOLDS] * 6
    run = course(100 * FALLING, milestones=(600,))
    assert verdicts(imagenet(run)) == [HOLDS] + [FAILS] * 5


ONE = np.r_[UP_AND_DOWN[:4], [0.5] * 8]
SLIGHT = np.tile([0.5, 0.74, 0.5, 0.5], 3)


@pytest.mark.parametrize(("gc", "expected"), [(UP_AND_DOWN, 3), (STAIRS, 0), (0.5, 0), (SLIGHT, 0), (ONE, 1)])
def test_a_fluctuation_comes_back_before_the_clusters_are_renewed(gc, expected):
    assert fluctuations(course(RISING, gc=gc)) == expected


def test_label_noise():
    plain, some, none = course(RISING, gc=UP_AND_DOWN), course(RISING, gc=ONE), course(RISING, gc=0.3)
    assert verdicts(label_noise(plain, some, none)) == [HOLDS, HOLDS, HOLDS]
    assert verdicts(label_noise(plain, plain, plain)) == [FAILS, FAILS, FAILS]
    assert verdicts(label_noise(none, plain, plain)) == [UNJUDGED, UNJUDGED, FAILS]


def test_duplicates():
    for gc, expected in ((0.2, HOLDS), (0.35, PART), (0.4, FAILS), (0.6, FAILS)):
        assert verdicts(duplicates(course(RISING), course(RISING, gc=gc), "cifar10")) == [expected]


def test_a_file_is_read_without_its_start(tmp_path):
    run = section_4_1.read_course(image_file(tmp_path))
    assert run.iteration.tolist() == list(RUN.points)[1:]
    assert run.milestones == RUN.milestones
    assert {len(run.variance[m]) for m in run.variance} == {len(run.train_loss)} == {len(run.iteration)}
    assert [claim.section for claim in section_4_1.judge("3a", [tmp_path / "image.h5"])][1] == "4.1, Fig. 3a"


def test_a_file_that_is_too_short(tmp_path, monkeypatch):
    monkeypatch.setattr(section_4_1, "FEWEST", 5)
    with pytest.raises(ValueError, match="has 4 measuring points after the start; at least 5 are expected"):
        section_4_1.read_course(image_file(tmp_path))
