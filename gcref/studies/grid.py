"""The grid of the random-features study: its axes, the protocol of every trajectory, and what is refused."""

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from gcref.studies import teacher
from gcref.studies.methods import METHODS, check_methods

Config = TypeVar("Config")

AXES: dict[str, type] = {
    "learning_rate": float,
    "overparametrization": float,
    "input_dim": int,
    "teacher_hidden": int,
    "duplicate_fraction": float,
    "seed": int,
    "methods": str,
}
LARGEST = 2**31 - 1  # what fits everywhere that a number of the grid is stored or counted
MOST_TRAJECTORIES, MOST_POINTS = 100_000, 1_000_000  # a file's configuration may ask for any number
COUNTS = ("batch_size", "student_hidden", "iterations", "measure_every", "refresh_every", "gc_iterations")


@dataclass(frozen=True)
class Spec:
    """One trajectory of the grid: the work, in a form small enough to send anywhere."""

    learning_rate: float
    overparametrization: float
    input_dim: int
    teacher_hidden: int
    seed: int
    duplicate_fraction: float

    @property
    def id(self) -> str:
        """The trajectory's name in the file: its place in the grid, whatever else the grid holds."""
        return (
            f"lr{short(self.learning_rate)}-ratio{short(self.overparametrization)}-in{self.input_dim}"
            f"-teacher{self.teacher_hidden}-dup{short(self.duplicate_fraction)}-seed{self.seed}"
        )


