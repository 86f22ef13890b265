import h5py
import numpy as np
import pytest
from results_cases import RUN, SWEEP, diverged_file, image_file, sweep_file, unfinished_file

from gcref.store import StoreError
from gcref.tables import course, cube, read_results, tidy


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return sweep_file(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return image_file(tmp_path_factory.mktemp("image"))


def test_what_a_sweep_holds(sweep):
    results = read_results(sweep)
    assert [t.name for t in results.trajectories] == [spec.id for spec in SWEEP.specs()]
    assert results.study == "rf-sweep/1"
    assert results.methods == ["gc", "sgb"]  # the configuration's order
    assert results.n_snapshots == 4 * 3
    assert results.attrs["complete"] is True
    assert results.config["learning_rate"] == [0.1, 0.3]


def test_a_sweep_row_by_row(sweep):
    columns = tidy(read_results(sweep))
    assert list(columns) == [
        "trajectory", "status", "learning_rate", "overparametrization", "n_train", "input_dim", "teacher_hidden",
        "duplicate_fraction", "seed", "iteration", "method", "variance", "normalized_variance", "noise_scale",
        "train_loss", "train_accuracy",
    ]  # fmt: skip
    assert {len(column) for column in columns.values()} == {4 * 5 * 2}
    row = 0
    with h5py.File(sweep) as file:
        for spec in SWEEP.specs():
            group = file["trajectories"][spec.id]
            for i in range(5):
                for method in ("gc", "sgb"):
                    found = {name: column[row] for name, column in columns.items()}
                    assert found["trajectory"] == spec.id
                    assert (found["iteration"], found["method"], found["status"]) == (10 * i, method, "complete")
                    for name in ("learning_rate", "overparametrization", "input_dim", "teacher_hidden", "seed"):
                        assert found[name] == getattr(spec, name)
                    assert found["n_train"] == group.attrs["n_train"]
                    for name in ("variance", "normalized_variance"):
                        assert found[name] == group[f"{name}/{method}"][i]
                    for name in ("noise_scale", "train_loss", "train_accuracy"):
                        assert found[name] == group[name][i]
                    row += 1


def test_an_image_run_row_by_row(image):
    columns = tidy(read_results(image))
    assert columns["method"].tolist() == ["sgb", "sg2b", "svrg", "gc"] * 5
    assert columns["iteration"].tolist() == np.repeat([0, 15, 30, 45, 60], 4).tolist()
    assert set(columns["learning_rate"]) == {0.05}
    assert columns["current_learning_rate"][::4].tolist() == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.005])
    with h5py.File(image) as file:
        group = file["trajectories"][RUN.id]
        for name in ("test_loss", "test_accuracy", "train_loss"):
            np.testing.assert_array_equal(columns[name][3::4], group[name][()])
        np.testing.assert_array_equal(columns["variance"][2::4], group["variance/svrg"][()])
        assert columns["n_parameters"][0] == group.attrs["n_parameters"]


@pytest.mark.parametrize("which", ["sweep", "image"])
def test_the_cube_holds_the_numbers_of_the_table(which, request):
    results = read_results(request.getfixturevalue(which))
    columns, (variables, coordinates) = tidy(results), cube(results)
    trajectory, iteration, method = (coordinates[name][1] for name in ("trajectory", "iteration", "method"))
    assert all(coordinates[name][0] == name for name in ("trajectory", "iteration", "method"))
    place = [
        np.searchsorted(trajectory, columns["trajectory"], sorter=np.argsort(trajectory)),
        np.searchsorted(iteration, columns["iteration"]),
        np.array([method.tolist().index(name) for name in columns["method"]]),
    ]
    place[0] = np.argsort(trajectory)[place[0]]
    assert set(variables) | set(coordinates) == set(columns)
    for name, (dimensions, values) in variables.items():
        assert dimensions == ("trajectory", "iteration", "method")[: values.ndim]
        np.testing.assert_array_equal(values[tuple(place[: values.ndim])], columns[name])
    for name in set(coordinates) - {"trajectory", "iteration", "method"}:
        assert coordinates[name][0] == "trajectory"
        np.testing.assert_array_equal(coordinates[name][1][place[0]], columns[name])


