import numpy as np
import pytest

from gcref import data
from gcref.engine.image_models import cnn, resnet8
from gcref.engine.models import mlp
from gcref.studies.image_run import ImageRun
from gcref.validation import image_moments, image_protocol


@pytest.fixture(scope="module")
def digits():
    return data.subset(data.load("digits"), 23)


NETS = {
    "mlp": lambda seed: mlp((64, 5, 10), seed=seed),
    "cnn": lambda seed: cnn((8, 8, 1), norm="batch", width=1, seed=seed, dtype="float64"),
    "resnet8": lambda seed: resnet8((8, 8, 1), width=1, seed=seed, dtype="float64"),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("source", ["written_out", "by_closed_forms"])
def test_moments_by_their_definitions(digits, name, source):
    net, reference = NETS[name](0), NETS[name](1)
    labels = np.arange(23) % 4
    make, step = getattr(image_moments, source)(net, reference, digits)
    assert step > 1
    everything, found = image_moments.gather(make, 3, labels, net.n_parameters)
    G, G_ref = (image_moments.gradients(n, digits, np.arange(23)) for n in (net, reference))
    for moments, rows in zip(everything, (G, G_ref, G - G_ref), strict=True):
        tiny = 1e-12 * np.square(rows).sum(axis=0).max()
        np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12, atol=tiny)
        np.testing.assert_allclose(moments.about, 23 * rows.var(axis=0), rtol=1e-10, atol=tiny)
        np.testing.assert_allclose(moments.square, np.square(rows).sum(axis=0), rtol=1e-10, atol=tiny)
    groups = [G[labels == k] for k in range(4)]
    within = sum(len(g) ** 2 * g.var(axis=0) for g in groups)
    np.testing.assert_allclose(found.within, within, rtol=1e-10, atol=1e-12 * within.max())
    assert found.phi == pytest.approx(within.sum(), rel=1e-12)
    assert found.square_sizes == sum(len(g) ** 2 for g in groups)


def test_moments_of_equal_gradients_do_not_vary():
    moments = image_moments.Moments.none(2)
    for n in (1, 2, 5):
        moments.merge(image_moments.Moments.of(np.full((n, 2), [0.1, 1e8])))
    np.testing.assert_array_equal(moments.about, [0.0, 0.0])


def estimates(n, n_estimates, rank, rng):
    """Estimates of the paper's protocol of N(0, 1) in `rank` dimensions."""
    drawn = []
    for _ in range(n):
        again = image_protocol.estimate(lambda: rng.standard_normal(rank), n_estimates)
        drawn.append(image_protocol.Drawn("sgb", 0, again.average, again.standard_error, 1.0))
    return drawn


def test_estimates_by_chance_are_no_failure():
    run, rng = ImageRun(n_estimates=10), np.random.default_rng(0)
    check = image_protocol.z_scores(run, estimates(2000, 10, 3, rng))
    assert (check.n, check.verdict) == (2000, "pass")
    assert check.worst > 4  # as Student's t of 9 degrees of freedom has it


def test_an_estimate_of_something_else_is_a_failure():
    run, rng = ImageRun(n_estimates=50), np.random.default_rng(0)
    drawn = [d._replace(exact=2.0) for d in estimates(20, 50, 30, rng)]
    assert image_protocol.z_scores(run, drawn).n_failures == 20


def test_an_estimate_that_does_not_vary_is_not_tested():
    check = image_protocol.z_scores(ImageRun(), [image_protocol.Drawn("svrg", 0, 0.0, 0.0, 0.0)])
    assert check.verdict == "nothing"
