import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gcref.data import DataError, Dataset, ImageArray, image_cache, load

RNG = np.random.default_rng(9)


@pytest.fixture(autouse=True)
def cache_home(monkeypatch, tmp_path_factory):
    """A throw-away place for what cannot be cached beside the data."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("GCREF_DATA", raising=False)
    return home


def picture(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    """Write an image, in 1970: what is written over it has the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(0, 0))
    return path


@pytest.fixture
def folder(tmp_path):
    """Three classes, 8 × 8 PNGs whose pixels survive as they are; names in an order of their own."""
    for split, n in (("train", 3), ("val", 1)):
        for name in ("zebra", "Ant", "bee"):
            for i in range(n):
                save(tmp_path / split / name / f"{n - i}.png", picture(8, 8))
    return tmp_path


def pixels_of(folder, split, names=("Ant", "bee", "zebra")):
    """The images in the order they are promised: classes by name, files by name."""
    paths = [path for name in names for path in sorted((folder / split / name).iterdir())]
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def refused(folder, message, split="train", **options):
    with pytest.raises(DataError, match=message) as caught:
        load("imagefolder", split, data_dir=folder, **{"size": 8, **options})
    assert "\n" not in str(caught.value)


def no_decoding(*arguments):
    raise AssertionError("an image was decoded again")


# ------------------------------------------------------------------------------------------------------ what is read


def test_round_trip(folder):
    want = {"train": pixels_of(folder, "train"), "test": pixels_of(folder, "val")}
    (folder / "train" / "bee" / "Thumbs.db").write_bytes(b"no image")
    (folder / "train" / ".hidden").mkdir()
    for split, labels in (("train", [0, 0, 0, 1, 1, 1, 2, 2, 2]), ("test", [0, 1, 2])):
        ds = load("imagefolder", split, data_dir=folder, size=8)
        assert isinstance(ds, Dataset)
        assert isinstance(ds.x, ImageArray)
        assert ds.x.shape == (len(labels), 8, 8, 3)
        assert ds.y.dtype == np.int64
        np.testing.assert_array_equal(ds.x.pixels, want[split])
        np.testing.assert_array_equal(ds.y, labels)


def test_a_test_folder_stands_in_for_val(folder):
    (folder / "val").rename(folder / "test")
    np.testing.assert_array_equal(
        load("imagefolder", "test", data_dir=folder, size=8).x.pixels, pixels_of(folder, "test")
    )


def test_the_default_size_is_64(folder):
    assert load("imagefolder", data_dir=folder).x.shape == (9, 64, 64, 3)


# ----------------------------------------------------------------------------------------------------- broken images


def test_a_broken_image_is_named(folder):
    path = folder / "train" / "bee" / "cut.png"
    path.write_bytes((folder / "train" / "bee" / "1.png").read_bytes()[:-40])
    refused(
        folder, rf"^{re.escape(str(path))} is not an image that can be used: .*; skip_broken leaves such images out$"
    )
    assert len(load("imagefolder", "test", data_dir=folder, size=8)) == 3


def test_broken_images_are_skipped_on_demand(folder, monkeypatch):
    want = pixels_of(folder, "train")
    for name in ("Ant", "zebra"):
        (folder / "train" / name / "0.jpg").write_bytes(b"broken")
    first = folder / "train" / "Ant" / "0.jpg"
    refused(folder, rf"^{re.escape(str(first))} is not .* \(and 1 more are broken\); skip_broken leaves")
    monkeypatch.setattr(image_cache, "decode_into", no_decoding)  # the refusal has not wasted what was decoded
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=rf"^2 broken images are left out, the first of them {re.escape(str(first))}$"
        ) as caught:
            ds = load("imagefolder", data_dir=folder, size=8, skip_broken=True)
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(ds.x[:], ImageArray(want)[:])
        assert ds.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert len(ds) == ds.x.shape[0] == 9
    refused(folder, rf"^{re.escape(str(first))} is not")


