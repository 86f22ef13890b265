"""SGD with momentum and coupled weight decay, and the step schedule of its learning rate."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from operator import index

import numpy as np

from gcref.engine.trace import Array
from gcref.kernels.elementwise import sgd_step


class SGD:
    """Stochastic gradient descent, in place.

    Parameters
    ----------
    learning_rate : float
        Step size, at least 0; may be reassigned between steps.
    momentum : float in [0, 1)
        μ.
    weight_decay : float
        λ, at least 0: coupled, so it passes through the momentum, and applied to every parameter. It is no
        part of a per-example gradient, nor of a variance.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    With g the gradient, a step is g ← g + λθ, v ← μv + g, θ ← θ − learning_rate·v, starting from v = 0.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.learning_rate = _non_negative(learning_rate, "learning_rate")
        self.momentum = _non_negative(momentum, "momentum")
        self.weight_decay = _non_negative(weight_decay, "weight_decay")
        if self.momentum >= 1.0:
            raise ValueError(f"momentum is {momentum}; a number in [0, 1) is expected")
        self.velocity: Array | None = None

    def step(self, theta: Array, gradient: Array) -> None:
        """Move `theta` one step, in place; `gradient` is left as it is.

        Parameters
        ----------
        theta : ndarray, shape (d,)
            The parameters, as in ``net.theta``.
        gradient : ndarray, shape (d,)

        Raises
        ------
        TypeError
            If one is no array of float32 or float64.
        ValueError
            If theta is not a vector, or the two, or the velocity of earlier steps, differ in shape.
        """
        for name, array in (("theta", theta), ("gradient", gradient)):
            if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
                raise TypeError(f"{name} is {array!r}; an array of float32 or float64 is expected")
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}; (d,) is expected")
        if gradient.shape != theta.shape:
            raise ValueError(f"gradient has shape {gradient.shape} but theta has {theta.shape}")
        if self.velocity is None:
            self.velocity = np.zeros_like(theta)
        if self.velocity.shape != theta.shape:
            raise ValueError(f"theta has shape {theta.shape} but earlier steps had {self.velocity.shape}")
        sgd_step(theta, self.velocity, gradient, self.learning_rate, self.momentum, self.weight_decay)

    def __repr__(self) -> str:
        return f"SGD({self.learning_rate}, momentum={self.momentum}, weight_decay={self.weight_decay})"


class StepSchedule:
    """A learning rate that is multiplied by a factor at each milestone.

    Parameters
    ----------
    learning_rate : float
        The rate before the first milestone, at least 0.
    milestones : sequence of int
        The iterations, increasing, from which on (inclusive) the rate is multiplied once more.
    factor : float
        At least 0.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the milestones do not increase.

    Examples
    --------
    >>> schedule = StepSchedule(0.5, milestones=(100, 200), factor=0.5)
    >>> schedule(99), schedule(100), schedule(200)
    (0.5, 0.25, 0.125)
    """

    def __init__(self, learning_rate: float, milestones: Sequence[int] = (), factor: float = 0.1) -> None:
        self.learning_rate = _non_negative(learning_rate, "learning_rate")
        self.factor = _non_negative(factor, "factor")
        try:
            self.milestones = tuple(map(index, milestones))
        except TypeError:
            raise TypeError(f"milestones is {milestones!r}; increasing iterations, ints, are expected") from None
        if any(a >= b for a, b in pairwise((-1, *self.milestones))):
            raise ValueError(f"milestones is {self.milestones}; increasing iterations of at least 0 are expected")

    def __call__(self, iteration: int) -> float:
        """Return the learning rate at an iteration, counted from 0."""
        passed = sum(iteration >= milestone for milestone in self.milestones)
        return self.learning_rate * self.factor**passed

    def __repr__(self) -> str:
        return f"StepSchedule({self.learning_rate}, milestones={self.milestones}, factor={self.factor})"


def _non_negative(value: float, name: str) -> float:
    """Read a finite number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; a finite number of at least 0 is expected") from None
    if not (isfinite(number) and number >= 0.0):
        raise ValueError(f"{name} is {value}; a finite number of at least 0 is expected")
    return number
