"""Whatever the machine does to a command, its file is right or absent, one sentence says so, and it can be finished."""

import ast
import errno
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import gcref
from gcref import shards, store
from gcref.cli import cli, stopping
from gcref.cli.progress import progress_on_stderr
from gcref.trace_files import write_traces
from gcref.validation.kills import alive, differences, half_files

resource = pytest.importorskip("resource", reason="signals and limits of POSIX")

ROOT = Path(__file__).resolve().parents[1]
SWEEP = (
    "rf-sweep", "--ratio=0.5,1", "--learning-rate=0.1,0.3", "--input-dim=6", "--teacher-hidden=7", "--seed=0",
    "--batch-size=4", "--student-hidden=12", "--iterations=40", "--measure-every=10", "--refresh-every=20",
    "--workers=1",
)  # fmt: skip
LONG_SWEEP = (
    "rf-sweep", "--ratio=1", "--learning-rate=0.1,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18,0.19", "--input-dim=10",
    "--teacher-hidden=20", "--seed=0,1", "--iterations=1500", "--workers=2",
)  # fmt: skip
IMAGE = (
    "image", "--dataset=digits", "--model=mlp", "--hidden=6", "--n-examples=60", "--n-test-examples=20",
    "--batch-size=6", "--iterations=60", "--measure-every=10", "--refresh-every=20", "--gc-iterations=2",
)  # fmt: skip
LONG_IMAGE = (*IMAGE, "--iterations=3000")
STUDIES = {"rf-sweep": SWEEP, "image": IMAGE}


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def start(*arguments, program=("-m", "gcref.cli"), **options):
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def said_in_a_sentence(result, code, *named):
    """The command ended with one sentence that names what is wrong, and no traceback."""
    assert result.exit_code == code, result.output
    sentence = result.stderr.split("Error: ")[1]
    assert all(str(text) in sentence for text in named), sentence
    assert sentence.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The file of a command that nobody disturbed, made when it is first asked for."""
    made = {}

    def file_of(command):
        if command not in made:
            made[command] = tmp_path_factory.mktemp("undisturbed") / "results.h5"
            assert invoke(*command, "--out", made[command]).exit_code == 0
        return made[command]

    return file_of


@pytest.fixture
def traces(tmp_path):
    rng = np.random.default_rng(0)
    write_traces(tmp_path / "traces.h5", [gcref.Trace(rng.random((2000, 5)), rng.random((2000, 2)))])
    return tmp_path / "traces.h5"


def finished_alike(command, out, reference):
    """The same command finishes the file, with the same bytes, and leaves nothing beside it."""
    result = invoke(*command, "--out", out)
    assert result.exit_code == 0, result.output
    assert differences(reference, out) == []
    assert [path.name for path in out.parent.iterdir()] == [out.name]


# ------------------------------------------------------------------------------------------------------- a full disk


@contextmanager
def room_for(n_bytes):
    """No file may be longer than so many bytes, of this process and those it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_file_systems():
    """Whether this system lets a process of its own mount some."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    try:
        return sys.platform == "linux" and subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("share", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.05, 0.2, 0.99))])
def test_no_room(study, share, undisturbed, tmp_path):
    """In a shard, in a later one, or in the results file alone: wherever it stops, the same command finishes it."""
    command, out = STUDIES[study], tmp_path / "results.h5"
    reference = undisturbed(command)
    with room_for(int(share * reference.stat().st_size)):
        result = invoke(*command, "--out", out)
    said_in_a_sentence(result, 1, "cannot be written: File too large", "kept", "the same command")
    assert not out.exists()
    assert half_files(tmp_path) == []
    finished_alike(command, out, reference)


def test_no_room_for_labels(traces, tmp_path):
    out = tmp_path / "labels.npz"
    with room_for(2000):
        result = invoke("cluster", traces, "--n-clusters", 4, "--out", out)
    said_in_a_sentence(result, 1, f"{out} cannot be written: File too large")
    assert os.listdir(tmp_path) == ["traces.h5"]
    assert invoke("cluster", traces, "--n-clusters", 4, "--out", out).exit_code == 0


TRACES_ON_A_SMALL_DISK = """
import os, sys
import numpy as np
import gcref
from gcref.trace_files import TraceFile, write_traces

