import io
import re
import tarfile

import numpy as np
import pytest

from gcref.data import DataError, load

RNG = np.random.default_rng(10)
TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def some(n, n_classes):
    """Images (n, 32, 32, 3) and labels (n,)."""
    return RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), RNG.integers(0, n_classes, n)


def binary(images, labels, coarse=False):
    """The records of a file, byte by byte as the format's description has them."""
    out = bytearray()
    for image, label in zip(images, labels, strict=True):
        if coarse:
            out.append(label // 5)
        out.append(label)
        for channel in range(3):
            for row in range(32):
                out += image[row, :, channel].tobytes()
    return bytes(out)


def cifar10(sizes=(3, 1, 2, 4, 1)):
    """Files of a training set, and its images and labels."""
    parts = [some(n, 10) for n in sizes]
    files = {f"cifar-10-batches-bin/{name}": binary(*part) for name, part in zip(TRAIN, parts, strict=True)}
    return files, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def cifar100(split):
    images, labels = some(5, 100)
    return {f"cifar-100-binary/{split}.bin": binary(images, labels, coarse=True)}, images, labels


def put(folder, files):
    """Write files into a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path, files, prefix=""):
    """Write files into an archive, as they come from the web."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path.parent


def check(ds, images, labels):
    assert (ds.x.dtype, ds.y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ds.x, (images / 255).astype(np.float32))
    np.testing.assert_array_equal(ds.y, labels)


def test_cifar10_from_its_folder(tmp_path):
    files, images, labels = cifar10()
    put(tmp_path, files)
    check(load("cifar10", data_dir=tmp_path), images, labels)
    check(load("cifar10", data_dir=tmp_path / "cifar-10-batches-bin"), images, labels)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_cifar10_from_the_archive(tmp_path, prefix):
    files, images, labels = cifar10()
    test_images, test_labels = some(2, 10)
    files["cifar-10-batches-bin/test_batch.bin"] = binary(test_images, test_labels)
    files["cifar-10-batches-bin/readme.html"] = b"<html>"
    backwards = dict(reversed(files.items()))  # the order in an archive is nobody's promise
    pack(tmp_path / "cifar-10-binary.tar.gz", backwards, prefix)
    check(load("cifar10", data_dir=tmp_path), images, labels)
    check(load("cifar10", "test", data_dir=tmp_path), test_images, test_labels)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_has_fine_labels(tmp_path, split):
    files, images, labels = cifar100(split)
    check(load("cifar100", split, data_dir=put(tmp_path, files)), images, labels)
    archive = tmp_path / "archive"
    archive.mkdir()
    check(load("cifar100", split, data_dir=pack(archive / "cifar-100-binary.tar.gz", files)), images, labels)


def both_ways(tmp_path, files):
    """Two folders: one with the files, one with the archive of them."""
    archive = tmp_path / "archive"
    archive.mkdir()
    return put(tmp_path, files), pack(archive / "cifar-10-binary.tar.gz", files)


def refused(folder, message, split="train", name="cifar10"):
    with pytest.raises(DataError, match=message) as caught:
        load(name, split, data_dir=folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 3072, 2 * 3073 - 1, 3074])
def test_a_file_of_broken_records(tmp_path, size):
    files, _, _ = cifar10()
    files["cifar-10-batches-bin/data_batch_3.bin"] = bytes(size)
    for folder in both_ways(tmp_path, files):
        refused(
            folder,
            rf"data_batch_3.bin has {size} bytes; a multiple of 3073, the .*, is expected, at most 10000 of them$",
        )


def test_a_file_of_the_other_set(tmp_path):
    files, _, _ = cifar100("test")
    (data,) = files.values()
    put(tmp_path, {"cifar-10-batches-bin/test_batch.bin": data})
    refused(tmp_path, r"test_batch.bin has 15370 bytes; a multiple of 3073", "test")


def test_labels_out_of_range(tmp_path):
    files, _, _ = cifar10()
    images, _ = some(3, 10)
    files["cifar-10-batches-bin/data_batch_5.bin"] = binary(images, [9, 10, 11])
    for folder in both_ways(tmp_path, files):
        refused(folder, r"data_batch_5.bin has the label 10 at 1; 0 to 9 is expected$")
    put(tmp_path, {"cifar-100-binary/test.bin": binary(images, [99, 0, 100], coarse=True)})
    refused(tmp_path, r"test.bin has the label 100 at 2; 0 to 99 is expected$", "test", "cifar100")


def test_a_missing_batch(tmp_path):
    files, _, _ = cifar10()
    del files["cifar-10-batches-bin/data_batch_4.bin"]
    folder, archive = both_ways(tmp_path, files)
    refused(folder, r"cifar-10-batches-bin has no data_batch_4.bin; data_batch_1.bin, .*data_batch_5.bin is expected$")
    refused(archive, r"cifar-10-binary.tar.gz has no file cifar-10-batches-bin/data_batch_4.bin$")


def test_a_damaged_archive(tmp_path):
    files, _, _ = cifar10()
    path = tmp_path / "cifar-10-binary.tar.gz"
    pack(path, files)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, "cifar-10-binary.tar.gz (is cut short|cannot be read)")
    path.write_bytes(b"<html>404</html>" * 100)
    refused(tmp_path, "cifar-10-binary.tar.gz cannot be read: ")


def test_only_regular_members_of_that_name_count(tmp_path):
    images, labels = some(1, 10)
    (tmp_path / "elsewhere.bin").write_bytes(binary(images, labels))
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere.bin")
        tar.addfile(link)
        for name in ("../test_batch.bin", "other/test_batch.bin"):
            tar.add(tmp_path / "elsewhere.bin", name, filter=None)
    refused(tmp_path, "has no file cifar-10-batches-bin/test_batch.bin$", "test")


def test_a_member_that_declares_too_much(tmp_path):
    member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
    member.size = 3073 * 10**6
    path = tmp_path / "cifar-10-binary.tar"
    path.write_bytes(member.tobuf() + bytes(10240))
    path.rename(tmp_path / "cifar-10-binary.tar.gz")
    refused(tmp_path, r"test_batch.bin has 3073000000 bytes; ", "test")


def test_the_pickled_version_is_not_read(tmp_path):
    put(tmp_path, {"cifar-10-batches-py/data_batch_1": b"\x80\x02}q\x01."})
    with pytest.raises(DataError, match=re.escape("download the binary version")):
        load("cifar10", data_dir=tmp_path)
