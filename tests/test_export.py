import csv
import json
import sys

import numpy as np
import pytest
from results_cases import diverged_file, image_file, sweep_file

from gcref.export import write
from gcref.tables import read_results, tidy


@pytest.fixture(scope="module", params=[sweep_file, image_file])
def results(request, tmp_path_factory):
    return read_results(request.param(tmp_path_factory.mktemp("results")))


def test_csv_is_read_back_exactly(results, tmp_path):
    columns = tidy(results)
    assert write(results, tmp_path / "t.csv", "csv") == (len(columns["method"]), len(columns))
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == list(columns)
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        column = columns[name]
        np.testing.assert_array_equal(np.array(cells).astype(column.dtype), column)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_an_empty_cell_is_nan(tmp_path):
    write(read_results(diverged_file(tmp_path / "d.h5")), tmp_path / "t.csv", "csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["variance"] for row in rows] == ["1.0", "2.0", "", "4.0", "8.0"]


def test_pandas_reads_csv_and_parquet(results, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    columns = tidy(results)
    assert write(results, tmp_path / "t.parquet", "parquet") == (len(columns["method"]), len(columns))
    write(results, tmp_path / "t.csv", "csv")
    for frame in (pandas.read_parquet(tmp_path / "t.parquet"), pandas.read_csv(tmp_path / "t.csv")):
        assert list(frame.columns) == list(columns)
        for name, column in columns.items():
            np.testing.assert_array_equal(frame[name].to_numpy().astype(column.dtype), column)


def test_parquet_carries_the_configuration(results, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(results, tmp_path / "t.parquet", "parquet")
    attrs = json.loads(parquet.read_schema(tmp_path / "t.parquet").metadata[b"gcref"])
    assert json.loads(attrs["config"]) == results.config
    assert attrs["digest"] == results.attrs["digest"]


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_xarray_has_the_numbers_of_the_table(results, tmp_path, monkeypatch, engine):
    xarray = pytest.importorskip("xarray")
    if engine == "scipy":
        monkeypatch.setitem(sys.modules, "h5netcdf", None)
    else:
        pytest.importorskip("h5netcdf")
    columns = tidy(results)
    shape = write(results, tmp_path / "t.nc", "xarray")
    with xarray.open_dataset(tmp_path / "t.nc", engine=engine) as dataset:
        assert dict(dataset.sizes) == dict(zip(("trajectory", "iteration", "method"), shape, strict=True))
        for row in range(0, len(columns["method"]), 3):
            place = {name: columns[name][row] for name in ("trajectory", "iteration", "method")}
            for name in set(columns) - set(place):
                where = {key: value for key, value in place.items() if key in dataset[name].dims}
                assert dataset[name].sel(where).item() == columns[name][row], name
        assert json.loads(dataset.attrs["config"]) == results.config
    assert [path.name for path in tmp_path.iterdir()] == ["t.nc"]


@pytest.mark.parametrize(("form", "package"), [("parquet", "pyarrow"), ("xarray", "xarray")])
def test_a_package_that_is_not_there(results, tmp_path, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{form} needs the package {package}: pip install 'gcref\[export\]'"):
        write(results, tmp_path / "t", form)
    assert not list(tmp_path.iterdir())


def test_an_unknown_form(results, tmp_path):
    with pytest.raises(ValueError, match="form='json'; one of csv, parquet, xarray is expected"):
        write(results, tmp_path / "t", "json")


def test_a_folder_that_is_not_there(results, tmp_path):
    with pytest.raises(OSError, match=r"t\.csv cannot be written: No such file or directory"):
        write(results, tmp_path / "none" / "t.csv", "csv")