def test_nothing_but_broken_images(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.jpg").write_bytes(b"broken")
    refused(tmp_path, "0.jpg is not an image that can be used", skip_broken=True)


def test_a_failure_of_the_system_is_not_a_broken_image(folder, monkeypatch):
    def fails(path, **_):
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(OSError, match="Too many open files"):
        load("imagefolder", data_dir=folder, size=8, skip_broken=True)
    assert list((folder / ".gcref-cache").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- the cache


def test_images_are_decoded_once(folder, monkeypatch):
    first = load("imagefolder", data_dir=folder, size=8)
    monkeypatch.setattr(image_cache, "decode_into", no_decoding)
    again = load("imagefolder", data_dir=folder, size=8)
    np.testing.assert_array_equal(again.x[:], first.x[:])
    np.testing.assert_array_equal(again.y, first.y)
    base = again.x.pixels
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert sorted(path.name for path in folder.glob(".gcref-cache/*/*")) == ["labels.npy", "pixels.npy"]


def changed_time(folder):
    os.utime(folder / "train" / "bee" / "1.png", ns=(1, 1))


def changed_size(folder):
    path = folder / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes() + b"after its end")
    os.utime(path, ns=(0, 0))


def renamed_image(folder):
    """Every file keeps its size, and they keep their order: only a name is another one."""
    (folder / "train" / "bee" / "3.png").rename(folder / "train" / "bee" / "9.png")


def removed_image(folder):
    (folder / "train" / "bee" / "1.png").unlink()


@pytest.mark.parametrize("change", [changed_time, changed_size, renamed_image, removed_image])
def test_a_change_is_noticed(folder, change):
    load("imagefolder", data_dir=folder, size=8)
    change(folder)
    ds = load("imagefolder", data_dir=folder, size=8)
    assert len(list((folder / ".gcref-cache").iterdir())) == 2
    np.testing.assert_array_equal(ds.x.pixels, pixels_of(folder, "train"))


def test_each_size_and_split_has_its_own(folder):
    shapes = [
        load("imagefolder", split, data_dir=folder, size=size).x.shape for split in ("train", "test") for size in (4, 8)
    ]
    assert shapes == [(9, 4, 4, 3), (9, 8, 8, 3), (3, 4, 4, 3), (3, 8, 8, 3)]
    assert len(list((folder / ".gcref-cache").iterdir())) == 4


def test_a_folder_that_cannot_be_written(folder, cache_home, monkeypatch):
    (folder / ".gcref-cache").write_bytes(b"in the way")
    ds = load("imagefolder", data_dir=folder, size=8)
    np.testing.assert_array_equal(ds.x.pixels, pixels_of(folder, "train"))
    assert len(list((cache_home / "gcref" / "decoded").iterdir())) == 1
    monkeypatch.setattr(image_cache, "decode_into", no_decoding)
    assert len(load("imagefolder", data_dir=folder, size=8)) == 9


def test_nowhere_to_write(folder, cache_home):
    (folder / ".gcref-cache").write_bytes(b"in the way")
    (cache_home / "gcref").write_bytes(b"in the way")
    refused(folder, r"cannot be written into .*\.gcref-cache or .*gcref/decoded: Not a directory$")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
def test_a_full_disk(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused(folder, r"\.gcref-cache has no room for 1856 bytes: No space left on device$")
    assert list((folder / ".gcref-cache").iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_cache_is_not_there(folder, monkeypatch, error):
    real = image_cache.decode_into

    def interrupted(*arguments):
        real(*arguments)
        raise error

    monkeypatch.setattr(image_cache, "decode_into", interrupted)
    with pytest.raises(error):
        load("imagefolder", data_dir=folder, size=8)
    assert list((folder / ".gcref-cache").iterdir()) == []
    monkeypatch.undo()
    np.testing.assert_array_equal(load("imagefolder", data_dir=folder, size=8).x.pixels, pixels_of(folder, "train"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_process_leaves_no_half_cache(folder):
    program = (
        "import os, signal, sys; from gcref.data import image_cache, load\n"
        "real = image_cache.decode_into\n"
        "def killed(*arguments):\n    real(*arguments)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "image_cache.decode_into = killed\n"
        "load('imagefolder', data_dir=sys.argv[1], size=8)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = (folder / ".gcref-cache").iterdir()
    assert left.name.startswith("part-")
    np.testing.assert_array_equal(load("imagefolder", data_dir=folder, size=8).x.pixels, pixels_of(folder, "train"))


def test_a_race_is_won_by_the_first(folder, monkeypatch):
    real = image_cache._fill

    def overtaken(part, listing, size):
        real(part, listing, size)
        shutil.copytree(part, part.with_name(listing.name))

    monkeypatch.setattr(image_cache, "_fill", overtaken)
    np.testing.assert_array_equal(load("imagefolder", data_dir=folder, size=8).x.pixels, pixels_of(folder, "train"))
    assert len(list((folder / ".gcref-cache").iterdir())) == 1


def test_a_damaged_cache(folder):
    load("imagefolder", data_dir=folder, size=8)
    (cache,) = (folder / ".gcref-cache").iterdir()
    pixels, labels = (cache / "pixels.npy").read_bytes(), (cache / "labels.npy").read_bytes()
    np.save(folder / "pickled.npy", np.array([{}] * 9), allow_pickle=True)
    other_labels = np.load(cache / "labels.npy")
    other_labels[3] = 2
    np.save(folder / "other.npy", other_labels)
    for name, data in [
        ("pixels.npy", pixels[:-1]),
        ("pixels.npy", b""),
        ("pixels.npy", labels),
        ("labels.npy", pixels),
        ("labels.npy", (folder / "pickled.npy").read_bytes()),
        ("labels.npy", (folder / "other.npy").read_bytes()),
    ]:
        (cache / "pixels.npy").write_bytes(pixels)
        (cache / "labels.npy").write_bytes(labels)
        (cache / name).write_bytes(data)
        refused(folder, rf"^{re.escape(str(cache))} is damaged; delete it, and it will be made again$")


def test_workers_decode_the_same(folder, monkeypatch):
    alone = load("imagefolder", data_dir=folder, size=8)
    (folder / "train" / "bee" / "4.jpg").write_bytes(b"broken")
    monkeypatch.setattr(image_cache, "_FEW", 0)
    monkeypatch.setattr(image_cache, "_TASK", 4)
    with pytest.warns(UserWarning, match="^1 broken images are left out"):
        together = load("imagefolder", data_dir=folder, size=8, skip_broken=True)
    np.testing.assert_array_equal(together.x[:], alone.x[:])
    np.testing.assert_array_equal(together.y, alone.y)


def test_a_script_without_a_guard_is_told_so(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from gcref.data import image_cache, load\n"
        "image_cache._FEW = 0\n"
        f"load('imagefolder', data_dir={str(folder)!r}, size=8)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('or the script that loads them lacks `if __name__ == "__main__":`')
    assert list((folder / ".gcref-cache").iterdir()) == []


# ------------------------------------------------------------------------------------------------------- bad folders


def test_splits_must_agree_on_classes(folder):
    save(folder / "val" / "cat" / "1.png", picture(8, 8))
    for split in ("train", "test"):
        refused(folder, "/train and .*/val differ in their classes: only one of them has 'cat'$", split)
    shutil.rmtree(folder / "val")
    assert len(load("imagefolder", data_dir=folder, size=8)) == 9
    refused(folder, r"^.* has no folder val or test$", "test")


def test_folders_without_images(folder):
    (folder / "train" / "bee" / "sub").mkdir()
    for path in (folder / "train" / "bee").glob("*.png"):
        path.rename(path.parent / "sub" / path.name)
    refused(folder, r"/train/bee has no images; files such as \*\.jpg, \*\.jpeg, \*\.png are expected$")
    for name in ("train", "val"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    save(folder / "train" / "1.png", picture(8, 8))
    refused(folder, r"/train has no class folders; train/CLASS/\*\.jpg and the like are expected$")


def test_a_folder_named_like_an_image(folder):
    (folder / "train" / "bee" / "a.png").mkdir()
    refused(folder, r"/train/bee/a\.png is not a file$")


def test_links_are_followed_only_within(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    secret = save(outside / "secret.png", picture(8, 8))
    inside = folder / "train" / "bee" / "0.png"
    inside.symlink_to(folder / "train" / "Ant" / "1.png")
    assert len(load("imagefolder", data_dir=folder, size=8)) == 10
    inside.unlink()
    inside.symlink_to(secret)
    refused(folder, r"/train/bee/0\.png is a link that leads out of .*; data_dir must hold the images themselves$")
    inside.unlink()
    inside.symlink_to(folder / "nothing.png")
    refused(folder, r"/train/bee/0\.png is not a file$")
    inside.unlink()
    for split in ("train", "val"):
        (folder / split / "cat").symlink_to(outside)
    refused(folder, r"/train/cat is a link that leads out of ")
    for split in ("train", "val"):
        (folder / split / "cat").unlink()
    (folder / "train").rename(outside / "train")
    (folder / "train").symlink_to(outside / "train")
    refused(folder, r"/train is a link that leads out of ")


def test_data_dir_itself_may_be_a_link(folder, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "data"
    link.symlink_to(folder)
    assert len(load("imagefolder", data_dir=link, size=8)) == 9


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "^size is 0; 1 to 4096 pixels are expected$"),
        ({"size": 5000}, ValueError, "^size is 5000; 1 to 4096"),
        ({"size": 8.0}, TypeError, r"^size is 8\.0; an int is expected$"),
        ({"size": True}, TypeError, "^size is True; an int is expected$"),
        ({"skip_broken": "no"}, TypeError, "^skip_broken is 'no'; True or False is expected$"),
    ],
)
def test_bad_options(folder, options, error, message):
    with pytest.raises(error, match=message):
        load("imagefolder", data_dir=folder, **options)
    assert not (folder / ".gcref-cache").exists()
