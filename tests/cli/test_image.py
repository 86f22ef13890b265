import dataclasses
import gzip
import hashlib
import os
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gcref import store
from gcref.cli import cli
from gcref.cli import image as command
from gcref.studies import image_run, trajectory
from gcref.studies.image_run import ImageRun, preset
from gcref.validation.kills import half_files

TINY = (
    "--dataset=digits", "--model=mlp", "--hidden=6", "--n-examples=60", "--n-test-examples=20", "--batch-size=6",
    "--iterations=40", "--measure-every=10", "--refresh-every=20", "--gc-iterations=2",
)  # fmt: skip
SHORT = ("--iterations=2", "--measure-every=1", "--refresh-every=2", "--gc-iterations=1")
IN_SHORT = {"iterations": 2, "measure_every": 1, "refresh_every": 2, "gc_iterations": 1}
RNG = np.random.default_rng(11)


def invoke(*arguments):
    return CliRunner().invoke(cli, ["image", *map(str, arguments)])


def start(*arguments, **options):
    command = [sys.executable, "-m", "gcref.cli", "image", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def listing(folder):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in folder.rglob("*")}


def refused(result, *named):
    """The command ended as one that was given something wrong: one sentence that names it, and no more."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    message = result.stderr.split("Error: ")[1]
    assert all(str(text) in message for text in named), message
    assert message.count("\n") == 1
    assert "Traceback" not in result.output
    return message


# ------------------------------------------------------------------------------------------------------------- options


@pytest.fixture
def asked(monkeypatch):
    """Instead of running, keep what the library was asked for."""
    calls = []

    def run_image(run, out, data_dir, command, overwrite, progress, executor):
        calls.append(SimpleNamespace(run=run, out=out, data_dir=data_dir, command=command, overwrite=overwrite))
        return False

    monkeypatch.setattr("gcref.studies.image.run_image", run_image)
    return calls


def shown_value(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if value != str(value) else value


def test_every_default_shown_is_the_librarys():
    shown = {option.name: option.show_default for option in command.params}
    in_words = {
        "width": ("the model's own", 0), "n_examples": ("all", 0), "n_test_examples": ("all", 0),
        "milestones": ("the preset's", ()),
    }  # fmt: skip
    flags = {"augment": False, "skip_broken": False}
    for field in dataclasses.fields(ImageRun):
        value = getattr(ImageRun(), field.name)
        if field.name in in_words:
            assert (shown[field.name], value) == in_words[field.name]
        elif field.name in flags:
            assert value == flags[field.name]
        elif field.name in ("dataset", "model"):
            assert shown[field.name] == f"the preset's, else {value}"
        elif field.name != "schema":
            assert shown[field.name] == shown_value(value), field.name
    help_text = " ".join(invoke("--help").output.split())
    assert "[default: mnist, unless --dataset or --model is given]" in help_text
    assert "(preset imagenet: 224)" in help_text


def test_every_choice_is_the_librarys():
    choices = {option.name: tuple(option.type.choices) for option in command.params if hasattr(option.type, "choices")}
    assert choices.pop("preset") == tuple(image_run.PRESETS)
    assert choices == image_run.CHOICES


def test_there_is_an_option_for_every_field():
    names = {option.name for option in command.params}
    fields = {field.name for field in dataclasses.fields(ImageRun)} - {"schema"}
    assert names == fields | {"out", "preset", "data_dir", "overwrite", "dask", "scheduler"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), ImageRun()),
        (("--seed=3",), ImageRun(seed=3)),
        (("--dataset=digits",), ImageRun(dataset="digits")),
        (("--model=resnet8",), ImageRun(model="resnet8")),
        (("--preset=mnist",), preset("mnist", {})),
        (("--preset=cifar10",), preset("cifar10", {})),
        (("--preset=cifar100", "--no-augment"), preset("cifar100", {"augment": False})),
        (("--preset=imagenet", "--image-size=64"), preset("imagenet", {"image_size": 64})),
        (("--preset=cifar10", "--dataset=cifar100"), preset("cifar10", {"dataset": "cifar100"})),
        (("--preset=cifar10", "--iterations=40000"), preset("cifar10", {"iterations": 40000})),
        (("--hidden=9, 8", "--hidden", "7"), ImageRun(hidden=(9, 8, 7))),
        (("--methods=gc", "--methods", "sgb,svrg"), ImageRun(methods=("gc", "sgb", "svrg"))),
    ],
)
def test_presets_and_what_is_given_besides(asked, tmp_path, flags, expected):
    assert invoke("--out", tmp_path / "x.h5", *flags).exit_code == 0
    assert asked[0].run == expected
    assert (asked[0].out, asked[0].data_dir, asked[0].overwrite) == (tmp_path / "x.h5", None, False)


def test_milestones_follow_the_iterations(asked, tmp_path):
    invoke("--out", tmp_path / "x.h5", "--preset=cifar10", "--iterations=40000")
    invoke("--out", tmp_path / "x.h5", "--preset=cifar10", "--iterations=40000", "--milestones=10,20")
    assert [call.run.milestones for call in asked] == [(20000, 30000), (10, 20)]


def test_every_option_reaches_the_library(asked, tmp_path):
    given = {
        "dataset": "imagefolder", "model": "cnn", "width": 3, "norm": "batch", "n_examples": 500,
        "n_test_examples": 50, "image_size": 17, "label_smoothing": 0.1, "corrupt_fraction": 0.2,
        "duplicate_fraction": 0.3, "n_originals": 7, "batch_size": 11, "learning_rate": 0.5, "momentum": 0.25,
        "weight_decay": 0.125, "milestones": (2, 5), "iterations": 60, "methods": ("gc", "sgb"),
        "method": "monte-carlo", "n_estimates": 8, "measure_every": 20, "refresh_every": 40, "gc_iterations": 6,
        "seed": 9, "precision": "float64", "snapshots": "all",
    }  # fmt: skip
    flags = []
    for name, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        flags += ["--" + name.replace("_", "-"), text]
    flags += ["--augment", "--skip-broken", "--overwrite", "--data-dir", tmp_path]
    assert invoke("--out", tmp_path / "x.h5", *flags).exit_code == 0
    assert asked[0].run == ImageRun(**given, augment=True, skip_broken=True)
    assert (asked[0].data_dir, asked[0].overwrite) == (str(tmp_path), True)
    untouched = {
        f.name for f in dataclasses.fields(ImageRun) if getattr(asked[0].run, f.name) == getattr(ImageRun(), f.name)
    }
    assert untouched == {"schema", "hidden"}  # which an mlp has


BAD = [
    (("--preset", "svhn"), ("--preset", "svhn")),
    (("--dataset", "svhn"), ("--dataset", "svhn")),
    (("--model", "vgg"), ("--model", "vgg")),
    (("--model", "resnet8", "--norm", "layer"), ("--norm", "layer")),
    (("--norm", "batch"), ("norm", "batch", "mlp")),
    (("--width", "4"), ("width", "4", "mlp")),
    (("--width", "-1", "--model", "cnn"), ("width", "-1")),
    (("--hidden", "8,0"), ("hidden", "8, 0")),
    (("--hidden", "8", "--model", "cnn"), ("hidden=[8]", "no meaning", "'cnn'")),
    (("--hidden", "8", "--preset", "cifar10"), ("hidden=[8]", "no meaning", "'resnet8'")),
    (("--hidden", "8,,9"), ("--hidden", "8,,9")),
    (("--n-examples", "-1"), ("n_examples", "-1")),
    (("--image-size", "0"), ("image_size", "0")),
    (("--label-smoothing", "1"), ("label_smoothing", "1.0", "below 1")),
    (("--corrupt-fraction", "1.5"), ("corrupt_fraction", "1.5", "at most 1")),
    (("--corrupt-fraction", "-0.1"), ("corrupt_fraction", "-0.1", "at least 0")),
    (("--corrupt-fraction", "nan"), ("corrupt_fraction", "nan")),
    (("--corrupt-fraction", "a tenth"), ("--corrupt-fraction", "a tenth")),
    (("--duplicate-fraction", "1"), ("duplicate_fraction", "1.0", "below 1")),
    (("--n-originals", "0"), ("n_originals", "0")),
    (("--batch-size", "0"), ("batch_size", "0")),
    (("--learning-rate", "-1"), ("learning_rate", "-1.0")),
    (("--learning-rate", "1e400"), ("learning_rate", "inf")),
    (("--momentum", "1"), ("momentum", "1.0")),
    (("--weight-decay", "nan"), ("weight_decay", "nan")),
    (("--iterations", "0"), ("iterations", "0")),
    (("--iterations", "1.5"), ("--iterations", "1.5")),
    (("--iterations", "100"), ("measure_every=500", "iterations=100")),
    (("--refresh-every", "750"), ("measure_every=500", "refresh_every=750")),
    (("--milestones", "20,10"), ("milestones", "20, 10")),
    (("--methods", "sgb,adam"), ("methods", "adam")),
    (("--methods", ""), ("methods", "''")),
    (("--methods", "gc,gc"), ("methods", "gc")),
    (("--method", "exact"), ("--method", "exact")),
    (("--n-estimates", "1"), ("n_estimates", "1")),
    (("--gc-iterations", "0"), ("gc_iterations", "0")),
    (("--seed", "-1"), ("seed", "-1")),
    (("--seed", "99999999999999999999"), ("seed", "99999999999999999999")),
    (("--precision", "float16"), ("--precision", "float16")),
    (("--snapshots", "some"), ("--snapshots", "some")),
    (("--dataset", "digits", "--augment"), ("augment", "8×8")),
    (("--image-size", "32"), ("--image-size has no meaning without --dataset imagefolder",)),
    (("--preset", "cifar10", "--skip-broken"), ("--skip-broken", "--dataset imagefolder")),
    (("--hidden", "1024,1024", "--model", "cnn"), ("--hidden", "--model mlp")),
    (("--n-originals", "4"), ("--n-originals", "--duplicate-fraction")),
    (("--n-estimates", "10"), ("--n-estimates", "--method monte-carlo")),
    (("surplus",), ("surplus",)),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "named"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_values_are_named_and_nothing_is_made(tmp_path, flags, named):
    refused(invoke("--out", tmp_path / "x.h5", *flags), *named)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x.txt", "x.h5.gz", ".h5"])
def test_another_suffix_is_refused(tmp_path, name):
    refused(invoke("--out", tmp_path / name, *TINY), "--out", name, ".h5 or .hdf5")
    assert os.listdir(tmp_path) == []


def test_out_is_needed():
    refused(invoke(*TINY), "--out")


@pytest.mark.parametrize("kind", ["missing folder", "folder", "not HDF5"])
def test_a_place_that_cannot_be_written(tmp_path, kind):
    out = tmp_path / "nowhere" / "x.h5" if kind == "missing folder" else tmp_path / "x.h5"
    if kind == "folder":
        out.mkdir()
    elif kind == "not HDF5":
        out.write_text("hello")
    before = listing(tmp_path)
    expected = {"missing folder": "does not exist", "folder": "is a folder", "not HDF5": "not an HDF5 file"}[kind]
    refused(invoke("--out", out, *TINY), out, expected)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("kind", ["missing folder", "folder", "another configuration", "its parts", "other parts"])
def test_such_a_place_is_refused_before_the_data_are_loaded(tmp_path, monkeypatch, kind):
    out = tmp_path / ("nowhere/x.h5" if kind == "missing folder" else "x.h5")
    if kind == "folder":
        out.mkdir()
    elif kind == "another configuration":
        assert invoke("--out", out, *TINY, "--seed=5").exit_code == 0
    elif kind == "its parts":
        interrupted(monkeypatch, OSError(28, "No space left on device"))
        assert invoke("--out", out, *TINY, "--seed=5").exit_code == 1
    elif kind == "other parts":
        store.parts_of(out).mkdir()
    before = listing(tmp_path)
    monkeypatch.setattr("gcref.studies.image.prepare", None)
    expected = {
        "missing folder": "does not exist", "folder": "is a folder", "other parts": "not the parts of a run",
        "another configuration": "(seed 5 instead of 0)", "its parts": "an unfinished run of another configuration",
    }  # fmt: skip
    refused(invoke("--out", out, *TINY), out, expected[kind])
    assert listing(tmp_path) == before


@pytest.mark.parametrize("method", ["exact", "exchange"])
def test_more_memory_than_there_is(tmp_path, monkeypatch, method):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4}.get)
    flags = ("--out", tmp_path / "x.h5", *TINY, "--methods", f"gc,{method}")
    refused(invoke(*flags), f"method {method} needs about 0 GiB for 60 examples of 460 parameters", "sketched needs")
    assert os.listdir(tmp_path) == []
    # 3 · 60 · min(8 · 60, 4 · 460) bytes are 22 pages.
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 22}.get)
    assert invoke(*flags).exit_code == 0


# ---------------------------------------------------------------------------------- files of the real formats, and runs


def pixels(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def idx(array):
    """An idx file of bytes: magic number, one size an axis, and the bytes."""
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def mnist(folder, n_train=60, n_test=20):
    """Four idx files, two of them compressed; returns what is in them."""
    splits = []
    for stem, n in (("train", n_train), ("t10k", n_test)):
        images, labels = pixels(n, 28, 28), (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
        splits.append((images[..., None], labels))
    return splits


def cifar_records(images, labels, coarse):
    """Records of a CIFAR file: the label or labels, then the red, the green and the blue plane."""
    head = [labels // 5, labels] if coarse else [labels]
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.stack(head, axis=1), planes], axis=1).astype(np.uint8).tobytes()


def cifar(folder, name, n_train=200, n_test=40):
    """The binary version's folder; returns what is in it."""
    n_classes, coarse = {"cifar10": (10, False), "cifar100": (100, True)}[name]
    splits = [(pixels(n, 32, 32, 3), np.arange(n) * 7 % n_classes) for n in (n_train, n_test)]
    folder = folder / {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}[name]
    folder.mkdir()
    (images, labels), test = splits
    if name == "cifar10":
        for i, rows in enumerate(np.array_split(np.arange(n_train), 5), 1):
            (folder / f"data_batch_{i}.bin").write_bytes(cifar_records(images[rows], labels[rows], coarse))
        (folder / "test_batch.bin").write_bytes(cifar_records(*test, coarse))
    else:
        (folder / "train.bin").write_bytes(cifar_records(images, labels, coarse))
        (folder / "test.bin").write_bytes(cifar_records(*test, coarse))
    return splits


