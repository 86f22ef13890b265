"""The convolutional models of the studies: a small CNN, and ResNets (He et al., 2016) for CIFAR and ImageNet."""

from collections.abc import Sequence

from numpy.typing import DTypeLike

from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Layer, Linear, ReLU, at_least
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import Flatten, GlobalAvgPool, MaxPool2d, Subsample

Shape = tuple[int, int, int]


def cnn(
    in_shape: Shape = (28, 28, 1),
    n_classes: int = 10,
    norm: str | None = None,
    seed: int = 0,
    dtype: DTypeLike = "float32",
    label_smoothing: float = 0.0,
    width: int = 32,
) -> Network:
    """Return a small convolutional network: two 5×5 convolutions with max pooling and two fully connected layers.

    Parameters
    ----------
    in_shape : (int, int, int)
        Rows, columns, channels.
    n_classes : int
    norm : None or "batch"
        Batch norm after each convolution, or a bias in it.
    seed : int
        Seed of the initial parameters, uniform in ±1/√(fan-in).
    dtype : "float32" or "float64"
    label_smoothing : float in [0, 1)
    width : int
        Channels of the first convolution; the second has twice as many, the hidden layer sixteen times.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    in_shape, n_classes, width = _checked(in_shape, n_classes, norm, width, smallest=4)
    height, columns, channels = in_shape
    layers: list[Layer] = [
        *_conv(channels, width, 5, norm, padding=2, relu=True), MaxPool2d(2),
        *_conv(width, 2 * width, 5, norm, padding=2, relu=True), MaxPool2d(2),
        Flatten(), Linear((height // 4) * (columns // 4) * 2 * width, 16 * width), ReLU(),
        Linear(16 * width, n_classes),
    ]  # fmt: skip
    return Network(layers, SoftmaxCrossEntropy(label_smoothing), seed, dtype)


def resnet8(
    in_shape: Shape = (32, 32, 3),
    n_classes: int = 10,
    norm: str | None = None,
    seed: int = 0,
    dtype: DTypeLike = "float32",
    label_smoothing: float = 0.0,
    width: int = 16,
) -> Network:
    """Return the ResNet of CIFAR with 8 weight layers, without batch norm unless asked for, as in the paper.

    Parameters
    ----------
    in_shape : (int, int, int)
        Rows, columns, channels.
    n_classes : int
    norm : None or "batch"
        Batch norm after each convolution, or a bias in it.
    seed : int
        Seed of the initial parameters, uniform in ±1/√(fan-in).
    dtype : "float32" or "float64"
    label_smoothing : float in [0, 1)
    width : int
        Channels of the first of the three stages; each further one has twice as many on half the rows and columns.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> resnet8((32, 32, 3), 10).n_parameters
    75050
    """
    return _cifar_resnet(1, in_shape, n_classes, norm, seed, dtype, label_smoothing, width)


def resnet20(
    in_shape: Shape = (32, 32, 3),
    n_classes: int = 10,
    norm: str | None = "batch",
    seed: int = 0,
    dtype: DTypeLike = "float32",
    label_smoothing: float = 0.0,
    width: int = 16,
) -> Network:
    """Return the ResNet of CIFAR with 20 weight layers and batch norm; arguments as in `resnet8`."""
    return _cifar_resnet(3, in_shape, n_classes, norm, seed, dtype, label_smoothing, width)


def resnet32(
    in_shape: Shape = (32, 32, 3),
    n_classes: int = 10,
    norm: str | None = "batch",
    seed: int = 0,
    dtype: DTypeLike = "float32",
    label_smoothing: float = 0.0,
    width: int = 16,
) -> Network:
    """Return the ResNet of CIFAR with 32 weight layers and batch norm; arguments as in `resnet8`."""
    return _cifar_resnet(5, in_shape, n_classes, norm, seed, dtype, label_smoothing, width)


def resnet18(
    in_shape: Shape = (224, 224, 3),
    n_classes: int = 1000,
    norm: str | None = "batch",
    seed: int = 0,
    dtype: DTypeLike = "float32",
    label_smoothing: float = 0.0,
    width: int = 64,
) -> Network:
    """Return the ResNet of ImageNet with 18 weight layers; arguments as in `resnet8`.

    A 7×7 convolution of stride 2 and a 3×3 max pooling of stride 2, four stages of two blocks with `width`, 2, 4 and 8
    times `width` channels, shortcuts projected by a 1×1 convolution where the shape changes, the mean over positions,
    and a fully connected layer.
    """
    in_shape, n_classes, width = _checked(in_shape, n_classes, norm, width)
    layers: list[Layer] = [
        *_conv(in_shape[2], width, 7, norm, stride=2, padding=3, relu=True), MaxPool2d(3, stride=2, padding=1)
    ]  # fmt: skip
    channels = width
    for stage in range(4):
        for block in range(2):
            n_out, stride = width << stage, 2 if stage and not block else 1
            projected = stride > 1 or channels != n_out
            shortcut = _conv(channels, n_out, 1, norm, stride=stride) if projected else []
            layers += [_block(channels, n_out, stride, norm, shortcut), ReLU()]
            channels = n_out
    layers += [GlobalAvgPool(), Linear(channels, n_classes)]
    return Network(layers, SoftmaxCrossEntropy(label_smoothing), seed, dtype)


def _cifar_resnet(
    n_blocks: int,
    in_shape: Shape,
    n_classes: int,
    norm: str | None,
    seed: int,
    dtype: DTypeLike,
    label_smoothing: float,
    width: int,
) -> Network:
    """Three stages of `n_blocks` blocks; shortcuts that subsample and zero-pad."""
    in_shape, n_classes, width = _checked(in_shape, n_classes, norm, width)
    layers: list[Layer] = _conv(in_shape[2], width, 3, norm, padding=1, relu=True)
    channels = width
    for stage in range(3):
        for block in range(n_blocks):
            n_out, stride = width << stage, 2 if stage and not block else 1
            shortcut: list[Layer] = [Subsample(stride, n_out)] if channels != n_out else []
            layers += [_block(channels, n_out, stride, norm, shortcut), ReLU()]
            channels = n_out
    layers += [GlobalAvgPool(), Linear(channels, n_classes)]
    return Network(layers, SoftmaxCrossEntropy(label_smoothing), seed, dtype)


def _block(n_in: int, n_out: int, stride: int, norm: str | None, shortcut: Sequence[Layer]) -> Residual:
    """Two 3×3 convolutions beside a shortcut."""
    body = [*_conv(n_in, n_out, 3, norm, stride, padding=1, relu=True), *_conv(n_out, n_out, 3, norm, padding=1)]
    return Residual(body, shortcut)


def _conv(
    n_in: int, n_out: int, kernel: int, norm: str | None, stride: int = 1, padding: int = 0, relu: bool = False
) -> list[Layer]:
    """A convolution with a bias, or with batch norm, which has one of its own; and max(·, 0), if asked for."""
    conv = Conv2d(n_in, n_out, kernel, stride, padding, bias=norm is None)
    if norm is None:
        return [conv, ReLU()] if relu else [conv]
    return [conv, BatchNorm2d(n_out, relu=relu)]


def _checked(
    in_shape: Shape, n_classes: int, norm: str | None, width: int, smallest: int = 1
) -> tuple[Shape, int, int]:
    """Read the arguments that all models share."""
    try:
        height, columns, channels = in_shape
    except (TypeError, ValueError):
        raise ValueError(f"in_shape is {in_shape!r}; (rows, columns, channels) is expected") from None
    shape = (
        at_least(height, "in_shape[0]", smallest),
        at_least(columns, "in_shape[1]", smallest),
        at_least(channels, "in_shape[2]", 1),
    )
    if norm is not None and (not isinstance(norm, str) or norm != "batch"):
        raise ValueError(f"norm is {norm!r}; None or 'batch' is expected")
    return shape, at_least(n_classes, "n_classes", 1), at_least(width, "width", 1)
