import numpy as np
import pytest

from gcref.data import Dataset, ImageArray, channel_statistics, standardized

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (11, 4, 5, 3), dtype=np.uint8)
SCALE, SHIFT = np.array([0.5, 1e-3, -2.0]), np.array([0.0, 7.0, -1.5])
VALUES = PIXELS * SCALE + SHIFT
INDICES = [10, 0, 0, 7, 3]
EPS = float(np.finfo(np.float32).eps)


def assert_rounded(got, want, largest):
    """Every value is float32 and within three roundings of the numbers that were added."""
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0.0) <= 1.5 * EPS * largest


KEYS = [
    0,
    -1,
    np.int64(4),
    np.array(4),
    slice(None),
    slice(2, 9, 3),
    slice(None, None, -1),
    slice(4, 4),
    [],
    [1, 1, 4],
    np.array([4, -2, 0], np.int32),
    np.array([[0, 1], [2, 3]]),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_that_of_the_array_it_stands_for(key):
    key_of_array = np.array(key, int) if isinstance(key, list) else key
    largest = np.abs(PIXELS * SCALE).max() + np.abs(SHIFT).max()
    assert_rounded(ImageArray(PIXELS, SCALE, SHIFT)[key], VALUES[key_of_array], largest)
    assert_rounded(ImageArray(PIXELS, SCALE, SHIFT, INDICES)[key], VALUES[INDICES][key_of_array], largest)


def test_it_says_what_an_array_says():
    for images, n in ((ImageArray(PIXELS), 11), (ImageArray(PIXELS, indices=INDICES), 5)):
        assert images.shape == (n, 4, 5, 3)
        assert (len(images), images.ndim, images.dtype) == (n, 4, np.float32)
        assert np.asarray(images).shape == images.shape
        np.testing.assert_array_equal(np.asarray(images), images[:])
        assert np.asarray(images, np.float64).dtype == np.float64
        assert np.array(images, copy=True).dtype == np.float32
    assert repr(ImageArray(PIXELS)) == "ImageArray(shape (11, 4, 5, 3), float32 from uint8)"


def test_default_values_are_from_0_to_1():
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    values = ImageArray(every)[:].ravel()
    assert (values[0], values[255]) == (0.0, 1.0)
    assert_rounded(values, np.arange(256) / 255, 1.0)


def test_select_is_lazy_and_shares_the_pixels():
    images = ImageArray(PIXELS, SCALE, SHIFT)
    for chosen, rows in [
        (images.select(slice(2, 7)), np.arange(2, 7)),
        (images.select([5, 5, 1]), [5, 5, 1]),
        (images.select(np.array(INDICES)).select(slice(1, 4)), INDICES[1:4]),
        (images.select(slice(2, 7)).select([4, 0]), [6, 2]),
    ]:
        assert np.shares_memory(chosen.pixels, PIXELS)
        np.testing.assert_array_equal(chosen[:], images[rows])


def test_a_memory_map_is_read_only_where_asked(tmp_path):
    np.save(tmp_path / "pixels.npy", PIXELS)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    images = ImageArray(mapped)
    assert np.shares_memory(images.pixels, mapped)
    assert type(images[[1, 2]]) is np.ndarray
    np.testing.assert_array_equal(images[:], ImageArray(PIXELS)[:])


def test_counts():
    for images, rows in ((ImageArray(PIXELS), np.arange(11)), (ImageArray(PIXELS, indices=INDICES), INDICES)):
        counts = images.counts()
        for channel in range(3):
            for byte in range(256):
                assert counts[byte, channel] == (PIXELS[rows][..., channel] == byte).sum()


def test_counts_in_chunks(monkeypatch):
    want = ImageArray(PIXELS, indices=INDICES).counts()
    monkeypatch.setattr("gcref.data.images._CHUNK", 2 * 60)
    np.testing.assert_array_equal(ImageArray(PIXELS, indices=INDICES).counts(), want)


@pytest.mark.parametrize("key", [True, None, ..., 1.0, (0, 1), np.ones(11, bool), [0.5], "a"], ids=str)
def test_other_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"^an ImageArray is indexed by an int, a slice or an array of int, not by"):
        ImageArray(PIXELS)[key]


