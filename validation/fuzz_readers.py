"""Every reader of gcref, with good files of its format: what `gcref.validation.fuzz` tries bad ones on.

A reader gets a folder, reads what is in it as a user's program does, and returns a digest of the numbers.
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from PIL import Image

from gcref import data, figures, image_figures, shards, store, tables
from gcref.clustering.sketches import Sketches
from gcref.contents import describe
from gcref.data import DataError
from gcref.engine.trace import Trace
from gcref.report import tables as report_tables
from gcref.report.sources import read
from gcref.studies.grid import Sweep
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.studies.sweep import run_sweep
from gcref.trace_files import TraceFile, TraceFileError, write_traces
from gcref.validation import image_results, results

SWEEP = Sweep(
    learning_rate=(0.1,), overparametrization=(0.5, 1.0), input_dim=(6,), teacher_hidden=(7,), seed=(0,), batch_size=4,
    student_hidden=30, iterations=40, measure_every=10, refresh_every=20,
)  # fmt: skip
RUN = ImageRun(
    dataset="digits", model="linear", n_examples=60, n_test_examples=20, batch_size=4, iterations=40, measure_every=20,
    refresh_every=40, gc_iterations=1,
)  # fmt: skip
RESULTS, SHARD = "results.h5", "one"


class Reader(NamedTuple):
    """What makes good files in a folder, what reads them, and the errors that it says it raises."""

    make: Callable[[Path], None]
    read: Callable[[Path], str]
    errors: tuple[type[Exception], ...]


def _digest(values: Iterable[Any]) -> str:
    """SHA-256 of arrays, or of what prints the same only if it is the same."""
    sha = hashlib.sha256()
    for value in values:
        sha.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return sha.hexdigest()


# ---------------------------------------------------------------------------------------------------- results files


def _make_sweep(folder: Path) -> None:
    run_sweep(SWEEP, folder / RESULTS, 1)
    _set_seconds(folder / RESULTS)


def _make_run(folder: Path) -> None:
    run_image(RUN, folder / RESULTS)
    _set_seconds(folder / RESULTS)


def _set_seconds(path: Path) -> None:
    """Make the file the same bytes each time: no digest covers how long a trajectory took."""
    with h5py.File(path, "r+") as file:
        for group in file["trajectories"].values():
            group.attrs.modify("seconds", 1.0)


def _read_results(folder: Path) -> str:
    """Read all that the figures, the tables and a run that goes on read."""
    path = folder / RESULTS
    config, summary = store.read_config(path), store.read_summary(path)
    found: list[Any] = [config["schema"], store.doubts(path), summary]
    found += [figures.undrawable(summary), sorted(figures.drawings(summary))]
    sources = read([path])
    made = (report_tables.sweep_tables if sources[0].is_sweep else report_tables.run_tables)(sources)
    found += [table.rows for table in made]
    for name in [None] if config["schema"] == "image/1" else [spec.id for spec in SWEEP.specs()]:
        attrs, series = store.read_trajectory(path, name)
        found += [sorted(attrs), *(array for _, array in sorted(series.items()))]
    return _digest(found)


def _read_image_run(folder: Path) -> str:
    """Read a run's file as Figs. 3, 6 and 7 do, and draw nothing but their numbers."""
    run = image_figures.read_run(folder / RESULTS)
    runs = [run]
    rolled = [image_figures.rolling(series, 3)[0] for series in run.variance.values()]
    return _read_results(folder) + _digest([run.status, sorted(image_figures.drawings(runs)), run.iteration, *rolled])


def _show(folder: Path) -> str:
    """Say what is inside, and make the tables of results, as ``gcref show`` and ``gcref export`` do."""
    found: list[Any] = []
    for path in sorted(folder.iterdir()):
        described = describe(path) | {"path": path.name}
        found.append(json.dumps(described))
        if described["kind"] == "results":
            read = tables.read_results(path)
            found += [*tables.tidy(read).values(), *(values for _, values in tables.cube(read)[0].values())]
    return _digest(found)


def _validate(folder: Path) -> str:
    """Recompute all numbers."""
    path = folder / RESULTS
    of_images = store.read_config(path)["schema"] == "image/1"
    checks = image_results.validate(path) if of_images else results.validate(path)
    return _digest([(check.name, check.passed, check.n, check.n_failures) for check in checks])


def _take_up(folder: Path) -> str:
    """Take a results file for the one that the run of `SWEEP` is to be written into, or went on from."""
    path = folder / RESULTS
    if shards.claim(path, SWEEP.to_json()):
        return "finished"
    names = shards.finished(store.parts_of(path), [spec.id for spec in SWEEP.specs()])
    return _digest([shards.read_shard(store.parts_of(path), name)[1].items() for name in names])


def _make_unfinished(folder: Path) -> None:
    _make_sweep(folder)
    with h5py.File(folder / RESULTS, "r+") as file:
        file.attrs["complete"] = False
        file.attrs["digest"] = store.root_digest(file)


def _make_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "theta": rng.standard_normal(300),
        "labels/gc": np.arange(200, dtype=np.int32),
        "iteration": np.array(3),
    }
    shards.write_shard(folder, SHARD, {"seconds": 1.0, "status": "complete"}, arrays)


def _read_shards(folder: Path) -> str:
    """Read a shard if it is whole; a damaged one is deleted, and so computed again."""
    if shards.finished(folder, [SHARD]) != [SHARD]:
        raise store.StoreError("damaged")
    attrs, arrays = shards.read_shard(folder, SHARD)
    return _digest([sorted(attrs.items()), *(array for _, array in sorted(arrays.items()))])


# ------------------------------------------------------------------------------------------------ traces and sketches


