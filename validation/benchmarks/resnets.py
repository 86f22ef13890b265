"""Time of one training gradient of ResNet8 and ResNet32, 32×32×3, B = 128, float32: gcref against PyTorch on the CPU.

Run ``python -m gcref.validation.benchmarks.resnets`` (two minutes) on a machine that is otherwise idle. Both sides
compute the mean loss and its gradient into fresh memory, on two threads each, in one process, ResNet32 with batch norm
in training mode. PyTorch runs in both of its memory layouts, and the faster one counts. Loss and gradient are compared
before anything is timed. The exit code is 0 if both claims hold, 1 otherwise.
"""

import os
import sys
from typing import Any

os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numpy as np
import torch
from torch import nn

import gcref
from gcref.engine.network import Network
from gcref.validation.benchmarks.alternating import compare

BATCH_SIZE = 128
THREADS = 2
TARGET = 1.0


class Subsample(nn.Module):
    """The parameter-free shortcut: every stride-th pixel, further channels zero."""

    def __init__(self, stride: int, n_out: int) -> None:
        super().__init__()
        self.stride, self.n_out = stride, n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Thin out and append zeros."""
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.n_out - x.shape[1]))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, n_in: int, n_out: int, norm: bool) -> None:
        super().__init__()
        stride = 1 if n_in == n_out else 2
        self.body = nn.Sequential(*conv(n_in, n_out, norm, stride), nn.ReLU(), *conv(n_out, n_out, norm))
        self.shortcut = nn.Identity() if n_in == n_out else Subsample(stride, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both branches."""
        return torch.relu(self.body(x) + self.shortcut(x))


def conv(n_in: int, n_out: int, norm: bool, stride: int = 1) -> list[nn.Module]:
    """Return a 3×3 convolution with a bias, or with batch norm."""
    layer = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=not norm)
    return [layer, nn.BatchNorm2d(n_out)] if norm else [layer]


def torch_model(net: Network, n_blocks: int, norm: bool) -> nn.Module:
    """Return PyTorch's ResNet with the parameters of `net`."""
    layers: list[nn.Module] = [*conv(3, 16, norm), nn.ReLU()]
    n_in = 16
    for n_out in (16, 32, 64):
        for _ in range(n_blocks):
            layers.append(Block(n_in, n_out, norm))
            n_in = n_out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    weights = iter(net.weights)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.from_numpy(next(weights)[0].copy()))
                module.bias.copy_(torch.from_numpy(next(weights)[0].copy()))
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                _copy(module, next(weights))
    return model.train()


def _copy(module: nn.Conv2d | nn.Linear, theta: np.ndarray) -> None:
    """Write one of our weights, bias row last, into PyTorch's."""
    if module.bias is not None:
        module.bias.copy_(torch.from_numpy(theta[-1].copy()))
        theta = theta[:-1]
    if isinstance(module, nn.Conv2d):
        theta = theta.reshape(3, 3, -1, theta.shape[1]).transpose(3, 2, 0, 1)
    else:
        theta = theta.T
    module.weight.copy_(torch.from_numpy(np.ascontiguousarray(theta)))


def compare_one(name: str, net: Network, n_blocks: int, norm: bool) -> bool:
    """Check that both sides agree, time them, print the verdict."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH_SIZE, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, BATCH_SIZE)
    y_torch = torch.from_numpy(y)
    best = None
    for layout in (torch.contiguous_format, torch.channels_last):
        model: Any = torch_model(net, n_blocks, norm)
        model = model.to(memory_format=layout)
        x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)

        def theirs(model: nn.Module = model, x_torch: torch.Tensor = x_torch) -> float:
            model.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(x_torch), y_torch)
            loss.backward()
            return loss.item()

        gap = abs(net.gradient(x, y, training=True)[0] / theirs() - 1)
        squares = [float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None]
        norms = [float(np.linalg.norm(net.gradient(x, y, training=True)[1])), float(np.sqrt(sum(squares)))]
        print(f"  {name}, {layout}: loss off by {gap:.1e}, gradient's norm by {abs(norms[0] / norms[1] - 1):.1e}")
        found = compare(lambda: net.gradient(x, y, training=True), theirs, blocks=10, runs=5)
        if best is None or found.theirs < best.theirs:
            best = found
        agree = gap < 1e-5 and abs(norms[0] / norms[1] - 1) < 1e-4
    assert best is not None
    return best.report(f"{name}, a gradient over PyTorch's faster layout", TARGET) and agree


def main() -> int:
    """Print the claims and verdicts; return 0 if they hold, 1 if not."""
    torch.set_num_threads(THREADS)
    verdicts = [
        compare_one("ResNet8", gcref.resnet8(dtype="float32"), 1, False),
        compare_one("ResNet32", gcref.resnet32(dtype="float32"), 5, True),
    ]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