@pytest.mark.parametrize("key", [11, -12, [0, 11]])
def test_indices_outside_are_index_errors(key):
    with pytest.raises(IndexError):
        ImageArray(PIXELS)[key]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((PIXELS.astype(float),), TypeError, "^pixels is an array of float64; an array of uint8 is expected$"),
        ((PIXELS.tolist(),), TypeError, "^pixels is of type list; an array of uint8 is expected$"),
        ((PIXELS[0],), ValueError, r"^pixels has shape \(4, 5, 3\); \(P, H, W, C\) is expected$"),
        ((PIXELS, [1.0, 2.0]), ValueError, r"^scale has shape \(2,\); a number or shape \(3,\) is expected$"),
        ((PIXELS, 1.0, [1.0, np.nan, 0.0]), ValueError, r"^shift is \[1.0, nan, 0.0\]; finite numbers are expected$"),
        ((PIXELS, np.inf), ValueError, "^scale is inf; finite numbers are expected$"),
        ((PIXELS, 1.0, 0.0, [0, 11]), ValueError, "^indices go from 0 to 11; 0 to 10 is expected$"),
        ((PIXELS, 1.0, 0.0, [-1]), ValueError, "^indices go from -1 to -1; 0 to 10 is expected$"),
        ((PIXELS, 1.0, 0.0, [[1]]), ValueError, r"^indices has shape \(1, 1\); \(N,\) is expected$"),
        ((PIXELS, 1.0, 0.0, [0.0]), TypeError, "^indices is an array of float64; integers are expected$"),
    ],
)
def test_bad_images_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ImageArray(*arguments)


def test_no_copy_is_refused():
    with pytest.raises(ValueError, match="cannot be had without a copy"):
        ImageArray(PIXELS).__array__(copy=False)


# ------------------------------------------------------------------------------------------------------- data sets


class Unreadable(ImageArray):
    """Images that must not be read."""

    def __getitem__(self, key):
        raise AssertionError("the images were read")

    __array__ = __getitem__


def test_a_dataset_keeps_images_unread():
    images = Unreadable(PIXELS)
    ds = Dataset(images, np.arange(11))
    assert ds.x is images
    assert repr(ds) == "Dataset(N=11, x (4, 5, 3) float32, labels 0…10)"
    with pytest.raises(ValueError, match=r"^y has shape \(10,\); \(11,\), one label a row of x, is expected$"):
        Dataset(images, np.arange(10))
    with pytest.raises(ValueError, match=r"^x has shape \(0, 4, 5, 3\)"):
        Dataset(ImageArray(PIXELS[:0]), np.arange(0))


def test_a_dataset_may_be_a_single_image():
    assert len(Dataset(ImageArray(PIXELS[:1]), [0])) == len(Dataset(VALUES[:1], [0])) == 1


@pytest.mark.parametrize("row", [0, 5, 10])
def test_a_dataset_finds_the_row_that_is_not_finite(row, monkeypatch):
    monkeypatch.setattr("gcref.data.dataset._CHUNK", 3 * VALUES[0].size)
    x = VALUES.copy()
    x[row:, 3, 2, 1] = np.nan
    with pytest.raises(ValueError, match=f"^x has NaN or infinity at row {row}; finite numbers are expected$"):
        Dataset(x, np.zeros(11, int))


# ------------------------------------------------------------------------------------------ mean, standard deviation


def inputs():
    """Inputs of every kind, and the numbers they are."""
    yield VALUES, VALUES
    yield VALUES.reshape(11, -1), VALUES.reshape(11, -1)
    yield VALUES.astype(np.float32), VALUES.astype(np.float32).astype(float)
    yield PIXELS.astype(np.int16), PIXELS.astype(float)
    yield ImageArray(PIXELS, SCALE, SHIFT), VALUES
    yield ImageArray(PIXELS, SCALE, SHIFT, INDICES), VALUES[INDICES]


