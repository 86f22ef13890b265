"""The data of an image study, each step against the same written out by hand."""

import zlib

import numpy as np
import pytest

from gcref import data
from gcref.data import Dataset
from gcref.engine import image_models, models
from gcref.studies.image_data import build, prepare
from gcref.studies.image_run import ImageRun


def digits(**changes):
    values = {"dataset": "digits", "n_examples": 100, "n_test_examples": 30, "batch_size": 10}
    hidden = {} if "model" in changes else {"hidden": (8,)}
    return ImageRun(**(values | hidden | changes))


def standardized(x, like):
    """(x − mean) / std of the one channel of `like`, in float64."""
    like = like.astype(np.float64)
    return ((x.astype(np.float64) - like.mean()) / like.std()).astype(np.float32)


@pytest.fixture
def splits(monkeypatch):
    """Let two small data sets, which a test may exchange, stand for the one on the disk."""
    rng = np.random.default_rng(0)
    given = {
        split: Dataset(rng.random((n, 4, 5, 2), np.float32), np.arange(n) % 3)
        for split, n in (("train", 24), ("test", 9))
    }
    monkeypatch.setattr(data, "load", lambda name, split, data_dir: given[split])
    return given


# --------------------------------------------------------------------------------------------------------- preparation


def test_images_are_standardized_by_the_training_set():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    found = prepare(digits(n_examples=0, n_test_examples=0))
    np.testing.assert_allclose(found.train.x, standardized(train.x, train.x), atol=1e-6)
    np.testing.assert_allclose(found.test.x, standardized(test.x, train.x), atol=1e-6)
    np.testing.assert_array_equal(found.train.y, train.y)
    np.testing.assert_array_equal(found.test.y, test.y)
    assert (len(found.train), len(found.test), found.n_classes) == (1438, 359, 10)


def test_each_channel_has_statistics_of_its_own(splits):
    splits["train"].x[..., 1] = 3 * splits["train"].x[..., 1] + 7
    found = prepare(digits(n_examples=0, n_test_examples=0))
    np.testing.assert_allclose(found.train.x.mean(axis=(0, 1, 2), dtype=np.float64), [0, 0], atol=1e-6)
    np.testing.assert_allclose(found.train.x.std(axis=(0, 1, 2), dtype=np.float64), [1, 1], rtol=1e-6)
    for c in range(2):
        expected = standardized(splits["test"].x[..., c], splits["train"].x[..., c])
        np.testing.assert_allclose(found.test.x[..., c], expected, rtol=1e-5, atol=1e-6)


def test_the_steps_come_in_their_order():
    run = digits(corrupt_fraction=0.25, duplicate_fraction=0.4, n_originals=3, seed=7)
    x, y = data.load("digits", "train").x[:100], data.load("digits", "train").y[:100].copy()
    # A quarter of the subset's labels becomes wrong, drawn from the run's stream for it, ...
    rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(zlib.crc32(b"corrupt labels"),)))
    changed = rng.choice(100, 25, replace=False)
    y[changed] = (y[changed] + rng.integers(1, 10, 25)) % 10
    # ... then the last 40 give way to copies of the first three, labels as they are by now, ...
    rows = np.r_[0:60, np.arange(40) % 3]
    found = prepare(run)
    np.testing.assert_array_equal(found.train.y, y[rows])
    # ... and what is left is what images are standardized by.
    np.testing.assert_allclose(found.train.x, standardized(x[rows], x[rows]), atol=1e-6)
    test = data.load("digits", "test")
    np.testing.assert_allclose(found.test.x, standardized(test.x[:30], x[rows]), atol=1e-6)
    np.testing.assert_array_equal(found.test.y, test.y[:30])


