import errno
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from gcref import shards, store

CONFIG = '{"a": 1}'
ATTRS = {"seed": 3, "learning_rate": 0.1, "status": "complete", "seconds": 1.5}


def arrays():
    return {"iteration": np.arange(100), "variance/gc": np.linspace(0, 1, 5), "snapshots/0/theta": np.ones(3)}


def rows(group):
    name = group.name.rsplit("/", 1)[-1]
    return [(name, "gc", 0.1, 1.0, 10, 2, 3, 0, 0.0, *group["variance/gc"][:4])]


def attrs(**changes):
    return {"gcref_version": "0", "command": "gcref", "config": CONFIG, "complete": True} | changes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.h5"


@pytest.fixture
def results(path):
    """A finished file of two trajectories."""
    make(path)
    return path


def make(path, names=("b", "a"), **changes):
    shards.claim(path, changes.get("config", CONFIG))
    for name in names:
        shards.write_shard(store.parts_of(path), name, ATTRS, arrays())
    shards.merge(path, names, attrs(**changes), rows)


def listing(folder):
    """Every file below a folder, with its bytes and the time of its last change."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


# ------------------------------------------------------------------------------------------------ shards, merging


def test_a_results_file_holds_what_was_written(results):
    with store.open_results(results) as file:
        assert list(file["trajectories"]) == ["b", "a"]  # the order of the grid, not of the alphabet
        group = file["trajectories/a"]
        for name, array in arrays().items():
            assert group[name].dtype == array.dtype
            assert np.array_equal(group[name][()], array)
        assert {k: group.attrs[k] for k in ATTRS} == ATTRS
        assert group.attrs["digest"] == store.digest(group)
        assert file.attrs["digest"] == store.root_digest(file)
    assert store.read_attrs(results)["schema"] == store.SCHEMA
    assert store.read_summary(results)["trajectory"].tolist() == [b"b", b"a"]
    assert os.listdir(results.parent) == ["results.h5"]


@pytest.mark.parametrize(("name", "words"), [(None, "name one of them"), ("c", "none of them is 'c'")])
def test_a_trajectory_is_named_where_there_are_several(results, name, words):
    with pytest.raises(store.StoreError) as raised:
        store.read_trajectory(results, name)
    assert str(raised.value) == f"{results} has 2 trajectories; {words}"
    assert store.read_trajectory(results, "a")[0]["digest"]


def test_a_shard_is_whole_or_absent(tmp_path, monkeypatch):
    class Broken:
        size = 3

        def __array__(self, *_, **__):
            raise OSError("disk full")

    with pytest.raises(Exception, match=r"disk full|no native HDF5"):
        shards.write_shard(tmp_path, "x", ATTRS, {"first": np.ones(3), "broken": Broken()})
    assert os.listdir(tmp_path) == []
    shards.write_shard(tmp_path, "x", ATTRS, arrays())
    before = listing(tmp_path)
    with pytest.raises(Exception, match=r"disk full|no native HDF5"):
        shards.write_shard(tmp_path, "x", ATTRS, {"broken": Broken()})
    assert listing(tmp_path) == before


def test_a_shard_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"{Path(b).name}"), real_replace(a, b)))
    shards.write_shard(tmp_path, "x", ATTRS, arrays())
    assert events == ["sync", "x.h5", "sync"]


def stored_at(dataset):
    """Where in the file a data set's bytes begin, and how many they are."""
    if dataset.chunks:
        info = dataset.id.get_chunk_info(0)
        return info.byte_offset, info.size
    return dataset.id.get_offset(), dataset.id.get_storage_size()


