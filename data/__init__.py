"""Data sets, and the paper's own numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcref.data.dataset import Dataset
    from gcref.data.reference import reference

_HOME = {"Dataset": "gcref.data.dataset", "reference": "gcref.data.reference"}

__all__ = ["Dataset", "reference"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'gcref.data' has no attribute {name!r}")
    # The function `reference` has the name of its module, which importing binds here first.
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
