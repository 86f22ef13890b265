"""Every kind of number that the package makes, as bytes; run as a script, it prints their digests as JSON."""

import hashlib
import json

import numpy as np

import gcref
from gcref.data import Dataset
from gcref.engine.trace import Trace, per_example_gradients
from gcref.estimators import chunks

# Large enough for every kernel to share its work out to threads.
MODELS = {
    "mlp": (lambda dtype: gcref.mlp((90, 192, 192, 10), seed=0, dtype=dtype), (90,), 300),
    "cnn": (lambda dtype: gcref.cnn((8, 8, 3), 10, seed=0, dtype=dtype), (8, 8, 3), 48),
    "resnet8": (lambda dtype: gcref.resnet8((8, 8, 3), 10, norm="batch", seed=0, dtype=dtype), (8, 8, 3), 48),
}
CLUSTERERS = {
    "mean": lambda: gcref.GradientClustering(5, n_iter=2),
    "svd": lambda: gcref.GradientClustering(5, center="svd", rank=2, n_iter=2),
    "online": lambda: gcref.GradientClustering(5, n_iter=3, update="online", batch_size=24, a_share=0.5),
    "sketched": lambda: gcref.SketchedClustering(5, dim=64, n_iter=2),
    "alternating": lambda: gcref.ExactClustering(5, n_iter=2, form="explicit"),
    "exchange": lambda: gcref.ExactClustering(5, update="exchange", n_iter=2, form="explicit"),
    "gram": lambda: gcref.ExactClustering(5, n_iter=2, form="gram"),
    "gram exchange": lambda: gcref.ExactClustering(5, update="exchange", n_iter=2, form="gram"),
}


def trained(net, ds):
    """Let the network take three steps with momentum, in training mode."""
    optimizer = gcref.SGD(0.05, momentum=0.9, weight_decay=1e-3)
    third = len(ds) // 3
    for start in range(0, 3 * third, third):
        rows = slice(start, start + third)
        optimizer.step(net.theta, net.gradient(ds.x[rows], ds.y[rows], training=True)[1])
    return {"theta": net.theta.copy(), "running": net.running.copy(), "losses": net.losses(ds.x, ds.y)}


def varying(net, ds):
    """The variance of every kind of estimator, and a draw of each."""
    estimators = {
        "SG-B": gcref.MiniBatch(8),
        "SVRG": gcref.SVRG(8).prepare(net, ds),
        "labels": gcref.Stratified(ds.y),
        "fewer draws": gcref.Stratified(ds.y, 4),
    }
    net.theta *= 0.99
    numbers = {name: list(vars(v).values()) for name, v in gcref.variances(estimators, net, ds).items()}
    draws = {f"{k} drawn": e.sample(net, ds, np.random.default_rng(0)) for k, e in estimators.items()}
    return numbers | draws


def clustered(traces):
    """What every clusterer finds."""
    out = {}
    for name, make in CLUSTERERS.items():
        fit = make().fit(traces)
        out |= {f"{name} labels": fit.labels_, f"{name} objective": fit.objective_}
        if name == "sketched":
            out |= {"sketches": fit.sketches_.values, "check": [fit.variance_, fit.variance_error_]}
    return out


def numbers(model, dtype):
    """All numbers of one network in one type, by name."""
    make, in_shape, n = MODELS[model]
    rng = np.random.default_rng(1)
    ds = Dataset(rng.standard_normal((n, *in_shape)).astype(dtype), rng.integers(0, 10, n))
    net = make(dtype)
    out = trained(net, ds) | varying(net, ds)
    traces = next(chunks(net, ds, np.arange(n)))[0]
    own = {"norms": gcref.per_example_sq_norms(traces), "gradients": per_example_gradients(traces)}
    return out | own | clustered([Trace(t.A, t.D) for t in traces])


def digests(models=tuple(MODELS), dtypes=("float32", "float64")):
    """A short digest of each number's bytes."""
    return {
        f"{model} {dtype} {name}": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        for model in models
        for dtype in dtypes
        for name, array in numbers(model, dtype).items()
    }


if __name__ == "__main__":
    print(json.dumps(digests()))
