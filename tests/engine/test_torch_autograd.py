"""Losses, gradients and per-example gradients against PyTorch's autograd, where PyTorch is installed."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import gcref
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.layers import Layer
from gcref.validation import torch_autograd

torch.set_num_threads(1)  # whose start would cost more than these few numbers
CASES = {**torch_autograd.layers(), **torch_autograd.models()}


@pytest.mark.parametrize("name", CASES)
def test_everything_equals_autograd(name):
    net, x, y = torch_autograd.prepare(CASES[name], seed=1, n_examples=4)
    found = torch_autograd.deviations(net, x, y)
    assert list(found) == list(torch_autograd.COLUMNS[: 5 if net.running.size else 3])
    assert 0 < max(found.values()) < torch_autograd.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_float32_follows_autograd(name):
    net, x, y = torch_autograd.prepare(CASES[name], seed=1, n_examples=2)
    x = x.astype("float32")
    found = torch_autograd.deviations(net.copy(dtype="float32"), x, y)
    assert 1e-9 < max(found.values()) < 1e-4  # batch norm of two examples cancels nearly all of what it gets back


def test_every_model_is_compared():
    models = {name.split(",")[0].split(" ")[0] for name in torch_autograd.models()}
    assert models >= {"linear", "mlp", "random", "cnn", "resnet8", "resnet20", "resnet32", "resnet18"}
    norms = {(n.split(",")[0], bool(c.build().running.size)) for n, c in torch_autograd.models().items()}
    for model in ("cnn", "resnet8", "resnet20", "resnet18"):
        assert {(model, True), (model, False)} <= norms


def test_autograd_leaves_the_network_alone():
    net, x, y = torch_autograd.prepare(CASES["resnet8, batch norm"])
    theta, running, before = net.theta.copy(), net.running.copy(), x.copy()
    torch_autograd.deviations(net, x, y)
    torch_autograd.autograd(net, x, y, training=True)
    for now, then in ((net.theta, theta), (net.running, running), (x, before)):
        np.testing.assert_array_equal(now, then)


def test_autograd_of_a_batch_is_the_mean_of_that_of_its_examples():
    net, x, y = torch_autograd.prepare(CASES["resnet8"])
    each = torch_autograd.autograd_gradients(net, x, y)
    np.testing.assert_allclose(torch_autograd.autograd(net, x, y).gradient, each.mean(axis=0), rtol=1e-10, atol=1e-14)


def test_a_wrong_gradient_is_seen():
    net, x, y = torch_autograd.prepare(CASES["mlp"])
    moved = net.copy()
    moved.theta *= 1 + 1e-6
    gap = torch_autograd.autograd_gradients(moved, x, y) - torch_autograd.autograd_gradients(net, x, y)
    assert np.abs(gap).max() > 1e-8
    net.traces = moved.traces
    found = torch_autograd.deviations(net, x, y)
    assert found["each example's"] > torch_autograd.TOLERANCE > found["gradient"]
    assert torch_autograd.worst_deviation(net, x, y) == max(found.values())


def test_a_wrong_running_statistic_is_seen(monkeypatch):
    net, x, y = torch_autograd.prepare(CASES["BatchNorm2d"])
    forward = BatchNorm2d.forward_training

    def biased(self, x, weights):
        result = forward(self, x, weights)
        weights[3] *= 1 - 1e-8
        return result

    monkeypatch.setattr(BatchNorm2d, "forward_training", biased)
    found = torch_autograd.deviations(net, x, y)
    assert found["statistics"] > torch_autograd.TOLERANCE > found["in training"]


def test_layers_and_losses_without_a_counterpart_are_refused():
    class Square(Layer):
        def forward(self, x, weights):
            return x * x, x

    net, x, y = torch_autograd.prepare(CASES["linear"])
    net.chain.layers.append(Square())
    with pytest.raises(TypeError, match=r"no PyTorch counterpart of Square\(\) is known"):
        torch_autograd.autograd(net, x, y)
    net = gcref.linear(12, 5)
    net.loss = "hinge"
    with pytest.raises(TypeError, match="no PyTorch counterpart of 'hinge' is known"):
        torch_autograd.autograd(net, x, y)


def test_the_report_is_one_page_and_its_verdict_is_the_exit_code(capsys, monkeypatch):
    few = {name: CASES[name] for name in ("linear", "resnet8, batch norm")}
    monkeypatch.setattr(torch_autograd, "models", lambda: few)
    monkeypatch.setattr(torch_autograd, "layers", dict)
    assert torch_autograd.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) + len(CASES) - len(few) <= 50
    assert lines[-1].startswith("PASS: worst relative deviation ")
    monkeypatch.setattr(torch_autograd, "TOLERANCE", 0.0)
    assert torch_autograd.main() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL: ")
