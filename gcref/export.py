"""Results files for pandas, R and xarray: CSV, Parquet and netCDF, from the tables of `gcref.tables`."""

import csv
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gcref.atomic import replacing, writing
from gcref.tables import Results, cube, tidy

NEEDS = {"csv": None, "parquet": "pyarrow", "xarray": "xarray"}


def write(results: Results, out: Path, form: str) -> tuple[int, ...]:
    """Write a results file in another form, whole or not at all; a file that is there is replaced.

    Parameters
    ----------
    results : gcref.tables.Results
    out : Path
    form : {"csv", "parquet", "xarray"}
        The tidy table as text (an empty cell is NaN), or as Parquet, which needs pyarrow; or netCDF for
        ``xarray.open_dataset``, which needs xarray, with the dimensions trajectory, iteration and method. Parquet and
        netCDF carry the file's own attributes, config and command among them.

    Returns
    -------
    tuple of int
        The table's rows and columns, or the sizes of the three dimensions.

    Raises
    ------
    ValueError
        If the form is unknown, or the package that it needs is not installed.
    gcref.store.StoreError
        If there is no trajectory yet.
    OSError
        If the file cannot be written.
    """
    if form not in NEEDS:
        raise ValueError(f"form={form!r}; one of {', '.join(NEEDS)} is expected")
    package = needed(form)
    writer: Callable[[Results, Path], tuple[int, ...]]
    if package is None:
        writer = _write_csv
    elif form == "parquet":
        writer = _write_parquet
    else:
        writer = _write_netcdf
    with writing(out), replacing(out) as aside:
        return writer(results, aside)


def needed(form: str) -> ModuleType | None:
    """Import the package that a form needs, if any.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    name = NEEDS[form]
    try:
        return None if name is None else import_module(name)
    except ImportError:
        raise ValueError(f"{form} needs the package {name}: pip install 'gcref[export]'") from None


def _write_csv(results: Results, path: Path) -> tuple[int, int]:
    """Write the tidy table as text, each number with as many digits as it takes to read it back exactly."""
    columns = tidy(results)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*map(_cells, columns.values()), strict=True))
    return len(next(iter(columns.values()))), len(columns)


def _cells(column: np.ndarray) -> list[Any]:
    """Return what the cells of a column hold; nothing where there is no number."""
    if column.dtype.kind != "f":
        return column.tolist()
    return ["" if np.isnan(value) else value for value in column.tolist()]


def _write_parquet(results: Results, path: Path) -> tuple[int, int]:
    """Write the tidy table for pandas.read_parquet; the file's attributes are the schema's metadata "gcref"."""
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    table = pyarrow.table({name: pyarrow.array(column) for name, column in tidy(results).items()})
    table = table.replace_schema_metadata({"gcref": json.dumps(results.attrs)})
    with open(path, "wb") as file:
        parquet.write_table(table, file)
    return table.num_rows, table.num_columns


def _write_netcdf(results: Results, path: Path) -> tuple[int, ...]:
    """Write the arrays over named dimensions: by h5netcdf where it is installed, else by SciPy as netCDF 3."""
    xarray = import_module("xarray")
    variables, coordinates = cube(results)
    attrs = {name: int(value) if isinstance(value, bool) else value for name, value in results.attrs.items()}
    dataset = xarray.Dataset(variables, coordinates, attrs)
    try:
        engine = import_module("h5netcdf").__name__
    except ImportError:
        engine = "scipy"
    dataset.to_netcdf(path, engine=engine)
    return tuple(dataset.sizes.values())