def pictures(folder, n_train=12, n_test=4):
    """An image folder of two classes, of JPEGs and PNGs of many sizes."""
    for split, n in (("train", n_train), ("val", n_test)):
        for label, kind in enumerate(("n01440764", "n01443537")):
            place = folder / split / kind
            place.mkdir(parents=True)
            for i in range(n):
                colour = pixels(1, 36 + i, 50 - i, 3)[0] // 2 + 120 * label
                Image.fromarray(colour.astype(np.uint8)).save(place / f"{i}.{'JPEG' if i % 3 else 'png'}")


def digest(splits):
    """What a run's file knows its data by, from the bytes of the files."""
    sha = hashlib.sha256()
    for images, labels in splits:
        sha.update((images / np.float32(255)).astype(np.float32).tobytes() + labels.astype(np.int64).tobytes())
    return sha.hexdigest()


def check_run(result, out, run, n_train, n_classes):
    assert result.exit_code == 0, result.output
    attrs, series = store.read_trajectory(out)
    assert ImageRun.from_json(store.read_attrs(out)["config"]) == run
    assert (attrs["status"], attrs["n_train"], attrs["n_classes"]) == ("complete", n_train, n_classes)
    assert series["iteration"].tolist() == list(run.points)
    for method in run.methods:
        variance = series[f"variance/{method}"]
        assert np.isfinite(variance).all()
        assert (variance[1:] > 0).all()
    assert series["variance/svrg"][0] == 0
    # Without replacement the variance of a batch of 2B is less than half of that of B.
    b = run.batch_size
    np.testing.assert_allclose(
        series["variance/sg2b"] / series["variance/sgb"], (n_train - 2 * b) / (n_train - b) / 2, rtol=1e-5
    )
    assert half_files(out.parent) == []
    return attrs


