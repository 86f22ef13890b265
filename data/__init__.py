"""Data sets, what is done to them before training, and the paper's own numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcref.data.channels import channel_statistics, standardized
    from gcref.data.dataset import Dataset
    from gcref.data.images import ImageArray
    from gcref.data.loading import load
    from gcref.data.paper import reference
    from gcref.data.places import DataError
    from gcref.data.transforms import Augmentation, corrupt_labels, duplicate, subset

_HOME = {
    "Augmentation": "gcref.data.transforms",
    "DataError": "gcref.data.places",
    "Dataset": "gcref.data.dataset",
    "ImageArray": "gcref.data.images",
    "channel_statistics": "gcref.data.channels",
    "corrupt_labels": "gcref.data.transforms",
    "duplicate": "gcref.data.transforms",
    "load": "gcref.data.loading",
    "reference": "gcref.data.paper",
    "standardized": "gcref.data.channels",
    "subset": "gcref.data.transforms",
}

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "ImageArray",
    "channel_statistics",
    "corrupt_labels",
    "duplicate",
    "load",
    "reference",
    "standardized",
    "subset",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'gcref.data' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
