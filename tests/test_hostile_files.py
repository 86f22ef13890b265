"""Files made to do harm: each is one error, and nothing else happens."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gcref import image_figures, store
from gcref.cli import cli
from gcref.clustering.sketches import Sketches
from gcref.data import DataError, load
from gcref.engine.trace import Trace
from gcref.trace_files import TraceFile, TraceFileError
from gcref.validation import fuzz_readers


class Boom:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.fixture(autouse=True)
def nothing_happens(tmp_path, monkeypatch):
    """Run in a folder of its own, where nothing is made or changed but the folder "work"."""
    (tmp_path / "work").mkdir()
    (tmp_path / "other.h5").write_bytes(b"nobody's business")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "work" / "cache"))
    yield
    assert sorted(os.listdir(tmp_path)) == ["other.h5", "work"]
    assert (tmp_path / "other.h5").read_bytes() == b"nobody's business"


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def command(*arguments):
    """Run a command that must refuse, in one sentence; return it."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.output
    return done.output


# -------------------------------------------------------------------------------------------------------- results files


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    fuzz_readers.READERS["results"].make(folder)
    return folder / "results.h5"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fuzz_readers.READERS["image results"].make(folder)
    return folder / "results.h5"


def nested(file):
    file.attrs["config"] = "[" * 20_000


def huge_grid(file):
    axis = [1 + i for i in range(400)]
    grid = {"learning_rate": axis, "seed": axis, "input_dim": axis}
    file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | grid)


def many_points(file):
    many = {"measure_every": 1, "iterations": 2**31 - 1, "refresh_every": 1}
    file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | many)


def summary_elsewhere(file):
    del file["summary"]
    file["summary"] = h5py.ExternalLink("other.h5", "summary")


def trajectories_elsewhere(file):
    del file["trajectories"]
    file["trajectories"] = h5py.ExternalLink("other.h5", "/")


def summary_of_any_size(file):
    del file["summary"]
    file.create_dataset("summary", (2**40,), store.SUMMARY_DTYPE, chunks=(1000,))


