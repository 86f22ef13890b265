import gzip
import re
import struct
import tracemalloc

import numpy as np
import pytest

from gcref.data import DataError, load

RNG = np.random.default_rng(4)
PIXELS = RNG.integers(0, 256, (7, 5, 4), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 8, 2], np.uint8)


def idx(array, magic=None, shape=None):
    """The bytes of an idx file, with a header that may lie."""
    magic = 0x0800 + array.ndim if magic is None else magic
    shape = array.shape if shape is None else shape
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + array.tobytes()


def write(folder, images=None, labels=None, stem="train", mark="-", suffix=""):
    """Write the two files of a split; return their paths."""
    pack = gzip.compress if suffix else bytes
    paths = folder / f"{stem}-images{mark}idx3-ubyte{suffix}", folder / f"{stem}-labels{mark}idx1-ubyte{suffix}"
    for path, data in zip(paths, (images or idx(PIXELS), labels or idx(LABELS)), strict=True):
        path.write_bytes(pack(data))
    return paths


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_round_trip(tmp_path, name, mark, suffix):
    write(tmp_path, mark=mark, suffix=suffix)
    write(tmp_path, idx(PIXELS[::-1]), idx(LABELS[::-1]), "t10k", mark, suffix)
    for split, step in (("train", 1), ("test", -1)):
        ds = load(name, split, data_dir=tmp_path)
        assert (ds.x.dtype, ds.y.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(ds.x, (PIXELS[::step, :, :, None] / 255).astype(np.float32))
        np.testing.assert_array_equal(ds.y, LABELS[::step])


def test_contents_decide_whether_a_file_is_compressed(tmp_path):
    write(tmp_path, suffix=".gz")[0].write_bytes(idx(PIXELS))
    assert len(load("mnist", data_dir=tmp_path)) == 7


def refused(folder, message, **files):
    """Check that the files make `load` raise one line with the message."""
    paths = write(folder, **files)
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", data_dir=folder)
    assert "\n" not in str(caught.value)
    assert str(paths[0]) in str(caught.value) or str(paths[1]) in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_files(tmp_path, suffix):
    def bad(message, **files):
        refused(tmp_path, message, suffix=suffix, **files)

    bad(r"images-idx3-ubyte\S* begins with the number 2049; 2051, that .* of images, is", images=idx(LABELS))
    bad(r"labels-idx1-ubyte\S* begins with the number 2051; 2049, that .* of labels, is", labels=idx(PIXELS))
    bad(r"begins with the number 1347093252", images=b"PK\3\4 a zip file")
    bad(r"has only 3 bytes; an idx file of images has a header of 16", images=b"\0\0\10")
    bad(r"has only 15 bytes; an idx file of images has a header of 16", images=idx(PIXELS)[:15])
    bad(r"declares the shape \(7, 5, 4\), 140 bytes, but holds only 139$", images=idx(PIXELS)[:-1])
    bad(r"declares the shape \(7, 5, 4\), 140 bytes, but holds more$", images=idx(PIXELS) + b"\0")
    bad(r"declares the shape \(7,\), 7 bytes, but holds only 5$", labels=idx(LABELS)[:-2])
    bad(r"declares the shape \(0, 5, 4\); 1 to 134217728 bytes are expected", images=idx(PIXELS, shape=(0, 5, 4)))
    bad(r"declares the shape \(60000, 60000, 60000\)", images=idx(PIXELS, shape=(60000,) * 3))
    bad(r"has 7 images but .*labels-idx1-ubyte\S* has 6 labels$", labels=idx(LABELS[:6]))
    bad(r"labels-idx1-ubyte\S* has the label 10 at 2; 0 to 9 is expected$", labels=idx(LABELS + (LABELS == 9)))


def test_a_missing_half(tmp_path):
    write(tmp_path)[1].unlink()
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(tmp_path))} has train-images-idx3-ubyte but no train-labels-"
    ):
        load("mnist", data_dir=tmp_path)


def test_damaged_gzip(tmp_path):
    images, _ = write(tmp_path, suffix=".gz")
    whole = images.read_bytes()
    for data, message in [
        (whole[: len(whole) // 2], "images-idx3-ubyte.gz is cut short: its compressed data end too early"),
        (whole[:40] + b"\xff" * 20 + whole[60:], "images-idx3-ubyte.gz cannot be read: "),
    ]:
        images.write_bytes(data)
        with pytest.raises(DataError, match=message):
            load("mnist", data_dir=tmp_path)


def peak_of(action):
    """Bytes that were allocated at once, at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_lying_header_costs_no_memory(tmp_path, suffix):
    huge = idx(PIXELS, shape=(1000, 300, 300))
    assert peak_of(lambda: refused(tmp_path, "holds only 140", images=huge, suffix=suffix)) < 8_000_000
    bomb = gzip.compress(idx(PIXELS) + bytes(50_000_000))
    images = write(tmp_path, suffix=suffix)[0]
    images.write_bytes(bomb)

    def read_bomb():
        with pytest.raises(DataError, match="holds more"):
            load("mnist", data_dir=tmp_path)

    assert peak_of(read_bomb) < 8_000_000


@pytest.mark.parametrize(
    ("found", "split", "labels"),
    [
        ("mnist", "train", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3]),
        ("mnist", "test", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0]),
        ("fashion-mnist", "train", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0]),
    ],
)
def test_one_of_the_twins_is_not_taken_for_the_other(tmp_path, found, split, labels):
    stem = {"train": "train", "test": "t10k"}[split]
    write(tmp_path, idx(np.zeros((11, 2, 2), np.uint8)), idx(np.array(labels, np.uint8)), stem)
    assert load(found, split, data_dir=tmp_path).y.tolist() == labels
    (other,) = {"mnist", "fashion-mnist"} - {found}
    with pytest.raises(DataError, match=f"belongs to {found}, not to {other}$"):
        load(other, split, data_dir=tmp_path)