batch = [gcref.Trace(np.ones((100, 30)), np.ones((100, 7)))]
try:
    write_traces("t.h5", (batch for _ in range(40)))
    print("written", TraceFile("t.h5").n_examples)
except OSError as error:
    print(error, os.listdir("."))
"""


@pytest.mark.skipif(not small_file_systems(), reason="needs a file system of its own")
@pytest.mark.parametrize(
    ("kilobytes", "said"), [(4, "refused"), (1300, "refused"), (3300, "refused"), (8000, "written")]
)
def test_no_room_for_traces(kilobytes, said, tmp_path):
    script = f'mount -t tmpfs -o size={kilobytes}k tmpfs "$PWD" && cd "$PWD" && "$@"'
    whole = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", TRACES_ON_A_SMALL_DISK]
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    expected = {"refused": "t.h5 cannot be written: No space left on device []", "written": "written 4000"}[said]
    assert done.stdout.splitlines() == [expected], done.stderr


def test_no_room_for_figures(undisturbed, tmp_path):
    command = ("figures", undisturbed(SWEEP), "--out", tmp_path / "figures", "--format=svg")
    with room_for(5000):
        result = invoke(*command)
    said_in_a_sentence(result, 1, tmp_path / "figures", "cannot be written: File too large")
    assert os.listdir(tmp_path / "figures") == []
    assert invoke(*command).exit_code == 0


FULL = """
mount -t tmpfs -o size={size}k tmpfs "$PWD" && cd "$PWD" && "$@"; echo "code $?" >&2
test -e results.h5 && echo "a file" >&2
mount -o remount,size=64m "$PWD" && "$@" && ls -A >&2 && cat results.h5
"""


@pytest.mark.slow
@pytest.mark.skipif(not small_file_systems(), reason="needs a file system of its own")
@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("share", [0.05, 0.5, 1.05, 1.5, 1.9])
def test_a_full_disk(study, share, undisturbed, tmp_path):
    """A real one, of 5 % to 190 % of what the finished file takes: shards and file are there together for a while."""
    command, reference = STUDIES[study], undisturbed(STUDIES[study])
    (tmp_path / "disk").mkdir()
    script = FULL.format(size=4 + int(share * reference.stat().st_size) // 1024)
    whole = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-m",
        "gcref.cli",
        *command,
        "--out=results.h5",
    ]
    done = subprocess.run(whole, cwd=tmp_path / "disk", capture_output=True, timeout=120)
    before, _, after = done.stderr.decode().partition("code 1\n")
    assert "cannot be written: No space left on device" in before
    assert "the same command" in before
    assert "Traceback" not in before
    assert after.splitlines()[-1] == "results.h5", after
    assert "a file" not in after
    (tmp_path / "results.h5").write_bytes(done.stdout[done.stdout.index(b"\x89HDF") :])
    assert differences(reference, tmp_path / "results.h5") == []


@pytest.mark.slow
@pytest.mark.skipif(not small_file_systems(), reason="needs a file system of its own")
def test_merging_on_disks_of_many_sizes(tmp_path):
    """HDF5 itself ends the process where a disk is full at the wrong moment, so it must not write there."""
    code = """
import sys
from pathlib import Path
from gcref import shards
try:
    shards.merge(Path("results.h5"), [f"t{i}" for i in range(6)], {"config": "{}"}, lambda group: [])
except OSError as error:
    print(error)
