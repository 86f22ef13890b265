"""What each of the paper's figures needs: the smallest runs that give it, what they cost, and which data.

A name is a figure ("4") or one of its panels ("4b"). Figs. 4, 5, 8 and 9 need a part of the random-features grid, 3, 6
and 7 image runs, and Fig. 1 a toy that takes seconds. Two figures of the same runs share their results files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gcref.engine import image_models, models
from gcref.engine.network import Network
from gcref.studies.grid import Sweep
from gcref.studies.image_run import ImageRun, preset
from gcref.studies.random_features import costs

RATES = {"b": 0.01, "c": 0.1}  # of the panels that show every method
SHARES = {"a": 0.1, "b": 0.5, "c": 0.9}  # of duplicates, Fig. 8
OF_COSTS = 1.13  # core-seconds of the default grid (105 s on two cores), over what `costs` says of it
MULTIPLICATIONS = 2e10  # of a backward pass, on one core in a second: 1.7e10 with ResNet8, 3.5e10 with the MLP
# Images: pixels and training examples of each data set (ImageNet's of 2012).
SIZES = {
    "digits": ((8, 8, 1), 1438), "mnist": ((28, 28, 1), 60_000), "cifar10": ((32, 32, 3), 50_000),
    "cifar100": ((32, 32, 3), 50_000), "imagefolder": ((224, 224, 3), 1_281_167),
}  # fmt: skip
EPOCHS_TO_MEASURE, EPOCHS_TO_CLUSTER = 2.5, 1.2  # all four estimators; an iteration of GC, traces anew

NOT_QUICK = ("3c",)
QUICK_GRID: dict[str, Any] = {
    "overparametrization": (0.1, 0.5, 1.0, 2.0, 5.0, 10.0), "input_dim": (100,), "teacher_hidden": (100,),
}  # fmt: skip
QUICK_GRID_SAYS = "inputs and teachers of 10,000 dimensions, and the ratios 1.5, 2.5 and 3"
QUICK_RUN = {"dataset": "digits", "iterations": 1000, "measure_every": 50, "refresh_every": 250}
QUICK_RUN_SAYS = (
    "the paper's data and most of its iterations: the 1,438 digits that ship with gcref stand in, with {}, for 1,000 "
    "iterations"
)


class Job(NamedTuple):
    """One results file: its name without ".h5", and the configuration of the run that writes it."""

    name: str
    config: Sweep | ImageRun


@dataclass(frozen=True)
class Plan:
    """How a figure is made.

    Attributes
    ----------
    figure : str
        Its name.
    shows : str
        What it shows.
    jobs : tuple of Job
        The runs it needs; none for Fig. 1.
    left_out : str
        What a quick plan leaves out; empty where it is the paper's.
    """

    figure: str
    shows: str
    jobs: tuple[Job, ...]
    left_out: str = ""

    @property
    def n_trajectories(self) -> int:
        """Of all runs together; one for the toy."""
        return sum(len(job.config.specs()) if isinstance(job.config, Sweep) else 1 for job in self.jobs) or 1

    @property
    def data_sets(self) -> list[str]:
        """The data sets that must be there; digits ship."""
        named = [job.config.dataset for job in self.jobs if isinstance(job.config, ImageRun)]
        return [name for name in dict.fromkeys(named) if name != "digits"]


FIGURES = {
    "1": "the toy, clusters of gradients while a linear classifier learns",
    "3": "images, variance while a model trains",
    "3a": "an MLP on MNIST (with 3d)",
    "3b": "ResNet8 on CIFAR-10 (with 3e)",
    "3c": "ResNet18 on ImageNet (with 3f)",
    "4": "random features, maximum variance",
    "4a": "SG-B at every learning rate",
    "4b": "every method at learning rate 0.01",
    "4c": "every method at learning rate 0.1",
    "5": "random features, maximum normalized variance",
    "5a": "SG-B at every learning rate",
    "5b": "every method at learning rate 0.01",
    "6": "ResNet8 on CIFAR-10 with label smoothing and with corrupt labels",
    "7": "ResNet8 on CIFAR-10 and ResNet32 on CIFAR-100 with duplicates",
    "8": "random features with duplicates, maximum variance",
    "8a": "10 % duplicates",
    "8b": "50 % duplicates",
    "8c": "90 % duplicates",
    "9": "random features, mean variance",
    "9a": "SG-B at every learning rate",
    "9b": "every method at learning rate 0.01",
    "9c": "every method at learning rate 0.1",
}


def plan(figure: str, quick: bool = False) -> Plan:
    """Return how a figure is made.

    Parameters
    ----------
    figure : str
        One of `FIGURES`.
    quick : bool
        A smaller grid, or a small model of the digits that ship.

    Raises
    ------
    ValueError
        If there is no such figure, or nothing small can stand in for it.
    """
    if figure not in FIGURES:
        raise ValueError(f"figure={figure!r} is unknown; one of {', '.join(FIGURES)} is expected")
    whole = FIGURES[figure[0]]
    shows = f"{whole}; {FIGURES[figure]}" if figure[1:] else whole
    if figure == "1":
        return Plan(figure, shows, ())
    if figure[0] in "367":
        jobs = (_quick_image_jobs if quick else _image_jobs)(figure)
        kinds = {"mlp": "an MLP", "cnn": "a small CNN"}
        models = dict.fromkeys(kinds[job.config.model] for job in jobs if isinstance(job.config, ImageRun) and quick)
        return Plan(figure, shows, jobs, QUICK_RUN_SAYS.format(" and ".join(models)) if quick else "")
    name, axes = _part_of_the_grid(figure)
    job = Job(f"quick-{name}" if quick else name, Sweep(**axes, **(QUICK_GRID if quick else {})))
    return Plan(figure, shows, (job,), QUICK_GRID_SAYS if quick else "")


def plans(quick: bool = False) -> list[Plan]:
    """Return every plan there is, in the order of the paper; of the quick ones, those that there are."""
    return [plan(name, quick) for name in FIGURES if not quick or name not in NOT_QUICK]


def _part_of_the_grid(figure: str) -> tuple[str, dict[str, Any]]:
    """Name the trajectories that a figure of random features needs, and return the axes that differ from the grid's."""
    number, letter = figure[0], figure[1:]
    if number == "8":
        shares = (SHARES[letter],) if letter else tuple(SHARES.values())
        return f"random-features-duplicates{letter and f'-{SHARES[letter]:g}'}", {
            "learning_rate": (0.01,), "duplicate_fraction": shares,
        }  # fmt: skip
    if letter == "a":
        return "random-features-sgb", {"methods": ("sgb",)}
    if letter:
        return f"random-features-rate{RATES[letter]:g}", {"learning_rate": (RATES[letter],)}
    return "random-features", {}


