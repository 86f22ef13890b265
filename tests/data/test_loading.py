import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gcref
from gcref.data import DataError, load

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path_factory):
    """No data set of this machine is found by accident."""
    monkeypatch.delenv("GCREF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    peer = load_digits()
    test = np.arange(1797) % 5 == 4
    for split, rows, n in (("train", ~test, 1438), ("test", test, 359)):
        ds = load("digits", split)
        assert ds.x.shape == (n, 8, 8, 1)
        assert (ds.x.dtype, ds.y.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(ds.x[..., 0] * 16, peer.images[rows])
        np.testing.assert_array_equal(ds.y, peer.target[rows])
    assert set(np.unique(load("digits").y)) == set(range(10))


@debian
@pytest.mark.parametrize(("split", "n"), [("train", 60_000), ("test", 10_000)])
def test_debians_fashion_mnist(split, n):
    ds = load("fashion-mnist", split)
    assert ds.x.shape == (n, 28, 28, 1)
    assert (ds.x.dtype, ds.y.dtype) == (np.float32, np.int64)
    assert np.bincount(ds.y).tolist() == [n // 10] * 10
    assert (ds.x.min(), ds.x.max()) == (0.0, 1.0)


@debian
@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_mnist_is_not_taken_for_mnist(split):
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz belongs to fashion-mnist, not to mnist$"):
        load("mnist", split, data_dir=DEBIAN)


def test_importing_is_light():
    program = (
        "import sys, gcref.data; print('numpy' in sys.modules)\n"
        "gcref.data.load('digits'); print('PIL' in sys.modules, 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False", "False"], done.stderr


def test_every_public_name_is_there():
    for name in gcref.data.__all__:
        assert getattr(gcref.data, name).__module__.startswith("gcref.data.")


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^name is 'emnist'; one of digits, mnist, fashion-mnist, .* is expected$"):
        load("emnist")
    with pytest.raises(ValueError, match=r"^split is 'val'; train or test is expected$"):
        load("digits", "val")
    with pytest.raises(TypeError, match=r"^cifar10 has no option 'size'; only imagefolder has size and skip_broken$"):
        load("cifar10", size=32)
    with pytest.raises(TypeError, match=r"^imagefolder has no option 'sise'"):
        load("imagefolder", sise=32)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mnist", "download the four idx files .* from github.com/cvdfoundation/mnist .*, and"),
        ("fashion-mnist", "apt install dataset-fashion-mnist.* from github.com/zalandoresearch/fashion-mnist, and"),
        ("cifar10", "binary version, cifar-10-binary.tar.gz, from www.cs.toronto.edu/~kriz/cifar.html, and"),
        ("cifar100", "binary version, cifar-100-binary.tar.gz, from www.cs.toronto.edu/~kriz/cifar.html, and"),
        ("imagefolder", "train/CLASS/ and val/CLASS/, such as ImageNet's from image-net.org, and"),
    ],
)
def test_missing_data_say_what_to_do(name, advice, tmp_path):
    with pytest.raises(DataError, match=advice) as caught:
        load(name, data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} is not in {tmp_path / name}, {tmp_path}: ")
    assert message.endswith("into a folder named by data_dir or by the environment variable GCREF_DATA")
    assert "\n" not in message


def test_the_standard_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=f"^cifar10 is not in {tmp_path}/gcref/cifar10: "):
        load("cifar10")


def test_a_place_that_is_no_folder(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"^data_dir is '.*/none', which is not a folder$"):
        load("mnist", data_dir=tmp_path / "none")
    monkeypatch.setenv("GCREF_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"^the environment variable GCREF_DATA is '.*/none', which is not a folder$"):
        load("mnist")


def record(label):
    """One CIFAR-10 record, all of one grey that tells it from others."""
    return bytes([label]) + bytes([10 * label]) * 3072


def test_the_order_of_places(tmp_path, monkeypatch):
    cache, environment, argument = tmp_path / "cache", tmp_path / "environment", tmp_path / "argument"
    places = [
        (cache / "gcref" / "cifar10", 1),
        (environment, 2),
        (environment / "cifar10", 3),
        (argument, 4),
        (argument / "cifar10", 5),
    ]
    environment.mkdir()
    argument.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("GCREF_DATA", str(environment))
    for folder, label in places:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test_batch.bin").write_bytes(record(label))
        ds = load("cifar10", "test", data_dir=argument if label > 3 else None)
        assert ds.y.tolist() == [label]


def test_data_dir_is_the_only_place(tmp_path, monkeypatch):
    (tmp_path / "test_batch.bin").write_bytes(record(1))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("GCREF_DATA", str(tmp_path))
    assert load("cifar10", "test").y.tolist() == [1]
    with pytest.raises(DataError, match=r"^cifar10 is not in"):
        load("cifar10", "test", data_dir=tmp_path / "empty")
