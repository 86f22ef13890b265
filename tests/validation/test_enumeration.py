import numpy as np
import pytest

import gcref
from gcref.engine.network import Network
from gcref.validation import complex_step, enumeration

MODELS = {
    "MLP": enumeration.mlp(3, 5, 4, 3),
    "pooled": enumeration.Model("", enumeration.pooled, enumeration.IMAGE),
    "strided": enumeration.Model("", enumeration.strided, enumeration.IMAGE),
    "ResNet8": enumeration.resnet8(None),
    "ResNet8 with batch norm": enumeration.resnet8("batch"),
}
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def test_the_validation_script_passes(capsys):
    assert enumeration.main() == 0
    shown = capsys.readouterr().out
    assert "FAIL" not in shown
    assert shown.count("  PASS  ") == 4 * 11  # kinds of networks and of estimators


@pytest.mark.parametrize(
    ("case", "field"), [(0, "average"), (0, "normalized"), (0, "noise_scale"), (6, "average"), (9, "normalized")]
)
def test_the_validation_script_fails_if_a_number_is_off_by_1e_8(monkeypatch, capsys, case, field):
    right = gcref.variance

    def wrong(*args):
        found = vars(right(*args))
        return gcref.Variance(**{**found, field: found[field] * (1 + 1e-8)})

    monkeypatch.setattr(gcref, "variance", wrong)
    monkeypatch.setattr(enumeration, "PROBLEMS", enumeration.PROBLEMS[case : case + 1])
    assert enumeration.main() == 1
    assert capsys.readouterr().out.endswith("FAIL\n")


def test_the_enumeration_of_a_biased_estimator_shows_it(monkeypatch):
    net, ds = enumeration.problem(7, (3, 4, 3), 0)
    estimator = gcref.Stratified([4, 0, 4, 4, 0, 9, 4])
    G = enumeration.gradients(net, ds.x, ds.y)
    draws = enumeration.estimates(estimator, G, G)
    monkeypatch.setattr(enumeration, "estimates", lambda *_: 0.9 * draws)
    assert enumeration.deviations(estimator, net, ds, G, G)["mean"] > 1e-3


# ---------------------------------------------------------------------------------- gradients by complex steps


@EVERY_MODEL
def test_the_gradients_of_the_enumeration_are_those_of_the_network(model):
    net, ds = enumeration.draw(7, model, 0)
    enumeration.move(net, ds, 0)
    expected = gcref.per_example_gradients(net.traces(ds.x, ds.y)[1])
    found = enumeration.gradients(net, ds.x, ds.y)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(complex_step.losses(net, ds.x, ds.y), net.losses(ds.x, ds.y), rtol=1e-13)


@EVERY_MODEL
def test_they_owe_nothing_to_a_pass_of_the_network(model, monkeypatch):
    net, ds = enumeration.draw(2, model, 0)
    for name in ("gradient", "traces", "losses", "logits"):
        monkeypatch.setattr(Network, name, None)
    for layer in ("forward", "backward", "trace_backward"):
        monkeypatch.setattr(type(net.chain), layer, None)
    assert np.isfinite(enumeration.gradients(net, ds.x, ds.y)).all()


@EVERY_MODEL
def test_moving_moves_all_that_training_moves(model):
    net, ds = enumeration.draw(6, model, 0)
    before, running = net.theta.copy(), net.running.copy()
    enumeration.move(net, ds, 0)
    assert (net.theta != before).all()
    assert (net.running != running).all()


def test_a_gradient_worked_by_hand():
    # Logits 0 and 0: the loss falls with the first by (1 − 1/2) x, and rises with the second by x/2.
    net = gcref.linear(2, 2)
    net.theta[:] = 0
    found = enumeration.gradients(net, np.array([[3.0, 5.0]]), np.array([0]))
    np.testing.assert_allclose(found, [[-1.5, 1.5, -2.5, 2.5, -0.5, 0.5]], rtol=1e-15)


def test_what_is_not_written_out_is_named():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3)), np.array([0, 1])
    with pytest.raises(TypeError, match=r"the layer RandomFeatures\(3, 4\) is not written out"):
        enumeration.gradients(gcref.random_features(3, 4), x, y)
    with pytest.raises(TypeError, match=r"the loss Logistic\(\) is not written out"):
        enumeration.gradients(gcref.random_features(3, 4, head="logistic"), x, y)