"""
    (tmp_path / "disk").mkdir()
    shards.claim(tmp_path / "results.h5", "{}")
    rng = np.random.default_rng(0)
    for i in range(6):
        arrays = {"variance/gc": rng.random(50), "snapshots/0/theta": rng.random(2000), "labels": np.arange(100)}
        shards.write_shard(tmp_path / "results.h5.parts", f"t{i}", {"seed": i}, arrays)
    taken = sum(-(-path.stat().st_size // 4096) * 4 for path in (tmp_path / "results.h5.parts").iterdir())
    for more in range(0, 60, 4):
        script = f'mount -t tmpfs -o size={taken + more}k tmpfs disk && cp -r results.h5.parts disk && cd disk && "$@"'
        whole = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", code]
        done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "results.h5 cannot be written: No space left on device\n"


# ----------------------------------------------------------------------------------------- a folder that is read-only


NOWHERE = Path("/proc/self")  # where nobody, not even root, can make files


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("study", STUDIES)
def test_a_folder_that_cannot_be_written(study):
    result = invoke(*STUDIES[study], "--out", NOWHERE / "results.h5")
    said_in_a_sentence(result, 2, NOWHERE.resolve().parent, "results.h5 cannot be written")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_that_cannot_be_written_by_other_commands(traces, undisturbed):
    labels = NOWHERE / "labels.npz"
    result = invoke("cluster", traces, "--n-clusters", 4, "--out", labels)
    assert result.exit_code in (1, 2), result.output
    assert f"{labels}" in result.stderr
    assert "cannot be written" in result.stderr
    figures = invoke("figures", undisturbed(SWEEP), "--out", NOWHERE / "figures")
    said_in_a_sentence(figures, 1, NOWHERE / "figures", "cannot be written")


READ_ONLY = 'mount --bind . . && cd "$PWD" && mount -o remount,bind,ro "$PWD" && "$@"'


@pytest.mark.slow
@pytest.mark.skipif(not small_file_systems(), reason="needs a file system of its own")
def test_a_finished_file_in_a_read_only_folder_is_finished(undisturbed, tmp_path):
    out = tmp_path / "results.h5"
    out.write_bytes(undisturbed(SWEEP).read_bytes())
    for command, code, text in ((SWEEP, 0, "is finished already"), (IMAGE, 2, "another configuration")):
        program = [sys.executable, "-m", "gcref.cli", *command, "--out=results.h5"]
        whole = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", *program]
        done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert text in done.stdout + done.stderr
    program = [sys.executable, "-m", "gcref.cli", *IMAGE, "--out=other.h5"]
    done = subprocess.run(["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", *program], cwd=tmp_path, capture_output=True)
    assert done.returncode == 2
    assert b"other.h5 cannot be written" in done.stderr
    assert os.listdir(tmp_path) == ["results.h5"]


# ------------------------------------------------------------------------------------------------------------ signals


def wait_for(process, pattern):
    """Wait for a file that the process makes."""
    while process.poll() is None and not any(pattern.parent.glob(pattern.name)):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def ended(process):
    """Return the exit code and the last line, of a process that ends without a traceback."""
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    return process.returncode, err.splitlines()[-1]


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_signal_stops_an_image_run(name, tmp_path):
    process = start(*LONG_IMAGE, "--out=results.h5", cwd=tmp_path)
    wait_for(process, tmp_path / "results.h5.parts" / "checkpoint.h5")
    process.send_signal(getattr(signal, name))
    code, line = ended(process)
    assert code == 128 + getattr(signal, name)
    assert line == "Stopped. What is measured is kept; the same command goes on from the last measurement."
    attrs, series = store.read_trajectory(tmp_path / "results.h5")
    assert (attrs["status"], len(series["iteration"]) >= 1) == ("unfinished", True)
    assert half_files(tmp_path) == []
    assert not (tmp_path / ".results.h5.lock").exists()


@pytest.mark.parametrize("whole_group", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sigterm_stops_a_sweep(whole_group, tmp_path):
    """Alone, as batch systems and containers do it, or to the workers too."""
    process = start(*LONG_SWEEP, "--out=results.h5", cwd=tmp_path, start_new_session=True)
    wait_for(process, tmp_path / "results.h5.parts" / "*.h5")
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    code, line = ended(process)
    assert (code, line) == (143, "Stopped. What is finished is kept; the same command finishes it.")
    assert alive(process.pid) == {}
    assert len(store.read_summary(tmp_path / "results.h5")) >= 1
    assert not store.read_attrs(tmp_path / "results.h5")["complete"]
    assert os.listdir(tmp_path) == ["results.h5"]


@pytest.mark.slow
def test_a_stopped_sweep_is_finished_by_the_same_command(tmp_path, undisturbed):
    process = start(*LONG_SWEEP, "--out=results.h5", cwd=tmp_path)
    wait_for(process, tmp_path / "results.h5.parts" / "*.h5")
    process.terminate()
    assert ended(process)[0] == 143
    finished_alike(LONG_SWEEP, tmp_path / "results.h5", undisturbed(LONG_SWEEP))


@pytest.mark.slow
def test_a_worker_that_is_killed(tmp_path, undisturbed):
    """Whether the run goes on or ends with a message, the file comes out the same."""
    process = start(*LONG_SWEEP, "--out=results.h5", cwd=tmp_path, start_new_session=True)
    wait_for(process, tmp_path / "results.h5.parts" / "*.h5")
    workers = [pid for pid, args in alive(process.pid).items() if "spawn_main" in args]
    os.kill(random.Random(0).choice(workers), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    assert "worker" in err
    assert half_files(tmp_path) == []
    finished_alike(LONG_SWEEP, tmp_path / "results.h5", undisturbed(LONG_SWEEP))


MERGING_SLOWLY = """
import sys, time
from pathlib import Path
from gcref import shards
from gcref.cli import main, stopping

