"""gcref: how noisy is a mini-batch gradient, exactly, and how clustering gradients reduces the noise.

A framework-free reference of *A Study of Gradient Variance in Deep Learning* (Faghri, Duvenaud, Fleet, Ba;
arXiv:2007.04532). One shape alphabet everywhere:

====  ==================================================================================
B, N  examples in a batch, in the data set
T     positions of a weight (1 for a fully connected layer)
I, O  inputs (the bias's trailing 1 included) and outputs of a weight
K     clusters
d     parameters
A     (B, T, I) the input of a weight layer
D     (B, T, O) the gradient of one example's own loss with respect to the layer's output
====  ==================================================================================

D belongs to the per-example loss: nothing is divided by the batch size. The names below are imported on first
use, so ``import gcref`` loads neither NumPy nor Numba.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Trace": "gcref.engine.trace",
    "per_example_gradients": "gcref.engine.trace",
    "per_example_sq_norms": "gcref.engine.algebra",
    "Network": "gcref.engine.network",
    "check_gradients": "gcref.engine.check",
    "linear": "gcref.engine.models",
    "mlp": "gcref.engine.models",
    "random_features": "gcref.engine.models",
    "cnn": "gcref.engine.image_models",
    "resnet8": "gcref.engine.image_models",
    "resnet20": "gcref.engine.image_models",
    "resnet32": "gcref.engine.image_models",
    "resnet18": "gcref.engine.image_models",
    "SGD": "gcref.engine.optimizer",
    "StepSchedule": "gcref.engine.optimizer",
    "ExactClustering": "gcref.clustering.exact",
    "GradientClustering": "gcref.clustering.low_rank",
    "SketchedClustering": "gcref.clustering.sketched",
    "Sketches": "gcref.clustering.sketches",
    "MiniBatch": "gcref.estimators",
    "SVRG": "gcref.estimators",
    "Stratified": "gcref.estimators",
    "StratifiedBatchSampler": "gcref.sampling",
    "Variance": "gcref.variance",
    "variance": "gcref.variance",
    "variances": "gcref.variance",
}
_SUBMODULES = {
    "clustering", "data", "engine", "estimators", "executor", "kernels", "store", "studies", "tables", "trace_files",
    "validation",
}  # fmt: skip

# Written out, since type checkers do not run code.
__all__ = [
    "SGD",
    "SVRG",
    "ExactClustering",
    "GradientClustering",
    "MiniBatch",
    "Network",
    "SketchedClustering",
    "Sketches",
    "StepSchedule",
    "Stratified",
    "StratifiedBatchSampler",
    "Trace",
    "Variance",
    "__version__",
    "check_gradients",
    "cnn",
    "data",
    "linear",
    "mlp",
    "per_example_gradients",
    "per_example_sq_norms",
    "random_features",
    "resnet8",
    "resnet18",
    "resnet20",
    "resnet32",
    "variance",
    "variances",
]

if TYPE_CHECKING:
    from gcref import data
    from gcref.clustering.exact import ExactClustering
    from gcref.clustering.low_rank import GradientClustering
    from gcref.clustering.sketched import SketchedClustering
    from gcref.clustering.sketches import Sketches
    from gcref.engine.algebra import per_example_sq_norms
    from gcref.engine.check import check_gradients
    from gcref.engine.image_models import cnn, resnet8, resnet18, resnet20, resnet32
    from gcref.engine.models import linear, mlp, random_features
    from gcref.engine.network import Network
    from gcref.engine.optimizer import SGD, StepSchedule
    from gcref.engine.trace import Trace, per_example_gradients
    from gcref.estimators import SVRG, MiniBatch, Stratified
    from gcref.sampling import StratifiedBatchSampler
    from gcref.variance import Variance, variance, variances


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"gcref.{name}")
    else:
        # With name and obj a traceback asks "Did you mean: 'MiniBatch'?"
        raise AttributeError(f"module 'gcref' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})


class _Package(ModuleType):
    """The package, on which ``gcref.variance`` is always the function and never the module of that name.

    The import system binds a submodule to its package once it is loaded, which would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "variance" and isinstance(value, ModuleType):
            value = value.variance
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
