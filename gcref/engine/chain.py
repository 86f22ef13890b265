"""Chain: layers one after the other, and Residual: a chain beside a shortcut, both of them layers themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcref.engine.layers import Layer
from gcref.engine.trace import Array, Trace
from gcref.kernels.elementwise import add


class Chain(Layer):
    """Layers applied in order, as one layer.

    Parameters
    ----------
    layers : sequence of Layer

    Notes
    -----
    Its blocks are those of its layers in order; its running statistics likewise.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        self.shapes = tuple(shape for layer in self.layers for shape in layer.shapes)
        self.running_shapes = tuple(shape for layer in self.layers for shape in layer.running_shapes)
        self.overwrites_input = _overwrites(self.layers)
        *self._kept, self.keeps_output = _kept(self.layers)
        self.batch_statistics = any(layer.batch_statistics for layer in self.layers)

    @property
    def block_names(self) -> tuple[str, ...]:
        """The layer's place in the chain and the block's name in the layer, such as ``"2.weight"``."""
        return tuple(f"{i}.{name}" for i, layer in enumerate(self.layers) for name in layer.block_names)

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Let the layers draw in order."""
        return [start for layer in self.layers for start in layer.initialise(rng)]

    def initialise_running(self) -> list[Array]:
        """Return the layers' own, in order."""
        return [start for layer in self.layers for start in layer.initialise_running()]

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, list[Any]]:
        """Return the last layer's output, and the caches of all."""
        return self._forward(x, weights, training=False)

    def forward_training(self, x: Array, weights: Sequence[Array]) -> tuple[Array, list[Any]]:
        """Return the same in training mode."""
        return self._forward(x, weights, training=True)

    def _forward(self, x: Array, weights: Sequence[Array], training: bool) -> tuple[Array, list[Any]]:
        caches = []
        for layer, own, kept in zip(self.layers, self.split(weights), self._kept, strict=True):
            if kept and layer.overwrites_input:
                x = x.copy()
            x, cache = layer.forward_training(x, own) if training else layer.forward(x, own)
            caches.append(cache)
        return x, caches

    def backward(
        self, dout: Array, cache: list[Any], weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Go back through the layers, to the first with parameters if the input gradient is not wanted."""
        own, own_grads = self.split(weights), self._split_blocks(grads)
        for i in range(len(self.layers) - 1, self._last(need_dx) - 1, -1):
            need = need_dx or i > self._last(need_dx)
            dx = self.layers[i].backward(dout, cache[i], own[i], own_grads[i], need)
            if dx is not None:
                dout = dx
        return dout if need_dx else None

    def trace_backward(
        self, dout: Array, cache: list[Any], weights: Sequence[Array], need_dx: bool
    ) -> tuple[list[Trace], Array | None]:
        """Collect the traces on the way back; see `Layer.trace_backward`."""
        own = self.split(weights)
        found: list[Trace] = []
        for i in range(len(self.layers) - 1, self._last(need_dx) - 1, -1):
            need = need_dx or i > self._last(need_dx)
            traces, dx = self.layers[i].trace_backward(dout, cache[i], own[i], need)
            found = traces + found
            if dx is not None:
                dout = dx
        return found, dout if need_dx else None

    def split(self, weights: Sequence[Array]) -> list[list[Array]]:
        """Deal blocks and running statistics out to the layers."""
        blocks = self._split_blocks(weights[: len(self.shapes)])
        running = iter(weights[len(self.shapes) :])
        own = zip(self.layers, blocks, strict=True)
        return [[*(found or []), *(next(running) for _ in layer.running_shapes)] for layer, found in own]

    def _split_blocks(self, blocks: Sequence[Array] | None) -> list[list[Array] | None]:
        """Deal the blocks out to the layers."""
        if blocks is None:
            return [None] * len(self.layers)
        rest = iter(blocks)
        return [[next(rest) for _ in layer.shapes] for layer in self.layers]

    def _last(self, need_dx: bool) -> int:
        """Return the layer at which the way back ends."""
        if need_dx:
            return 0
        return next((i for i, layer in enumerate(self.layers) if layer.shapes), len(self.layers))

    def __repr__(self) -> str:
        return f"Chain([{', '.join(map(repr, self.layers))}])"


class Residual(Layer):
    """out = body(x) + shortcut(x).

    Parameters
    ----------
    body : sequence of Layer
        Its first layer must not write over its input.
    shortcut : sequence of Layer
        Nothing for the identity.

    Raises
    ------
    ValueError
        If the body is empty, or a branch begins with a layer that writes over its input.
    """

    def __init__(self, body: Sequence[Layer], shortcut: Sequence[Layer] = ()) -> None:
        if len(body) == 0:
            raise ValueError("body is empty; at least one layer is expected")
        self.body, self.shortcut = Chain(body), Chain(shortcut)
        for name, branch in (("body", self.body), ("shortcut", self.shortcut)):
            if branch.overwrites_input:
                raise ValueError(f"{name} begins with {branch.layers!r}, which may write over what both branches need")
        # A body without parameters may hand on the very arrays that it is given.
        self._spares_body = not self.body.shapes or _overwrites_dout(self.body.layers)
        self._spares_shortcut = _overwrites_dout(self.shortcut.layers)
        self.shapes = self.body.shapes + self.shortcut.shapes
        self.running_shapes = self.body.running_shapes + self.shortcut.running_shapes
        self.batch_statistics = self.body.batch_statistics or self.shortcut.batch_statistics

    @property
    def block_names(self) -> tuple[str, ...]:
        """Such as ``"body.0.weight"``."""
        body = tuple(f"body.{name}" for name in self.body.block_names)
        return body + tuple(f"shortcut.{name}" for name in self.shortcut.block_names)

    def initialise(self, rng: np.random.Generator) -> list[Array]:
        """Let the body draw, then the shortcut."""
        return self.body.initialise(rng) + self.shortcut.initialise(rng)

    def initialise_running(self) -> list[Array]:
        """Return the body's own, then the shortcut's."""
        return self.body.initialise_running() + self.shortcut.initialise_running()

    def forward(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the sum of the branches, and their caches.

        Raises
        ------
        ValueError
            If the branches give different shapes.
        """
        of_body, of_shortcut = self._split(weights)
        return self._add(self.body.forward(x, of_body), self.shortcut.forward(x, of_shortcut))

    def forward_training(self, x: Array, weights: Sequence[Array]) -> tuple[Array, Any]:
        """Return the same in training mode."""
        of_body, of_shortcut = self._split(weights)
        return self._add(self.body.forward_training(x, of_body), self.shortcut.forward_training(x, of_shortcut))

    def _add(self, of_body: tuple[Array, Any], of_shortcut: tuple[Array, Any]) -> tuple[Array, Any]:
        """Add the branches up."""
        (out, body), (other, shortcut) = of_body, of_shortcut
        if out.shape != other.shape:
            raise ValueError(f"body gives shape {out.shape} but shortcut {other.shape}; {self!r} cannot add them")
        if self._spares_body or self.body.keeps_output:
            out = out.copy()
        add(out, np.ascontiguousarray(other))
        return out, (body, shortcut)

    def backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], grads: Sequence[Array] | None, need_dx: bool
    ) -> Array | None:
        """Send dout through both branches and add up."""
        of_body, of_shortcut = self._split(weights)
        n = len(self.body.shapes)
        of_grads = (None, None) if grads is None else (grads[:n], grads[n:])
        for_body, for_shortcut = self._spared(dout)
        dx = self.body.backward(for_body, cache[0], of_body, of_grads[0], need_dx)
        other = self.shortcut.backward(for_shortcut, cache[1], of_shortcut, of_grads[1], need_dx)
        return _sum(dx, other)

    def trace_backward(
        self, dout: Array, cache: Any, weights: Sequence[Array], need_dx: bool
    ) -> tuple[list[Trace], Array | None]:
        """Collect the traces of both branches; see `Layer.trace_backward`."""
        of_body, of_shortcut = self._split(weights)
        for_body, for_shortcut = self._spared(dout)
        traces, dx = self.body.trace_backward(for_body, cache[0], of_body, need_dx)
        further, other = self.shortcut.trace_backward(for_shortcut, cache[1], of_shortcut, need_dx)
        return traces + further, _sum(dx, other)

    def _spared(self, dout: Array) -> tuple[Array, Array]:
        """Return dout for each branch: a copy if it would write over what the other, or a trace of it, needs."""
        return dout.copy() if self._spares_body else dout, dout.copy() if self._spares_shortcut else dout

    def _split(self, weights: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Deal blocks and running statistics out to the branches."""
        blocks, running = list(weights[: len(self.shapes)]), list(weights[len(self.shapes) :])
        n, r = len(self.body.shapes), len(self.body.running_shapes)
        return blocks[:n] + running[:r], blocks[n:] + running[r:]

    def __repr__(self) -> str:
        shortcut = f", {self.shortcut.layers!r}" if self.shortcut.layers else ""
        return f"Residual({self.body.layers!r}{shortcut})"


def _overwrites(layers: Sequence[Layer]) -> bool:
    """Tell whether the input may be written over: before any layer with parameters, whose output is its own."""
    for layer in layers:
        if layer.shapes or layer.overwrites_input:
            return layer.overwrites_input
    return False


def _kept(layers: Sequence[Layer]) -> list[bool]:
    """Tell before each layer, and behind the last, whether x may be kept: a layer without parameters may hand it on."""
    kept = [False]
    for layer in layers:
        kept.append(layer.keeps_output or (kept[-1] and not layer.shapes))
    return kept


def _overwrites_dout(layers: Sequence[Layer]) -> bool:
    """Tell whether dout may be written over: behind any layer with parameters, whose input gradient is its own."""
    for layer in reversed(layers):
        if isinstance(layer, Chain) and layer.shapes:
            return _overwrites_dout(layer.layers)
        if layer.shapes or layer.overwrites_input:
            return layer.overwrites_input
    return False


def _sum(dx: Array | None, other: Array | None) -> Array | None:
    """Add the input gradients of two branches into the body's, which nobody else holds."""
    if dx is not None and other is not None:
        add(dx, np.ascontiguousarray(other))
    return dx
