import json
import pickle

import numpy as np
import pytest

from gcref.studies.grid import METHODS, Sweep


def test_the_default_grid_is_the_papers():
    sweep = Sweep()
    specs = sweep.specs()
    assert len(specs) == 3 * 9 * 2 * 2 * 3 == 324
    assert len({spec.id for spec in specs}) == 324
    assert list(sweep.points) == list(range(0, 5001, 100))
    assert [i for i in sweep.points if sweep.refreshes(i)] == [0, 1000, 2000, 3000, 4000]
    assert specs[0].id == "lr0.001-ratio0.1-in100-teacher100-dup0-seed0"


def test_json_round_trip():
    sweep = Sweep(learning_rate=(0.1, 1 / 3), seed=(7,), head="logistic", duplicate_fraction=(0.5,))
    assert Sweep.from_json(sweep.to_json()) == sweep
    assert pickle.loads(pickle.dumps(sweep)) == sweep


def test_equal_grids_have_one_configuration():
    plain = Sweep(learning_rate=(1.0,), overparametrization=(1.0, 2.0), seed=(0, 1), weight_decay=0.0)
    others = (
        Sweep(learning_rate=(1,), overparametrization=[1, 2], seed=range(2), weight_decay=0),
        Sweep(np.array([1.0]), np.array([1, 2]), seed=np.arange(2), weight_decay=np.float64(0)),
    )
    for other in others:
        assert other == plain
        assert other.to_json() == plain.to_json()
        assert [s.id for s in other.specs()] == [s.id for s in plain.specs()]


def test_numbers_alike_to_six_digits_are_other_trajectories():
    sweep = Sweep(learning_rate=(0.12345678, 0.12345679), overparametrization=(1.0000001, 1.0))
    assert len({spec.id for spec in sweep.specs()}) == len(sweep.specs())


def test_the_longest_id_fits_the_table():
    number = 1.2345678901234567e-300
    sweep = Sweep(
        learning_rate=(number,),
        overparametrization=(1.2345678901234567,),
        duplicate_fraction=(number,),
        input_dim=(10**9,),
        teacher_hidden=(10**9,),
        seed=(10**9,),
    )
    from gcref.store import SUMMARY_DTYPE

    assert len(sweep.specs()[0].id) < SUMMARY_DTYPE["trajectory"].itemsize


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *((name, values) for name in ("learning_rate", "overparametrization") for values in ((0.0,), (-1.0,))),
        ("learning_rate", (float("nan"),)),
        ("learning_rate", (float("inf"),)),
        ("learning_rate", ()),
        ("learning_rate", (0.1, 0.1)),
        ("input_dim", (0,)),
        ("teacher_hidden", (-3,)),
        ("seed", (-1,)),
        ("seed", (1, 1)),
        ("duplicate_fraction", (1.0,)),
        ("duplicate_fraction", (-0.1,)),
        ("duplicate_fraction", (float("nan"),)),
        ("duplicate_fraction", (0.99,)),
        ("overparametrization", (1001.0,)),
        ("overparametrization", (51.0,)),
        ("overparametrization", (1e-7,)),
        ("overparametrization", (1.0, 5e-324)),
        ("methods", ("sgd",)),
        ("methods", ()),
        ("batch_size", 0),
        ("batch_size", 51),
        ("iterations", 0),
        ("iterations", 5050),
        ("measure_every", 0),
        ("measure_every", 300),
        ("refresh_every", 150),
        ("gc_iterations", 0),
        ("student_hidden", 0),
        ("weight_decay", -1e-4),
        ("weight_decay", float("nan")),
        ("head", "hinge"),
        ("student_init", "he"),
        ("precision", "float16"),
        ("snapshots", "none"),
    ],
)
def test_bad_values_are_named(argument, value):
    with pytest.raises(ValueError, match=argument if argument not in {"iterations"} else "iterations") as error:
        Sweep(**{argument: value})
    shown = value[-1] if isinstance(value, tuple) and value else value
    assert "\n" not in str(error.value)
    assert value == () or f"{shown:g}" in str(error.value) if isinstance(shown, float | int) else True


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("learning_rate", 0.1),
        ("learning_rate", "0.1"),
        ("learning_rate", ("0.1",)),
        ("seed", (0.5,)),
        ("seed", (True,)),
        ("methods", "gc"),
        ("iterations", 100.0),
        ("weight_decay", "0"),
    ],
)
def test_bad_types_are_named(argument, value):
    with pytest.raises(TypeError, match=argument):
        Sweep(**{argument: value})


def test_sg2b_needs_twice_the_batch_and_the_others_do_not():
    with pytest.raises(ValueError, match=r"N=15 .*20"):
        Sweep(overparametrization=(65.0,))
    assert Sweep(overparametrization=(65.0,), methods=("sgb", "svrg", "gc")).methods == ("sgb", "svrg", "gc")


@pytest.mark.parametrize(
    "change",
    [{"schema": "rf-sweep/2"}, {"learning_rate": 3}, {"learning_rate": ["a"]}, {"extra": 1}, {"head": None}],
)
def test_foreign_configurations_are_refused(change):
    values = json.loads(Sweep().to_json()) | change
    with pytest.raises(ValueError, match=r"config|head"):
        Sweep.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", "[" * 200_000, f'{{"seed": {"9" * 5000}}}'])
def test_no_configuration_at_all_is_refused(text):
    with pytest.raises(ValueError, match=r"config|Expecting"):
        Sweep.from_json(text)


def test_a_missing_field_is_refused():
    values = json.loads(Sweep().to_json())
    del values["precision"]
    with pytest.raises(ValueError, match="precision"):
        Sweep.from_json(json.dumps(values))


def test_each_figure_starts_as_it_was_published():
    sweep = Sweep(duplicate_fraction=(0.0, 0.5))
    starts = {spec.duplicate_fraction: sweep.init_of(spec) for spec in sweep.specs()}
    assert starts == {0.0: "unit", 0.5: "uniform"}
    assert {Sweep(student_init="unit", duplicate_fraction=(0.5,)).init_of(s) for s in sweep.specs()} == {"unit"}
    assert METHODS == ("sgb", "sg2b", "svrg", "gc")