def short(value: float) -> str:
    """Write a number as %g does where that is exact, so that no two numbers look alike."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


@dataclass(frozen=True)
class Sweep:
    """The whole study: the axes of its grid, and the protocol of every trajectory.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, its value and what was expected.
    """

    learning_rate: tuple[float, ...] = (0.001, 0.01, 0.1)
    overparametrization: tuple[float, ...] = (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0)
    input_dim: tuple[int, ...] = (100, 10000)
    teacher_hidden: tuple[int, ...] = (100, 10000)
    duplicate_fraction: tuple[float, ...] = (0.0,)
    seed: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    batch_size: int = 10
    student_hidden: int = 1000
    head: str = "softmax"
    student_init: str = "published"
    weight_decay: float = 1e-4
    iterations: int = 5000
    measure_every: int = 100
    refresh_every: int = 1000
    gc_iterations: int = 3
    precision: str = "float32"
    snapshots: str = "refresh"
    schema: str = field(default="rf-sweep/1", init=False)

    def __post_init__(self) -> None:
        """Refuse a grid or a protocol that cannot be run."""
        _coerce(self)
        _check_axes(self)
        _check_protocol(self)

    @classmethod
    def from_json(cls, text: str) -> "Sweep":
        """Read back what `to_json` wrote; unknown or missing fields are a ValueError."""
        return read_config(cls, text, "rf-sweep/1", "a random-features sweep")

    def to_json(self) -> str:
        """Everything that determines the numbers, as the file's `config`."""
        return json.dumps(asdict(self), sort_keys=True)

    def specs(self) -> list[Spec]:
        """Return the trajectories in the order of the file."""
        grid = itertools.product(
            self.seed,
            self.input_dim,
            self.teacher_hidden,
            self.overparametrization,
            self.duplicate_fraction,
            self.learning_rate,
        )
        return [Spec(lr, ratio, i, h, seed, dup) for seed, i, h, ratio, dup, lr in grid]

    def init_of(self, spec: Spec) -> str:
        """Return how the student of a trajectory starts: features and weights of "unit" norm, or "uniform".

        The paper's text, and its Figs. 4, 5 and 9, have unit norms. Its Fig. 8 was run by a later version of
        the authors' code whose normalisation has no effect, which leaves their framework's default: uniform
        in ±1/√fan-in, norms of about 1/√3. "published" follows each figure.
        """
        if self.student_init != "published":
            return self.student_init
        return "uniform" if spec.duplicate_fraction else "unit"

    def hyper_parameters(self, spec: Spec) -> dict[str, Any]:
        """Return everything that determines one trajectory, as the attributes of its group."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in AXES and f.name != "schema"}
        n = teacher.n_train(spec.overparametrization, self.student_hidden)
        return shared | asdict(spec) | {"student_init": self.init_of(spec), "n_train": n}

    @property
    def points(self) -> range:
        """The iterations at which everything is measured."""
        return range(0, self.iterations + 1, self.measure_every)

    def refreshes(self, iteration: int) -> bool:
        """Whether SVRG's snapshot and GC's clusters are renewed: at 0 before, later after measuring."""
        return iteration % self.refresh_every == 0 and iteration < self.iterations


def read_config(cls: type[Config], text: str, schema: str, what: str) -> Config:
    """Return the configuration of a study, a dataclass, from the JSON of a file; a ValueError says what is wrong."""
    try:
        values: Any = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"config is not JSON: {error}") from None
    if not isinstance(values, dict) or values.pop("schema", None) != schema:
        raise ValueError(f"config is not that of {what} (schema {schema})")
    if missing := {f.name for f in fields(cls) if f.init} - set(values):  # type: ignore[arg-type]
        raise ValueError(f"config lacks {', '.join(sorted(missing))}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"config has wrong fields: {error}") from None


def check_points(iterations: int, measure_every: int, refresh_every: int) -> None:
    """Raise unless everything regular happens at measuring points, which are no more than anybody looks at."""
    for name, whole in (("iterations", iterations), ("refresh_every", refresh_every)):
        if whole % measure_every:
            raise ValueError(f"measure_every={measure_every} must divide {name}={whole}")
    if iterations // measure_every > MOST_POINTS:
        raise ValueError(
            f"measure_every={measure_every} gives {iterations // measure_every} measuring points in "
            f"iterations={iterations}; at most {MOST_POINTS} are expected"
        )


def _coerce(sweep: Sweep) -> None:
    """Give each number its own type, so that 1 and 1.0, a list and a tuple are one configuration."""
    for name, kind in AXES.items():
        values = getattr(sweep, name)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{name}={values!r} must be a sequence, such as ({values!r},)")
        object.__setattr__(sweep, name, tuple(typed(name, value, kind) for value in values))
    for name in COUNTS:
        object.__setattr__(sweep, name, typed(name, getattr(sweep, name), int))
    object.__setattr__(sweep, "weight_decay", typed("weight_decay", sweep.weight_decay, float))


def typed(name: str, value: Any, kind: type) -> Any:
    """Return a value of an argument as `kind`; another sort of value is a TypeError."""
    sort, expected = {float: (Real, "a number"), int: (Integral, "an integer"), str: (str, "a name")}[kind]
    if isinstance(value, bool) or not isinstance(value, sort):
        raise TypeError(f"{name}={value!r} must be {expected}")
    if kind is int and abs(value) > LARGEST:
        raise ValueError(f"{name}={value} is too large; at most {LARGEST} is expected")
    return kind(value)


def _check_axes(sweep: Sweep) -> None:
    """Each axis is non-empty, without repeats and in range."""
    positive = {"learning_rate", "overparametrization", "input_dim", "teacher_hidden"}
    for name in AXES:
        values = getattr(sweep, name)
        if not values:
            raise ValueError(f"{name} is empty; at least one value is needed")
        if len(set(values)) != len(values):
            raise ValueError(f"{name}={list(values)} repeats a value")
        for value in values:
            if name in positive and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a positive number")
    for value in sweep.seed:
        if value < 0:
            raise ValueError(f"seed={value} must be 0 or more")
    for value in sweep.duplicate_fraction:
        if not 0 <= value < 1:
            raise ValueError(f"duplicate_fraction={value} must be at least 0 and below 1")
    check_methods(sweep.methods)
    n = math.prod(len(getattr(sweep, name)) for name in AXES if name != "methods")
    if n > MOST_TRAJECTORIES:
        raise ValueError(f"the grid has {n} trajectories; at most {MOST_TRAJECTORIES} are expected")


def _check_protocol(sweep: Sweep) -> None:
    """Check that the protocol's numbers make sense, alone and for the smallest data set of the grid."""
    for name in COUNTS:
        if getattr(sweep, name) < 1:
            raise ValueError(f"{name}={getattr(sweep, name)} must be at least 1")
    if not (np.isfinite(sweep.weight_decay) and sweep.weight_decay >= 0):
        raise ValueError(f"weight_decay={sweep.weight_decay} must be 0 or more")
    check_points(sweep.iterations, sweep.measure_every, sweep.refresh_every)
    for name, allowed in (
        ("head", ("softmax", "logistic")),
        ("student_init", ("published", "unit", "uniform")),
        ("precision", ("float32", "float64")),
        ("snapshots", ("refresh", "all")),
    ):
        if getattr(sweep, name) not in allowed:
            raise ValueError(f"{name}={getattr(sweep, name)!r} must be one of {', '.join(allowed)}")
    ratio = min(sweep.overparametrization)
    if teacher.n_train(ratio, sweep.student_hidden) > LARGEST:
        raise ValueError(f"overparametrization={ratio:g} asks for more than {LARGEST} training examples")
    ratio = max(sweep.overparametrization)
    n = teacher.n_train(ratio, sweep.student_hidden)
    needed = sweep.batch_size * (2 if "sg2b" in sweep.methods else 1)
    if n < needed:
        raise ValueError(
            f"overparametrization={ratio:g} leaves N={n} training examples, fewer than the {needed} that "
            f"batch_size={sweep.batch_size} needs (K clusters need K examples, SG-2B twice the batch)"
        )
    for fraction in sweep.duplicate_fraction:
        if fraction and n - teacher.floor_of(fraction, n) < teacher.N_DUPLICATED:
            raise ValueError(
                f"duplicate_fraction={fraction:g} leaves fewer than the {teacher.N_DUPLICATED} originals at N={n}"
            )