def _traces(n: int) -> list[Trace]:
    rng = np.random.default_rng(n)
    shapes = [((n, 4), (n, 3)), ((n, 2, 5), (n, 2, 2))]
    return [Trace(rng.standard_normal(a), rng.standard_normal(d)) for a, d in shapes]


def _make_traces_hdf5(folder: Path) -> None:
    packing = {"plain": {}, "packed": {"compression": "gzip", "shuffle": True, "fletcher32": True}}
    for name, options in packing.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for block, trace in enumerate(_traces(30)):
                for which, array in (("A", trace.A), ("D", trace.D)):
                    chunks = {"chunks": (10, *array.shape[1:])} if which == "A" or options else {}
                    file.create_dataset(f"{which}{block}", data=array, **chunks, **options)


def _make_traces_npz(folder: Path) -> None:
    write_traces(folder / "plain.npz", _traces(30))
    with np.load(folder / "plain.npz") as arrays:
        np.savez_compressed(folder / "packed.npz", **arrays)


def _read_traces(folder: Path) -> str:
    """Read every file of traces in two passes."""
    found = []
    for path in sorted(folder.iterdir()):
        source = TraceFile(path, batch_bytes=1000)
        found += [array for _ in range(2) for batch in source() for t in batch for array in (t.A, t.D)]
    return _digest(found)


def _make_sketches(folder: Path) -> None:
    Sketches(8, 3).add(_traces(30)).save(folder / "sketches.npz")


def _make_labels(folder: Path) -> None:
    _make_sketches(folder)
    write_traces(folder / "traces.npz", _traces(30))
    labels = np.arange(30) % 4
    sizes = np.bincount(labels)
    arrays: dict[str, Any] = {
        "labels": labels, "sizes": sizes, "weights": sizes[labels] / 30, "objective": np.array([3.0, 2.0]),
        "method": np.array("sketched"), "n_clusters": np.array(4), "seed": np.array(0), "gcref_version": np.array("0"),
    }  # fmt: skip
    np.savez(folder / "labels.npz", **arrays)


def _read_sketches(folder: Path) -> str:
    sketches = Sketches.load(folder / "sketches.npz")
    return _digest([sketches.values, sketches.blocks, sketches.seed])


# ----------------------------------------------------------------------------------------------------------- data sets


def _make_idx(folder: Path) -> None:
    """Write MNIST's files, small: the training files compressed, the test files not."""
    rng = np.random.default_rng(0)
    for stem, n, pack in (("train", 12, gzip.compress), ("t10k", 5, bytes)):
        header = b"".join(number.to_bytes(4, "big") for number in (2051, n, 6, 6))
        images = header + rng.integers(0, 256, 36 * n, np.uint8).tobytes()
        labels = (2049).to_bytes(4, "big") + n.to_bytes(4, "big") + rng.integers(0, 10, n, np.uint8).tobytes()
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{stem}-{name}-ubyte{'.gz' if pack is gzip.compress else ''}").write_bytes(pack(content))


def _make_cifar(folder: Path) -> None:
    """Write the files of CIFAR-10 in their folder and of CIFAR-100 in their archive."""
    rng = np.random.default_rng(0)
    plain = folder / "cifar-10-batches-bin"
    plain.mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (plain / name).write_bytes(bytes([3]) + rng.bytes(3072))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("train.bin", "test.bin"):
            content = bytes([1, 7]) + rng.bytes(3072)
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (folder / "cifar-100-binary.tar.gz").write_bytes(gzip.compress(out.getvalue(), mtime=0))


def _make_pictures(folder: Path) -> None:
    """Write a picture in each format, two classes, in a training and a test folder."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, suffixes in (("ants", ("png", "jpg", "bmp", "gif")), ("bees", ("webp", "tif", "ppm", "png"))):
            (folder / split / kind).mkdir(parents=True)
            for suffix in suffixes:
                picture = Image.fromarray(rng.integers(0, 256, (14, 18, 3), np.uint8))
                picture.save(folder / split / kind / f"a.{suffix}")


def _loader(*names: str, **options: Any) -> Callable[[Path], str]:
    """Return what loads both splits of data sets."""

    def read(folder: Path) -> str:
        shutil.rmtree(folder / ".gcref-cache", ignore_errors=True)
        sets = [data.load(name, split, folder, **options) for name in names for split in ("train", "test")]
        return _digest(array for ds in sets for array in (np.asarray(ds.x), ds.y))

    return read


READERS = {
    "results": Reader(_make_sweep, _read_results, (store.StoreError, ValueError)),
    "image results": Reader(_make_run, _read_image_run, (store.StoreError, ValueError)),
    "show": Reader(_make_sweep, _show, (ValueError,)),
    "show image": Reader(_make_run, _show, (ValueError,)),
    "show archives": Reader(_make_labels, _show, (ValueError,)),
    "validate": Reader(_make_sweep, _validate, (store.StoreError,)),
    "validate image": Reader(_make_run, _validate, (store.StoreError,)),
    "resume": Reader(_make_unfinished, _take_up, (store.StoreError,)),
    "shards": Reader(_make_shards, _read_shards, (store.StoreError,)),
    "traces hdf5": Reader(_make_traces_hdf5, _read_traces, (TraceFileError,)),
    "traces npz": Reader(_make_traces_npz, _read_traces, (TraceFileError,)),
    "sketches": Reader(_make_sketches, _read_sketches, (ValueError,)),
    "idx": Reader(_make_idx, _loader("mnist"), (DataError,)),
    "cifar": Reader(_make_cifar, _loader("cifar10", "cifar100"), (DataError,)),
    "images": Reader(_make_pictures, _loader("imagefolder", size=8), (DataError,)),
}
