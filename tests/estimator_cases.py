"""The estimators that several test modules go through, and a small problem to measure them on."""

import numpy as np

import gcref
from gcref.validation import enumeration

SIZES = (3, 4, 3)
LABELS = np.array([4, 0, 4, 4, 0, 9, 4])
ESTIMATORS = {
    "SG-B": lambda: gcref.MiniBatch(2),
    "SG-B, replacement": lambda: gcref.MiniBatch(2, replacement=True),
    "SVRG": lambda: gcref.SVRG(2),
    "SVRG, replacement": lambda: gcref.SVRG(3, replacement=True),
    "labels": lambda: gcref.Stratified(LABELS),
    "GradientClustering": lambda: gcref.Stratified(gcref.GradientClustering(3)),
    "ExactClustering": lambda: gcref.Stratified(gcref.ExactClustering(2)),
}


def prepared(estimator, seed=0, n_examples=7):
    """A network that has moved since the estimator was prepared, and its data set."""
    net, ds = enumeration.problem(n_examples, SIZES, seed)
    estimator.prepare(net, ds)
    net.theta += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)
    return net, ds
