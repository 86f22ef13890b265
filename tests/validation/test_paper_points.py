import h5py
import numpy as np
import pytest

from gcref import store
from gcref.data import reference
from gcref.validation import paper_points

NORMALIZED = (0.5, 0.6)


def paper_table(change=lambda point, value: value, seeds=(0,)):
    """A summary whose variances are the digitised ones, each put through `change`."""
    cells = {}
    for point in reference():
        if point["statistic"] == "variance":
            key = (str(point["method"]), point["duplicate_fraction"], point["overparametrization"])
            cells.setdefault(key, {})[str(point["aggregate"])] = change(point, point["value"])
    rows = [
        (f"ratio{x:g}-dup{fraction:g}-seed{seed}", method, 0.01, x, 1000, 100, 100, seed, fraction,
         values["mean70"], values["max70"], *NORMALIZED)
        for (method, fraction, x), values in cells.items()
        for seed in seeds
    ]  # fmt: skip
    return np.array(rows, store.SUMMARY_DTYPE)


def write(path, summary):
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = store.SCHEMA
        file["summary"] = summary
        file.create_group("trajectories")
    return path


@pytest.fixture
def compare(tmp_path):
    def compare_tables(*summaries):
        return paper_points.compare([write(tmp_path / f"{i}.h5", table) for i, table in enumerate(summaries)])

    return compare_tables


def test_the_papers_own_numbers_are_at_distance_0(compare):
    table = paper_table()
    found = paper_points.log_ratios(table)
    assert len(found) == sum(point["statistic"] == "variance" for point in reference()) == 144
    assert (found["log10_ratio"] == 0).all()
    text, passed = compare(table)
    assert passed
    lines = text.splitlines()
    assert [line.split(", ", 1)[0] for line in lines[1:5]] == ["duplicates 0%"] * 2 + ["duplicates 50%"] * 2
    assert [line.split()[-5:] for line in lines[1:5]] == [
        [n, "0.000", "0.000", "0.000", "100%"] for n in ("54", "18", "54", "18")
    ]
    assert lines[5] == "PASS: 100.0% of SG-B, SG-2B, GC within 0.3, expected 90%"


def test_every_point_is_compared_with_its_own_cell():
    sign = {"sgb": 1, "sg2b": 2, "svrg": 3, "gc": 4}

    def shift(point):
        return sign[str(point["method"])] + 0.1 * point["overparametrization"] + 10 * point["duplicate_fraction"]

    found = paper_points.log_ratios(
        paper_table(lambda point, value: value * 10 ** (shift(point) * (1 if point["aggregate"] == "mean70" else -1)))
    )
    for row in found:
        expected = shift(row) * (1 if row["aggregate"] == "mean70" else -1)
        assert row["log10_ratio"] == pytest.approx(expected, abs=1e-13)
    assert len({tuple(row.tolist()[:4]) for row in found}) == 144


@pytest.mark.parametrize(
    ("factor", "expected"), [(3, False), (1 / 3, False), (2, False), (1.99, True), (1 / 1.99, True)]
)
def test_a_factor_for_all(compare, factor, expected):
    text, passed = compare(paper_table(lambda point, value: factor * value))
    assert passed is expected
    assert f"{abs(np.log10(factor)):.3f}" in text.splitlines()[1]
    assert text.splitlines()[-1].startswith("PASS: 100.0% of" if expected else "FAIL: 0.0% of")


@pytest.mark.parametrize(("n_off", "verdict"), [(10, "PASS: 90.7%"), (11, "FAIL: 89.8%")])
def test_nine_in_ten_points_must_be_near(compare, n_off, verdict):
    off = [point.tolist() for point in reference() if point["statistic"] == "variance" and point["method"] != "svrg"]
    off = off[:n_off]
    text, passed = compare(paper_table(lambda point, value: 3 * value if point.tolist() in off else value))
    assert text.splitlines()[-1].startswith(verdict)
    assert passed is (n_off == 10)


def test_svrg_is_shown_and_not_judged(compare):
    text, passed = compare(paper_table(lambda point, value: 3 * value if point["method"] == "svrg" else value))
    assert passed
    assert text.splitlines()[2].split()[-5:] == ["18", "0.477", "0.477", "0.477", "0%"]


def test_the_mean_over_trajectories_is_compared_and_diverged_ones_are_left_out():
    table = paper_table(seeds=(0, 1, 2, 3))
    for name in ("variance_mean70", "variance_max70"):
        table[name] *= np.choose(table["seed"], [0.5, 1.0, 7.5, np.nan])
    np.testing.assert_allclose(paper_points.log_ratios(table)["log10_ratio"], np.log10(3), rtol=1e-13)


def test_points_that_all_diverged_are_not_compared():
    table = paper_table()
    table["variance_mean70"][table["overparametrization"] == 0.1] = np.nan
    found = paper_points.log_ratios(table)
    assert len(found) == 144 - 8
    assert set(found["aggregate"][found["overparametrization"] == 0.1]) == {"max70"}


def test_a_variance_of_exactly_zero_is_far_from_the_paper(compare):
    text, passed = compare(paper_table(lambda point, value: 0.0))
    assert not passed
    assert text.splitlines()[-1].startswith("FAIL: 0.0%")


def test_two_files_are_one_comparison_and_no_point_counts_twice(compare):
    table = paper_table()
    copies = table["duplicate_fraction"] > 0
    assert compare(table[~copies], table[copies]) == compare(table) == compare(table, table)


@pytest.mark.parametrize("field", ["learning_rate", "overparametrization", "duplicate_fraction"])
def test_a_file_without_a_point_of_the_paper_fails_and_says_so(compare, field):
    table = paper_table()
    table[field] = 0.07
    assert len(paper_points.log_ratios(table)) == 0
    text, passed = compare(table)
    assert not passed
    assert text.splitlines()[1:] == ["FAIL: no digitised point in the files, expected 90%"]


@pytest.mark.parametrize(("kept", "line"), [(("svrg",), 1), (("gc", "sgb"), 2)])
def test_a_file_without_some_methods(compare, kept, line):
    table = paper_table()
    table = table[np.isin(table["method"], [name.encode() for name in kept])]
    text, passed = compare(table)
    assert text.splitlines()[line].split()[-1] == "0"
    assert passed is (len(kept) == 2)


def test_exit_codes(tmp_path, monkeypatch, capsys):
    def main(path):
        monkeypatch.setattr("sys.argv", ["paper_points", str(path)])
        return paper_points.main(), capsys.readouterr().out

    code, printed = main(write(tmp_path / "right.h5", paper_table()))
    assert (code, printed.splitlines()[-1][:4]) == (0, "PASS")
    code, printed = main(write(tmp_path / "wrong.h5", paper_table(lambda point, value: 3 * value)))
    assert (code, printed.splitlines()[-1][:4]) == (1, "FAIL")
    assert main(tmp_path / "none.h5") == (2, f"Error: {tmp_path / 'none.h5'}: no such file\n")
