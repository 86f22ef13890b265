import numpy as np
import pytest
from PIL import Image

from gcref.data import DataError
from gcref.data.decode import decode

RNG = np.random.default_rng(19)


def picture(height, width, mode="RGB"):
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_jpeg_is_read_up_to_its_loss(tmp_path):
    smooth = np.stack([np.add.outer(np.arange(96), np.arange(96)) + 20 * c for c in range(3)], axis=2).astype(np.uint8)
    path = save(tmp_path / "a.jpeg", smooth, quality=95)
    exact = smooth.reshape(12, 8, 12, 8, 3).mean((1, 3))
    got = decode(path, 12)
    assert (
        np.abs(got[1:-1, 1:-1] - exact[1:-1, 1:-1]).max() <= 2
    )  # levels of 256, found: 1; the rim is averaged over less


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = picture(8, 8, "L")
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", grey), 8), np.stack([grey] * 3, axis=2))
    jpeg = decode(save(tmp_path / "a.jpg", grey), 8)
    np.testing.assert_array_equal(jpeg[..., :1] == jpeg, True)


def test_transparency_is_dropped(tmp_path):
    rgba = picture(8, 8, "RGBA")
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", rgba), 8), rgba[..., :3])


@pytest.mark.parametrize(("height", "width"), [(8, 14), (14, 8), (8, 8)])
def test_the_middle_is_kept(tmp_path, height, width):
    pixels = picture(height, width)
    top, left = (height - 8) // 2, (width - 8) // 2
    np.testing.assert_array_equal(decode(save(tmp_path / "a.png", pixels), 8), pixels[top : top + 8, left : left + 8])


def naive_resized(pixels, axis, side, start, size):
    """Resize `side` pixels of an axis to `size`, by weights that fall linearly to 0 one output pixel away."""
    n = pixels.shape[axis]
    step = side / size
    middle = start + (np.arange(size)[:, None] + 0.5) * step
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(n) + 0.5 - middle) / max(1.0, step))
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)


@pytest.mark.parametrize("size", [1, 6, 7, 36, 50])
def test_the_shorter_side_is_resized(tmp_path, size):
    pixels = picture(36, 51)
    got = decode(save(tmp_path / "a.png", pixels), size)
    want = naive_resized(naive_resized(pixels, 0, 36, 0, size), 1, 36, 7.5, size)
    assert got.shape == (size, size, 3)
    # Pillow rounds to whole levels after each axis: half a level twice.
    assert np.abs(got - want).max() <= 1.0


def broken_files(folder):
    """Names, bytes and what is said about each."""
    jpeg = save(folder / "whole.jpg", picture(40, 40)).read_bytes()
    png = save(folder / "whole.png", picture(40, 40)).read_bytes()
    deep = save(folder / "deep.png", np.full((9, 9), 40_000, np.uint16)).read_bytes()
    return {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "image file is truncated"),
        "nearly.jpeg": (jpeg[:-30], "image file is truncated"),
        "cut.png": (png[: len(png) // 2], "truncated|broken"),
        "flipped.png": (png[:60] + b"\xff" * 9 + png[69:], "broken"),
        "text.jpg": (b"<html>not found</html>", "its format is unknown"),
        "empty.png": (b"", "its format is unknown"),
        "deep.png": (deep, r"it has more than 8 bits a channel \(mode I(;16)?\)"),
    }


@pytest.mark.parametrize(
    "name", ["cut.jpg", "nearly.jpeg", "cut.png", "flipped.png", "text.jpg", "empty.png", "deep.png"]
)
def test_what_is_wrong_with_a_broken_image(tmp_path, name):
    data, reason = broken_files(tmp_path)[name]
    path = tmp_path / "broken" / name
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"/broken/{name} is not an image that can be used: .*({reason})") as caught:
        decode(path, 8)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "none.png", 8)
