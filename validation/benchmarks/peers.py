"""The libraries that gcref is timed beside, where they are installed."""

import importlib.metadata
from collections.abc import Iterable

# Each peer, with the packages it takes; the first one's version is shown.
PEERS = {
    "torch": ("torch",),
    "backpack": ("backpack-for-pytorch", "torch"),
    "opacus": ("opacus", "torch"),
    "scikit-learn": ("scikit-learn",),
}

# What stands for the authors' code, which is not run: it needs Python 2.7.
CITATIONS = (
    "cited, not measured here: the authors' code takes 3.7 epochs for an iteration of GC on the MLP (stated with this "
    "project's targets; its machine is not known)",
)


def check_names(names: Iterable[str]) -> list[str]:
    """Return peers without repetition, in the order of `PEERS`; ["none"] is no peer.

    Raises
    ------
    ValueError
        If one is unknown.
    """
    asked = set(names)
    for name in sorted(asked - PEERS.keys() - {"none"}):
        raise ValueError(f"peers: {name!r} is unknown; choose from {', '.join(PEERS)}, or none")
    return [name for name in PEERS if name in asked]


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each peer, None where it is not installed."""
    return {name: _version(PEERS[name]) for name in names}


def _version(packages: tuple[str, ...]) -> str | None:
    """Return the first package's version if all are installed."""
    try:
        first, *_ = [importlib.metadata.version(package) for package in packages]
    except importlib.metadata.PackageNotFoundError:
        return None
    return first
