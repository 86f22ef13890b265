"""The comparison and the search for half-written files see whatever is wrong, and nothing else."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest

from gcref import store
from gcref.shards import merge, write_shard
from gcref.validation import kills

NAMES = ("lr0.1-ratio0.5-seed0", "lr0.1-ratio1-seed0")


def shards(folder):
    """Write the shards of two small trajectories."""
    parts = store.parts_of(folder / "results.h5")
    parts.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        arrays = {
            "variance/gc": rng.random(5),
            "snapshots/0/theta": rng.random(200),  # long enough to be compressed
            "count": np.zeros(3, np.int64),
            "zero": np.zeros(2),
        }
        write_shard(parts, name, {"seed": i, "status": "complete", "seconds": 0.5 + i}, arrays)
    return parts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    shards(folder)
    rows = [(name, "gc", *np.arange(11)) for name in NAMES]
    attrs = {"gcref_version": "1", "command": "a command", "config": "{}", "complete": True}
    merge(folder / "results.h5", NAMES, attrs, lambda group: [rows[group.attrs["seed"]]])
    with h5py.File(folder / "results.h5", "r+") as file:
        file.create_group("empty")
    return folder / "results.h5"


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copy(whole, tmp_path / "results.h5")


def flip_a_byte(path, name):
    """Flip the lowest bit of the second number of a data set, where it lies in the file."""
    with h5py.File(path) as file:
        offset = file[name].id.get_offset() + 8
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def turn_the_summary(file):
    file["summary"][()] = file["summary"][()][::-1]


def replace(file, name, array):
    del file[name]
    file[name] = array


# ------------------------------------------------------------------------------------------- differences()

TRAJECTORY = f"trajectories/{NAMES[1]}"
GC, COUNT, ZERO, THETA = (f"{TRAJECTORY}/{name}" for name in ("variance/gc", "count", "zero", "snapshots/0/theta"))


def test_a_copy_does_not_differ(whole, copy):
    assert kills.differences(whole, copy) == []


def test_seconds_and_command_may_differ(whole, copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["command"] = "another"
        file[TRAJECTORY].attrs["seconds"] = 99.0
        del file[f"trajectories/{NAMES[0]}"].attrs["seconds"]
    assert kills.differences(whole, copy) == []


@pytest.mark.parametrize("name", [GC, COUNT])
def test_one_byte_of_a_data_set(whole, copy, name):
    flip_a_byte(copy, name)
    assert kills.differences(whole, copy) == kills.differences(copy, whole) == [name]


CHANGES = {
    "a number": (lambda file: file[THETA].write_direct(np.ones(200)), [THETA]),
    "the summary": (turn_the_summary, ["summary"]),
    "the sign of zero": (lambda file: file[ZERO].write_direct(np.array([0.0, -0.0])), [ZERO]),
    "the type": (lambda file: replace(file, COUNT, np.zeros(3)), [COUNT]),
    "the shape": (lambda file: replace(file, COUNT, np.zeros((3, 1), np.int64)), [COUNT]),
    "a type inside": (
        lambda file: replace(file, "summary", file["summary"][()].view([*store.SUMMARY_DTYPE.descr[:-1], ("x", "f8")])),
        ["summary"],
    ),
    "a missing data set": (lambda file: file.pop(COUNT), [COUNT]),
    "a missing group": (lambda file: file.pop("empty"), ["empty"]),
    "a data set too many": (lambda file: file.create_dataset("more", data=1.0), ["more"]),
    "a group too many": (lambda file: file.create_group("trajectories/more"), ["trajectories/more"]),
    "an attribute": (lambda file: file[TRAJECTORY].attrs.modify("seed", 2), [f"{TRAJECTORY}@seed"]),
    "an attribute's type": (lambda file: file[TRAJECTORY].attrs.create("seed", 1, dtype="u8"), [f"{TRAJECTORY}@seed"]),
    "a root attribute": (lambda file: file.attrs.modify("complete", False), ["/@complete"]),
    "a text attribute": (lambda file: file.attrs.modify("config", "{ }"), ["/@config"]),
    "a missing attribute": (lambda file: file[TRAJECTORY].attrs.pop("status"), [f"{TRAJECTORY}@status"]),
    "an attribute too many": (lambda file: file[GC].attrs.create("unit", "1"), [f"{GC}@unit"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_difference_is_named(whole, copy, change):
    alter, expected = change
    with h5py.File(copy, "r+") as file:
        alter(file)
    assert kills.differences(whole, copy) == kills.differences(copy, whole) == expected


def test_all_differences_are_named(whole, copy):
    flip_a_byte(copy, GC)
    with h5py.File(copy, "r+") as file:
        file.attrs["config"] = "{}}"
        del file["empty"]
    assert kills.differences(whole, copy) == ["/@config", "empty", GC]


# -------------------------------------------------------------------------------------------- half_files()


def test_whole_files_are_not_half(copy):
    folder = copy.parent
    shards(folder)
    (store.parts_of(copy) / ".another.h5.123.tmp").write_bytes(b"half")  # not its final name
    (folder / "log.txt").write_text("text")
    assert kills.half_files(folder) == []


def test_an_empty_folder_has_no_half_files(tmp_path):
    assert kills.half_files(tmp_path) == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def without_its_group(path):
    with h5py.File(path, "w"):
        pass


def under_another_name(path):
    with h5py.File(path, "r+") as file:
        file.move(path.stem, "other")


def inside(alter):
    def change(path):
        with h5py.File(path, "r+") as file:
            alter(file["trajectories"][NAMES[0]] if "trajectories" in file else file[NAMES[0]])

    return change


HALF = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("text"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "no group": without_its_group,
    "no digest": inside(lambda group: group.attrs.pop("digest")),
    "an attribute changed": inside(lambda group: group.attrs.modify("seed", 7)),
    "a data set missing": inside(lambda group: group.pop("count")),
    "a data set changed": inside(lambda group: group["snapshots/0/theta"].write_direct(np.ones(200))),
    "an empty group too many": inside(lambda group: group.create_group("more")),
}


@pytest.mark.parametrize("damage", [*HALF.values(), under_another_name], ids=[*HALF, "under another name"])
def test_a_half_written_shard_is_found(tmp_path, damage):
    shard = shards(tmp_path) / f"{NAMES[0]}.h5"
    damage(shard)
    assert kills.half_files(tmp_path) == [shard.name]


@pytest.mark.parametrize("damage", HALF.values(), ids=HALF)
def test_a_half_written_results_file_is_found(copy, damage):
    damage(copy)
    assert kills.half_files(copy.parent) == ["results.h5"]


ROOT = {
    "an attribute": lambda file: file.attrs.modify("complete", False),
    "no digest": lambda file: file.attrs.pop("digest"),
    "a trajectory missing": lambda file: file.pop(TRAJECTORY),
    "no trajectories": lambda file: file.pop("trajectories"),
    "the summary": turn_the_summary,
    "no summary": lambda file: file.pop("summary"),
}


@pytest.mark.parametrize("damage", ROOT.values(), ids=ROOT)
def test_a_results_file_with_a_damaged_root_is_found(copy, damage):
    with h5py.File(copy, "r+") as file:
        damage(file)
    assert kills.half_files(copy.parent) == ["results.h5"]


def test_one_changed_byte_is_found_in_shard_and_results(copy):
    shard = shards(copy.parent) / f"{NAMES[1]}.h5"
    flip_a_byte(shard, f"{NAMES[1]}/variance/gc")
    flip_a_byte(copy, GC)
    assert sorted(kills.half_files(copy.parent)) == [shard.name, "results.h5"]


# -------------------------------------------------------------------------------------------- what is finished


def test_what_is_kept_of_a_sweep_is_in_its_file_and_its_shards(copy):
    folder = copy.parent
    assert kills.kept(folder, "rf-sweep") == {NAMES[0]: 0.5, NAMES[1]: 1.5}
    parts = shards(folder)
    write_shard(parts, "new", {"seconds": 7.0}, {"variance/gc": np.ones(2)})
    (parts / "half.h5").write_bytes(b"half")
    assert kills.kept(folder, "rf-sweep") == {NAMES[0]: 0.5, NAMES[1]: 1.5, "new": 7.0}
    copy.write_bytes(b"half")
    (parts / f"{NAMES[0]}.h5").unlink()
    assert kills.kept(folder, "rf-sweep") == {NAMES[1]: 1.5, "new": 7.0}


def test_what_is_kept_of_an_image_run_is_its_last_measurement(tmp_path):
    assert kills.kept(tmp_path, "image") == {}
    with h5py.File(tmp_path / "results.h5", "w") as file:
        file["trajectories/run/iteration"] = np.array([0, 20, 40])
    assert kills.kept(tmp_path, "image") == {"iteration": 40.0}
    parts = store.parts_of(tmp_path / "results.h5")
    parts.mkdir()
    write_shard(parts, "snapshot-0", {}, {"theta": np.ones(2)})
    write_shard(parts, "checkpoint", {}, {"iteration": np.array(60)})
    assert kills.kept(tmp_path, "image") == {"iteration": 60.0}


@pytest.mark.parametrize(
    ("log", "again"),
    [("Warning: x\n50 of 600 iterations, 8%\n60 of 600 iterations", 0), ("10 of 600 iterations, 3%", 1), ("", 0)],
)
def test_an_image_run_that_goes_on_from_before_its_checkpoint_is_seen(log, again):
    assert kills.computed_again(log, 40) == again


# -------------------------------------------------------------------------------------------------- rounds


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """Let shell scripts, in turn, stand for the sweep; the comparison at the end is left out."""
    todo = []

    def start(folder, command, workers):
        folder.mkdir()
        (folder / "log.txt").touch()
        return subprocess.Popen(["sh", "-c", todo.pop(0)], cwd=folder, start_new_session=True)

    monkeypatch.setattr(kills, "start", start)
    monkeypatch.setattr(kills, "_finish_and_compare", lambda out, *_, **__: out)
    return todo


def struck(tmp_path, moment, blow=kills.PARENT, study="rf-sweep"):
    return kills.disturbed(tmp_path / "round", tmp_path, (study,), moment, blow)


def test_a_sweep_that_had_ended_is_killed_earlier(scripts, tmp_path):
    scripts += ["exit 0", "exit 0", "exec sleep 60"]
    out = struck(tmp_path, 0.2)
    assert (out.what, out.faults) == (f"SIGKILL at {0.2 * 0.7**2:.2f} s", [])
    assert scripts == []


def test_a_sweep_that_crashes_before_it_is_killed_is_a_fault(scripts, tmp_path):
    scripts += ["echo words > log.txt; exit 3"]
    assert struck(tmp_path, 0.2).faults == ["exit code 3 instead of -9", "words"]


def test_children_that_outlive_the_parent_are_a_fault(scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "GONE_WITHIN", 0.1)
    scripts += ["sleep 60 & sleep 60 & wait"]
    assert struck(tmp_path, 0.2).faults == ["2 children outlived it"]


def test_a_half_written_shard_is_a_fault(scripts, tmp_path):
    scripts += ["mkdir results.h5.parts; echo half > results.h5.parts/one.h5; exec sleep 60"]
    out = struck(tmp_path, 0.2)
    assert (out.faults, out.unreadable) == (["half written: one.h5"], 1)


def test_ctrl_c_waits_for_the_first_trajectory(scripts, tmp_path):
    scripts += [
        "exit 0",
        "trap 'exit 130' INT; sleep 0.2; mkdir results.h5.parts; touch results.h5.parts/a.h5; "
        "while :; do sleep 0.05; done",
    ]
    out = struck(tmp_path, 0.1, kills.CTRL_C)
    assert out.what == "Ctrl-C at 0.07 s"
    assert out.faults == ["half written: a.h5"]


def test_another_exit_code_after_ctrl_c_is_a_fault(scripts, tmp_path):
    scripts += ["echo Traceback > log.txt; exit 1"]
    assert struck(tmp_path, 0.1, kills.CTRL_C).faults == ["exit code 1 instead of 130", "Traceback", "a traceback"]


def test_sigterm_is_heeded_unless_nothing_had_begun(scripts, tmp_path):
    scripts += ["exec sleep 60", "touch results.h5.parts; exec sleep 60"]
    assert struck(tmp_path, 0.1, kills.END).faults == []
    shutil.rmtree(tmp_path / "round")
    assert struck(tmp_path, 0.1, kills.END).faults == ["exit code -15 instead of 143"]


def test_sigterm_may_find_python_at_its_end(scripts, tmp_path):
    scripts += ["touch results.h5; exec sleep 60"]
    assert struck(tmp_path, 0.1, kills.END).faults == ["half written: results.h5"]


def test_a_worker_is_killed_and_not_its_parent(scripts, tmp_path):
    scripts += ["mkfifo wait; sh -c 'read x < wait; : spawn_main' & wait $! || exit 1"]
    assert struck(tmp_path, 0.3, kills.WORKER).faults == []
    assert scripts == []


@pytest.mark.parametrize("study", ["rf-sweep", "image"])
def test_what_was_finished_and_is_gone_is_counted(scripts, tmp_path, monkeypatch, study):
    states = [{"iteration": 40.0, "b": 1.0}, {"iteration": 20.0}]
    monkeypatch.setattr(kills, "kept", lambda *_: states.pop(0))
    scripts += ["exec sleep 60"]
    out = struck(tmp_path, 0.1, study=study)
    assert (out.lost, out.faults) == (2, ["2 finished ones lost"])


def test_what_is_computed_again_is_counted(copy, whole, monkeypatch):
    monkeypatch.setattr(kills, "finish", lambda *_: (0, 1.0))
    kept = {NAMES[0]: 0.5, NAMES[1]: 1.5}
    out = kills._finish_and_compare(kills.Outcome("a"), copy.parent, whole, ("rf-sweep",), after=kept)
    assert (out.lost, out.wrong, out.faults) == (0, 0, [])
    with h5py.File(copy, "r+") as file:
        file[TRAJECTORY].attrs["seconds"] = 1.6
    flip_a_byte(copy, GC)
    out = kills._finish_and_compare(kills.Outcome("a"), copy.parent, whole, ("rf-sweep",), after=kept)
    assert (out.lost, out.wrong) == (1, 1)
    assert out.faults == [f"1 differences, first {GC}", "1 finished ones lost"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("rf-sweep", "--seed=1"), ["rf-sweep", "--seed=1", "--out", "results.h5", "--workers=2"]),
        (("image", "--seed=1"), ["image", "--seed=1", "--out", "results.h5"]),
    ],
)
def test_the_real_command_line_is_started(command, expected, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(subprocess, "Popen", lambda whole, **options: calls.append((whole[1:], options["cwd"])))
    kills.start(tmp_path / "round", command, workers=2)
    assert calls == [(["-m", "gcref.cli", *expected], tmp_path / "round")]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [(kills.SWEEP, 5, 2), (kills.IMAGE, 5, 2)]),
        (["--small", "--kills=3", "--stops=0"], [(kills.SMALL_SWEEP, 2, 0), (kills.SMALL_IMAGE, 1, 0)]),
        (["--study=image", "--kills=200"], [(kills.IMAGE, 200, 4)]),
        (["--study=rf-sweep", "--small"], [(kills.SMALL_SWEEP, 10, 4)]),
    ],
)
def test_what_is_killed(flags, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(kills, "run", lambda folder, *what: asked.append(what[:3]) or [])
    kills.main(flags)
    assert asked == expected


@pytest.mark.parametrize(
    ("command", "kinds", "last"),
    [
        (kills.SWEEP, {"SIGKILL", "SIGKILL to a worker", "SIGTERM"}, ["1 worker"]),
        (kills.IMAGE, {"SIGKILL", "SIGTERM"}, []),
    ],
)
def test_the_rounds(command, kinds, last, monkeypatch, tmp_path):
    """Only a sweep has workers to kill, and to count."""
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "undisturbed" / "results.h5").touch()
    monkeypatch.setattr(kills, "finish", lambda *_, **__: (0, 1.0))
    monkeypatch.setattr(kills, "disturbed", lambda *arguments: kills.Outcome(arguments[-1].name))
    monkeypatch.setattr(kills, "_finish_and_compare", lambda out, *_, **__: out)
    names = [outcome.what for outcome in kills.run(tmp_path, command, 20, 1, 0)]
    assert (names[0], names[21:]) == ("undisturbed", ["Ctrl-C", *last])
    assert set(names[1:21]) == kinds


# ------------------------------------------------------------------------------------------------- verdict


def test_one_fault_fails_the_program(monkeypatch, capsys):
    outcomes = [
        kills.Outcome("SIGKILL at 1 s", "seen"),
        kills.Outcome("Ctrl-C at 2 s", "seen", ["1 children outlived it", "more"], lost=1, wrong=2, unreadable=3),
    ]
    monkeypatch.setattr(kills, "run", lambda *_: outcomes)
    assert kills.main(["--study=image"]) == 1
    *_, line, tally, last = capsys.readouterr().out.splitlines()
    assert line.endswith("FAIL: 1 children outlived it; more")
    assert tally == (
        "2 times struck (1 × Ctrl-C, 1 × SIGKILL): trajectories lost beyond those in work 1, wrong numbers 2, "
        "unreadable files 3"
    )
    assert last == "FAIL: 1 of 2 rounds"
    del outcomes[1]
    assert kills.main(["--study=image"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "PASS: 1 of 1 rounds"


@pytest.mark.slow
def test_small_runs_survive_every_kill(capsys):
    code = kills.main(["--small"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "14 times struck" in printed
    assert "lost beyond those in work 0, wrong numbers 0, unreadable files 0" in printed
    assert "PASS: 17 of 17 rounds" in printed
