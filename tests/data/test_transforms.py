import numpy as np
import pytest

from gcref.data import Augmentation, Dataset, ImageArray, corrupt_labels, duplicate, subset

RNG = np.random.default_rng(12)
PIXELS = RNG.integers(0, 256, (40, 2, 3, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 7, 40).astype(np.uint8)
ARRAY = Dataset(PIXELS / 255, LABELS)
IMAGES = Dataset(ImageArray(PIXELS), LABELS)
both = pytest.mark.parametrize("ds", [ARRAY, IMAGES], ids=["array", "images"])


def assert_chi_square(counts, weights, z=5.0):
    """Counts are multinomial with these weights: χ² lies within z standard deviations of its mean."""
    expected = np.sum(counts) * np.asarray(weights) / np.sum(weights)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    dof = len(expected) - 1
    gap = abs(chi2 - dof) / np.sqrt(2 * dof)
    assert gap <= z, f"χ² is {gap:.1f} standard deviations from its mean"


# ---------------------------------------------------------------------------------------------------- corrupt_labels


@both
@pytest.mark.parametrize(
    ("share", "n_changed"), [(0, 0), (0.1, 4), (0.29, 11), (np.float32(0.5), 20), (0.99, 39), (1, 40)]
)
def test_exactly_a_share_of_the_labels_is_wrong(ds, share, n_changed):
    noisy = corrupt_labels(ds, share, 7, seed=1)
    assert noisy.x is ds.x
    assert noisy.y.dtype == np.int64
    assert (noisy.y != LABELS).sum() == n_changed
    assert noisy.y.max() < 7
    np.testing.assert_array_equal(noisy.y, corrupt_labels(ds, share, 7, seed=1).y)
    np.testing.assert_array_equal(noisy.y, corrupt_labels(ds, share, 7, np.random.SeedSequence(1)).y)
    if n_changed:
        assert np.any(noisy.y != corrupt_labels(ds, share, 7, seed=2).y)


def test_the_share_is_the_decimal_that_was_written():
    # The nearest double to 0.29 is below it, and 0.29 · 100 in floating point is 28.999999999999996.
    ds = Dataset(np.zeros((100, 1)), np.zeros(100, int))
    assert (corrupt_labels(ds, 0.29, 3, seed=0).y != 0).sum() == 29


def test_wrong_labels_are_uniform_over_examples_and_classes():
    n, n_classes = 60_000, 5
    ds = Dataset(np.zeros((n, 1)), np.arange(n) % n_classes)
    noisy = corrupt_labels(ds, 0.1, n_classes, seed=3)
    changed = np.flatnonzero(noisy.y != ds.y)
    assert len(changed) == 6000
    assert_chi_square(np.bincount(changed // 1000, minlength=60), np.ones(60))
    pairs = np.bincount(ds.y[changed] * n_classes + noisy.y[changed], minlength=25).reshape(5, 5)
    assert np.all(np.diag(pairs) == 0)
    off_diagonal = pairs[~np.eye(5, dtype=bool)]
    assert_chi_square(off_diagonal, np.ones(20))
    with pytest.raises(AssertionError, match="standard deviations"):  # the check sees a bias of a quarter
        assert_chi_square(off_diagonal, np.tile([1.0, 1.25], 10))


@pytest.mark.parametrize(
    "transform", [lambda share: corrupt_labels(ARRAY, share, 7, 0), lambda share: duplicate(ARRAY, share)]
)
def test_shares_outside_0_to_1_are_refused(transform):
    for share in (-0.1, 1.1, float("nan"), np.inf):
        with pytest.raises(ValueError, match=rf"^share is {share}; a number from 0 to 1 is expected$"):
            transform(share)
    for share in ("0.1", None, True, [0.1]):
        with pytest.raises(TypeError, match=r"^share is .*; a number from 0 to 1 is expected$"):
            transform(share)


def test_bad_classes_and_seeds_are_refused():
    with pytest.raises(ValueError, match=r"^n_classes is 6 but ds has the label 6; labels below it are expected$"):
        corrupt_labels(ARRAY, 0.1, 6, 0)
    with pytest.raises(ValueError, match=r"^n_classes is 1; at least 2 is expected$"):
        corrupt_labels(ARRAY, 0.1, 1, 0)
    with pytest.raises(TypeError, match=r"^n_classes is 7\.0; an int is expected$"):
        corrupt_labels(ARRAY, 0.1, 7.0, 0)
    with pytest.raises(ValueError, match=r"^seed is -1; at least 0 is expected$"):
        corrupt_labels(ARRAY, 0.1, 7, -1)
    for seed in (None, 0.5, np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"^seed is .*; an int is expected$"):
            corrupt_labels(ARRAY, 0.1, 7, seed)


# --------------------------------------------------------------------------------------------- duplicate and subset


@both
@pytest.mark.parametrize(("share", "n_originals"), [(0.0, 5), (0.3, 5), (0.875, 5), (0.5, 1), (0.51, 20), (0.01, 5)])
def test_duplicates_replace_the_end(ds, share, n_originals):
    out = duplicate(ds, share, n_originals)
    assert isinstance(out.x, ImageArray) == isinstance(ds.x, ImageArray)
    n_kept = 40 - int(share * 40)
    for i in range(40):
        source = i if i < n_kept else (i - n_kept) % n_originals
        np.testing.assert_array_equal(out.x[i], ds.x[source])
        assert out.y[i] == LABELS[source]
    assert len(out) == len(out.x) == 40


@both
def test_originals_must_stay(ds):
    with pytest.raises(ValueError, match=r"^share is 0.9: it leaves 4 of 40 examples, fewer than n_originals = 5$"):
        duplicate(ds, 0.9)
    with pytest.raises(ValueError, match=r"^share is 1: it leaves 0 of 40 examples, fewer than n_originals = 1$"):
        duplicate(ds, 1, n_originals=1)
    with pytest.raises(ValueError, match=r"^n_originals is 0; at least 1 is expected$"):
        duplicate(ds, 0.5, n_originals=0)


@both
def test_a_spread_subset_has_every_class(ds):
    by_class = Dataset(ds.x, np.repeat(np.arange(8), 5))
    out = subset(by_class, 16, spread=True)
    np.testing.assert_array_equal(np.bincount(out.y), np.full(8, 2))
    np.testing.assert_array_equal(out.x[3], ds.x[7])
    assert subset(by_class, 40, spread=True).x.shape == by_class.x.shape


@both
def test_a_subset_is_the_beginning(ds):
    for n in (1, 7, np.int64(40)):
        out = subset(ds, n)
        np.testing.assert_array_equal(out.x[:], ds.x[:n])
        np.testing.assert_array_equal(out.y, LABELS[:n])
    with pytest.raises(ValueError, match=r"^n is 41; ds has only 40 examples$"):
        subset(ds, 41)
    with pytest.raises(ValueError, match=r"^n is 0; at least 1 is expected$"):
        subset(ds, 0)
    with pytest.raises(TypeError, match=r"^n is 2\.0; an int is expected$"):
        subset(ds, 2.0)


def test_none_of_them_copies_images():
    pixels = IMAGES.x.pixels
    for out in (
        duplicate(IMAGES, 0.5),
        subset(IMAGES, 3),
        duplicate(subset(IMAGES, 20), 0.5),
        corrupt_labels(IMAGES, 1, 7, 0),
    ):
        assert np.shares_memory(out.x.pixels, pixels)
    chain = subset(duplicate(duplicate(IMAGES, 0.5), 0.25, 2), 33)
    np.testing.assert_array_equal(chain.x[28:33], IMAGES.x[[3, 4, 0, 1, 0]])


# ------------------------------------------------------------------------------------------------------ Augmentation


def naive_augmentation(x, padding, flip, rng):
    """Crop and flip one example at a time, one pixel at a time, with the draws in the documented order."""
    n, height, width, _ = x.shape
    corners = rng.integers(0, 2 * padding + 1, (n, 2)) if padding else np.zeros((n, 2), int)
    mirrored = rng.random((n, 1)) < 0.5 if flip else np.zeros((n, 1), bool)
    out = np.zeros_like(x)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                source_row = row + corners[i, 0] - padding
                source_column = (width - 1 - column if mirrored[i, 0] else column) + corners[i, 1] - padding
                if 0 <= source_row < height and 0 <= source_column < width:
                    out[i, row, column] = x[i, source_row, source_column]
    return out


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_augmentation_is_the_naive_one(padding, flip, dtype):
    x = RNG.standard_normal((9, 4, 5, 3)).astype(dtype)
    before = x.copy()
    rng, naive_rng = np.random.default_rng(8), np.random.default_rng(8)
    for _ in range(3):
        got = Augmentation(padding, flip)(x, rng)
        want = naive_augmentation(x, padding, flip, naive_rng)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
    assert not np.shares_memory(got, x)
    np.testing.assert_array_equal(x, before)


def test_nothing_is_drawn_for_what_is_off():
    rng = np.random.default_rng(0)
    x = RNG.standard_normal((9, 4, 5, 3))
    np.testing.assert_array_equal(Augmentation(0, False)(x, rng), x)
    assert rng.random() == np.random.default_rng(0).random()


def test_flips_and_crops_are_fair_and_independent():
    n, padding = 20_000, 1
    x = np.zeros((n, 3, 4, 1))
    x[:, 1, 1] = 1.0
    x[:, 1, 2] = 2.0
    out = Augmentation(padding)(x, np.random.default_rng(5))
    row, column = np.divmod(out.reshape(n, -1).argmax(1), 4)  # where the 2 went: to column 1 if mirrored, else to 2
    left = np.take_along_axis(out[np.arange(n), row, :, 0], np.maximum(column - 1, 0)[:, None], 1)[:, 0]
    mirrored = left != 1.0
    # 3 × 3 crops, two ways round: 18 cells of equal probability.
    offset = np.where(mirrored, column - 1, column - 2)
    cells = np.bincount((mirrored * 3 + row) * 3 + offset + 1, minlength=18)
    assert cells.sum() == n
    assert_chi_square(cells, np.ones(18))
    z = (mirrored.sum() - n / 2) / np.sqrt(n / 4)
    assert abs(z) <= 5
    with pytest.raises(AssertionError, match="standard deviations"):  # the check sees a flip of probability 0.55
        assert_chi_square(cells, np.repeat([0.45, 0.55], 9))


def test_an_empty_batch_and_an_image_array():
    augment = Augmentation()
    assert augment(np.zeros((0, 3, 4, 1)), np.random.default_rng(0)).shape == (0, 3, 4, 1)
    got = augment(IMAGES.x, np.random.default_rng(0))
    np.testing.assert_array_equal(got, augment(IMAGES.x[:], np.random.default_rng(0)))


def test_bad_augmentations_are_refused():
    with pytest.raises(ValueError, match=r"^padding is -1; at least 0 is expected$"):
        Augmentation(padding=-1)
    with pytest.raises(TypeError, match=r"^padding is 1\.5; an int is expected$"):
        Augmentation(padding=1.5)
    with pytest.raises(TypeError, match=r"^flip is 0.5; True or False is expected$"):
        Augmentation(flip=0.5)
    with pytest.raises(ValueError, match=r"^x has shape \(4, 5, 3\); \(B, H, W, C\) is expected$"):
        Augmentation()(np.zeros((4, 5, 3)), np.random.default_rng(0))
