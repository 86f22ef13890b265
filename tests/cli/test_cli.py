import json
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from click.testing import CliRunner

import gcref
from gcref.cli import cli, main
from gcref.cli.info import PACKAGES
from gcref.cores import THREAD_VARIABLES, n_cores

HEAVY = ("numpy", "numba", "scipy", "h5py", "matplotlib", "rich", "jinja2", "torch", "multiprocessing")


def invoke(*arguments):
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["rf-sweep", "--help"], ["figures", "--help"], ["report", "--help"]]
)
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from gcref.cli import cli
try:
    cli({arguments!r}, prog_name="gcref")
except SystemExit as end:
    assert end.code == 0
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "gcref" in done.stdout


def test_help_names_every_command():
    shown = invoke("--help").output
    assert set(cli.commands) == {
        "rf-sweep",
        "image",
        "figures",
        "reproduce",
        "validate",
        "cluster",
        "show",
        "export",
        "report",
        "toy",
        "bench",
        "info",
        "warmup",
    }
    assert all(f"\n  {name} " in shown for name in cli.commands)
    assert invoke("-h").output == shown


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help_with_an_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"gcref {command}" in result.output.split("Usage:")[1].split("\n", 1)[1]


def test_version():
    assert invoke("--version").output == f"gcref, version {gcref.__version__}\n"


def test_an_unknown_command_is_a_usage_error():
    result = invoke("rf-sweeep")
    assert result.exit_code == 2
    assert "rf-sweeep" in result.stderr


def test_info():
    result = invoke("info")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert lines["gcref"] == gcref.__version__
    rows = {
        "python",
        "numpy",
        "numba",
        "cores",
        "rf-sweep",
        "image",
        "cluster",
        "threads",
        "blas",
        "jit",
        "gpu",
        "data",
    }
    assert rows <= set(lines)


def test_info_as_json():
    result = invoke("info", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == [line[:12].strip() for line in invoke("info").stdout.splitlines()]
    assert found["cores"] == n_cores()
    assert found["gcref"] == gcref.__version__
    assert {found[name] for name in PACKAGES if f"{name:<12} not installed" in invoke("info").stdout} <= {None}


def test_info_says_who_sets_blas_threads():
    command = [sys.executable, "-m", "gcref.cli", "info"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^threads .*OMP_NUM_THREADS=1.* \(BLAS's are set by gcref\)$", shown, re.MULTILINE)


def test_info_names_every_dependency():
    needed = {re.match(r"[\w-]+", line)[0].lower() for line in metadata.requires("gcref") if "extra ==" not in line}
    assert len(needed) > 7
    assert needed <= set(PACKAGES)


def test_info_names_the_thread_variables_that_are_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS=3" in invoke("info").stdout


@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "1"}])
def test_info_shows_that_no_run_has_more_threads_than_cores(variables):
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES} | variables
    command = [sys.executable, "-m", "gcref.cli", "info"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"(\S+) +(\d+) \w+ × max\(BLAS (\d+), Numba (\d+)\) = (\d+) threads(.*)\n", shown)
    assert [row[0] for row in rows] == ["rf-sweep", "image", "cluster"]
    cores = n_cores()
    found = [tuple(map(int, row[1:5])) for row in rows]
    assert found == [(cores, 1, 1, cores), (1, 1, cores, cores), (1, 1, cores, cores)]
    assert not any(row[5] for row in rows)


def test_info_tells_of_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("gcref.kernels.threads.n_threads", lambda: 1000)
    shown = invoke("info").stdout
    assert shown.count(f" = 1000 threads, more than the {n_cores()} cores") == 2
    assert f" {n_cores()} workers × max(BLAS 1, Numba 1) = {n_cores()} threads\n" in shown


def test_info_tells_that_nothing_is_cached(tmp_path):
    environment = {"GCREF_NUMBA_CACHE": "0", "PATH": "", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "gcref.cli", "info"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "jit cache    off" in done.stdout


def test_ctrl_c_ends_with_130(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("gcref.studies.warmup.compile_all", stop)
    result = invoke("warmup")
    assert result.exit_code == 130
    assert "Stopped." in result.stderr


def test_warmup():
    result = invoke("warmup")
    assert result.exit_code == 0, result.output
    n_kernels, rest = result.stdout.split(maxsplit=1)
    assert int(n_kernels) > 10
    assert rest.startswith("kernels ready in")


def test_whatever_goes_wrong_is_one_sentence(monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("gcref.cli.cli", fail)
    monkeypatch.delenv("GCREF_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == "Error: RuntimeError: first line (GCREF_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("GCREF_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        main()


def test_errors_do_not_speak_to_the_terminal(tmp_path):
    result = invoke("figures", str(tmp_path / "\x1b[2Ja\x07.h5"), "--out", str(tmp_path / "figures"))
    assert result.exit_code == 2
    assert "\\x1b[2Ja\\x07.h5" in result.output
    assert "\x1b" not in result.output


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "gcref.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gcref, version")


STOPPED_IN_AN_EXEC = """
import os, runpy, signal
from gcref import cli

@cli.cli.command("stuck")
def stuck():
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")

runpy.run_module("gcref.cli.__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_signal_that_finds_an_exec_at_work_leaves_the_exit_code_alone(tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED_IN_AN_EXEC)
    done = subprocess.run(
        [sys.executable, "-m", "stopped", "stuck"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (143, "Stopped.")