@pytest.mark.parametrize("name", list(arrays()))
def test_a_shard_with_a_flipped_bit_is_deleted(tmp_path, name):
    shards.write_shard(tmp_path, "x", ATTRS, arrays())
    shard = tmp_path / "x.h5"
    original = shard.read_bytes()
    with h5py.File(shard) as file:
        start, size = stored_at(file["x"][name])
    for position in np.random.default_rng(0).integers(start, start + size, 20):
        data = bytearray(original)
        data[position] ^= 1 << int(position) % 8
        shard.write_bytes(data)
        assert shards.finished(tmp_path, ["x"]) == []
        assert not shard.exists()
    shard.write_bytes(original)
    assert shards.finished(tmp_path, ["x"]) == ["x"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_shard_cut_short_is_deleted(tmp_path, share):
    shards.write_shard(tmp_path, "x", ATTRS, arrays())
    shard = tmp_path / "x.h5"
    data = shard.read_bytes()
    shard.write_bytes(data[: int(share * len(data))])
    assert shards.finished(tmp_path, ["x"]) == []
    assert not shard.exists()


@pytest.mark.parametrize("contents", ["other name", "data set", "no digest"])
def test_a_shard_of_something_else_is_deleted(tmp_path, contents):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if contents == "data set":
            file["x"] = 1.0
        else:
            file.create_group("x" if contents == "no digest" else "y")
    assert shards.finished(tmp_path, ["x"]) == []
    assert os.listdir(tmp_path) == []


def test_finished_keeps_the_order_asked_for_and_ignores_others(tmp_path):
    for name in ("c", "a", "b"):
        shards.write_shard(tmp_path, name, ATTRS, arrays())
    (tmp_path / ".d.h5.1.tmp").write_bytes(b"half")
    assert shards.finished(tmp_path, ["b", "d", "c"]) == ["b", "c"]
    assert shards.present(tmp_path) == {"a", "b", "c"}


# --------------------------------------------------------------------------------------------------------- digests

CHANGES = {
    "value": lambda g: g["variance/gc"].__setitem__(2, 0.5 + 1e-16 * 2),
    "nan": lambda g: g["variance/gc"].__setitem__(2, np.nan),
    "sign of zero": lambda g: g["variance/gc"].__setitem__(0, -0.0),
    "added": lambda g: g.create_dataset("variance/new", data=np.ones(2)),
    "empty group": lambda g: g.create_group("new"),
    "removed": lambda g: g.__delitem__("snapshots/0/theta"),
    "renamed": lambda g: g.move("variance/gc", "variance/sgb"),
    "attribute": lambda g: g.attrs.__setitem__("seed", 4),
    "attribute's type": lambda g: g.attrs.__setitem__("seed", 3.0),
    "attribute added": lambda g: g.attrs.__setitem__("note", "x"),
    "attribute removed": lambda g: g.attrs.__delitem__("status"),
    "attribute of a data set": lambda g: g["variance/gc"].attrs.__setitem__("unit", "1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_catches(results, change):
    with h5py.File(results, "r+") as file:
        group = file["trajectories/a"]
        CHANGES[change](group)
        assert group.attrs["digest"] != store.digest(group)


@pytest.mark.parametrize("dtype", ["float32", "int64", ">f8"])
def test_digest_catches_another_type_or_shape(results, dtype):
    with h5py.File(results, "r+") as file:
        group = file["trajectories/a"]
        values = group["snapshots/0/theta"][()]
        del group["snapshots/0/theta"]
        group["snapshots/0/theta"] = values.astype(dtype)
        assert group.attrs["digest"] != store.digest(group)
        del group["snapshots/0/theta"]
        group["snapshots/0/theta"] = values[:, None]
        assert group.attrs["digest"] != store.digest(group)


def test_digests_leave_out_how_the_numbers_came_about(results):
    with h5py.File(results, "r+") as file:
        file["trajectories/a"].attrs["seconds"] = 99.0
        file.attrs["command"] = "another"
        assert file["trajectories/a"].attrs["digest"] == store.digest(file["trajectories/a"])
        assert file.attrs["digest"] == store.root_digest(file)


def _summary(file):
    table = file["summary"][()]
    table["variance_mean70"][0] += 1e-16
    file["summary"][...] = table


ROOT_CHANGES = {
    "summary": _summary,
    "attribute": lambda f: f.attrs.__setitem__("config", "{}"),
    "complete": lambda f: f.attrs.__setitem__("complete", False),
    "trajectory removed": lambda f: f.__delitem__("trajectories/a"),
    "trajectory renamed": lambda f: f.move("trajectories/a", "trajectories/z"),
    "trajectory's digest": lambda f: f["trajectories/a"].attrs.__setitem__("digest", "0"),
}


@pytest.mark.parametrize("change", ROOT_CHANGES)
def test_root_digest_catches(results, change):
    with h5py.File(results, "r+") as file:
        ROOT_CHANGES[change](file)
        assert file.attrs["digest"] != store.root_digest(file)


# ----------------------------------------------------------------------------------------------------------- claim


def test_claim_makes_the_folder_of_shards(path):
    assert shards.claim(path, CONFIG) is False
    parts = store.parts_of(path)
    assert [p.name for p in parts.iterdir()] == ["config.json"]
    assert os.listdir(path.parent) == [parts.name]
    shards.write_shard(parts, "a", ATTRS, arrays())
    assert shards.claim(path, CONFIG) is False  # taken up, not begun anew
    assert shards.present(parts) == {"a"}


def test_claim_of_a_finished_file_touches_nothing(results):
    before = listing(results.parent)
    assert shards.claim(results, CONFIG) is True
    assert listing(results.parent) == before


def test_claim_takes_an_unfinished_file_apart(path):
    make(path, complete=False)
    before = listing(path.parent)
    assert shards.claim(path, CONFIG) is False
    assert shards.finished(store.parts_of(path), ["a", "b"]) == ["a", "b"]
    assert {k: v for k, v in listing(path.parent).items() if ".parts" not in k} == before


def test_claim_leaves_out_a_damaged_trajectory_of_an_unfinished_file(path):
    make(path, complete=False)
    with h5py.File(path, "r+") as file:
        file["trajectories/a/variance/gc"][0] = 7.0
    shards.claim(path, CONFIG)
    assert shards.finished(store.parts_of(path), ["a", "b"]) == ["b"]


def test_a_kill_while_taking_apart_loses_nothing(path):
    make(path, complete=False)
    shards.claim(path, CONFIG)
    (store.parts_of(path) / "a.h5").unlink()
    shards.claim(path, CONFIG)
    assert shards.finished(store.parts_of(path), ["a", "b"]) == ["a", "b"]


def other_configuration(path):
    make(path, config='{"a": 2}')


def unfinished_other_configuration(path):
    make(path, config='{"a": 2}', complete=False)


def not_hdf5(path):
    path.write_text("hello")


def other_schema(path):
    make(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "gcref/9"


def another_programs_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1.0


def parts_of_another(path):
    shards.claim(path, '{"a": 2}')
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())


@pytest.mark.parametrize(
    "something",
    [
        other_configuration,
        unfinished_other_configuration,
        not_hdf5,
        other_schema,
        another_programs_hdf5,
        parts_of_another,
    ],
)
def test_claim_refuses_something_else_unless_overwrite(path, something):
    something(path)
    before = listing(path.parent)
    with pytest.raises(ValueError, match=r"(?s)results\.h5.*--overwrite") as error:
        shards.claim(path, CONFIG)
    assert "\n" not in str(error.value)
    assert listing(path.parent) == before
    assert shards.claim(path, CONFIG, overwrite=True) is False
    assert shards.present(store.parts_of(path)) == set()
    # What is replaced stays until the new file is whole.
    assert path.exists() == ("results.h5" in before)
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())
    assert shards.claim(path, CONFIG, overwrite=True) is False  # killed, and the same command again
    assert shards.present(store.parts_of(path)) == {"a"}
    shards.merge(path, ["a"], attrs(), rows)
    assert shards.claim(path, CONFIG) is True
    assert os.listdir(path.parent) == ["results.h5"]


def test_overwrite_begins_a_finished_file_anew_and_goes_on_with_an_unfinished_one(path):
    make(path)
    assert shards.claim(path, CONFIG, overwrite=True) is False
    assert shards.present(store.parts_of(path)) == set()
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())
    shards.merge(path, ["a"], attrs(complete=False), rows)  # Ctrl-C
    assert shards.claim(path, CONFIG, overwrite=True) is False
    assert shards.present(store.parts_of(path)) == {"a"}


def test_a_folder_that_is_no_run_is_never_deleted(path):
    mine = store.parts_of(path)
    mine.mkdir()
    (mine / "precious.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="in the way"):
            shards.claim(path, CONFIG, overwrite)
    assert (mine / "precious.txt").exists()
    make_elsewhere = path.with_name("other.h5")
    make(make_elsewhere)
    shutil.move(make_elsewhere, path)
    assert shards.claim(path, CONFIG) is True
    assert (mine / "precious.txt").exists()


def test_a_finished_file_leaves_the_parts_of_another_run_alone(results):
    shards.claim(results, '{"a": 2}', overwrite=True)
    assert shards.claim(results, CONFIG) is True
    assert store.parts_of(results).exists()


def test_a_kill_between_the_rename_and_the_clearing(results):
    shards.claim(results, CONFIG, overwrite=True)  # the parts are there once more
    assert shards.claim(results, CONFIG) is True
    assert os.listdir(results.parent) == ["results.h5"]


@pytest.mark.parametrize("at", ["replace", "rmtree"])
def test_a_kill_while_the_parts_are_cleared(path, monkeypatch, at):
    shards.claim(path, CONFIG)
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())

    def stop(*args, **kwargs):
        if at == "replace" and str(args[0]).endswith(".tmp"):
            return real(*args, **kwargs)
        if at == "rmtree" and kwargs.get("ignore_errors"):
            return None
        raise KeyboardInterrupt

    module, real = (os, os.replace) if at == "replace" else (shutil, shutil.rmtree)
    with monkeypatch.context() as patch:
        patch.setattr(module, at, stop)
        with pytest.raises(KeyboardInterrupt):
            shards.merge(path, ["a"], attrs(complete=False), rows)
    assert shards.claim(path, CONFIG) is False
    assert shards.finished(store.parts_of(path), ["a"]) == ["a"]
    shards.merge(path, ["a"], attrs(), rows)
    assert os.listdir(path.parent) == ["results.h5"]


def test_claim_needs_a_folder_that_exists(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        shards.claim(tmp_path / "nowhere" / "results.h5", CONFIG)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="does not exist"):
        shards.claim(tmp_path / "file" / "results.h5", CONFIG)
    with pytest.raises(ValueError, match="is a folder"):
        shards.claim(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody, not even root, can make files")
def test_claim_needs_a_folder_that_can_be_written():
    with pytest.raises(ValueError, match=r"/proc/results\.h5 cannot be written"):
        shards.claim(Path("/proc/results.h5"), CONFIG)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_claim_needs_permission_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        shards.claim(tmp_path / "results.h5", CONFIG)
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------------------------------------- reading


def refusal(path):
    """The message of every reader, which must be the same StoreError of one line that names the file."""
    messages = set()
    for reader in (store.read_summary, store.read_attrs):
        with pytest.raises(store.StoreError) as error:
            reader(path)
        messages.add(str(error.value))
    with pytest.raises(store.StoreError) as error, store.open_results(path):
        pass
    messages.add(str(error.value))
    (message,) = messages
    assert "\n" not in message
    assert str(path) in message
    return message


def test_missing(path):
    assert "no such file" in refusal(path)
    shards.claim(path, CONFIG)
    assert "run the same command again" in refusal(path)


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_a_folder_instead_of_a_file(folder):
    assert "is a folder" in refusal(Path(folder))


def test_text_instead_of_hdf5(path):
    path.write_text("learning_rate,variance\n0.1,3\n")
    assert "not an HDF5 file" in refusal(path)
    path.write_bytes(b"")
    assert "not an HDF5 file" in refusal(path)


def test_cut_short_at_any_length(results):
    data = results.read_bytes()
    for length in sorted({1, 7, 8, 40, 95, 96, 512, 2048, *range(100, len(data), len(data) // 23), len(data) - 1}):
        results.write_bytes(data[:length])
        assert "cut short" in refusal(results) or length < 100


def test_other_contents(path):
    another_programs_hdf5(path)
    assert refusal(path).endswith("is not a results file: it has no schema, where 'gcref/1' is expected")
    other_schema(path.with_name("other.h5"))
    assert "gcref/9" in refusal(path.with_name("other.h5"))
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = store.SCHEMA
        file["summary"] = 1.0
    assert "/trajectories" in refusal(path)
    with h5py.File(path, "w") as file:
        file.attrs["schema"] = np.array([1, 2])
    assert "schema" in refusal(path)


def test_a_summary_of_other_bytes(results):
    with h5py.File(results, "r+") as file:
        table = file["summary"][()]
        table["method"][0] = b"\xff"
        file["summary"][...] = table
    with pytest.raises(store.StoreError, match="damaged"):
        store.read_summary(results)


def test_a_full_disk_is_one_sentence(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    shards.claim(path, CONFIG)
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"results\.h5 cannot be written: No space left on device$"):
        shards.merge(path, ["a"], attrs(), rows)
    with pytest.raises(OSError, match=r"/b\.h5 cannot be written: No space left on device$"):
        shards.write_shard(store.parts_of(path), "b", ATTRS, arrays())
    assert shards.present(store.parts_of(path)) == {"a"}
    assert not path.exists()


def test_a_full_disk_while_an_unfinished_file_is_taken_apart_leaves_it(results, monkeypatch):
    with h5py.File(results, "r+") as file:
        file.attrs["complete"] = False
    before = results.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(store.StoreError, match=r"results\.h5 cannot be written: No space left on device$"):
            shards.claim(results, CONFIG)
    assert results.read_bytes() == before
    assert not shards.claim(results, CONFIG)
    assert shards.finished(store.parts_of(results), ["a", "b"]) == ["a", "b"]


def test_a_machine_that_fails_is_no_damaged_shard(path, monkeypatch):
    def fail(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    shards.claim(path, CONFIG)
    shards.write_shard(store.parts_of(path), "a", ATTRS, arrays())
    with monkeypatch.context() as context:
        context.setattr(Path, "read_bytes", fail)
        with pytest.raises(PermissionError):
            shards.finished(store.parts_of(path), ["a"])
    assert shards.finished(store.parts_of(path), ["a"]) == ["a"]


@pytest.mark.parametrize("lasting", [True, False])
def test_a_shard_is_known_by_its_name_and_every_byte(path, lasting):
    shards.claim(path, CONFIG)
    parts = store.parts_of(path)
    shards.write_shard(parts, "a", ATTRS, arrays(), lasting)
    data = (parts / "a.h5").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data), size=40):
        changed = bytearray(data)
        changed[place] ^= 1
        (parts / "a.h5").write_bytes(changed)
        assert shards.finished(parts, ["a"]) == []
        assert not (parts / "a.h5").exists()
    (parts / "b.h5").write_bytes(data)
    assert shards.finished(parts, ["b"]) == []
    (parts / "a.h5").write_bytes(data)
    assert shards.finished(parts, ["a"]) == ["a"]
    _, found = shards.read_shard(parts, "a")
    assert {name: array.tolist() for name, array in found.items()} == {k: v.tolist() for k, v in arrays().items()}


def test_doubts(results):
    assert store.doubts(results) == []
    with h5py.File(results, "r+") as file:
        file.attrs["complete"] = False
        file.attrs["digest"] = store.root_digest(file)
    assert store.doubts(results) == ["holds an unfinished run (2 trajectories)"]
    with h5py.File(results, "r+") as file:
        file["summary"][...] = np.zeros_like(file["summary"][()])
    assert len(store.doubts(results)) == 2
    with h5py.File(results, "r+") as file:
        del file.attrs["digest"], file.attrs["complete"]
    assert store.doubts(results) == []  # it claims nothing


def test_another_table(results):
    with h5py.File(results, "r+") as file:
        del file["summary"]
        file["summary"] = np.zeros(3)
    with pytest.raises(store.StoreError, match="fields"):
        store.read_summary(results)


def test_a_damaged_table_is_refused(results):
    with h5py.File(results, "r+") as file:
        table = file["summary"][()]
        del file["summary"]
        file.create_dataset("summary", data=table, compression="gzip")
    with h5py.File(results) as file:
        start, _ = stored_at(file["summary"])
    data = bytearray(results.read_bytes())
    data[start : start + 4] = b"\0\0\0\0"
    results.write_bytes(data)
    with pytest.raises(store.StoreError, match="damaged") as error:
        store.read_summary(results)
    assert "\n" not in str(error.value)
