"""What `gcref.hdf5.inspect` finds in hostile files of every kind, and what befalls the process it sends ahead."""

import errno
import os
import signal
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest

from gcref import hdf5


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
        file["group/y"] = np.arange(4)
        file.create_dataset(
            "z", data=np.ones((50, 2)), chunks=(10, 2), compression="gzip", shuffle=True, fletcher32=True
        )
        file.attrs["text"] = "word"
    return path


def bomb(file):
    """A chunk of 16 kB, stored as the 300 kB that unpack to 300 MB."""
    file.create_dataset("bad", (1000, 2), "f8", chunks=(1000, 2), compression="gzip")
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    file["bad"].id.write_direct_chunk((0, 0), packed)


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    file.create_virtual_dataset("bad", layout)


HOSTILE = {
    "external link": (lambda f: f.__setitem__("bad", h5py.ExternalLink("other.h5", "x")), "is a link to another file"),
    "virtual": (virtual, "lies in other files"),
    "external storage": (lambda f: f.create_dataset("bad", (3,), "f8", external=[("o", 0, 24)]), "lies in other files"),
    "text": (lambda f: f.create_dataset("bad", data=["a"], dtype=h5py.string_dtype()), "holds Python objects"),
    "references": (lambda f: f.create_dataset("bad", data=[f.ref], dtype=h5py.ref_dtype), "holds Python objects"),
    "never written": (lambda f: f.create_dataset("bad", (2**50,), "f8"), "has 0 bytes, but its shape"),
    "no chunks": (lambda f: f.create_dataset("bad", (2**50,), "f8", chunks=(9,)), "has 0 chunks, but its shape"),
    "large chunks": (lambda f: f.create_dataset("bad", (2**30,), "f8", chunks=(2**26,)), "of more than 256 MiB"),
    "filter": (lambda f: f.create_dataset("bad", data=np.ones(9), compression="lzf"), "other filters than gzip"),
    "bomb": (bomb, "unpacks to other than its 16000 bytes"),
    "too large": (lambda f: f.__setitem__("bad", np.ones(1001)), "has 8008 bytes, more than the 8000"),
    "path": (lambda f: f.__setitem__("..", 1), "has a name like a path"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_objects_are_named(path, name):
    change, message = HOSTILE[name]
    with h5py.File(path, "a") as file:
        change(file)
    ((found, reason),) = hdf5.inspect(path, 8000 if name == "too large" else None).items()
    assert found == (".." if name == "path" else "bad")
    assert message in reason


def test_a_name_with_slashes(path):
    """HDF5 writes no such name, but reads it."""
    with h5py.File(path, "a") as file:
        file["..Sescape"] = 1
    path.write_bytes(path.read_bytes().replace(b"..Sescape", b"../escape"))
    assert hdf5.inspect(path) == {"../escape": "has a name like a path"}


def test_a_large_attribute(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        file.attrs["long"] = np.ones(2**18)
    assert hdf5.inspect(tmp_path / "a.h5") == {"": "has an attribute of 2097152 bytes"}


def test_good_files_and_those_that_are_none(path, tmp_path):
    assert hdf5.inspect(path) == {}
    with h5py.File(path, "a") as file:
        file["group/up"] = file["/"]
        file["soft"] = h5py.SoftLink("/soft")
    assert hdf5.inspect(path) == {}
    (tmp_path / "text").write_text("text")
    assert hdf5.inspect(tmp_path / "text") == {}  # h5py says what it is
    with pytest.raises(FileNotFoundError):
        hdf5.inspect(tmp_path / "none")


def test_a_changed_file_is_inspected_again(path):
    assert hdf5.inspect(path) == {}
    with h5py.File(path, "a") as file:
        file["bad"] = h5py.ExternalLink("other.h5", "x")
    assert list(hdf5.inspect(path)) == ["bad"]


# ------------------------------------------------------------------------------------------- the process sent ahead


class Ended:
    """An inspector that a file brings down."""

    def __init__(self, code):
        self.code = code

    def ask(self, path, most):
        return "makes HDF5 need too much memory" if self.code is None else None

    def end(self):
        return self.code


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-signal.SIGSEGV, "makes HDF5 crash"),
        (-signal.SIGXCPU, "keeps HDF5 busy without an end"),
        (None, "makes HDF5 need too much memory"),
    ],
)
def test_an_end_of_the_process_is_told(path, monkeypatch, code, message):
    monkeypatch.setattr(hdf5, "_waiting", [])
    monkeypatch.setattr(hdf5, "_Inspector", lambda: Ended(code))
    with pytest.raises(hdf5.BrokenDownError, match=message):
        hdf5.inspect(path)


def test_a_process_that_was_killed_says_nothing_of_the_file(path, monkeypatch):
    monkeypatch.setattr(hdf5, "_waiting", [])
    monkeypatch.setattr(hdf5, "_Inspector", lambda: Ended(-signal.SIGKILL))
    with pytest.raises(OSError, match="was killed") as caught:
        hdf5.inspect(path)
    assert caught.value.errno == errno.ENOMEM


def test_what_an_earlier_file_did_is_not_laid_on_the_next(path, monkeypatch):
    broken = hdf5._Inspector()
    os.kill(broken._process.pid, signal.SIGSEGV)
    monkeypatch.setattr(hdf5, "_waiting", [broken])
    assert hdf5.inspect(path) == {}
    hdf5._end_all()


def test_memory_and_time_of_the_process_are_bounded():
    endless = "from gcref import hdf5; hdf5._SECONDS = 0; hdf5._limit_time(0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", endless]).returncode == -signal.SIGXCPU
    greedy = "from gcref import hdf5; hdf5._limit_memory(); bytes(10**9)"
    done = subprocess.run([sys.executable, "-c", greedy], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "MemoryError"


def test_no_module_of_the_current_folder_is_run(path, tmp_path, monkeypatch):
    for name in ("json", "h5py", "zlib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('boom', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hdf5, "_waiting", [])
    assert hdf5.inspect(path) == {}
    assert not (tmp_path / "boom").exists()
    hdf5._end_all()
