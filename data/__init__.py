"""Data sets, and the paper's own numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcref.data.dataset import Dataset
    from gcref.data.paper import reference

_HOME = {"Dataset": "gcref.data.dataset", "reference": "gcref.data.paper"}

__all__ = ["Dataset", "reference"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'gcref.data' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
