"""Pictures turned into squares of bytes, in this process or in others."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcref.data.places import DataError

N_CHANNELS = 3
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # EPS, of all things, would be run as a program
MOST_PIXELS = 1 << 26  # of a picture in memory; photographs have less


def decode(path: str | Path, size: int) -> NDArray[np.uint8]:
    """Read the picture in a file: its centre square, resized to size × size, in RGB.

    Parameters
    ----------
    path : path
        A picture in one of `FORMATS`, of 8 bits a channel and at most 2²⁶ pixels (a JPEG may have more, as it is read
        in a smaller size); greyscale becomes three equal channels, transparency is dropped.
    size : int
        The side of the result. The shorter side of the picture is resized to it (bilinear, averaging where the
        picture shrinks) and the middle of the longer one kept.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)

    Raises
    ------
    DataError
        If the file is not such a picture or is cut short.
    OSError
        If the system cannot read the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as picture:
            warnings.simplefilter("ignore")  # what Pillow thinks of the metadata
            # A JPEG comes out smaller at once, but still twice as large as needed, for the sake of the average.
            picture.draft("RGB", (2 * size, 2 * size))
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"it has more than 8 bits a channel (mode {picture.mode})")
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(f"it has {picture.width} × {picture.height} pixels, more than {MOST_PIXELS}")
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            square = (left, top, left + side, top + side)
            return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=square))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers fail in many ways on bytes that are not what they seem
        if isinstance(error, OSError) and error.errno is not None:  # the system's failure, not the picture's
            raise
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"{path} is not an image that can be used: {reason}".splitlines()[0]) from None


def decode_into(cache: Path, start: int, paths: Sequence[str], size: int) -> list[int]:
    """Write pictures into rows start, start + 1, … of a .npy file (N, size, size, 3) of uint8 that exists.

    Returns
    -------
    list of int
        The rows whose picture is broken; they are left as they are.
    """
    pixels = np.lib.format.open_memmap(cache, mode="r+")
    broken = []
    for row, path in enumerate(paths, start):
        try:
            pixels[row] = decode(path, size)
        except DataError:
            broken.append(row)
    pixels.flush()
    return broken
