"""Losses, gradients and per-example gradients against PyTorch's autograd, by layer and by model, in float64.

Run ``python -m gcref.validation.torch_autograd`` (a few seconds). It prints the worst relative deviations of each
network and exits with 0 if all are at most 1e-10, with 1 otherwise.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import gcref
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Chain, Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Layer, Linear, RandomFeatures, ReLU
from gcref.engine.losses import Logistic, Loss, SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d, Subsample

TOLERANCE = 1e-10
COLUMNS = ("losses", "gradient", "each example's", "in training", "statistics")

Tensors = Iterator[torch.Tensor]


class Case(NamedTuple):
    """A network and the shape of one example."""

    build: Callable[[], Network]
    in_shape: tuple[int, ...]


class Batch(NamedTuple):
    """What PyTorch makes of a batch.

    Attributes
    ----------
    losses : ndarray, shape (B,)
    gradient : ndarray, shape (d,)
        Of the mean loss.
    running : ndarray, shape (n,)
        The running statistics afterwards.
    """

    losses: NDArray
    gradient: NDArray
    running: NDArray


# -------------------------------------------------------------------------------------------------- what autograd says


def autograd(net: Network, x: NDArray, y: NDArray, training: bool = False) -> Batch:
    """Compute the losses and the gradient of their mean with PyTorch's own layers, losses and autograd.

    Parameters
    ----------
    net : Network
        Gives the architecture, the parameters and the running statistics; none of its passes is used.
    x : ndarray, shape (B, features) or (B, H, W, C)
    y : ndarray of int, shape (B,)
    training : bool
        Whether batch norm uses the batch's statistics.

    Returns
    -------
    Batch
        All in float64.
    """
    theta = torch.tensor(net.theta, dtype=torch.float64, requires_grad=True)
    blocks = [theta[block.slice].reshape(block.shape) for block in net.blocks]
    pieces = np.split(net.running, np.cumsum(net.chain.running_shapes)[:-1])
    running = [torch.tensor(piece, dtype=torch.float64) for piece in pieces]
    inputs = torch.tensor(x, dtype=torch.float64)
    logits = _forward(net.chain, inputs, iter(blocks), iter(running), training)
    losses = _losses(net.loss, logits, torch.tensor(y))
    (gradient,) = torch.autograd.grad(losses.mean(), theta)
    return Batch(losses.detach().numpy(), gradient.numpy(), torch.cat(running).numpy())


def autograd_gradients(net: Network, x: NDArray, y: NDArray) -> NDArray:
    """Compute every example's gradient, one forward and backward pass an example.

    Parameters
    ----------
    net, x, y
        As in `autograd`.

    Returns
    -------
    ndarray, shape (B, d), float64
    """
    return np.array([autograd(net, x[i : i + 1], y[i : i + 1]).gradient for i in range(len(x))])


def deviations(net: Network, x: NDArray, y: NDArray) -> dict[str, float]:
    """Return the relative deviations ‖a − a(autograd)‖ / ‖a(autograd)‖ of a network's passes from PyTorch's.

    Parameters
    ----------
    net : Network
        Its running statistics are as before when this returns.
    x, y
        As in `autograd`.

    Returns
    -------
    dict of str to float
        By the name of `COLUMNS`: the losses, the gradient of their mean, the worst of the per-example gradients; with
        batch norm also the gradient in training mode, and the running statistics after it.
    """
    expected, each = autograd(net, x, y), autograd_gradients(net, x, y)
    losses, traces = net.traces(x, y)
    gradients = gcref.per_example_gradients(traces)
    found = [
        max(_relative(losses, expected.losses), _relative(net.losses(x, y), expected.losses)),
        _relative(net.gradient(x, y)[1], expected.gradient),
        max(_relative(g, g_torch) for g, g_torch in zip(gradients, each, strict=True)),
    ]
    if net.chain.batch_statistics:
        trained, in_training = net.copy(), autograd(net, x, y, training=True)
        gradient = trained.gradient(x, y, training=True)[1]
        found += [_relative(gradient, in_training.gradient), _relative(trained.running, in_training.running)]
    return dict(zip(COLUMNS, found, strict=False))


def worst_deviation(net: Network, x: NDArray, y: NDArray) -> float:
    """Return the largest of `deviations`."""
    return max(deviations(net, x, y).values())


def _relative(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# ----------------------------------------------------------------------------------------------- PyTorch's counterparts


def _forward(layer: Layer, x: torch.Tensor, blocks: Tensors, running: Tensors, training: bool) -> torch.Tensor:
    """Apply the counterpart of a layer, whose blocks and running statistics come next; channels stay last."""
    if isinstance(layer, Chain):
        for part in layer.layers:
            x = _forward(part, x, blocks, running, training)
        return x
    if isinstance(layer, Residual):
        body, shortcut = (_forward(part, x, blocks, running, training) for part in (layer.body, layer.shortcut))
        return body + shortcut
    if isinstance(layer, (Conv2d, BatchNorm2d, MaxPool2d, AvgPool2d)):
        return _on_images(layer, x.permute(0, 3, 1, 2), blocks, running, training).permute(0, 2, 3, 1)
    return _without_windows(layer, x, blocks)


def _without_windows(layer: Layer, x: torch.Tensor, blocks: Tensors) -> torch.Tensor:
    """Apply the counterpart of a layer that PyTorch does not want channels first for."""
    if isinstance(layer, Linear):
        theta = next(blocks)
        return F.linear(x, theta[: layer.n_in].T, theta[-1] if layer.bias else None)
    if isinstance(layer, ReLU):
        return F.relu(x)
    if isinstance(layer, RandomFeatures):
        return F.relu(x @ torch.tensor(layer.features, dtype=torch.float64))
    if isinstance(layer, Flatten):
        return torch.flatten(x, 1)
    if isinstance(layer, GlobalAvgPool):
        return x.mean(dim=(1, 2))
    if isinstance(layer, Subsample):
        return F.pad(x[:, :: layer.stride, :: layer.stride], (0, layer.n_out - x.shape[3]))
    raise TypeError(f"no PyTorch counterpart of {layer!r} is known here")


def _on_images(layer: Layer, x: torch.Tensor, blocks: Tensors, running: Tensors, training: bool) -> torch.Tensor:
    """Apply the counterpart of a layer to images (B, C, H, W)."""
    if isinstance(layer, Conv2d):
        theta = next(blocks)
        weight = theta[: layer.fan_in].reshape(*layer.kernel, layer.n_in, layer.n_out).permute(3, 2, 0, 1)
        return F.conv2d(x, weight, theta[-1] if layer.bias else None, layer.stride, layer.padding)
    if isinstance(layer, BatchNorm2d):
        scale, shift, mean, variance = next(blocks)[0], next(blocks)[0], next(running), next(running)
        out = F.batch_norm(x, mean, variance, scale, shift, training, layer.momentum, layer.epsilon)
        return F.relu(out) if layer.relu else out
    if isinstance(layer, MaxPool2d):
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding)
    if isinstance(layer, AvgPool2d):
        return F.avg_pool2d(x, layer.kernel, layer.stride, layer.padding, count_include_pad=True)
    raise TypeError(f"no PyTorch counterpart of {layer!r} is known here")


def _losses(loss: Loss, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Apply PyTorch's counterpart of a loss to each example."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return F.cross_entropy(logits, y, label_smoothing=loss.label_smoothing, reduction="none")
    if isinstance(loss, Logistic):
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(torch.float64), reduction="none")
    raise TypeError(f"no PyTorch counterpart of {loss!r} is known here")


# ------------------------------------------------------------------------------------------------- what is compared


def layers() -> dict[str, Case]:
    """Return a small network around each kind of layer."""
    around: dict[str, list[Layer]] = {
        "Conv2d": [Conv2d(4, 3, 3)],
        "Conv2d, padding 1": [Conv2d(4, 3, 3, padding=1)],
        "Conv2d 2×3, stride 3×2": [Conv2d(4, 3, (2, 3), stride=(3, 2))],
        "Conv2d 5×1, padding 2×1, no bias": [Conv2d(4, 3, (5, 1), stride=2, padding=(2, 1), bias=False)],
        "Conv2d 1×1, stride 2": [Conv2d(4, 3, 1, stride=2, bias=False)],
        "BatchNorm2d": [BatchNorm2d(4)],
        "BatchNorm2d, ReLU": [BatchNorm2d(4, relu=True)],
        "MaxPool2d": [MaxPool2d(2)],
        "MaxPool2d 3×2, stride 2×1, padding 1": [MaxPool2d((3, 2), stride=(2, 1), padding=1)],
        "AvgPool2d": [AvgPool2d(2)],
        "AvgPool2d 3×2, stride 2×1, padding 1": [AvgPool2d((3, 2), stride=(2, 1), padding=1)],
        "GlobalAvgPool": [GlobalAvgPool()],
        "Residual": [Residual([Conv2d(4, 4, 3, padding=1)])],
        "Residual, body ending in ReLU": [Residual([Conv2d(4, 4, 3, padding=1), ReLU()])],
        "Residual, subsampled": [Residual([Conv2d(4, 6, 3, stride=2, padding=1)], [Subsample(2, 6)])],
        "Residual, projected": [
            Residual(
                [Conv2d(4, 5, 3, stride=2, padding=1, bias=False), BatchNorm2d(5)],
                [Conv2d(4, 5, 1, stride=2, bias=False), BatchNorm2d(5)],
            )
        ],
    }
    return {name: Case(partial(_around, middle), (7, 8, 3)) for name, middle in around.items()}


def _around(middle: list[Layer]) -> Network:
    """Put layers between a convolution, so that their input gradient matters, and a fully connected layer."""
    below = [Conv2d(3, 4, (3, 2), padding=1), *middle, Flatten()]
    n_features = Network(below, SoftmaxCrossEntropy()).logits(np.zeros((1, 7, 8, 3))).shape[1]
    return Network([*below, Linear(n_features, 5)], SoftmaxCrossEntropy(), seed=4)


def models() -> dict[str, Case]:
    """Return the models, small."""
    return {
        "linear": Case(lambda: gcref.linear(12, 5, seed=1), (12,)),
        "linear, label smoothing 0.1": Case(lambda: gcref.linear(12, 5, seed=1, label_smoothing=0.1), (12,)),
        "mlp": Case(lambda: gcref.mlp((12, 9, 7, 5), seed=2), (12,)),
        "mlp on images": Case(lambda: gcref.mlp((24, 9, 7, 5), seed=2, label_smoothing=0.1), (4, 3, 2)),
        "random features, softmax head": Case(lambda: gcref.random_features(12, 30, seed=3), (12,)),
        "random features, logistic head": Case(lambda: gcref.random_features(12, 30, head="logistic", seed=3), (12,)),
        "cnn": _images(gcref.cnn, None, (9, 8, 2), 2),
        "cnn, batch norm": _images(gcref.cnn, "batch", (12, 9, 1), 2),
        "resnet8": _images(gcref.resnet8, None, (9, 8, 3), 3),
        "resnet8, batch norm": _images(gcref.resnet8, "batch", (8, 9, 3), 3),
        "resnet20, no batch norm": _images(gcref.resnet20, None, (8, 8, 1), 2),
        "resnet20": _images(gcref.resnet20, "batch", (8, 9, 3), 3),
        "resnet32": _images(gcref.resnet32, "batch", (9, 8, 3), 2),
        "resnet18, no batch norm": _images(gcref.resnet18, None, (33, 32, 3), 2),
        "resnet18": _images(gcref.resnet18, "batch", (33, 32, 3), 2),
    }


def _images(model: Callable[..., Network], norm: str | None, in_shape: tuple[int, int, int], width: int) -> Case:
    """Return a convolutional model of 5 classes."""
    build = partial(model, in_shape, 5, norm=norm, seed=5, dtype="float64", label_smoothing=0.1, width=width)
    return Case(build, in_shape)


def prepare(case: Case, seed: int = 0, n_examples: int = 6) -> tuple[Network, NDArray, NDArray]:
    """Build a network, away from the ones and zeros that batch norm starts at, and draw examples.

    Parameters
    ----------
    case : Case
    seed : int
    n_examples : int

    Returns
    -------
    net : Network
    x : ndarray, shape (n_examples, *in_shape)
    y : ndarray of int, shape (n_examples,)
    """
    rng = np.random.default_rng(seed)
    net = case.build()
    net.theta += 0.1 * rng.standard_normal(net.n_parameters)
    net.running += rng.uniform(-0.5, 0.5, net.running.size)
    n_classes = max(2, net.blocks[-1].shape[1])
    return net, rng.standard_normal((n_examples, *case.in_shape)), rng.integers(0, n_classes, n_examples)


def main() -> int:
    """Print the claim and every network's deviations; return 0 if the claim holds, 1 if not."""
    print(f"Claim: losses, gradients and per-example gradients equal PyTorch's autograd to {TOLERANCE:g} (float64),")
    print("with batch norm also the gradient in training mode and the running statistics after it.")
    print(f"{'worst relative deviation of':38s}" + "".join(f"{column:>16s}" for column in COLUMNS))
    worst = 0.0
    for name, case in {**layers(), **models()}.items():
        found = deviations(*prepare(case))
        worst = max(worst, *found.values())
        print(f"  {name:36s}" + "".join(f"{value:16.1e}" for value in found.values()))
    passed = worst <= TOLERANCE
    print(f"{'PASS' if passed else 'FAIL'}: worst relative deviation {worst:.1e}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