@pytest.mark.parametrize(("share", "n_changed"), [(0.0, 0), (0.1, 10), (0.29, 29), (0.999, 99), (1.0, 100)])
def test_exactly_the_share_of_labels_is_changed(share, n_changed):
    clean, found = prepare(digits()), prepare(digits(corrupt_fraction=share))
    assert np.count_nonzero(found.train.y != clean.train.y) == n_changed
    assert found.train.y.min() >= 0
    assert found.train.y.max() < 10
    np.testing.assert_array_equal(found.train.x, clean.train.x)
    np.testing.assert_array_equal(found.test.y, clean.test.y)


def test_label_noise_depends_on_the_seed_alone():
    first = prepare(digits(corrupt_fraction=0.5)).train.y
    again = digits(corrupt_fraction=0.5, model="cnn", learning_rate=0.3, batch_size=7, duplicate_fraction=0.2)
    np.testing.assert_array_equal(prepare(again).train.y[:80], first[:80])
    assert (prepare(digits(corrupt_fraction=0.5, seed=1)).train.y != first).any()


def test_classes_are_those_of_the_whole_training_set():
    run = digits(n_examples=3, batch_size=1)
    found = prepare(run)
    assert set(found.train.y) < set(range(10))
    assert found.n_classes == 10
    assert build(run, found).logits(found.train.x).shape == (3, 10)


def test_preparing_twice_gives_the_same_bytes():
    run = digits(corrupt_fraction=0.3, duplicate_fraction=0.3)
    first, second = prepare(run), prepare(run)
    assert first.train.x.tobytes() == second.train.x.tobytes()
    assert first.train.y.tobytes() == second.train.y.tobytes()
    assert first.digest == second.digest


def test_the_digest_is_of_the_files_not_of_what_is_done_to_them():
    plain = prepare(digits()).digest
    for changes in ({"corrupt_fraction": 0.3}, {"duplicate_fraction": 0.3}, {"seed": 9}, {"learning_rate": 1.0}):
        assert prepare(digits(**changes)).digest == plain
    for changes in ({"n_examples": 99}, {"n_test_examples": 29}):
        assert prepare(digits(**changes)).digest != plain


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", ["pixel", "label"])
def test_the_digest_sees_any_change(splits, split, what):
    run = digits(n_examples=0, n_test_examples=0)
    before = prepare(run).digest
    if what == "pixel":
        splits[split].x[-1, -1, -1, -1] += 0.5
    else:
        splits[split].y[-1] = (splits[split].y[-1] + 1) % 3
    assert prepare(run).digest != before


# ------------------------------------------------------------------------------------------------------ what is refused


def test_a_batch_larger_than_the_training_set(splits):
    with pytest.raises(ValueError, match="N=24 training examples, fewer than the 26 that batch_size=13"):
        prepare(digits(n_examples=0, n_test_examples=0, batch_size=13))
    with pytest.raises(ValueError, match="N=20 training examples, fewer than the 21 that batch_size=21"):
        prepare(digits(n_examples=20, n_test_examples=0, batch_size=21, methods=("sgb", "gc")))
    assert len(prepare(digits(n_examples=20, n_test_examples=0, batch_size=20, methods=("gc",))).train) == 20


@pytest.mark.parametrize(("name", "there"), [("n_examples", 24), ("n_test_examples", 9)])
def test_more_examples_than_there_are(splits, name, there):
    values = {"n_examples": 24, "n_test_examples": 9}
    with pytest.raises(ValueError, match=f"{name}=25 but digits has only {there}"):
        prepare(digits(**(values | {name: 25})))


def test_splits_of_other_shapes(splits):
    splits["test"] = Dataset(np.zeros((9, 4, 6, 2), np.float32), np.arange(9) % 3)
    with pytest.raises(ValueError, match=r"training images have shape \(4, 5, 2\) but test images \(4, 6, 2\)"):
        prepare(digits(n_examples=0, n_test_examples=0))


def test_a_test_label_that_no_output_stands_for(splits):
    splits["test"].y[4] = 3
    with pytest.raises(ValueError, match="test set has the label 3, the training set none above 2"):
        prepare(digits(n_examples=0, n_test_examples=0))


