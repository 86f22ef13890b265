"""What is done to a training set (label noise, duplicates, a subset) and to a batch (crop and flip)."""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from gcref.data.dataset import Dataset
from gcref.data.images import ImageArray


def corrupt_labels(ds: Dataset, share: float, n_classes: int, seed: int | np.random.SeedSequence) -> Dataset:
    """Give a random share of the examples a wrong label (Fig. 6 of the paper: 10 %).

    Parameters
    ----------
    ds : Dataset
        Its N labels are below `n_classes`.
    share : float
        From 0 to 1; exactly ⌊share·N⌋ examples, chosen without replacement, are changed.
    n_classes : int
        Each changed label is uniform among the `n_classes` − 1 others, so none keeps its own by chance.
    seed : int or SeedSequence
        First the examples are drawn, then their labels.

    Returns
    -------
    Dataset
        x is shared with `ds`; y is a new array of int64.

    Raises
    ------
    ValueError
        If share is outside [0, 1], or n_classes is below 2 or not above every label.
    TypeError
        If an argument is not of its type.
    """
    n_changed = _part_of(share, len(ds))
    _check_integer("n_classes", n_classes, 2)
    if ds.y.max() >= n_classes:
        raise ValueError(f"n_classes is {n_classes} but ds has the label {ds.y.max()}; labels below it are expected")
    if not isinstance(seed, np.random.SeedSequence):
        _check_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    changed = rng.choice(len(ds), n_changed, replace=False)
    labels = ds.y.astype(np.int64)
    labels[changed] = (labels[changed] + rng.integers(1, n_classes, n_changed)) % n_classes
    return Dataset(ds.x, labels)


def duplicate(ds: Dataset, share: float, n_originals: int = 5) -> Dataset:
    """Replace the end of the data set by copies of its first examples (section 4.3 of the paper, Fig. 7).

    Parameters
    ----------
    ds : Dataset
        N examples; the result has as many.
    share : float
        From 0 to 1; the last ⌊share·N⌋ examples are replaced, labels too.
    n_originals : int
        Copies of examples 0 … n_originals − 1, in turn; these themselves stay.

    Returns
    -------
    Dataset
        If ds.x is an ImageArray, one of the same pixels.

    Raises
    ------
    ValueError
        If share is outside [0, 1] or leaves fewer than `n_originals` examples, or n_originals is below 1.
    TypeError
        If an argument is not of its type.
    """
    n_copies = _part_of(share, len(ds))
    _check_integer("n_originals", n_originals, 1)
    n_kept = len(ds) - n_copies
    if n_kept < n_originals:
        raise ValueError(
            f"share is {share}: it leaves {n_kept} of {len(ds)} examples, fewer than n_originals = {n_originals}"
        )
    return _chosen(ds, np.concatenate([np.arange(n_kept), np.arange(n_copies) % n_originals]))


def subset(ds: Dataset, n: int, spread: bool = False) -> Dataset:
    """Return n examples: the first ones, without a copy, or such as lie evenly spread.

    Parameters
    ----------
    ds : Dataset
    n : int
    spread : bool
        Whether to take examples ⌊i·N/n⌋, which of a data set sorted by class are a share of every class.

    Raises
    ------
    ValueError
        If n is not from 1 to N.
    TypeError
        If n is not an integer.
    """
    _check_integer("n", n, 1)
    if n > len(ds):
        raise ValueError(f"n is {n}; ds has only {len(ds)} examples")
    return _chosen(ds, np.arange(n) * len(ds) // n if spread and n < len(ds) else slice(0, n))


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips of a batch, each example its own.

    Parameters
    ----------
    padding : int
        Zeros put on each side before a crop of the original size is taken; 0 for no crop. Zero is black in
        pixels from 0 to 1 and the channel's mean in standardized ones.
    flip : bool
        Whether each example is mirrored left to right with probability ½.

    Raises
    ------
    ValueError, TypeError
        If padding is negative or an argument is not of its type.

    Examples
    --------
    >>> import numpy as np
    >>> from gcref.data import Augmentation
    >>> Augmentation(padding=1)(np.ones((2, 3, 3, 1)), np.random.default_rng(0)).shape
    (2, 3, 3, 1)
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        _check_integer("padding", self.padding, 0)
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip is {self.flip!r}; True or False is expected")

    def __call__(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        """Return an augmented copy of a batch.

        Parameters
        ----------
        x : ndarray, shape (B, H, W, C)
            The batch; it is not changed.
        rng : Generator
            Draws first the crops, ``integers(0, 2·padding + 1, (B, 2))``, top and left of each example in the
            padded image, then the flips, ``random((B, 1)) < 0.5``; nothing for what is turned off.

        Returns
        -------
        ndarray, shape (B, H, W, C), of the type of x

        Raises
        ------
        ValueError
            If x has not four axes.
        """
        x = np.asarray(x)
        if x.ndim != 4:
            raise ValueError(f"x has shape {x.shape}; (B, H, W, C) is expected")
        n, height, width, _ = x.shape
        p = self.padding
        corner = rng.integers(0, 2 * p + 1, (n, 2)) if p else np.zeros((n, 2), np.int64)
        rows = corner[:, :1] + np.arange(height)
        columns = corner[:, 1:] + np.arange(width)
        if self.flip:
            columns = np.where(rng.random((n, 1)) < 0.5, columns[:, ::-1], columns)
        padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _chosen(ds: Dataset, rows: NDArray[np.intp] | slice) -> Dataset:
    """The examples of some rows, none of them read if they are in an ImageArray."""
    return Dataset(ds.x.select(rows) if isinstance(ds.x, ImageArray) else ds.x[rows], ds.y[rows])


def _part_of(share: float, n: int) -> int:
    """⌊share·n⌋ of the share as it is written: 0.29 of 100 is 29, though the nearest double to 0.29 is below it."""
    if isinstance(share, bool) or not isinstance(share, (int, float, np.integer, np.floating)):
        raise TypeError(f"share is {share!r}; a number from 0 to 1 is expected")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; a number from 0 to 1 is expected")
    return floor(Fraction(repr(float(share))) * n)


def _check_integer(name: str, value: int, lowest: int) -> None:
    """Raise unless `value` is an integer of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; an int is expected")
    if value < lowest:
        raise ValueError(f"{name} is {value}; at least {lowest} is expected")
