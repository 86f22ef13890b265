"""The estimators of the studies by name: the paper's four, and further clusterings of the gradients."""

import re
from collections.abc import Sequence

from gcref.clustering.base import Clusterer
from gcref.clustering.exact import ExactClustering
from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.sketched import SketchedClustering

METHODS = ("sgb", "sg2b", "svrg", "gc")
UNCLUSTERED = frozenset({"sgb", "sg2b", "svrg"})
KNOWN = "sgb, sg2b, svrg, gc, gc-rankR, exact, exchange, sketched, sketched-driftX"
SWEEPS = 20  # at most, of exchange

_RANK = re.compile(r"gc-rank([1-9]\d*)")
_DRIFT = re.compile(r"sketched-drift(\d+(?:\.\d+)?)")


def check_methods(methods: Sequence[str]) -> None:
    """Raise unless `methods` are different known names, at least one.

    Raises
    ------
    ValueError
        Naming the method.
    """
    for name in methods:
        if name not in UNCLUSTERED:
            clusterer(name, 1, 1, 0)
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)} must name at least one, none of them twice")


def clustered(methods: Sequence[str]) -> list[str]:
    """Return those of `methods` that draw from clusters."""
    return [name for name in methods if name not in UNCLUSTERED]


def clusterer(name: str, n_clusters: int, n_iter: int, seed: int) -> Clusterer:
    """Return the clusterer of a method, which goes on from its last fit at each refresh.

    Parameters
    ----------
    name : str
        "gc", the paper's; "gc-rankR", with the best centres of rank R a block; "exact", alternating about exact
        means; "exchange"; "sketched", exchange on sketches; "sketched-driftX", with drift X.
    n_clusters : int
    n_iter : int
        Iterations of the alternating ones; exchange makes at most 20 sweeps.
    seed : int

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if name == "gc":
        return GradientClustering(n_clusters, n_iter=n_iter, seed=seed, warm_start=True)
    if found := _RANK.fullmatch(name):
        return GradientClustering(
            n_clusters, center="svd", rank=int(found[1]), n_iter=n_iter, seed=seed, warm_start=True
        )
    if name == "exact":
        return ExactClustering(n_clusters, n_iter=n_iter, seed=seed, warm_start=True)
    if name == "exchange":
        return ExactClustering(n_clusters, update="exchange", n_iter=SWEEPS, seed=seed, warm_start=True)
    found = _DRIFT.fullmatch(name)
    if name == "sketched" or found:
        drift = float(found[1]) if found else 0.0
        return SketchedClustering(n_clusters, drift=drift, n_iter=SWEEPS, seed=seed, check_dim=0, warm_start=True)
    raise ValueError(f"methods={name!r} is unknown; choose from {KNOWN}, R a whole number, X a decimal one")