# --------------------------------------------------------------------------------------------------------------- images

Changes = dict[str, dict[str, Any]]

_NOISE: Changes = {"": {}, "-smoothing": {"label_smoothing": 0.1}, "-corrupt": {"corrupt_fraction": 0.1}}
_COPIES: Changes = {"": {}, "-duplicates": {"duplicate_fraction": 0.5}}
# What is changed of the data sets. The paper says neither how much smoothing nor which share of duplicates.
_VARIANTS: dict[str, Changes] = {"3": {"": {}}, "6": _NOISE, "7": _COPIES}
_PRESETS = {
    "3": ("mnist", "cifar10", "imagenet"), "3a": ("mnist",), "3b": ("cifar10",), "3c": ("imagenet",),
    "6": ("cifar10",), "7": ("cifar10", "cifar100"),
}  # fmt: skip


def _image_jobs(figure: str) -> tuple[Job, ...]:
    """Table 2, for each data set of a figure, as it is and changed."""
    return tuple(
        Job(name + suffix, preset(name, changed))
        for name in _PRESETS[figure]
        for suffix, changed in _VARIANTS[figure[0]].items()
    )


def _quick_image_jobs(figure: str) -> tuple[Job, ...]:
    """Return the same on digits: the MLP in MNIST's place, a small CNN in CIFAR-10's."""
    if figure in NOT_QUICK:
        raise ValueError(f"figure={figure!r} has no quick form: nothing small stands in for ImageNet")
    small: Changes = {
        "mnist": {"model": "mlp", "hidden": (64, 64), "batch_size": 32},
        "cifar10": {
            "model": "cnn", "batch_size": 32, "learning_rate": 0.01, "momentum": 0.9, "gc_iterations": 3,
            "milestones": (500, 750),
        },
    }  # fmt: skip
    return tuple(
        Job(f"quick-{options['model']}{suffix}", ImageRun(**{**QUICK_RUN, **options, **changed}))
        for name, options in small.items()
        if name in _PRESETS[figure]
        for suffix, changed in _VARIANTS[figure[0]].items()
    )


# ---------------------------------------------------------------------------------------------------------------- costs


def seconds(plan: Plan, n_cores: int, done: frozenset[str] = frozenset()) -> float:
    """Estimate how long a plan takes, from the speed of two cores of a 2020s server; within a factor of 3 or so.

    Parameters
    ----------
    plan : Plan
    n_cores : int
    done : frozenset of str
        The names of its jobs that are finished already.
    """
    todo = [job.config for job in plan.jobs if job.name not in done]
    return 5.0 + sum(_sweep(c) if isinstance(c, Sweep) else _image(c) for c in todo) / n_cores


def _sweep(sweep: Sweep) -> float:
    """Core-seconds."""
    return OF_COSTS * sum(costs(sweep, sweep.specs()).values())


def _image(run: ImageRun) -> float:
    """Core-seconds: gradients of steps, of measuring and of clustering, as many multiplications each."""
    pixels, n_examples = SIZES[run.dataset]
    n_refreshes = math.ceil(run.iterations / run.refresh_every)
    epochs = EPOCHS_TO_MEASURE * len(run.points) + EPOCHS_TO_CLUSTER * run.gc_iterations * n_refreshes
    gradients = run.iterations * run.batch_size + epochs * n_examples
    net, shape = _network(run, pixels)
    return gradients * 3 * sum(net.costs(shape).backprop()) / MULTIPLICATIONS


def _network(run: ImageRun, shape: tuple[int, ...]) -> tuple[Network, tuple[int, ...]]:
    """Return the model of a run, and the shape of what it takes."""
    if run.model == "mlp":
        return models.mlp((math.prod(shape), *run.hidden, 10)), (math.prod(shape),)
    build: Callable[..., Network] = getattr(image_models, run.model)
    return build(shape), shape


def in_words(seconds: float) -> str:
    """Say how long something takes, to two digits: "about 40 s", "about 3.5 days"."""
    units = (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, math.inf))
    unit, size = next((unit, size) for unit, size, until in units if seconds < until * size)
    return f"about {float(f'{seconds / size:.2g}'):g} {unit}"
