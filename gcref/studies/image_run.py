"""The configuration of an image study: data, model, training and what is measured (Table 2), and what is refused."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from gcref.studies.grid import check_points, read_config, short, typed
from gcref.studies.methods import METHODS, check_methods

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder")
MODELS = ("linear", "mlp", "cnn", "resnet8", "resnet20", "resnet32", "resnet18")
COUNTS = (
    "batch_size", "iterations", "measure_every", "refresh_every", "gc_iterations", "n_estimates", "n_originals",
    "image_size",
)  # fmt: skip
SHARES = ("label_smoothing", "corrupt_fraction", "duplicate_fraction")
CHOICES: dict[str, tuple[str, ...]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "norm": ("default", "none", "batch"),
    "method": ("closed-form", "monte-carlo"),
    "precision": ("float32", "float64"),
    "snapshots": ("refresh", "all", "none"),
}

# Table 2 and appendix C.1. Where the paper lets the learning rate drop, it is at half and three quarters.
PRESETS: dict[str, dict[str, Any]] = {
    "mnist": {
        "dataset": "mnist", "model": "mlp", "learning_rate": 0.02, "momentum": 0.5, "weight_decay": 5e-4,
        "iterations": 50000, "measure_every": 500, "n_estimates": 50, "refresh_every": 2000, "gc_iterations": 10,
    },
    "cifar10": {
        "dataset": "cifar10", "model": "resnet8", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4,
        "iterations": 80000, "measure_every": 500, "n_estimates": 50, "refresh_every": 20000, "gc_iterations": 3,
        "augment": True, "drops": True,
    },
    "cifar100": {
        "dataset": "cifar100", "model": "resnet32", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
        "iterations": 80000, "measure_every": 500, "n_estimates": 50, "refresh_every": 20000, "gc_iterations": 3,
        "augment": True, "drops": True,
    },
    "imagenet": {
        "dataset": "imagefolder", "model": "resnet18", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
        "iterations": 80000, "measure_every": 1000, "n_estimates": 10, "refresh_every": 10000, "gc_iterations": 3,
        "image_size": 224, "augment": True, "drops": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class ImageRun:
    """One trajectory of an image study: all that determines its numbers, but for the data set's files.

    The defaults are the paper's on MNIST; `preset` gives the others. 0 examples mean all there are, width 0 the
    model's own.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, its value and what was expected.
    """

    dataset: str = "mnist"
    model: str = "mlp"
    hidden: tuple[int, ...] = (1024, 1024)
    width: int = 0
    norm: str = "default"
    n_examples: int = 0
    n_test_examples: int = 0
    image_size: int = 64
    skip_broken: bool = False
    label_smoothing: float = 0.0
    corrupt_fraction: float = 0.0
    duplicate_fraction: float = 0.0
    n_originals: int = 5
    augment: bool = False
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.5
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = ()
    iterations: int = 50000
    methods: tuple[str, ...] = METHODS
    method: str = "closed-form"
    n_estimates: int = 50
    measure_every: int = 500
    refresh_every: int = 2000
    gc_iterations: int = 10
    seed: int = 0
    precision: str = "float32"
    snapshots: str = "refresh"
    schema: str = field(default="image/1", init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        _coerce(self)
        _check(self)

    @classmethod
    def from_json(cls, text: str) -> "ImageRun":
        """Read back what `to_json` wrote; unknown or missing fields are a ValueError."""
        return read_config(cls, text, "image/1", "an image study")

    def to_json(self) -> str:
        """Everything that determines the numbers, as the file's `config`."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def id(self) -> str:
        """The trajectory's name in the file."""
        parts = [self.dataset, self.model]
        parts += [f"{name}{short(getattr(self, f)):s}" for name, f in (
            ("smoothing", "label_smoothing"), ("corrupt", "corrupt_fraction"), ("dup", "duplicate_fraction"),
        ) if getattr(self, f)]  # fmt: skip
        return "-".join([*parts, f"lr{short(self.learning_rate)}", f"seed{self.seed}"])

    @property
    def points(self) -> range:
        """The iterations at which everything is measured."""
        return range(0, self.iterations + 1, self.measure_every)

    def refreshes(self, iteration: int) -> bool:
        """Whether SVRG's snapshot and GC's clusters are renewed: at 0 before, later after measuring."""
        return iteration % self.refresh_every == 0 and iteration < self.iterations

    def keeps_snapshot(self, iteration: int) -> bool:
        """Whether θ and what the estimators hold are kept in the file."""
        if self.snapshots != "refresh":
            return self.snapshots == "all"
        return self.refreshes(iteration) or iteration == self.iterations


