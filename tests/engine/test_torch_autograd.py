"""Per-example gradients against PyTorch's autograd, where PyTorch is installed."""

import numpy as np
import pytest

pytest.importorskip("torch")

from gcref.validation import torch_autograd


@pytest.mark.parametrize("name", torch_autograd.models())
def test_per_example_gradients_equal_autograd(name):
    net = torch_autograd.models()[name]()
    x, y = torch_autograd.batch(seed=1)
    assert torch_autograd.worst_deviation(net, x, y) < torch_autograd.TOLERANCE


def test_a_wrong_gradient_is_seen():
    net = torch_autograd.models()["mlp"]()
    x, y = torch_autograd.batch(seed=1)
    moved = net.copy()
    moved.theta *= 1 + 1e-6
    gap = torch_autograd.autograd_gradients(moved, x, y) - torch_autograd.autograd_gradients(net, x, y)
    assert np.abs(gap).max() > 1e-8
    net.traces = moved.traces
    assert torch_autograd.worst_deviation(net, x, y) > torch_autograd.TOLERANCE
