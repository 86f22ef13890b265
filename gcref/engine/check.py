"""check_gradients: for people who add a layer or a loss."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from gcref.engine.layers import at_least
from gcref.engine.network import Block, Network, seed_sequence
from gcref.engine.trace import Array, Trace


def check_gradients(
    net: Network,
    x: ArrayLike,
    y: ArrayLike,
    n_coordinates: int = 64,
    step: float = 1e-6,
    rtol: float = 1e-6,
    seed: int = 0,
) -> float:
    """Compare a network's gradient and traces with finite differences of its losses; raise if they disagree.

    Put your new layer into a small network, with shapes that are all different, so that a transposed product
    cannot pass. Three questions are asked of every parameter block:

    1. Is ``gradient`` the derivative of the mean of ``losses``? Central differences along randomly chosen
       coordinates and along one random direction of unit norm.
    2. Do the traces sum to that gradient, Σ_i g_i / B? If not, D may have been divided by B.
    3. Does each g_i belong to its own example? The same with random weights, Σ_i w_i g_i against
       ``gradient(x, y, weights=w)``.

    Parameters
    ----------
    net : Network
        It is copied to float64 and not changed.
    x : array_like, shape (B, features) or (B, H, W, C)
        A few examples. Random numbers are best: they stay clear of kinks (ReLU) and of ties (a maximum).
    y : array_like of int, shape (B,)
        Their labels.
    n_coordinates : int
        How many coordinates of each block to try; all of them where the block has no more.
    step : float
        The step of the differences. A central difference is off by about step² through truncation and by
        2e-16/step through rounding, so steps far from 1e-6 need a larger `rtol`.
    rtol : float
        The largest relative deviation accepted.
    seed : int
        Seed of the coordinates, directions and weights.

    Returns
    -------
    float
        The worst relative deviation. A coordinate's is relative to the largest gradient of its block, a
        direction's to the norm of the block's gradient, and none to less than the differences can resolve.

    Raises
    ------
    AssertionError
        Naming the block, the coordinate or direction, and both values. One coordinate of many may have met a
        kink within one step: try another seed or other inputs before searching for a mistake.
    ValueError
        If B is 0, or an argument that must be positive is not.

    Examples
    --------
    >>> import gcref
    >>> rng = np.random.default_rng(0)
    >>> check_gradients(gcref.mlp((7, 5, 3)), rng.standard_normal((4, 7)), [0, 1, 2, 2]) < 1e-6
    True
    """
    if np.size(y) == 0:
        raise ValueError("y is empty; at least one example is needed")
    n_coordinates = at_least(n_coordinates, "n_coordinates", 1)
    for name, value in (("step", step), ("rtol", rtol)):
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < np.inf:
            raise ValueError(f"{name} is {value!r}; a positive number is expected")
    checker = _Checker(net.copy(dtype="float64"), x, y, step, rtol)
    checker.run(n_coordinates, np.random.default_rng(seed_sequence(seed)))
    return checker.worst


class _Checker:
    """The comparisons of one network on one batch; `worst` is the largest relative deviation so far."""

    def __init__(self, net: Network, x: ArrayLike, y: ArrayLike, step: float, rtol: float) -> None:
        self.net, self.x, self.y = net, x, y
        self.step, self.rtol, self.worst = step, rtol, 0.0

    def run(self, n_coordinates: int, rng: np.random.Generator) -> None:
        """Compare everything, block by block."""
        losses, traces = self.net.traces(self.x, self.y)
        mean_loss, gradient = self.net.gradient(self.x, self.y)
        weights = rng.uniform(0.5, 1.5, len(losses))
        weighted = self.net.gradient(self.x, self.y, weights=weights)[1]
        self.compare("loss of gradient()", self.loss(), mean_loss, abs(mean_loss))
        self.compare("mean of the losses of traces()", self.loss(), float(losses.mean()), abs(mean_loss))
        if len(traces) != len(self.net.blocks):
            raise AssertionError(f"traces() gives {len(traces)} traces for {len(self.net.blocks)} blocks")
        for block, trace in zip(self.net.blocks, traces, strict=True):
            self.check_differences(block, gradient[block.slice], n_coordinates, rng)
            equal = np.full_like(weights, 1.0 / len(weights))
            self.check_trace("Σ_i g_i / B of the traces", block, trace, equal, gradient)
            self.check_trace("Σ_i w_i g_i of the traces", block, trace, weights, weighted)

    def loss(self) -> float:
        """Return the mean loss."""
        return float(self.net.losses(self.x, self.y).mean())

    def slope(self, block: Block, direction: Array) -> float:
        """Return the central difference of the mean loss along a direction of a block."""
        theta = self.net.theta[block.slice]
        start = theta.copy()
        theta[:] = start + self.step * direction
        above = self.loss()
        theta[:] = start - self.step * direction
        below = self.loss()
        theta[:] = start
        return (above - below) / (2 * self.step)

    def check_differences(self, block: Block, gradient: Array, n_coordinates: int, rng: np.random.Generator) -> None:
        """Compare a block's gradient with finite differences."""
        # Rounding of the loss limits a slope to this; a smaller gradient cannot be told from 0 more finely.
        resolution = np.finfo(np.float64).eps * abs(self.loss()) / (self.step * self.rtol)
        scale = max(float(np.abs(gradient).max()), resolution)
        for flat in rng.choice(gradient.size, min(n_coordinates, gradient.size), replace=False):
            direction = np.zeros(gradient.size)
            direction[flat] = 1.0
            what = f"block {block.name}, coordinate {_coordinate(flat, block)}: gradient()"
            self.compare(what, self.slope(block, direction), float(gradient[flat]), scale)
        direction = rng.standard_normal(gradient.size)
        direction /= np.linalg.norm(direction)
        scale = max(float(np.linalg.norm(gradient)), resolution)
        what = f"block {block.name}, random direction: gradient()"
        self.compare(what, self.slope(block, direction), float(gradient @ direction), scale)

    def check_trace(self, what: str, block: Block, trace: Trace, weights: Array, gradient: Array) -> None:
        """Compare the weighted sum of a block's per-example gradients with its gradient."""
        shape = trace.shape[1:]
        if shape != block.shape:
            raise AssertionError(f"block {block.name} has shape {block.shape} but its trace gives {shape}")
        expected = gradient[block.slice].reshape(shape)
        found = np.tensordot(trace.A * weights[:, None, None], trace.D, axes=((0, 1), (0, 1)))
        flat = int(np.abs(found - expected).argmax())
        what = f"block {block.name}, coordinate {_coordinate(flat, block)}: {what}"
        self.compare(what, float(expected.flat[flat]), float(found.flat[flat]), float(np.abs(expected).max()))

    def compare(self, what: str, expected: float, found: float, scale: float) -> None:
        """Raise unless two numbers agree to `rtol` of `scale`."""
        gap = abs(found - expected)
        deviation = 0.0 if gap == 0 else gap / scale if scale > 0 else np.inf
        if not deviation <= self.rtol:  # so that NaN fails, too
            raise AssertionError(
                f"{what} is {found:.10e} but {expected:.10e} is expected: "
                f"relative deviation {deviation:.1e}, rtol = {self.rtol:.1e}"
            )
        self.worst = max(self.worst, deviation)


def _coordinate(flat: int, block: Block) -> tuple[int, int]:
    """Return (i, o) of a flat index into a block."""
    i, o = np.unravel_index(flat, block.shape)
    return int(i), int(o)