def preset(name: str, overrides: Mapping[str, Any]) -> ImageRun:
    """Return a run of Table 2, with some arguments replaced.

    Parameters
    ----------
    name : {"mnist", "cifar10", "cifar100", "imagenet"}
    overrides : mapping
        Arguments of `ImageRun`. Milestones, if not among them, lie at half and three quarters of the iterations
        wherever the preset's learning rate drops.

    Raises
    ------
    ValueError, TypeError
        As `ImageRun`; and if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r} is unknown; choose from {', '.join(PRESETS)}")
    values = {**PRESETS[name], **overrides}
    if values.pop("drops", False) and "milestones" not in values:
        iterations = typed("iterations", values["iterations"], int)
        values["milestones"] = tuple(sorted({iterations // 2, 3 * iterations // 4} - {0}))
    return ImageRun(**values)


def _coerce(run: ImageRun) -> None:
    """Give each argument its own type, so that 1 and 1.0, a list and a tuple are one configuration."""
    kinds: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
    for f in fields(run):
        if f.name == "schema":
            continue
        value, name = getattr(run, f.name), str(f.type if isinstance(f.type, str) else f.type.__name__)
        if f.name in ("hidden", "milestones", "methods"):
            if isinstance(value, str) or not hasattr(value, "__iter__"):
                raise TypeError(f"{f.name}={value!r} must be a sequence")
            kind = str if f.name == "methods" else int
            object.__setattr__(run, f.name, tuple(typed(f.name, v, kind) for v in value))
        elif kinds[name] is bool:
            if not isinstance(value, bool):
                raise TypeError(f"{f.name}={value!r} must be True or False")
        else:
            object.__setattr__(run, f.name, typed(f.name, value, kinds[name]))


def _check(run: ImageRun) -> None:
    """Check that the numbers make sense, alone and with one another."""
    for name, choices in CHOICES.items():
        if getattr(run, name) not in choices:
            raise ValueError(f"{name}={getattr(run, name)!r} must be one of {', '.join(choices)}")
    for name in COUNTS:
        if getattr(run, name) < 1:
            raise ValueError(f"{name}={getattr(run, name)} must be at least 1")
    for name in ("n_examples", "n_test_examples", "width", "seed"):
        if getattr(run, name) < 0:
            raise ValueError(f"{name}={getattr(run, name)} must be 0 or more")
    for name in SHARES:
        highest = "at most 1" if name == "corrupt_fraction" else "below 1"
        value = getattr(run, name)
        if not 0 <= value <= 1 or (value == 1 and highest == "below 1"):
            raise ValueError(f"{name}={value} must be at least 0 and {highest}")
    for name in ("learning_rate", "weight_decay"):
        if not (np.isfinite(getattr(run, name)) and getattr(run, name) >= 0):
            raise ValueError(f"{name}={getattr(run, name)} must be a number of at least 0")
    if not 0 <= run.momentum < 1:
        raise ValueError(f"momentum={run.momentum} must be at least 0 and below 1")
    if run.n_estimates < 2:
        raise ValueError(f"n_estimates={run.n_estimates} must be at least 2")
    check_methods(run.methods)
    _check_schedule(run)
    _check_model(run)


def _check_schedule(run: ImageRun) -> None:
    """What happens regularly happens at measuring points; the learning rate drops at increasing iterations."""
    check_points(run.iterations, run.measure_every, run.refresh_every)
    if any(a >= b for a, b in zip((0, *run.milestones), run.milestones, strict=False)):
        raise ValueError(f"milestones={list(run.milestones)} must be increasing iterations above 0")


def _check_model(run: ImageRun) -> None:
    """Options belong to the model that has them; the others would name one run in two ways."""
    if run.model in ("linear", "mlp") and (run.width or run.norm == "batch"):
        name = "width" if run.width else "norm"
        raise ValueError(f"{name}={getattr(run, name)!r} has no meaning for model={run.model!r}")
    if run.model != "mlp" and run.hidden != ImageRun.hidden:
        raise ValueError(f"hidden={list(run.hidden)} has no meaning for model={run.model!r}; only an mlp has it")
    if any(n < 1 for n in run.hidden):
        raise ValueError(f"hidden={list(run.hidden)} must be positive numbers of units")
    if run.augment and run.dataset == "digits":
        raise ValueError("augment=True crops and flips by 4 pixels, which 8×8 digits do not survive")
