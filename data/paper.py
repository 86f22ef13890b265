"""Numbers read off the paper's figures of the random-features study."""

import csv
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

_METHODS = {"SG-B": "sgb", "SG-2B": "sg2b", "SVRG": "svrg", "GC": "gc"}
_DTYPE = np.dtype(
    [
        ("figure_cell", np.int64),
        ("learning_rate", np.float64),
        ("duplicate_fraction", np.float64),
        ("statistic", "U19"),
        ("aggregate", "U6"),
        ("method", "U4"),
        ("overparametrization", np.float64),
        ("value", np.float64),
        ("err_low", np.float64),
        ("err_high", np.float64),
        ("read_halfwidth", np.float64),
    ]
)


def reference() -> NDArray[Any]:
    """Points digitised from the figures of the random-features study (Figs. 4b, 5b, 8b and 9b).

    Returns
    -------
    ndarray, shape (216,), structured
        A row for each marker. ``figure_cell`` : the cell of the authors' notebook; ``learning_rate``;
        ``duplicate_fraction`` : 0 where there are no duplicates; ``statistic`` : "variance" (average over the
        coordinates, squared gradient units) or "normalized_variance" (no unit); ``aggregate`` : "mean70" or
        "max70", over the last 70 % of the measurements; ``method`` : "sgb", "sg2b", "svrg" or "gc";
        ``overparametrization`` : nominal h_s/N; ``value`` : the marker; ``err_low``, ``err_high`` : the ends
        of its error bar, mean minus and plus one standard deviation over 3 seeds, 2 input dimensions and
        2 teachers, NaN where the end is outside the paper's axis; ``read_halfwidth`` : the reading error, in
        log10 of the value for the variance and absolute for the normalized variance.

    Notes
    -----
    The authors estimated every variance by Monte Carlo from 10 draws: their maxima lie above the exact
    ones, and their normalized variance can exceed 1.
    """
    text = resources.files("gcref.data").joinpath("rf_variance.csv").read_text(encoding="utf-8")
    return np.array([_row(row) for row in csv.DictReader(text.splitlines())], dtype=_DTYPE)


def _row(row: dict[str, str]) -> tuple[Any, ...]:
    """Read one line of the file, in the order of the fields."""
    return (
        int(row["figure_cell"]),
        float(row["lr"]),
        float(row["duplicate_fraction"]),
        row["statistic"],
        row["aggregate"],
        _METHODS[row["method"]],
        float(row["hs_over_N"]),
        float(row["value"]),
        float(row["err_low"] or "nan"),
        float(row["err_high"] or "nan"),
        float(row["read_halfwidth"]),
    )
