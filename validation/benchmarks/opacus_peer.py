"""What Opacus computes for clipping: per-example norms, without per-example gradients ("ghost" norms)."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import nn

from gcref.validation.benchmarks.alternating import Run

grad_sample: Any = importlib.import_module("opacus.grad_sample")  # which has no types


def sq_norms(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Run:
    """‖g_i‖² of every example, (B,)."""
    wrapped = grad_sample.GradSampleModuleFastGradientClipping(model, loss_reduction="sum", max_grad_norm=1.0)

    def run() -> np.ndarray:
        wrapped.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(wrapped(x), y, reduction="sum").backward()
        return np.asarray(wrapped.get_norm_sample().numpy() ** 2)

    return run