def test_preset_mnist_runs_on_idx_files(tmp_path):
    (tmp_path / "mnist").mkdir()
    splits = mnist(tmp_path / "mnist")
    out, flags = tmp_path / "results.h5", ("--batch-size=6", "--hidden=8")
    result = invoke("--out", out, "--preset=mnist", "--data-dir", tmp_path, *flags, *SHORT)
    attrs = check_run(result, out, preset("mnist", {"batch_size": 6, "hidden": (8,), **IN_SHORT}), 60, 10)
    assert attrs["n_parameters"] == 785 * 8 + 9 * 10
    assert attrs["data_digest"] == digest(splits)


@pytest.mark.parametrize(("name", "n_train", "n_classes"), [("cifar10", 300, 10), ("cifar100", 120, 100)])
def test_presets_cifar_run_on_binary_files(tmp_path, name, n_train, n_classes):
    splits = cifar(tmp_path, name, n_train)
    out, flags = tmp_path / "results.h5", ("--batch-size=16", "--width=1")
    result = invoke("--out", out, f"--preset={name}", "--data-dir", tmp_path, *flags, *SHORT, "--measure-every=2")
    run = preset(name, {"batch_size": 16, "width": 1, **IN_SHORT, "measure_every": 2})
    assert (run.augment, run.milestones) == (True, (1,))
    attrs = check_run(result, out, run, n_train, n_classes)
    assert attrs["data_digest"] == digest(splits)
    assert attrs["model"] == {"cifar10": "resnet8", "cifar100": "resnet32"}[name]


