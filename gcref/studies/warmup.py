"""Compile every kernel once, so that later runs find it on disk."""

import importlib
import pkgutil

import numpy as np

from gcref import kernels
from gcref.clustering.exact import ExactClustering
from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.sketched import SketchedClustering
from gcref.data import Dataset
from gcref.engine import image_models
from gcref.engine.optimizer import SGD
from gcref.engine.trace import Trace
from gcref.estimators import SVRG, Estimator, Stratified
from gcref.studies.grid import Sweep
from gcref.studies.random_features import datasets, run_trajectory
from gcref.variance import variances


def compile_all() -> int:
    """Call every kernel on tiny arrays of the types that the studies and the clusterers use.

    Returns
    -------
    int
        How many kernels are ready; all of them.
    """
    _sweep()
    for dtype in (np.float32, np.float64):
        _clusterers(np.dtype(dtype))
        _networks(np.dtype(dtype))
    return sum(bool(signatures) for signatures in compiled().values())


def compiled() -> dict[str, list]:
    """Return the argument types each kernel is ready for; one that others call is a part of these."""
    names = [info.name for info in pkgutil.iter_modules(kernels.__path__) if not info.name.startswith("cuda")]
    found = {
        f"{module.__name__}.{name}": kernel
        for module in (importlib.import_module(f"{kernels.__name__}.{name}") for name in names)
        for name, kernel in sorted(vars(module).items())
        if hasattr(kernel, "signatures") and kernel.__module__ == module.__name__
    }
    parts = {name for kernel in found.values() for name in kernel.py_func.__code__.co_names}
    return {name: list(kernel.signatures) for name, kernel in found.items() if name.rsplit(".", 1)[-1] not in parts}


def _networks(dtype: np.dtype) -> None:
    """Take a step of convolutional networks with and without batch norm, and measure every estimator."""
    rng = np.random.default_rng(0)
    ds = Dataset(rng.standard_normal((8, 8, 8, 2)).astype(dtype), np.arange(8) % 2)
    for net in (
        image_models.resnet8((8, 8, 2), 2, norm="batch", width=2, dtype=dtype),
        image_models.cnn((8, 8, 2), 2, width=2, dtype=dtype),
    ):
        gradient = net.gradient(ds.x, ds.y, training=True)[1]
        SGD(0.1, momentum=0.5, weight_decay=0.1).step(net.theta, gradient)
        estimators: dict[str, Estimator] = {
            "svrg": SVRG(2).prepare(net, ds),
            "gc": Stratified(GradientClustering(2)).prepare(net, ds),
        }
        for normalized in (True, False):
            variances(estimators, net, ds, normalized=normalized)
        np.asarray(net.traces(ds.x, ds.y)[1][0].A)  # patches are made when they are asked for


def _sweep() -> None:
    """Run the smallest trajectory."""
    sweep = Sweep(
        learning_rate=(0.01,),
        overparametrization=(0.5,),
        input_dim=(2,),
        teacher_hidden=(2,),
        seed=(0,),
        batch_size=2,
        student_hidden=4,
        iterations=2,
        measure_every=1,
        refresh_every=1,
        gc_iterations=1,
    )
    for spec, features, targets in datasets(sweep, sweep.specs()):
        run_trajectory(sweep, spec, features, targets)


def _clusterers(dtype: np.dtype) -> None:
    """Fit every clusterer in each of its ways, to fully connected and to convolutional traces."""
    rng = np.random.default_rng(0)
    for positions in (1, 2):
        A, D = rng.standard_normal((2, 8, positions, 2)).astype(dtype)
        for sizes in ("sequential", "fixed"):
            GradientClustering(2, sizes=sizes, n_iter=2).fit([Trace(A, D)])
        for rank in (1, 2):
            GradientClustering(2, center="svd", rank=rank, n_iter=1).fit([Trace(A, D)])
    G = rng.standard_normal((8, 3)).astype(dtype)
    for form in ("explicit", "gram"):
        ExactClustering(2, sizes="sequential", n_iter=2, form=form).fit(G)
        ExactClustering(2, sizes="fixed", n_iter=2, form=form).fit(G)
        ExactClustering(2, update="exchange", n_iter=2, form=form).fit(G)
        traces = [Trace(A, D)]
        sketched = SketchedClustering(4, dim=3, n_candidates=2, n_iter=3).fit(traces)
        sketched.partial_fit(traces)
    ExactClustering(2, update="enumeration").fit(rng.standard_normal((8, 3)))
