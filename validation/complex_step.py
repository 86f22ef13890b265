"""Every example's gradient by complex steps in its loss: no backward pass anywhere, and no trace.

A real function f, analytic near θ, has ∂f/∂θ_j = Im f(θ + ih e_j)/h up to O(h²), and as nothing is subtracted, h can be
so small that every digit is right (Squire and Trapp, 1998). All that this asks for is the loss, which is written out
here once more for one example at a time, with the d steps along the first axis of every array. ReLU and max pooling
choose by the real part.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.chain import Residual
from gcref.engine.convolution import Conv2d
from gcref.engine.layers import Layer, Linear, ReLU
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.network import Network
from gcref.engine.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d, Subsample
from gcref.validation.naive_convolution import taps, window

Vector = NDArray[np.float64]
Steps = NDArray[np.complex128]  # (d, …), or (1, …) where no parameter has come in yet
STEP = 1e-30


def gradients(net: Network, x: NDArray, y: NDArray) -> Vector:
    """Compute every example's gradient, batch norm with its running statistics.

    Parameters
    ----------
    net : Network
        Gives the architecture, the parameters and the running statistics; none of its passes is used.
    x : ndarray, shape (N, features) or (N, H, W, C)
    y : ndarray of int, shape (N,)

    Returns
    -------
    ndarray, shape (N, d), float64

    Raises
    ------
    TypeError
        If the network has a layer or a loss that is not written out here.
    """
    return np.array([_loss(net, x[i], int(y[i])).imag / STEP for i in range(len(y))])


def losses(net: Network, x: NDArray, y: NDArray) -> Vector:
    """Compute every example's loss, (N,); arguments as in `gradients`."""
    return np.array([_loss(net, x[i], int(y[i]))[0].real for i in range(len(y))])


def _loss(net: Network, x: NDArray, label: int) -> Steps:
    """One example's loss at each of the d steps."""
    if not isinstance(net.loss, SoftmaxCrossEntropy):
        raise TypeError(f"the loss {net.loss!r} is not written out here")
    theta = net.theta.astype(np.float64) + 1j * STEP * np.eye(net.n_parameters)
    blocks = iter([theta[:, block.slice].reshape(-1, *block.shape) for block in net.blocks])
    logits = _forward(net.layers, x[None].astype(np.complex128), blocks, iter(net.running.tolist()))
    shifted = logits - logits.real.max()
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    n_classes = logits.shape[1]
    targets = np.full(n_classes, net.loss.label_smoothing / n_classes)
    targets[label] += 1.0 - net.loss.label_smoothing
    return -(targets * log_shares).sum(axis=1)


def _forward(layers: Sequence[Layer], out: Steps, blocks: Iterator[Steps], running: Iterator[float]) -> Steps:
    """Apply layers in order, each taking the blocks and the running statistics that are next."""
    for layer in layers:
        if isinstance(layer, Residual):
            body = _forward(layer.body.layers, out, blocks, running)
            out = body + _forward(layer.shortcut.layers, out, blocks, running)
        elif isinstance(layer, BatchNorm2d):
            mean, variance = ([next(running) for _ in range(layer.n_channels)] for _ in range(2))
            normal = (out - np.array(mean)) / np.sqrt(np.array(variance) + layer.epsilon)
            out = next(blocks)[:, None] * normal + next(blocks)[:, None]
            out = out * (out.real > 0) if layer.relu else out
        elif isinstance(layer, Linear):
            out = _linear(out, next(blocks), layer.bias)
        elif isinstance(layer, Conv2d):
            out = _convolve(out, next(blocks), layer)
        else:
            out = _without_parameters(layer, out)
    return out


def _linear(x: Steps, theta: Steps, bias: bool) -> Steps:
    """Return x W + b, with b the last row of θ."""
    products = (x[:, :, None] * theta[:, : x.shape[1]]).sum(axis=1)
    return products + theta[:, -1] if bias else products


def _convolve(x: Steps, theta: Steps, layer: Conv2d) -> Steps:
    """Add up, position by position, what each tap of the kernel meets."""
    win, C = window(x.shape[1:], layer.kernel, layer.stride, layer.padding), x.shape[3]
    out = np.zeros((len(theta), *win[-2:], layer.n_out), np.complex128)
    if layer.bias:
        out += theta[:, None, None, -1]
    for y, z, tap, row, column in taps(win):
        out[:, y, z] += _linear(x[:, row, column], theta[:, tap * C : (tap + 1) * C], False)
    return out


def _without_parameters(layer: Layer, x: Steps) -> Steps:
    """Apply a layer that has no parameters."""
    if isinstance(layer, ReLU):
        return np.where(x.real > 0, x, 0.0)
    if isinstance(layer, (MaxPool2d, AvgPool2d)):
        return _pool(x, layer)
    if isinstance(layer, GlobalAvgPool):
        return x.mean(axis=(1, 2))
    if isinstance(layer, Flatten):
        return x.reshape(len(x), -1)
    if isinstance(layer, Subsample):
        thin = x[:, :: layer.stride, :: layer.stride]
        return np.concatenate([thin, np.zeros((*thin.shape[:3], layer.n_out - x.shape[3]))], axis=3)
    raise TypeError(f"the layer {layer!r} is not written out here")


def _pool(x: Steps, layer: MaxPool2d | AvgPool2d) -> Steps:
    """Take the largest or the mean of what the taps meet; zeros of the padding count for the mean alone."""
    win = window(x.shape[1:], layer.kernel, layer.stride, layer.padding)
    out = np.zeros((len(x), *win[-2:], x.shape[3]), np.complex128)
    largest = np.full(out.shape, -np.inf)
    for y, z, _, row, column in taps(win):
        value = x[:, row, column]
        if isinstance(layer, AvgPool2d):
            out[:, y, z] += value / (layer.kernel[0] * layer.kernel[1])
        else:
            larger = value.real > largest[:, y, z]
            out[:, y, z][larger] = value[larger]
            largest[:, y, z] = np.maximum(largest[:, y, z], value.real)
    return out