def test_preset_imagenet_runs_on_a_folder_of_images(tmp_path):
    folder, out = tmp_path / "imagenet", tmp_path / "results.h5"
    pictures(folder)
    flags = ("--batch-size=4", "--image-size=32", "--width=2")
    result = invoke("--out", out, "--preset=imagenet", "--data-dir", folder, *flags, *SHORT)
    run = preset("imagenet", {"batch_size": 4, "width": 2, "image_size": 32, **IN_SHORT})
    attrs = check_run(result, out, run, 24, 2)
    assert (attrs["model"], attrs["n_test"]) == ("resnet18", 8)


# ---------------------------------------------------------------------------------------------------- bad data, refused


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


DAMAGE = {
    "an idx file cut short": ("mnist", "train-labels-idx1-ubyte", lambda p: cut(p, 1), "holds only 59"),
    "compressed data cut short": ("mnist", "train-images-idx3-ubyte.gz", lambda p: cut(p, 20), "cut short"),
    "a wrong magic number": (
        "mnist", "t10k-labels-idx1-ubyte", lambda p: p.write_bytes(b"\0\0\x08\x03" + p.read_bytes()[4:]), "2049",
    ),
    "images for labels": (
        "mnist", "train-labels-idx1-ubyte", lambda p: p.write_bytes(idx(pixels(60, 28, 28))), "2051",
    ),
    "fewer labels than images": (
        "mnist", "train-labels-idx1-ubyte", lambda p: p.write_bytes(idx(np.zeros(59, np.uint8))), "60 images",
    ),
    "an empty idx file": ("mnist", "train-labels-idx1-ubyte", lambda p: p.write_bytes(b""), "only 0 bytes"),
    "a label above 9": (
        "mnist", "t10k-labels-idx1-ubyte", lambda p: p.write_bytes(idx(np.full(20, 10, np.uint8))), "label 10",
    ),
    "a CIFAR file cut short": (
        "cifar10", "cifar-10-batches-bin/data_batch_3.bin", lambda p: cut(p, 100), "multiple of 3073",
    ),
    "a CIFAR file missing": (
        "cifar10", "cifar-10-batches-bin/data_batch_3.bin", lambda p: p.unlink(), "has no data_batch_3.bin",
    ),
    "a CIFAR label out of range": (
        "cifar10", "cifar-10-batches-bin/test_batch.bin",
        lambda p: p.write_bytes(b"\x0a" + p.read_bytes()[1:]), "label 10 at 0",
    ),
    "a CIFAR-100 file cut short": ("cifar100", "cifar-100-binary/train.bin", lambda p: cut(p, 1), "multiple of 3074"),
    "a JPEG cut short": ("imagenet", "train/n01443537/1.JPEG", lambda p: cut(p, 600), "skip_broken leaves"),
    "text for a picture": ("imagenet", "val/n01443537/2.JPEG", lambda p: p.write_text("hello"), "skip_broken leaves"),
    "a class without pictures": (
        "imagenet", "train/n01443537/1.JPEG", lambda p: [q.unlink() for q in p.parent.iterdir()], "has no images",
    ),
}  # fmt: skip


