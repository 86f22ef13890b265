"""Whatever an argument of a public function is, it works or one error says which argument is wrong."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pytest

import gcref
from gcref.data import Dataset, corrupt_labels, duplicate, standardized, subset
from gcref.engine.batch_norm import BatchNorm2d
from gcref.engine.convolution import Conv2d
from gcref.engine.losses import SoftmaxCrossEntropy
from gcref.engine.pooling import AvgPool2d, MaxPool2d
from gcref.engine.trace import concatenate, difference

N = 5
RNG = np.random.default_rng(0)
NET = gcref.linear(3, 2)
X, Y = RNG.standard_normal((N, 3)), np.arange(N) % 2
DS = Dataset(X, Y)
TRACES = NET.traces(X, Y)[1]
G = gcref.per_example_gradients(TRACES)
SGD = gcref.SGD(0.1)
COMMON = {"seed": 0, "dtype": "float64"}


class Case(NamedTuple):
    """A public function, and arguments with which it works."""

    call: Callable
    good: dict[str, Any]


def unless_they_disagree(check, *args, **given):
    """Let differences with another step disagree with the gradient, which is what the check is for."""
    with suppress(AssertionError):
        check(*args, **given)


def fitted(kind, **fixed):
    """Make a clusterer and fit it, since parameters are checked then."""
    return lambda **given: kind(**fixed, **given).fit(TRACES)


IMAGE_MODEL = {
    "in_shape": (8, 8, 2),
    "n_classes": 2,
    "norm": None,
    "seed": 0,
    "dtype": "float32",
    "label_smoothing": 0.0,
    "width": 2,
}
CASES = {
    "linear": Case(gcref.linear, COMMON | {"n_features": 3, "n_classes": 2, "label_smoothing": 0.0}),
    "mlp": Case(gcref.mlp, COMMON | {"sizes": (3, 2), "label_smoothing": 0.0}),
    "random_features": Case(
        gcref.random_features, {"n_features": 3, "n_hidden": 2, "head": "softmax", "seed": 0, "dtype": "float64"}
    ),
    "cnn": Case(gcref.cnn, IMAGE_MODEL),
    "resnet8": Case(gcref.resnet8, IMAGE_MODEL),
    "resnet20": Case(gcref.resnet20, IMAGE_MODEL),
    "resnet32": Case(gcref.resnet32, IMAGE_MODEL),
    "resnet18": Case(gcref.resnet18, IMAGE_MODEL | {"in_shape": (32, 32, 2)}),
    "SGD": Case(gcref.SGD, {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    "SGD.step": Case(SGD.step, {"theta": np.ones(3), "gradient": np.ones(3)}),
    "StepSchedule": Case(gcref.StepSchedule, {"learning_rate": 0.1, "milestones": (3, 5), "factor": 0.1}),
    "SoftmaxCrossEntropy": Case(SoftmaxCrossEntropy, {"label_smoothing": 0.1}),
    "Conv2d": Case(Conv2d, {"n_in": 2, "n_out": 3, "kernel": 3, "stride": 1, "padding": 0}),
    "MaxPool2d": Case(MaxPool2d, {"kernel": 3, "stride": 1, "padding": 0}),
    "AvgPool2d": Case(AvgPool2d, {"kernel": 3, "stride": 1, "padding": 0}),
    "BatchNorm2d": Case(BatchNorm2d, {"n_channels": 2, "epsilon": 1e-5, "momentum": 0.1}),
    "Network.losses": Case(NET.losses, {"x": X, "y": Y}),
    "Network.logits": Case(NET.logits, {"x": X}),
    "Network.gradient": Case(NET.gradient, {"x": X, "y": Y, "weights": np.ones(N)}),
    "Network.traces": Case(NET.traces, {"x": X, "y": Y}),
    "Network.costs": Case(NET.costs, {"in_shape": (3,), "n_clusters": 4}),
    "Network.copy": Case(NET.copy, {"dtype": "float32"}),
    "Network.theta": Case(lambda theta: setattr(NET, "theta", theta), {"theta": NET.theta.copy()}),
    "check_gradients": Case(
        lambda **given: unless_they_disagree(gcref.check_gradients, NET, X, Y, **given),
        {"n_coordinates": 4, "step": 1e-6, "rtol": 1e-5, "seed": 0},
    ),
    "Trace": Case(gcref.Trace, {"A": X, "D": X}),
    "per_example_gradients": Case(gcref.per_example_gradients, {"traces": TRACES}),
    "per_example_sq_norms": Case(gcref.per_example_sq_norms, {"traces": TRACES}),
    "difference": Case(difference, {"traces": TRACES, "reference": TRACES}),
    "concatenate": Case(concatenate, {"batches": [TRACES, TRACES]}),
    "ExactClustering": Case(
        fitted(gcref.ExactClustering),
        {
            "n_clusters": 2,
            "update": "exchange",
            "sizes": "fixed",
            "n_iter": 2,
            "seed": 0,
            "form": "gram",
            "device": "cpu",
        },
    ),
    "GradientClustering": Case(
        fitted(gcref.GradientClustering),
        {
            "n_clusters": 2,
            "center": "svd",
            "rank": 1,
            "sizes": "fixed",
            "n_iter": 2,
            "seed": 0,
            "update": "online",
            "batch_size": 3,
            "decay": 0.5,
            "a_share": 0.9,
            "blocks": [0],
            "device": "cpu",
        },
    ),
    "SketchedClustering": Case(
        fitted(gcref.SketchedClustering),
        {
            "n_clusters": 2,
            "dim": 4,
            "drift": 0.1,
            "seed": 0,
            "n_iter": 2,
            "check_dim": 3,
            "accuracy": None,
            "n_candidates": 1,
            "device": "cpu",
        },
    ),
    "ExactClustering.fit": Case(lambda G: gcref.ExactClustering(1, n_iter=1).fit(G), {"G": G}),
    "GradientClustering.fit": Case(
        lambda traces: gcref.GradientClustering(1, n_iter=1).fit(traces), {"traces": TRACES}
    ),
    "SketchedClustering.fit": Case(lambda traces: gcref.SketchedClustering(1, dim=2).fit(traces), {"traces": TRACES}),
    "SketchedClustering.partial_fit": Case(
        lambda indices: gcref.SketchedClustering(1, dim=2).fit(TRACES).partial_fit(TRACES, indices),
        {"indices": np.arange(N)},
    ),
    "Sketches": Case(gcref.Sketches, {"dim": 3, "seed": 0}),
    "Sketches.add": Case(lambda traces: gcref.Sketches(3).add(traces), {"traces": TRACES}),
    "Sketches.refresh": Case(
        lambda indices: gcref.Sketches(3).add(TRACES).refresh(TRACES, indices), {"indices": np.arange(N)}
    ),
    "MiniBatch": Case(gcref.MiniBatch, {"batch_size": 2}),
    "SVRG": Case(gcref.SVRG, {"batch_size": 2}),
    "Stratified": Case(gcref.Stratified, {"clustering": Y, "batch_size": 2}),
    "StratifiedBatchSampler": Case(
        gcref.StratifiedBatchSampler, {"labels": Y, "batch_size": 2, "seed": 0, "n_batches": 3}
    ),
    "StratifiedBatchSampler.set_epoch": Case(gcref.StratifiedBatchSampler(Y).set_epoch, {"epoch": 1}),
    "StratifiedBatchSampler.weights": Case(
        gcref.StratifiedBatchSampler.weights, {"batch": next(iter(gcref.StratifiedBatchSampler(Y)))}
    ),
    "variance": Case(
        lambda **given: gcref.variance(gcref.MiniBatch(2), NET, DS, **given),
        {"method": "monte-carlo", "n_estimates": 3, "rng": 0},
    ),
    "Dataset": Case(Dataset, {"x": X, "y": Y}),
    "corrupt_labels": Case(lambda **given: corrupt_labels(DS, **given), {"share": 0.5, "n_classes": 2, "seed": 0}),
    "duplicate": Case(lambda **given: duplicate(DS, **given), {"share": 0.5, "n_originals": 2}),
    "subset": Case(lambda **given: subset(DS, **given), {"n": 3}),
    "standardized": Case(lambda **given: standardized(DS, **given), {"mean": 0.5, "std": 2.0}),
    "load": Case(gcref.data.load, {"name": "digits", "split": "train"}),
}
ARGUMENTS = [(name, argument) for name, case in CASES.items() for argument in case.good]

OBJECTS = [None, True, False, object(), "", "x", "auto", "float32", b"x", 1j, {}, {"a": 1}]
NUMBERS = [-1, 0, 1, 2, 7, 0.5, 1.5, -0.5, math.nan, math.inf, -math.inf, np.float32(1), np.int8(2), np.array(3.0)]
LISTS = [[], [1], [1, "a"], [None], (), (1, 2), [[1, 2], [3]], [X]]
VECTORS = [np.ones(n, t) for n, t in ((0, "f8"), (3, "f8"), (5, "f8"), (5, "i8"), (5, "O"))] + [
    np.zeros(5, "M8[s]"),
    -Y - 1,
]
MATRICES = [np.ones((5, 3), t) for t in ("f8", "f4", "f2", "i8", "c8", "U1", "O")] + [
    X * math.nan,
    np.ones((2, 2, 2, 2)),
]
OF_TRACES = [TRACES, TRACES[0], [TRACES], [TRACES, TRACES[0]], [1.0, TRACES[0]]]
VALUES = OBJECTS + NUMBERS + LISTS + VECTORS + MATRICES + OF_TRACES


ALSO_CALLED = {"G": ["G", "traces"]}  # what it may be in place of an array


def wrong(case, argument):
    """What other than ValueError and TypeError comes of an argument, and errors that do not name it."""
    for value in VALUES:
        try:
            case.call(**{**case.good, argument: value})
        except (ValueError, TypeError) as error:
            if not any(name in str(error) for name in ALSO_CALLED.get(argument, [argument])):
                yield f"{value!r}: {error!r} does not name {argument}"
        except Exception as error:
            yield f"{value!r}: {error!r}"


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_is_taken_or_named(name, argument):
    assert list(wrong(CASES[name], argument)) == []


@pytest.mark.parametrize("name", CASES)
def test_the_arguments_that_others_are_put_into_are_good(name):
    CASES[name].call(**CASES[name].good)
