"""The estimators of the studies by name: the paper's four, and further clusterings of the gradients."""

import os
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
OF_ALL = frozenset({"exact", "exchange"})  # these keep all gradients, or all their inner products

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


def check_memory(methods: Sequence[str], n_examples: int, n_parameters: int) -> None:
    """Refuse methods that would keep more than this machine's memory: all gradients, or all their inner products.

    Raises
    ------
    ValueError
        Naming the method, what it needs and what there is.
    """
    there = _memory()
    # They, or their inner products in float64, and working copies.
    needed = 3 * n_examples * min(8 * n_examples, 4 * n_parameters)
    for name in methods:
        if name in OF_ALL and needed > there:
            raise ValueError(
                f"method {name} needs about {needed / 2**30:.0f} GiB for {n_examples} examples of {n_parameters} "
                f"parameters; this machine has {there / 2**30:.0f} GiB; sketched needs little"
            )


def _memory() -> float:
    """Return the bytes of this machine's memory; infinity where it cannot be asked."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")


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