def slow(file, digest=shards.root_digest):
    Path("merging.txt").touch()
    time.sleep(60)

shards.root_digest = slow
stopping.SAME = float(sys.argv.pop(1))
main()
"""


def test_a_second_ctrl_c_while_merging_ends_at_once(tmp_path, undisturbed):
    out = tmp_path / "results.h5"
    program = ("-c", MERGING_SLOWLY, "0")
    process = start(*IMAGE, "--iterations=600", "--out=results.h5", program=program, cwd=tmp_path)
    wait_for(process, tmp_path / "results.h5.parts" / "checkpoint.h5")
    process.send_signal(signal.SIGINT)
    wait_for(process, tmp_path / "merging.txt")
    process.send_signal(signal.SIGINT)
    code, line = ended(process)
    assert (code, line) == (130, "Stopped at once; the same command goes on from whatever was kept.")
    (tmp_path / "merging.txt").unlink()
    assert not out.exists()
    assert half_files(tmp_path) == []
    finished_alike((*IMAGE, "--iterations=600"), out, undisturbed((*IMAGE, "--iterations=600")))


@pytest.fixture
def request_(monkeypatch):
    """The state of stopping, put back afterwards; a process that ends at once only says so."""
    monkeypatch.setattr(stopping._Request, "number", signal.SIGINT)
    monkeypatch.setattr(stopping._Request, "when", None)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(f"at once, {code}")))
    monkeypatch.setattr(os, "write", lambda handle, text: None)


def at(monkeypatch, seconds, number):
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    stopping._on_signal(number, None)


def test_a_signal_that_comes_twice_in_a_second_is_one(request_, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        at(monkeypatch, 100.0, signal.SIGTERM)
    at(monkeypatch, 100.9, signal.SIGTERM)
    with pytest.raises(SystemExit, match="at once, 143"):
        at(monkeypatch, 101.1, signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        stopping.stopped()
    assert end.value.code == 143


def test_signals_that_are_ignored_stay_so(request_, monkeypatch):
    before = {name: signal.getsignal(getattr(signal, name)) for name in stopping.HEEDED}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
        stopping.heed_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is stopping._on_signal
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def test_every_command_heeds_sigterm(request_, monkeypatch):
    monkeypatch.setattr("gcref.studies.warmup.compile_all", lambda: stopping._on_signal(signal.SIGTERM, None))
    result = invoke("warmup")
    assert result.exit_code == 143
    assert result.stderr.endswith("\nStopped.\n")


def test_progress_that_nobody_reads_does_not_end_a_run(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("click.echo", full)
    with progress_on_stderr(4) as progress:
        progress(2, 0.5)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_does_not_end_a_run(tmp_path, undisturbed):
    with open("/dev/full", "w") as log:
        command = [sys.executable, "-m", "gcref.cli", *IMAGE, "--out=results.h5"]
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=log)
    assert done.returncode == 0
    assert differences(undisturbed(IMAGE), tmp_path / "results.h5") == []


# -------------------------------------------------------------------------------------- others at work on the same file


HOLDING = """
import sys, time
from pathlib import Path
from gcref.atomic import lock
with lock(Path("results.h5").resolve()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("study", STUDIES)
def test_a_second_run_is_refused_until_the_first_ends_even_by_a_kill(study, undisturbed, tmp_path):
    first = start(program=("-c", HOLDING), cwd=tmp_path)
    assert first.stdout.readline() == "held\n"
    said_in_a_sentence(
        invoke(*STUDIES[study], "--out", tmp_path / "results.h5"), 2, "results.h5 is being written by another run"
    )
    first.kill()
    first.communicate()
    assert os.listdir(tmp_path) == [".results.h5.lock"]
    finished_alike(STUDIES[study], tmp_path / "results.h5", undisturbed(STUDIES[study]))


READING = """
import h5py, sys
with h5py.File("results.h5", sys.argv[1], locking=True) as file:
    print("open", flush=True)
    sys.stdin.readline()
    print(len(file["trajectories"]), bool(file.attrs["complete"]))
"""


def test_a_reader_holds_the_file_while_the_run_ends(undisturbed, tmp_path):
    """It goes on reading what it opened; the next reader finds the new file."""
    out = tmp_path / "results.h5"
    with h5py.File(undisturbed(SWEEP), "r") as whole, h5py.File(out, "w") as part:
        part.attrs.update({**whole.attrs, "complete": False})
        part["summary"] = whole["summary"][()][:4]
        whole.copy(f"trajectories/{next(iter(whole['trajectories']))}", part.create_group("trajectories"))
    reader = start("r", program=("-c", READING), stdin=subprocess.PIPE, cwd=tmp_path)
    assert reader.stdout.readline() == "open\n"
    finished_alike(SWEEP, out, undisturbed(SWEEP))
    assert reader.communicate("go\n")[0] == "1 False\n"
    assert store.read_attrs(out)["complete"]


def test_a_file_that_another_program_writes_to_is_refused(undisturbed, tmp_path):
    out = tmp_path / "results.h5"
    out.write_bytes(undisturbed(SWEEP).read_bytes())
    writer = start("r+", program=("-c", READING), stdin=subprocess.PIPE, cwd=tmp_path)
    assert writer.stdout.readline() == "open\n"
    said_in_a_sentence(invoke(*SWEEP, "--out", out), 2, f"{out} is being written by another process")
    assert writer.communicate("go\n")[0] == "4 True\n"
    assert differences(undisturbed(SWEEP), out) == []


# ------------------------------------------------------------------------------------------------------------ the clock


def test_no_time_is_taken_from_a_clock_that_can_be_set():
    """Durations come from clocks that only go forward."""
    for path in [*(ROOT / "gcref").rglob("*.py"), *(ROOT / "cli").rglob("*.py"), *(ROOT / "validation").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                assert name not in {"time.time", "time.time_ns", "time.localtime", "datetime.now"}, f"{path}: {name}"


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_nothing(step, undisturbed, tmp_path, monkeypatch):
    """At every look it is a day earlier, or later; the shards' times of change are anything."""
    jumping = iter(1.8e9 + step * i for i in range(10**6))
    monkeypatch.setattr(time, "time", lambda: next(jumping))
    out = tmp_path / "results.h5"
    assert not shards.claim(out, store.read_attrs(undisturbed(IMAGE))["config"])
    finished_alike(IMAGE, out, undisturbed(IMAGE))
    assert float(store.read_trajectory(out)[0]["seconds"]) >= 0
    with h5py.File(out, "r+") as file:
        file.attrs["complete"] = False
    assert not shards.claim(out, store.read_attrs(out)["config"])
    for i, path in enumerate(store.parts_of(out).iterdir()):
        os.utime(path, (0, 4e9 * i))
    finished_alike(IMAGE, out, undisturbed(IMAGE))


# ------------------------------------------------------------------------------------------------- damaged checkpoints


def stopped_at_a_checkpoint(out, monkeypatch):
    """An image run that a full disk has stopped after some checkpoints."""
    write, calls = shards.write_shard, []

    def full_later(folder, name, *arguments, **options):
        calls.append(name)
        if len(calls) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, name, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(shards, "write_shard", full_later)
        assert invoke(*IMAGE, "--out", out).exit_code == 1
    assert shards.finished(store.parts_of(out), ["checkpoint"]) == ["checkpoint"]


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 40))])
def test_a_damaged_checkpoint_changes_no_number(seed, undisturbed, tmp_path, monkeypatch):
    """A flipped bit or a cut, anywhere."""
    out, rng = tmp_path / "results.h5", random.Random(seed)
    stopped_at_a_checkpoint(out, monkeypatch)
    shard = store.parts_of(out) / "checkpoint.h5"
    data = bytearray(shard.read_bytes())
    place = rng.randrange(len(data))
    if rng.random() < 0.5:
        del data[place:]
    else:
        data[place] ^= 1 << rng.randrange(8)
    shard.write_bytes(data)
    finished_alike(IMAGE, out, undisturbed(IMAGE))
