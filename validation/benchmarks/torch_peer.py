"""PyTorch's side: networks with our parameters, one gradient of a batch, and the check that both sides agree."""

import numpy as np
import torch
from torch import nn

from gcref.engine.network import Network
from gcref.kernels.threads import n_threads
from gcref.validation.benchmarks.alternating import Run

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


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
        self.body = nn.Sequential(*_conv(n_in, n_out, norm, stride), nn.ReLU(), *_conv(n_out, n_out, norm))
        self.shortcut = nn.Identity() if n_in == n_out else Subsample(stride, n_out)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both branches."""
        return self.relu(self.body(x) + self.shortcut(x))


def _conv(n_in: int, n_out: int, norm: bool, stride: int = 1) -> list[nn.Module]:
    """Return a 3×3 convolution with a bias, or with batch norm."""
    layer = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=not norm)
    return [layer, nn.BatchNorm2d(n_out)] if norm else [layer]


def mlp(net: Network) -> nn.Module:
    """Return PyTorch's MLP with the parameters of `net`."""
    modules: list[nn.Module] = []
    for weight in net.weights:
        modules += [nn.Linear(weight.shape[0] - 1, weight.shape[1]), nn.ReLU()]
    return _with_parameters(nn.Sequential(*modules[:-1]), net)


def resnet(net: Network, n_blocks: int, norm: bool) -> nn.Module:
    """Return PyTorch's ResNet of the CIFAR kind with the parameters of `net`."""
    layers: list[nn.Module] = [*_conv(3, 16, norm), nn.ReLU()]
    n_in = 16
    for n_out in (16, 32, 64):
        for _ in range(n_blocks):
            layers.append(Block(n_in, n_out, norm))
            n_in = n_out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return _with_parameters(model, net)


def _with_parameters(model: nn.Module, net: Network) -> nn.Module:
    """Copy our parameters into PyTorch's modules; PyTorch then uses as many threads as we do."""
    torch.set_num_threads(n_threads())
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


def tensor(x: np.ndarray, layout: str = "channels first") -> torch.Tensor:
    """Return inputs (B, features), or images (B, H, W, C) in one of PyTorch's layouts."""
    if x.ndim == 2:
        return torch.from_numpy(x)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=LAYOUTS[layout])


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Run:
    """Compute the mean loss and its gradient the usual way, with gradients reset to None; it returns the loss."""

    def run() -> float:
        model.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return float(loss.item())

    return run


def check(net: Network, x: np.ndarray, y: np.ndarray, theirs: Run, model: nn.Module) -> None:
    """Raise unless both sides find the same loss and a gradient of the same norm.

    Raises
    ------
    ArithmeticError
        If they differ by more than float32's rounding; there is nothing to time then.
    """
    loss, found = net.gradient(x, y, training=True)
    expected = theirs()
    norms = sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None) ** 0.5
    agree("the loss", loss, expected, 1e-5)
    agree("the gradient's norm", float(np.linalg.norm(found)), norms, 1e-4)


def agree(what: str, ours: object, theirs: object, allowed: float) -> None:
    """Raise an ArithmeticError unless two results are equal to a relative `allowed`, by their norms."""
    expected = np.asarray(theirs, dtype=np.float64)
    gap = float(np.linalg.norm(np.asarray(ours, dtype=np.float64) - expected) / np.linalg.norm(expected))
    if not gap <= allowed:
        raise ArithmeticError(f"{what} differs from the peer's by a relative {gap:.1e}; at most {allowed:g} is allowed")