@pytest.mark.parametrize("chunk", [1 << 20, 150])
def test_channel_statistics(chunk, monkeypatch):
    monkeypatch.setattr("gcref.data.channels._CHUNK", chunk)
    for x, values in inputs():
        mean, std = channel_statistics(x)
        flat = values.reshape(-1, values.shape[-1])
        np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(std, flat.std(0), rtol=1e-13)


def test_standardized():
    for x, values in inputs():
        labels = np.arange(len(x))
        ds = standardized(Dataset(x, labels))
        flat = values.reshape(-1, values.shape[-1])
        want = ((flat - flat.mean(0)) / flat.std(0)).reshape(values.shape)
        assert isinstance(ds.x, ImageArray) == isinstance(x, ImageArray)
        assert ds.y is labels
        # Of images the scaled pixel and the shift, which nearly cancel, are rounded; they are below 20.
        assert_rounded(ds.x[:], want, 20.0 if isinstance(x, ImageArray) else np.abs(want).max())
        mean, std = channel_statistics(ds.x)
        np.testing.assert_allclose(mean, 0.0, atol=20 * EPS)
        np.testing.assert_allclose(std, 1.0, rtol=20 * EPS)


def test_a_test_set_is_standardized_as_its_training_set():
    for x, values in inputs():
        ds = Dataset(x, np.zeros(len(x), int))
        got = standardized(ds, 0.5, 4.0)
        assert_rounded(got.x[:], (values - 0.5) / 4, 2 * np.abs(values).max())
        mean = np.arange(values.shape[-1])
        got = standardized(ds, mean, mean + 1.0)
        assert_rounded(got.x[:], (values - mean) / (mean + 1), 2 * np.abs(values).max())


def test_standardizing_leaves_images_unread():
    ds = standardized(Dataset(Unreadable(PIXELS, indices=INDICES), np.zeros(5, int)))
    assert np.shares_memory(ds.x.pixels, PIXELS)
    assert ds.x.indices.tolist() == INDICES


def test_a_constant_channel_has_std_0_and_counts_as_1():
    # The sum of 999 times 0.1 is not 99.9 in float64, so a careless mean leaves a little to be divided by itself.
    x = np.full((999, 2), 0.1)
    x[:, 1] = np.arange(999)
    pixels = np.full((999, 1, 1, 2), 77, np.uint8)
    pixels[::2, ..., 1] = 0
    for inputs, constant in ((x, 0.1), (ImageArray(pixels, 0.1 / 77, 0.0), 77 * (0.1 / 77))):
        mean, std = channel_statistics(inputs)
        assert mean[0] == constant
        assert std[0] == 0.0 < std[1]
        ds = standardized(Dataset(inputs, np.zeros(999, int)))
        assert_rounded(ds.x[:][..., 0], np.zeros(ds.x.shape[:-1]), 0.1)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0, 1.0], 1.0, r"^mean has shape \(2,\); a number or shape \(3,\) is expected$"),
        (np.nan, 1.0, "^mean is nan; finite numbers are expected$"),
        (0.0, [1.0, -2.0, 1.0], r"^std is \[1.0, -2.0, 1.0\]; no less than 0 is expected$"),
        (None, np.inf, "^std is inf; finite numbers are expected$"),
    ],
)
def test_bad_statistics_are_refused(mean, std, message):
    for x in (VALUES, ImageArray(PIXELS)):
        with pytest.raises(ValueError, match=message):
            standardized(Dataset(x, np.zeros(11, int)), mean, std)


def test_nothing_has_no_statistics():
    for x in (np.zeros(3), np.zeros((0, 3)), ImageArray(PIXELS[:0])):
        with pytest.raises(ValueError, match=r"^x has shape \(.*\); \(N, features\) or \(N, H, W, C\) with N > 0 is"):
            channel_statistics(x)
