import numpy as np
import pytest

import gcref
from gcref.validation import enumeration


def test_the_validation_script_passes(capsys):
    assert enumeration.main() == 0
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize("field", ["average", "normalized", "noise_scale"])
def test_the_validation_script_fails_if_a_number_is_off_by_1e_8(monkeypatch, capsys, field):
    right = gcref.variance

    def wrong(*args):
        found = vars(right(*args))
        return gcref.Variance(**{**found, field: found[field] * (1 + 1e-8)})

    monkeypatch.setattr(gcref, "variance", wrong)
    monkeypatch.setattr(enumeration, "PROBLEMS", enumeration.PROBLEMS[:1])
    assert enumeration.main() == 1
    assert capsys.readouterr().out.endswith("FAIL\n")


def test_the_enumeration_of_a_biased_estimator_shows_it(monkeypatch):
    net, ds = enumeration.problem(7, (3, 4, 3), 0)
    estimator = gcref.Stratified([4, 0, 4, 4, 0, 9, 4])
    draws = enumeration.estimates(estimator, (3, 4, 3), net, ds)
    monkeypatch.setattr(enumeration, "estimates", lambda *_: 0.9 * draws)
    assert enumeration.deviations(estimator, (3, 4, 3), net, ds)["mean"] > 1e-3


def test_the_gradients_of_the_enumeration_are_those_of_the_network():
    net, ds = enumeration.problem(7, (3, 5, 4, 3), 0)
    expected = gcref.per_example_gradients(net.traces(ds.x, ds.y)[1])
    np.testing.assert_allclose(
        enumeration.gradients(net.theta, (3, 5, 4, 3), ds.x, ds.y), expected, rtol=1e-11, atol=1e-15
    )