def test_what_diverged(tmp_path):
    results = read_results(diverged_file(tmp_path / "diverged.h5"))
    columns, (variables, coordinates) = tidy(results), cube(results)
    np.testing.assert_array_equal(columns["variance"], [1, 2, np.nan, 4, 8])
    np.testing.assert_array_equal(columns["noise_scale"], [100, 200, np.nan, 400, 800])
    assert columns["trajectory"].tolist() == ["a"] * 3 + ["b"] * 2
    np.testing.assert_array_equal(variables["variance"][1][..., 0], [[1, 2, np.nan], [4, 8, np.nan]])
    assert coordinates["iteration"][1].tolist() == [0, 10, 20]


def test_an_unfinished_run(tmp_path):
    columns = tidy(read_results(unfinished_file(tmp_path)))
    assert set(columns["status"]) == {"unfinished"}
    assert columns["iteration"][::4].tolist() == [0, 15, 30]


def test_course_leaves_out_what_is_not_finite():
    found = course([np.array([1.0, np.nan, np.nan]), np.array([3.0, 4.0, np.inf])])
    np.testing.assert_array_equal(found, [2.0, 4.0, np.nan])


def spoil(file):
    """Ways to make a file useless, and what is said of each."""
    group = file["trajectories/a"]
    yield "status", lambda: group.attrs.pop("status"), "trajectory a has no usable attribute status"
    yield "kind", lambda: group.attrs.update(seed="x"), "trajectory b has no usable attribute seed"
    yield "array", lambda: group.attrs.update(seed=[1, 2]), "trajectory a has no usable attribute seed"
    yield (
        "length",
        lambda: replace(group, "noise_scale", np.ones(2)),
        "noise_scale of trajectory a has 2 numbers, not 3",
    )
    yield "text", lambda: replace(group, "variance/sgb", np.array([b"a", b"b", b"c"])), "must be a series of numbers"
    yield "shape", lambda: replace(group, "iteration", np.zeros((3, 1), int)), "must be a series of numbers"
    yield "scalar", lambda: replace(group, "noise_scale", 3.0), "must be a series of numbers"
    yield "method", lambda: group.create_dataset("variance/gc", data=np.ones(3)), "trajectory a has other series than a"
    yield "series", lambda: group.pop("noise_scale"), "trajectory b has other series than a"
    yield "gone", lambda: group.pop("iteration"), "is damaged"
    yield "no group", lambda: replace(group, "variance", 1.0), "is damaged"
    yield "root", lambda: file.attrs.update(command=[1, 2]), "is damaged: its attribute command is of type ndarray"
    yield "config", lambda: file.attrs.update(config='{"schema": "toy/1"}'), "rf-sweep/1 or image/1 is expected"


def replace(group, name, value):
    del group[name]
    group[name] = value


@pytest.mark.parametrize("case", range(13))
def test_a_file_that_does_not_go_together(tmp_path, case):
    path = diverged_file(tmp_path / "diverged.h5")
    with h5py.File(path, "a") as file:
        _, damage, message = list(spoil(file))[case]
        damage()
    with pytest.raises(StoreError, match=message) as error:
        read_results(path)
    assert str(path) in str(error.value)


def test_every_way_to_spoil_a_file_is_tried(tmp_path):
    with h5py.File(diverged_file(tmp_path / "diverged.h5"), "a") as file:
        assert len(list(spoil(file))) == 13


def test_no_trajectory_yet(tmp_path):
    path = diverged_file(tmp_path / "empty.h5")
    with h5py.File(path, "a") as file:
        del file["trajectories/a"], file["trajectories/b"]
    results = read_results(path)
    for table in (tidy, cube):
        with pytest.raises(StoreError, match="has no trajectory yet"):
            table(results)