def test_wrong_labels_need_a_second_class(splits):
    splits["train"].y[:], splits["test"].y[:] = 0, 0
    with pytest.raises(ValueError, match="n_classes is 1"):
        prepare(digits(n_examples=0, n_test_examples=0, corrupt_fraction=0.5))


def test_duplicates_that_leave_too_few(splits):
    with pytest.raises(ValueError, match=r"duplicate_fraction=0\.9 leaves fewer than n_originals=5 of N=24"):
        prepare(digits(n_examples=0, n_test_examples=0, duplicate_fraction=0.9))


@pytest.mark.parametrize(("n", "share", "n_copies"), [(100, 0.29, 29), (50, 0.9, 45), (100, 0.955, 95)])
def test_duplicates_are_counted_as_they_are_written(n, share, n_copies):
    y = prepare(digits(n_examples=n, duplicate_fraction=share)).train.y
    clean = prepare(digits(n_examples=n)).train.y
    np.testing.assert_array_equal(y[: n - n_copies], clean[: n - n_copies])
    np.testing.assert_array_equal(y[n - n_copies :], clean[np.arange(n_copies) % 5])


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("changes", "n_parameters"),
    [
        ({"model": "linear"}, 40 * 3 + 3),
        ({"model": "mlp", "hidden": (8, 6)}, 41 * 8 + 9 * 6 + 7 * 3),
        ({"model": "mlp", "hidden": ()}, 40 * 3 + 3),
        ({"model": "cnn", "width": 2}, 51 * 2 + 51 * 4 + 5 * 32 + 33 * 3),
        ({"model": "cnn", "width": 2, "norm": "batch"}, 50 * 2 + 4 + 50 * 4 + 8 + 5 * 32 + 33 * 3),
    ],
)
def test_a_model_has_the_parameters_that_one_counts(splits, changes, n_parameters, precision):
    run = digits(n_examples=0, n_test_examples=0, precision=precision, **changes)
    net = build(run, prepare(run))
    assert net.n_parameters == n_parameters
    assert net.theta.dtype == precision


@pytest.mark.parametrize("model", ["resnet8", "resnet20", "resnet32", "resnet18"])
@pytest.mark.parametrize("norm", ["default", "none", "batch"])
def test_norms_and_widths_reach_the_model(splits, model, norm):
    run = digits(n_examples=0, n_test_examples=0, model=model, norm=norm, width=2, label_smoothing=0.2, seed=3)
    net = build(run, prepare(run))
    batch = norm == "batch" or (norm == "default" and model != "resnet8")
    expected = getattr(image_models, model)(
        (4, 5, 2), 3, norm="batch" if batch else None, seed=3, dtype="float32", label_smoothing=0.2, width=2
    )
    assert (net.running.size > 0) == batch
    np.testing.assert_array_equal(net.theta, expected.theta)
    y = splits["train"].y
    np.testing.assert_array_equal(net.losses(splits["train"].x, y), expected.losses(splits["train"].x, y))


def test_width_0_is_the_models_own(splits):
    run = digits(n_examples=0, n_test_examples=0, model="resnet8")
    assert build(run, prepare(run)).n_parameters == image_models.resnet8((4, 5, 2), 3).n_parameters


def test_smoothing_is_of_the_loss(splits):
    run = digits(n_examples=0, n_test_examples=0, label_smoothing=0.3)
    found = prepare(run)
    net = build(run, found)
    plain = models.mlp((40, 8, 3), seed=0, dtype="float32")
    np.testing.assert_array_equal(net.theta, plain.theta)
    logits = net.logits(found.train.x).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = 0.1 + 0.7 * np.eye(3)[found.train.y]
    np.testing.assert_allclose(net.losses(found.train.x, found.train.y), -(target * log_p).sum(axis=1), rtol=1e-5)
