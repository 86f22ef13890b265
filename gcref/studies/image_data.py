"""Data and model of an image study, made from its configuration alone."""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gcref import data
from gcref.data import Dataset
from gcref.engine import image_models, models
from gcref.engine.network import Network
from gcref.studies.image_run import ImageRun
from gcref.studies.teacher import floor_of, stream_seed


class ImageData(NamedTuple):
    """The training set as it is trained on, the test set, and how many classes there are."""

    train: Dataset
    test: Dataset
    n_classes: int
    digest: str


def prepare(run: ImageRun, data_dir: str | None = None) -> ImageData:
    """Load the data set, take a subset, corrupt labels, duplicate, and standardize by the training images.

    Parameters
    ----------
    run : ImageRun
    data_dir : path, optional
        Where the data set's files are; see `gcref.data.load`.

    Raises
    ------
    gcref.data.DataError
        If the files are missing or damaged.
    ValueError
        If there are too few examples for the batches, or the two splits do not fit together.
    """
    options = {"size": run.image_size, "skip_broken": run.skip_broken} if run.dataset == "imagefolder" else {}
    train = data.load(run.dataset, "train", data_dir, **options)
    test = data.load(run.dataset, "test", data_dir, **options)
    _check(run, train, test)
    n_classes = int(train.y.max()) + 1
    by_class = run.dataset == "imagefolder"  # a folder's images come sorted by class
    train = data.subset(train, run.n_examples or len(train), spread=by_class)
    test = data.subset(test, run.n_test_examples or len(test), spread=by_class)
    digest = _digest(train, test)
    if run.corrupt_fraction:
        train = data.corrupt_labels(train, run.corrupt_fraction, n_classes, stream_seed(run.seed, "corrupt labels"))
    if run.duplicate_fraction:
        train = data.duplicate(train, run.duplicate_fraction, run.n_originals)
    mean, std = data.channel_statistics(train.x)
    return ImageData(data.standardized(train, mean, std), data.standardized(test, mean, std), n_classes, digest)


class FarSet:
    """A training set that travels to a worker as the configuration from which it is made there.

    Attributes
    ----------
    x, y : as of the training set
    """

    def __init__(self, dataset: ImageData, run: ImageRun, data_dir: str | None) -> None:
        self.x, self.y = dataset.train.x, dataset.train.y
        self._made_from = run.to_json(), data_dir, dataset.digest

    def __reduce__(self) -> tuple[Any, tuple]:
        return _made_anew, self._made_from


@lru_cache(maxsize=1)
def _made_anew(config: str, data_dir: str | None, digest: str) -> FarSet:
    """Make a training set from its configuration, once in each worker."""
    run = ImageRun.from_json(config)
    dataset = prepare(run, data_dir)
    if dataset.digest != digest:
        raise data.DataError(f"the files of {run.dataset} here are others than those where the run was started")
    return FarSet(dataset, run, data_dir)


def build(run: ImageRun, dataset: ImageData) -> Network:
    """Return the model at its initial parameters."""
    shape, n_classes = dataset.train.x.shape[1:], dataset.n_classes
    common: dict[str, Any] = {"seed": run.seed, "dtype": run.precision, "label_smoothing": run.label_smoothing}
    if run.model == "linear":
        return models.linear(int(np.prod(shape)), n_classes, **common)
    if run.model == "mlp":
        return models.mlp((int(np.prod(shape)), *run.hidden, n_classes), **common)
    if run.norm != "default":
        common["norm"] = None if run.norm == "none" else "batch"
    if run.width:
        common["width"] = run.width
    return getattr(image_models, run.model)(shape, n_classes, **common)


def _check(run: ImageRun, train: Dataset, test: Dataset) -> None:
    """Refuse data that the run does not fit, before anything is computed."""
    if train.x.shape[1:] != test.x.shape[1:]:
        raise ValueError(
            f"dataset={run.dataset}: training images have shape {train.x.shape[1:]} but test images {test.x.shape[1:]}"
        )
    if test.y.max() > train.y.max():
        raise ValueError(
            f"dataset={run.dataset}: the test set has the label {test.y.max()}, the training set none above "
            f"{train.y.max()}"
        )
    for name, there in (("n_examples", len(train)), ("n_test_examples", len(test))):
        if getattr(run, name) > there:
            raise ValueError(f"{name}={getattr(run, name)} but {run.dataset} has only {there}")
    n = run.n_examples or len(train)
    needed = run.batch_size * (2 if "sg2b" in run.methods else 1)
    if n < needed:
        raise ValueError(
            f"dataset={run.dataset} gives N={n} training examples, fewer than the {needed} that "
            f"batch_size={run.batch_size} needs (K clusters need K examples, SG-2B twice the batch)"
        )
    if run.duplicate_fraction and n - floor_of(run.duplicate_fraction, n) < run.n_originals:
        raise ValueError(
            f"duplicate_fraction={run.duplicate_fraction} leaves fewer than n_originals={run.n_originals} of N={n}"
        )


def _digest(*splits: Dataset) -> str:
    """SHA-256 of images and labels as they were loaded, by which a file knows its data again."""
    sha = hashlib.sha256()
    for ds in splits:
        for start in range(0, len(ds), 1024):
            sha.update(ds.x[start : start + 1024].tobytes())
        sha.update(ds.y.tobytes())
    return sha.hexdigest()
