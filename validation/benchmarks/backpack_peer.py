"""What BackPACK computes beside a gradient: per-example squared norms, and second moments by coordinate."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import nn

from gcref.validation.benchmarks.alternating import Run

backpack: Any = importlib.import_module("backpack")  # which has no types
extensions: Any = importlib.import_module("backpack.extensions")


def _extended(model: nn.Module, x: torch.Tensor, y: torch.Tensor, extension: type) -> Run:
    """Run forward and backward with an extension, gradients reset; `model` stays extended."""
    network, loss = backpack.extend(model), backpack.extend(nn.CrossEntropyLoss(reduction="sum"))

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with backpack.backpack(extension()):
            loss(network(x), y).backward()

    return run


def sq_norms(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Run:
    """‖g_i‖² of every example; it returns them, (B,)."""
    run = _extended(model, x, y, extensions.BatchL2Grad)
    parameters: list[Any] = list(model.parameters())

    def norms() -> np.ndarray:
        run()
        return np.asarray(sum(p.batch_l2.numpy() for p in parameters))

    return norms


def second_moment(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Run:
    """Σ_i g_i and Σ_i g_i∘g_i; it returns the sum of the latter over all coordinates."""
    run = _extended(model, x, y, extensions.SumGradSquared)
    parameters: list[Any] = list(model.parameters())

    def moment() -> float:
        run()
        return float(sum(p.sum_grad_squared.sum() for p in parameters))

    return moment
