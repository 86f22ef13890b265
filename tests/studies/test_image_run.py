"""The configuration of an image study: the paper's own numbers, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from gcref.studies.image_run import PRESETS, ImageRun, preset

# Table 2 of the paper: data set, model, B, T, Log T, Estim T, U, GC T.
TABLE_2 = {
    "mnist": ("mnist", "mlp", 128, 50000, 500, 50, 2000, 10),
    "cifar10": ("cifar10", "resnet8", 128, 80000, 500, 50, 20000, 3),
    "cifar100": ("cifar100", "resnet32", 128, 80000, 500, 50, 20000, 3),
    "imagenet": ("imagefolder", "resnet18", 128, 80000, 1000, 10, 10000, 3),
}
COLUMNS = (
    "dataset", "model", "batch_size", "iterations", "measure_every", "n_estimates", "refresh_every", "gc_iterations",
)  # fmt: skip
# Appendix C.1: learning rate, weight decay, momentum, and the iterations at which the learning rate decays.
C_1 = {
    "mnist": (0.02, 5e-4, 0.5, ()),
    "cifar10": (0.01, 5e-4, 0.9, (40000, 60000)),
    "cifar100": (0.1, 5e-4, 0.9, (40000, 60000)),
    "imagenet": (0.1, 1e-4, 0.9, (40000, 60000)),
}

SMALL = {"iterations": 100, "measure_every": 10, "refresh_every": 20}


@pytest.mark.parametrize("name", TABLE_2)
def test_presets_are_table_2(name):
    run = preset(name, {})
    assert tuple(getattr(run, column) for column in COLUMNS) == TABLE_2[name]
    assert (run.learning_rate, run.weight_decay, run.momentum, run.milestones) == C_1[name]
    assert run.methods == ("sgb", "sg2b", "svrg", "gc")
    assert run.norm == "default"  # none in ResNet8, batch norm in the larger ones
    assert (run.label_smoothing, run.corrupt_fraction, run.duplicate_fraction) == (0, 0, 0)
    assert (run.n_examples, run.n_test_examples, run.width) == (0, 0, 0)
    assert run.augment == (name != "mnist")
    assert run.hidden == (1024, 1024)


def test_there_is_a_preset_for_each_row_and_no_other():
    assert set(PRESETS) == set(TABLE_2) == set(C_1)
    assert preset("imagenet", {}).image_size == 224


def test_the_defaults_are_the_papers_on_mnist():
    assert ImageRun() == preset("mnist", {})


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
@pytest.mark.parametrize(
    ("iterations", "milestones"), [(8000, (4000, 6000)), (2, (1,)), (1, ()), (3, (1, 2)), (7, (3, 5))]
)
def test_the_learning_rate_drops_at_half_and_three_quarters_of_other_iterations_too(name, iterations, milestones):
    run = preset(name, {"iterations": iterations, "measure_every": 1, "refresh_every": 1})
    assert run.milestones == milestones


def test_milestones_that_are_given_stay():
    assert preset("cifar10", {"milestones": (5,)}).milestones == (5,)
    assert preset("cifar10", {"milestones": ()}).milestones == ()
    assert preset("mnist", SMALL).milestones == ()


def test_overrides_replace_a_preset_value_by_value():
    run = preset("cifar10", {"model": "resnet20", "momentum": 0.1, "augment": False})
    changed = dataclasses.replace(preset("cifar10", {}), model="resnet20", momentum=0.1, augment=False)
    assert run == changed


def test_an_unknown_preset_and_unknown_arguments():
    with pytest.raises(ValueError, match="preset='svhn' is unknown; choose from mnist, cifar10, cifar100, imagenet"):
        preset("svhn", {})
    with pytest.raises(TypeError, match="learning_rat"):
        preset("mnist", {"learning_rat": 1.0})
    with pytest.raises(TypeError, match="iterations='many' must be an integer"):
        preset("cifar10", {"iterations": "many"})


# ------------------------------------------------------------------------------------------------------------ as text

ODD = ImageRun(
    dataset="cifar100", model="cnn", width=2, norm="batch", n_examples=50, n_test_examples=7,
    image_size=9, skip_broken=True, label_smoothing=0.1, corrupt_fraction=1.0, duplicate_fraction=0.3, n_originals=2,
    augment=True, batch_size=3, learning_rate=1 / 3, momentum=0.0, weight_decay=0.0, milestones=(1, 7),
    methods=("gc", "sgb"), method="monte-carlo", n_estimates=2, gc_iterations=4, seed=2**31 - 1, precision="float64",
    snapshots="none", **SMALL,
)  # fmt: skip


RUNS = {**{name: preset(name, {}) for name in PRESETS}, "odd": ODD, "hidden": ImageRun(hidden=(3,), **SMALL)}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_json_and_back(run):
    text = run.to_json()
    assert json.loads(text)["schema"] == "image/1"
    assert ImageRun.from_json(text) == run
    assert ImageRun.from_json(text).to_json() == text


def test_every_field_is_in_the_json():
    names = {f.name for f in dataclasses.fields(ImageRun)}
    assert set(json.loads(ODD.to_json())) == names
    alike = {name for name in names if getattr(ODD, name) == getattr(ImageRun(), name)}
    assert alike == {"schema", "hidden"}
    assert json.loads(ImageRun(hidden=(3, 2)).to_json())["hidden"] == [3, 2]


def altered(**changes):
    values = {**json.loads(ODD.to_json()), **changes}
    return json.dumps({name: value for name, value in values.items() if value != "gone"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config is not JSON"),
        ("{", "config is not JSON"),
        (None, "config is not JSON"),
        ("[" * 200_000, "config is not JSON"),
        ("[1]", "not that of an image study"),
        ("{}", "not that of an image study"),
        (altered(schema="rf-sweep/1"), "not that of an image study"),
        (altered(schema="gone"), "not that of an image study"),
        (altered(seed="gone", model="gone"), "config lacks model, seed"),
        (altered(colour="red"), "config has wrong fields: .*colour"),
        (altered(seed=0.5), "config has wrong fields: seed=0.5 must be an integer"),
        (altered(momentum=2), "momentum=2.0 must be"),
    ],
)
def test_json_of_something_else(text, message):
    with pytest.raises(ValueError, match=message):
        ImageRun.from_json(text)


def test_numbers_of_one_value_are_one_configuration():
    one = ImageRun(learning_rate=1, hidden=[8, 4], milestones=[1, 2], methods=["gc"], seed=np.int64(3), **SMALL)
    other = ImageRun(learning_rate=1.0, hidden=(8, 4), milestones=(1, 2), methods=("gc",), seed=3, **SMALL)
    assert one == other
    assert one.to_json() == other.to_json()
    assert isinstance(one.learning_rate, float)
    assert type(one.seed) is int


def test_a_run_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ODD.seed = 1


# ----------------------------------------------------------------------------------------------------- names and times


def test_the_id_names_what_figures_tell_apart():
    assert ImageRun().id == "mnist-mlp-lr0.02-seed0"
    assert ODD.id == "cifar100-cnn-smoothing0.1-corrupt1-dup0.3-lr0.3333333333333333-seed2147483647"


def test_points_and_refreshes():
    run = ImageRun(**SMALL)
    assert list(run.points) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert [i for i in run.points if run.refreshes(i)] == [0, 20, 40, 60, 80]


@pytest.mark.parametrize(
    ("snapshots", "expected"),
    [("refresh", [0, 20, 40, 60, 80, 100]), ("all", list(range(0, 101, 10))), ("none", [])],
)
def test_snapshots(snapshots, expected):
    run = ImageRun(snapshots=snapshots, **SMALL)
    assert [i for i in run.points if run.keeps_snapshot(i)] == expected


def test_the_last_iteration_is_a_snapshot_even_between_refreshes():
    run = ImageRun(iterations=30, measure_every=10, refresh_every=20)
    assert [i for i in run.points if run.keeps_snapshot(i)] == [0, 20, 30]


# ----------------------------------------------------------------------------------------------------- what is refused

NOT_VALUES = [
    ("dataset", "svhn", "must be one of digits, mnist, fashion-mnist, cifar10, cifar100, imagefolder"),
    ("model", "vgg", "must be one of linear, mlp, cnn, resnet8, resnet20, resnet32, resnet18"),
    ("norm", "layer", "must be one of default, none, batch"),
    ("method", "exact", "must be one of closed-form, monte-carlo"),
    ("precision", "float16", "must be one of float32, float64"),
    ("snapshots", "some", "must be one of refresh, all, none"),
    *((name, 0, "must be at least 1") for name in (
        "batch_size", "iterations", "measure_every", "refresh_every", "gc_iterations", "n_originals", "image_size",
        "n_estimates",
    )),
    *((name, -1, "must be 0 or more") for name in ("n_examples", "n_test_examples", "width", "seed")),
    *((name, 2**31, "is too large; at most 2147483647") for name in ("seed", "iterations", "batch_size", "n_examples")),
    *((name, value, "must be at least 0 and below 1") for name in ("label_smoothing", "duplicate_fraction")
      for value in (-0.1, 1.0, 1.5, float("nan"))),
    *(("corrupt_fraction", value, "must be at least 0 and at most 1") for value in (-0.1, 1.0000001, float("nan"))),
    *((name, value, "must be a number of at least 0") for name in ("learning_rate", "weight_decay")
      for value in (-1e-9, float("nan"), float("inf"))),
    *(("momentum", value, "must be at least 0 and below 1") for value in (-0.1, 1.0, float("nan"))),
    ("n_estimates", 1, "must be at least 2"),
    ("methods", (), "must name at least one, none of them twice"),
    ("methods", ("gc", "gc"), "must name at least one, none of them twice"),
    ("methods", ("sgb", "adam"), "methods='adam' is unknown; choose from sgb, sg2b, svrg, gc"),
    ("measure_every", 7, "must divide iterations=50000"),
    ("refresh_every", 750, "measure_every=500 must divide refresh_every=750"),
    *(("milestones", value, "must be increasing iterations above 0") for value in ((0,), (5, 5), (7, 5), (-3, 5))),
    ("hidden", (8, 0), "must be positive numbers of units"),
    ("width", 4, "has no meaning for model='mlp'"),
    ("norm", "batch", "has no meaning for model='mlp'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), NOT_VALUES, ids=lambda x: str(x)[:40])
def test_a_bad_value_is_named(name, value, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        ImageRun(**{name: value})
    assert f"{name}=" in str(caught.value)


NOT_TYPES = [
    *((name, value, "must be an integer") for name in (
        "n_examples", "n_test_examples", "image_size", "n_originals", "batch_size", "iterations", "n_estimates",
        "measure_every", "refresh_every", "gc_iterations", "seed", "width",
    ) for value in (0.5, "3", None, True)),
    *((name, value, "must be a number") for name in (
        "label_smoothing", "corrupt_fraction", "duplicate_fraction", "learning_rate", "momentum", "weight_decay",
    ) for value in ("0.1", None, True, 1j)),
    *((name, value, "must be True or False") for name in ("augment", "skip_broken") for value in (1, "yes", None)),
    *((name, 3, "must be a name") for name in (
        "dataset", "model", "norm", "method", "precision", "snapshots",
    )),
    *((name, value, "must be a sequence") for name in ("hidden", "milestones", "methods") for value in (3, "gc", None)),
    ("hidden", (8.5,), "must be an integer"),
    ("milestones", ("5",), "must be an integer"),
    ("methods", (1,), "must be a name"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), NOT_TYPES, ids=lambda x: str(x)[:40])
def test_a_bad_type_is_named(name, value, expected):
    with pytest.raises(TypeError, match=f"{name}=.*{expected}"):
        ImageRun(**{name: value})


def test_options_of_one_model_are_no_others():
    assert ImageRun(model="resnet8", width=4, norm="batch").width == 4
    assert ImageRun(model="mlp", norm="none").norm == "none"
    with pytest.raises(ValueError, match="width=4 has no meaning for model='linear'"):
        ImageRun(model="linear", width=4)
    for model in ("linear", "cnn", "resnet8"):
        with pytest.raises(ValueError, match=rf"hidden=\[8\] has no meaning for model='{model}'"):
            ImageRun(model=model, hidden=(8,))
        assert ImageRun(model=model, hidden=(1024, 1024)) == ImageRun(model=model)


def test_digits_are_too_small_to_be_cropped():
    with pytest.raises(ValueError, match=r"augment=True .* 8×8 digits"):
        ImageRun(dataset="digits", augment=True)
