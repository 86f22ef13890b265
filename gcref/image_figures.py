"""The paper's figures of the image study (Figs. 3, 6, 7), drawn from results files of one run each.

A curve is the mean over a rolling window of measuring points, its shade one standard deviation (divisor n) either way,
as in section 4.1 of the paper. Two runs that a figure's titles would not tell apart are both drawn, and the titles then
say in which settings they differ; one configuration given twice is refused.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gcref.panels import METHOD_LABELS, method_looks, methods_in_order
from gcref.store import StoreError, open_results, read_config, readable

__all__ = ["Run", "default_window", "drawings", "figure3", "figure6", "figure7", "read_run", "rolling", "undrawable"]

SCHEMA = "image/1"
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "dataset": str, "model": str, "label_smoothing": (int, float), "corrupt_fraction": (int, float),
    "duplicate_fraction": (int, float), "milestones": list, "refresh_every": int, "iterations": int, "method": str,
    "n_estimates": int,
}  # fmt: skip
_NAMES = {
    "digits": "Digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "imagefolder": "Image folder", "linear": "linear model", "mlp": "MLP", "cnn": "CNN",
    "resnet8": "ResNet8", "resnet20": "ResNet20", "resnet32": "ResNet32", "resnet18": "ResNet18",
}  # fmt: skip
_NEVER_REFRESHED = {"sgb", "sg2b"}
_FEW = 60  # measuring points, up to which each is drawn
_MOST_DECADES = 10  # below the noisiest method; a variance of rounding only must not stretch the log axis
_UNIT = "per coordinate, squared gradient units"

Series = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the image study, as its file has it.

    Attributes
    ----------
    path : Path
    config : mapping
        The configuration, as in the file's JSON.
    status : str
        "complete", "diverged" or "unfinished".
    iteration : ndarray, shape (L,), int64
        The measuring points, increasing; at least one.
    variance, normalized_variance : dict of ndarray, shape (L,), float64
        By method.
    """

    path: Path
    config: Mapping[str, Any]
    status: str
    iteration: NDArray[np.int64]
    variance: Mapping[str, Series]
    normalized_variance: Mapping[str, Series]


def read_run(path: Path | str) -> Run:
    """Read a results file of the image study.

    Raises
    ------
    gcref.store.StoreError
        If it cannot be read, is of another study, or has no measurements that belong together.
    """
    path, config = Path(path), read_config(path)
    if config["schema"] != SCHEMA:
        raise StoreError(f"{path} is of another study: config has schema {config['schema']!r}, expected {SCHEMA!r}")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(config.get(name), kind)]
    if wrong or config["refresh_every"] < 1:
        raise StoreError(f"{path}: config has no usable {', '.join(wrong) or 'refresh_every'}")
    with open_results(path) as file, readable(path):
        groups = list(file["trajectories"].values())
        if len(groups) == 1:
            status, iteration = str(groups[0].attrs["status"]), groups[0]["iteration"][()]
            variance, normalized = ({m: s[()] for m, s in groups[0][kind].items()} for kind in _KINDS)
    if len(groups) != 1:
        raise StoreError(f"{path} must hold one trajectory, got {len(groups)}")
    _check_series(path, iteration, variance, normalized)
    return Run(path, config, status, iteration, variance, normalized)


_KINDS = ("variance", "normalized_variance")


def _check_series(path: Path, iteration: NDArray, variance: dict[str, Series], normalized: dict[str, Series]) -> None:
    """Refuse series that cannot be drawn against the iterations."""
    if variance.keys() != normalized.keys() or not variance:
        raise StoreError(f"{path}: variance and normalized_variance must hold the same methods, at least one")
    for name, series in {"iteration": iteration, **variance, **normalized}.items():
        if series.ndim != 1 or series.dtype.kind not in "fi" or series.shape != iteration.shape:
            raise StoreError(f"{path}: the series of {name} must have a number for each iteration")
    if not iteration.size or np.any(np.diff(iteration) <= 0):
        raise StoreError(f"{path} must hold at least one measuring point, and increasing iterations")