CHANGES = {
    "nested": (nested, "config must be a JSON object"),
    "summary elsewhere": (summary_elsewhere, "'summary' is a link to another file"),
    "trajectories elsewhere": (trajectories_elsewhere, "'trajectories' is a link to another file"),
    "a table of any size": (summary_of_any_size, "bytes, more than the 268435456"),
    "config of bytes": (lambda f: f.attrs.__setitem__("config", np.arange(3)), "config is of type ndarray"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_hostile_results(sweep, work, name):
    change, message = CHANGES[name]
    path = shutil.copy(sweep, work / "results.h5")
    with h5py.File(path, "a") as file:
        change(file)
    for arguments in (["figures", path, "--out", work / "figures"], ["validate", path]):
        assert message in " ".join(command(*arguments).split())
    before = path.read_bytes()
    command("rf-sweep", "--quick", "--out", path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [(huge_grid, "has 64000000 trajectories|trajectories; at most"), (many_points, "measuring points")],
)
def test_a_configuration_that_asks_for_any_amount_of_work(sweep, work, change, message):
    path = shutil.copy(sweep, work / "results.h5")
    with h5py.File(path, "a") as file:
        change(file)
    output = command("validate", path)
    assert any(part in " ".join(output.split()) for part in message.split("|")), output


def test_a_run_that_cannot_be_drawn(run, work):
    path = shutil.copy(run, work / "results.h5")
    with h5py.File(path, "a") as file:
        (group,) = file["trajectories"].values()
        group["iteration"][...] = 2**62 + np.arange(len(group["iteration"]))
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {"refresh_every": 1})
    with pytest.raises(store.StoreError, match="refresh_every=1, too little to be drawn"):
        image_figures.read_run(path)


# ------------------------------------------------------------------------------------------------ traces and sketches


def test_hostile_traces_on_the_command_line(work):
    np.savez(work / "pickled.npz", A0=np.array([[Boom()]], object), D0=np.ones((1, 1)))
    with h5py.File(work / "linked.h5", "w") as file:
        file["A0"] = h5py.ExternalLink("other.h5", "A0")
        file["D0"] = np.ones((3, 1))
    os.mkfifo(work / "pipe.h5")
    for name, message in (("pickled.npz", "Python objects"), ("linked.h5", "is a link"), ("pipe.h5", "no such file")):
        output = command("cluster", work / name, "--n-clusters", 1, "--out", work / "labels.npz")
        assert message in " ".join(output.split())
    assert not (work / "labels.npz").exists()


def test_arrays_of_other_names_may_be_anything(work):
    with h5py.File(work / "traces.h5", "w") as file:
        file["A0"], file["D0"] = np.ones((3, 2)), np.ones((3, 1))
        file["other"] = h5py.ExternalLink("other.h5", "x")
    assert TraceFile(work / "traces.h5").n_examples == 3


def npz(path, content, kind):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("A0.npy", "D0.npy"):
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return path


def test_an_archive_that_unpacks_to_any_size(work):
    header = b"\x93NUMPY\x02\x00" + (10**9).to_bytes(4, "little") + bytes(10**7)
    with pytest.raises(TraceFileError, match="a header of 1000000000 bytes"):
        TraceFile(npz(work / "header.npz", header, zipfile.ZIP_DEFLATED))
    with pytest.raises(TraceFileError, match="packed by another method"):
        TraceFile(npz(work / "lzma.npz", header, zipfile.ZIP_LZMA))


def test_hostile_sketches(work):
    Sketches(4).add([Trace(np.ones((3, 2)), np.ones((3, 1)))]).save(work / "good.npz")
    with np.load(work / "good.npz") as arrays:
        good = dict(arrays)
    np.savez_compressed(work / "compressed.npz", **good)
    np.savez(work / "pickled.npz", **good | {"seed": np.array(Boom(), object)})
    with zipfile.ZipFile(work / "text.npz", "w") as archive:
        for name in good:
            archive.writestr(f"{name}.npy", "text")
    os.mkfifo(work / "pipe.npz")
    for name, message in (
        ("compressed", "could be of any size"), ("pickled", "allow_pickle=False"), ("text", "other types"),
        ("pipe", "is not a file"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Sketches.load(work / f"{name}.npz")


# ----------------------------------------------------------------------------------------------------------- data sets


def test_more_labels_than_any_set_has(work):
    n = 2**20 + 1
    (work / "train-images-idx3-ubyte").write_bytes(b"".join(k.to_bytes(4, "big") for k in (2051, n, 1, 1)) + bytes(n))
    (work / "train-labels-idx1-ubyte").write_bytes(b"".join(k.to_bytes(4, "big") for k in (2049, n)) + bytes(n))
    with pytest.raises(DataError, match="of 1048576 examples at most"):
        load("mnist", data_dir=work)


def archive(work, *members):
    """Write CIFAR-10's archive with members of these headers and contents."""
    out = io.BytesIO()
    for header, content in members:
        out.write(header + content + bytes(-len(content) % 512))
    (work / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(out.getvalue() + bytes(1024)))


def tar_header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_of_a_header_of_any_size(work, kind):
    archive(work, (tar_header("x", 10**9, kind), bytes(10**7)))
    with pytest.raises(DataError, match=r"cannot be read: .*declares 1000000[0-9]* bytes"):
        load("cifar10", "test", work)


def test_an_archive_that_leads_elsewhere(work):
    content = bytes([3]) + bytes(3072)
    archive(work, (tar_header("../../test_batch.bin", len(content)), content), (tar_header("/boom", 4), b"boom"))
    with pytest.raises(DataError, match=r"has no file cifar-10-batches-bin/test_batch\.bin"):
        load("cifar10", "test", work)
    archive(work, (tar_header("far", 2**35), b""))
    with pytest.raises(DataError, match="is said to end at byte"):
        load("cifar10", "test", work)


@pytest.fixture
def pictures(work):
    for kind in ("a", "b"):
        (work / "train" / kind).mkdir(parents=True)
        Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(work / "train" / kind / "good.png")
    return work


def png(width, height):
    """A grey picture of zeros, one bit a pixel, of few bytes."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_of_any_size(pictures):
    for side, message in ((10_000, "it has 10000 × 10000 pixels"), (60_000, "decompression bomb")):
        (pictures / "train" / "a" / "bomb.png").write_bytes(png(side, 8200 if side == 10_000 else side))
        with pytest.raises(DataError, match=message.replace("10000 × 10000", "10000 × 8200")):
            load("imagefolder", data_dir=pictures, size=8)


def test_postscript_is_not_run(pictures, monkeypatch):
    program = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(boom) (w) file closefile showpage\n%%EOF\n"
    )
    (pictures / "train" / "a" / "bad.png").write_bytes(program)
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(DataError, match=r"bad\.png is not an image that can be used: its format is unknown"):
        load("imagefolder", data_dir=pictures, size=8)


def test_a_cache_that_leads_elsewhere(pictures, tmp_path):
    (pictures / ".gcref-cache").symlink_to(tmp_path)
    assert len(load("imagefolder", data_dir=pictures, size=8)) == 2
    assert (pictures / "cache" / "gcref" / "decoded").is_dir()


def test_a_cache_of_pipes(pictures):
    load("imagefolder", data_dir=pictures, size=8)
    (cache,) = (pictures / ".gcref-cache").iterdir()
    (cache / "pixels.npy").unlink()
    os.mkfifo(cache / "pixels.npy")
    with pytest.raises(DataError, match="is damaged; delete it"):
        load("imagefolder", data_dir=pictures, size=8)
