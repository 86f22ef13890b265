"""What every clusterer shares: scikit-learn's conventions and the checks of the parameters."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar, cast

import numpy as np

from gcref.clustering.alternating import Points, UStep, alternate, balanced_labels
from gcref.kernels.device import on

Method = TypeVar("Method", bound=Callable[..., Any])


class NotFiniteError(ValueError):
    """A gradient whose norm is not finite, which no clustering can place."""


class Clusterer(ABC):
    """Base of the clusterers: the constructor stores, `fit` learns, what is learnt ends in an underscore.

    ``get_params``, ``set_params`` and ``sklearn.base.clone`` work as in scikit-learn, which is not needed for
    it.
    """

    n_clusters: int
    n_iter: int
    seed: int
    warm_start: bool

    labels_: np.ndarray
    sizes_: np.ndarray
    objective_: np.ndarray
    last_labels_: np.ndarray
    n_iter_: int

    @abstractmethod
    def fit(self, traces: Any, /) -> "Clusterer":
        """Cluster the examples of `traces`, and return self."""

    def fit_predict(self, traces: Any, /) -> np.ndarray:
        """Cluster the examples of `traces` and return their labels, (N,), int64."""
        return self.fit(traces).labels_

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor and their values; `deep` changes nothing here."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def set_params(self, **params: Any) -> "Clusterer":
        """Set parameters of the constructor by name and return self.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        known = list(_parameters(type(self)))
        for name in params:
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in _parameters(type(self)).items()
            if parameter.default is parameter.empty or getattr(self, name) != parameter.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _check_params(self) -> None:
        """Raise unless the parameters that every clusterer has make sense."""
        check_integer("n_clusters", self.n_clusters, 1)
        check_integer("n_iter", self.n_iter, 1)
        check_integer("seed", self.seed, 0)

    def _check_n_examples(self, n_examples: int) -> None:
        """Raise if there are fewer examples than clusters."""
        if self.n_clusters > n_examples:
            raise ValueError(
                f"n_clusters={self.n_clusters} but there are only {n_examples} examples; "
                "every cluster needs at least one"
            )

    def _iterations_done(self) -> int:
        """Return the iterations behind this fit: those since the last cold start, or 0 if this is one."""
        return getattr(self, "n_iter_", 0) if self.warm_start else 0

    def _iterations(self) -> range:
        """Return the numbers t of the iterations of this fit."""
        done = self._iterations_done()
        return range(done + 1, done + self.n_iter + 1)

    def _start_labels(self, n_examples: int) -> np.ndarray:
        """Return the labels that this fit starts from: the last ones if warm, else balanced random ones."""
        if not self._iterations_done():
            return balanced_labels(n_examples, self.n_clusters, self.seed)
        labels = getattr(self, "last_labels_", None)
        if labels is None:
            raise ValueError("warm_start=True continues from last_labels_, which is not there")
        used = np.unique(labels)
        if len(labels) != n_examples or not np.array_equal(used, np.arange(self.n_clusters)):
            raise ValueError(
                f"warm_start=True continues from last_labels_: {len(labels)} examples in {len(used)} "
                f"clusters, but this fit has {n_examples} examples and n_clusters={self.n_clusters}; "
                "set warm_start=False for a new start"
            )
        return np.array(labels, dtype=np.int64)

    def _alternate(
        self, points: Points, warm: Any | None, sizes: str, u_step: UStep | None = None, n_assigned: int | None = None
    ) -> Any:
        """Alternate from the centres `warm`, or from the start labels; return the last centres.

        `u_step` and `n_assigned` as in `alternate`.
        """
        centers, counts, start = warm, None, None
        if warm is None or sizes == "fixed" or n_assigned is not None:
            start = self._start_labels(len(points.sq_norms))
            counts = np.bincount(start, minlength=self.n_clusters) if sizes == "fixed" else None
        if warm is None and start is not None:
            centers = points.centers(start, self.n_clusters) if u_step is None else u_step(start, None, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in Φ
            run = alternate(
                points, centers, self.n_clusters, counts, self.seed, self._iterations(), u_step, start, n_assigned
            )
        if not np.isfinite(run.objective).all():
            raise NotFiniteError("a distance from a gradient to a centre overflows; smaller gradients are expected")
        self._learn(run.labels, run.objective, run.last_labels)
        return run.centers

    def _learn(
        self, labels: np.ndarray, objective: list[float], last_labels: np.ndarray, done: int | None = None
    ) -> None:
        """Store what a fit found, after `done` iterations; by default those that a warm start continues."""
        self.n_iter_ = (self._iterations_done() if done is None else done) + len(objective)
        self.labels_ = labels
        self.sizes_ = np.bincount(labels, minlength=self.n_clusters)
        self.objective_ = np.array(objective)
        self.last_labels_ = last_labels


def on_device(method: Method) -> Method:
    """Let a method of a clusterer run its kernels where `device` says."""

    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with on(self.device):
            return method(self, *args, **kwargs)

    return cast(Method, run)


def check_integer(name: str, value: Any, lowest: int) -> None:
    """Raise unless `value` is an integer not below `lowest`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < lowest:
        raise ValueError(f"{name}={value!r}; an integer not below {lowest} is expected")


def is_number(value: Any) -> bool:
    """Tell real numbers from all else, truth values included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(repr, choices))}")


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of the constructor of `cls`, in order."""
    return dict(inspect.signature(cls).parameters)