def folder_of(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    if name == "mnist":
        mnist(folder)
    elif name == "imagenet":
        pictures(folder)
    else:
        cifar(folder, name, n_train=20, n_test=5)
    return folder


@pytest.mark.parametrize(("name", "file", "damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_data_are_named_and_nothing_is_made(tmp_path, name, file, damage, message):
    folder, out = folder_of(tmp_path, name), tmp_path / "out"
    out.mkdir()
    damage(folder / file)
    size = ["--image-size=8"] if name == "imagenet" else []
    result = invoke("--out", out / "x.h5", "--preset", name, "--data-dir", folder, "--batch-size=4", *size, *SHORT)
    # A missing file, or one that others do not fit, is named with its folder.
    refused(result, message, folder if "no" in message.split() or "images" in message else folder / file)
    assert os.listdir(out) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "imagenet"])
def test_missing_data_are_missed_in_one_sentence(tmp_path, name):
    (tmp_path / "data").mkdir()
    result = invoke("--out", tmp_path / "x.h5", "--preset", name, "--data-dir", tmp_path / "data")
    message = refused(result, "is not in", tmp_path / "data", "put what you get into")
    assert ("image-net.org" if name == "imagenet" else "download") in message
    assert os.listdir(tmp_path) == ["data"]


def test_a_batch_larger_than_the_training_set(tmp_path):
    result = invoke("--out", tmp_path / "x.h5", *TINY, "--batch-size=61", "--methods=sgb")
    refused(result, "N=60", "batch_size=61")
    assert os.listdir(tmp_path) == []


def test_more_examples_than_there_are(tmp_path):
    refused(invoke("--out", tmp_path / "x.h5", *TINY, "--n-test-examples=360"), "n_test_examples=360", "has only 359")
    assert os.listdir(tmp_path) == []


def test_a_picture_too_small_for_the_model(tmp_path):
    folder = folder_of(tmp_path, "imagenet")
    flags = ("--model=cnn", "--image-size=3", "--batch-size=4")
    refused(invoke("--out", tmp_path / "x.h5", "--preset=imagenet", "--data-dir", folder, *flags, *SHORT), "is 3")
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.filterwarnings("default")
def test_broken_pictures_are_left_out_if_asked_for(tmp_path):
    folder, out = folder_of(tmp_path, "imagenet"), tmp_path / "x.h5"
    broken = folder / "train/n01443537/1.JPEG"
    cut(broken, broken.stat().st_size // 2)
    flags = ("--preset=imagenet", "--data-dir", folder, "--batch-size=4", "--image-size=8", "--model=linear", *SHORT)
    result = invoke("--out", out, *flags, "--skip-broken")
    assert result.exit_code == 0, result.output
    assert store.read_trajectory(out)[0]["n_train"] == 23
    warning = next(line for line in result.stderr.splitlines() if "left out" in line)
    assert warning.startswith("Warning: 1 ")
    assert str(broken) in warning
    assert ".py" not in result.stderr


def test_grey_pictures_in_a_folder_of_coloured_ones_become_coloured(tmp_path):
    folder, out = folder_of(tmp_path, "imagenet"), tmp_path / "x.h5"
    Image.fromarray(pixels(1, 20, 20)[0]).save(folder / "train/n01443537/grey.png")
    flags = ("--preset=imagenet", "--data-dir", folder, "--batch-size=4", "--image-size=8", "--model=linear", *SHORT)
    result = invoke("--out", out, *flags)
    assert result.exit_code == 0, result.output
    assert store.read_trajectory(out)[0]["n_train"] == 25


# ------------------------------------------------------------------------------------------- stopping, going on, again


def interrupted(monkeypatch, error=KeyboardInterrupt, nth=3):
    """Let the nth measurement end in an error, once."""
    variances, calls = trajectory.variances, []

    def replaced(*arguments):
        calls.append(arguments)
        if len(calls) == nth:
            raise error
        return variances(*arguments)

    monkeypatch.setattr(trajectory, "variances", replaced)


def test_a_run_and_the_same_command_again(tmp_path):
    process = start("--out", "x.h5", *TINY, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    # Piped, progress is plain lines on stderr; the table is on stdout.
    lines = err.splitlines()
    assert lines[0].startswith("10 of 40 iterations, ")
    assert lines[-1].startswith("40 of 40 iterations, 100% of this run's work")
    assert "\x1b" not in out + err
    assert "digits, mlp: average variance (closed-form)" in out
    _, series = store.read_trajectory(tmp_path / "x.h5")
    rows = [line.split() for line in out.splitlines() if "%" in line]
    assert [int(row[0]) for row in rows] == [0, 10, 20, 30, 40]
    for i, row in enumerate(rows):
        for j, method in enumerate(("sgb", "sg2b", "svrg", "gc"), 4):
            assert row[j] == f"{series[f'variance/{method}'][i]:.2e}"
        assert float(row[1]) == pytest.approx(series["train_loss"][i], rel=1e-4)
    assert out.splitlines()[-2].startswith("x.h5: 40 iterations in ")
    assert out.endswith("  gcref figures x.h5 --out figures\n")
    assert store.read_attrs(tmp_path / "x.h5")["command"].startswith("gcref image --out x.h5 --dataset=digits ")
    before = listing(tmp_path)
    again = invoke("--out", tmp_path / "x.h5", *TINY)
    assert again.exit_code == 0
    assert again.stdout == f"{tmp_path / 'x.h5'} is finished already: digits-mlp-lr0.02-seed0, nothing to do.\n"
    assert listing(tmp_path) == before
    other = invoke("--out", tmp_path / "x.h5", *TINY, "--momentum=0.25")
    refused(other, "another configuration (momentum 0.5 instead of 0.25)", "--overwrite")
    assert listing(tmp_path) == before
    replaced = invoke("--out", tmp_path / "x.h5", *TINY, "--momentum=0.25", "--overwrite")
    assert replaced.exit_code == 0
    assert store.read_trajectory(tmp_path / "x.h5")[0]["momentum"] == 0.25
    assert os.listdir(tmp_path) == ["x.h5"]


def test_every_column_of_the_table_is_whole_however_many_methods_there_are(tmp_path):
    methods = ["sgb", "sg2b", "svrg", "gc", "gc-rank2", "exact", "exchange", "sketched", "sketched-drift0.125"]
    short = [flag for flag in TINY if "iterations" not in flag and "every" not in flag]
    result = invoke("--out", tmp_path / "x.h5", *short, *SHORT, "--methods", ",".join(methods))
    assert result.exit_code == 0, result.output
    _, series = store.read_trajectory(tmp_path / "x.h5")
    rows = [line.split() for line in result.stdout.splitlines() if "%" in line]
    assert [row[4:-1] for row in rows] == [[f"{series[f'variance/{m}'][i]:.2e}" for m in methods] for i in range(3)]
    assert all(f" {method} " in result.stdout for method in methods)
    assert "…" not in result.stdout


def test_a_finished_file_needs_no_data(tmp_path):
    (tmp_path / "data").mkdir()
    mnist(tmp_path / "data")
    flags = ("--preset=mnist", "--hidden=4", "--batch-size=6", "--data-dir", tmp_path / "data", *SHORT)
    assert invoke("--out", tmp_path / "x.h5", *flags).exit_code == 0
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    assert "is finished already" in invoke("--out", tmp_path / "x.h5", *flags).stdout


def test_ctrl_c_says_what_is_kept(tmp_path, monkeypatch):
    out = tmp_path / "x.h5"
    interrupted(monkeypatch)
    result = invoke("--out", out, *TINY)
    assert result.exit_code == 130
    assert result.stderr.endswith(
        "\nStopped. What is measured is kept; the same command goes on from the last measurement.\n"
    )
    assert store.read_trajectory(out)[1]["iteration"].tolist() == [0, 10]
    other = invoke("--out", out, *TINY, "--seed=4")
    refused(other, "another configuration (seed 0 instead of 4)")
    out.unlink()
    refused(invoke("--out", out, *TINY, "--seed=4"), "holds an unfinished run of another configuration")
    again = invoke("--out", out, *TINY)
    assert again.exit_code == 0
    assert store.read_trajectory(out)[1]["iteration"].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    ("error", "message"), [(OSError(28, "No space left on device"), "No space left"), (MemoryError(), "out of memory")]
)
def test_when_the_machine_fails(tmp_path, monkeypatch, error, message):
    interrupted(monkeypatch, error)
    result = invoke("--out", tmp_path / "x.h5", *TINY)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert message in last
    assert "what is measured is kept, the same command goes on from the last measurement" in last
    assert invoke("--out", tmp_path / "x.h5", *TINY).exit_code == 0


def test_what_diverges_is_said_to(tmp_path):
    result = invoke("--out", tmp_path / "x.h5", *TINY, "--learning-rate=1e6")
    assert result.exit_code == 0, result.output
    assert "x.h5: it diverged after iteration 0 in " in result.stdout
    assert all("of 40 iterations" in line for line in result.stderr.splitlines())
    assert store.read_trajectory(tmp_path / "x.h5")[0]["status"] == "diverged"


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_signal_stops_a_run_cleanly(tmp_path):
    flags = [flag for flag in TINY if not flag.startswith("--iterations")]
    # Tests that run in the background of a shell ignore Ctrl-C, and so would what they start.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = start("--out", "results.h5", *flags, "--iterations=1000000", cwd=tmp_path, **listening)
    parts = store.parts_of(tmp_path / "results.h5")
    try:
        while process.poll() is None and not (parts / "checkpoint.h5").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.endswith("Stopped. What is measured is kept; the same command goes on from the last measurement.\n")
    assert "Traceback" not in err
    assert half_files(tmp_path) == []
    attrs, series = store.read_trajectory(tmp_path / "results.h5")
    assert attrs["status"] == "unfinished"
    assert len(series["iteration"]) >= 1
