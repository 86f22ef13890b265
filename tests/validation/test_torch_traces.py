"""The worked example in PyTorch, with fewer draws, and what would go unnoticed in it."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from gcref.engine.trace import concatenate, per_example_gradients
from gcref.validation import torch_traces as example

torch.set_num_threads(1)


def classes(n):
    return torch.from_numpy(np.random.default_rng(0).integers(3, size=n))


CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 3, 3),
    "no bias": nn.Conv2d(2, 3, 3, bias=False),
    "strides, padding, dilation": nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_recorded_gradients_are_those_of_autograd(name):
    torch.manual_seed(0)
    model = nn.Sequential(CONVOLUTIONS[name], nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    x, y = torch.randn(6, 2, 5, 6, dtype=torch.float64), classes(6)
    model(x)
    found = per_example_gradients(concatenate(list(example.record(model, x, y, batch_size=4))))
    one = torch.ones(1, dtype=torch.float64)
    own = np.array([example.gradient(model, x[[i]], y[[i]], one) for i in range(6)])
    np.testing.assert_allclose(found, own, rtol=1e-12, atol=1e-15)


def test_hooks_are_removed():
    model = nn.Linear(2, 3)
    list(example.record(model, torch.ones(4, 2), classes(4)))
    assert not model._forward_hooks


@pytest.mark.parametrize("how", [{"groups": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
def test_convolutions_it_has_no_patches_for(how):
    with pytest.raises(ValueError, match="has groups, or a padding other than"):
        example.Recorder(nn.Sequential(nn.Conv2d(2, 2, 3, **how)))


def test_a_deviation_is_noticed():
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(5)
    found = mean + rng.standard_normal((4000, 5))
    assert example.z_of_mean(found, mean) < example.MOST
    assert example.z_of_mean(found + 0.1, mean) > 5
    assert example.z_of_variance(found, mean, 1.0)[1] < example.MOST
    assert example.z_of_variance(found, mean, 1.1)[1] > 5
    assert not example.Check("", float("nan"), 1.0).passed


@pytest.mark.slow
def test_the_example(tmp_path):
    lines = list(example.measure(tmp_path, 300))
    checks = [line for line in lines if isinstance(line, example.Check)]
    assert len(checks) == 6
    assert [check.what for check in checks if not check.passed] == []


def test_it_fails_if_a_check_does(monkeypatch, capsys):
    for value, code in ((1.0, 0), (2.0, 1)):
        check = example.Check("a number", value, 1.0)
        monkeypatch.setattr(example, "measure", lambda folder, n_draws, check=check: iter(["a line", check]))
        assert example.main() == code
        out = capsys.readouterr().out.splitlines()
        assert out[:2] == ["a line", f"a number: {value:.2g} (at most 1) {'FAIL' if code else 'ok'}"]
        assert out[2] == ("1 checks failed" if code else "every check passed")
