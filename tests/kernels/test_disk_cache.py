"""Compiled kernels on disk: whoever starts, ends or finds no room, what is loaded is what was compiled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gcref
from gcref.kernels import cpu, jit

# Runs a kernel on numbers of a type and tells the results, how often the cache had it, and whether there is one.
CHILD = """
import json, sys
import numpy as np
from gcref.kernels import cpu, jit
G = np.arange(12.0).reshape(4, 3).astype(sys.argv[1])
found = cpu.row_sq_norms(G).tolist()
print(json.dumps([found, sum(cpu.row_sq_norms.stats.cache_hits.values()), jit.disk_cache()]))
"""
NORMS = [5.0, 50.0, 149.0, 302.0]


def start(dtype, env, cwd=None):
    """A child that runs `CHILD` in a changed environment."""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", CHILD, dtype],
        env={**os.environ, **env},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(child):
    """What a child told; it warned of nothing."""
    out, err = child.communicate(timeout=300)
    assert (child.returncode, err) == (0, "")
    return json.loads(out)


def files(folder):
    """The names of all files below a folder, without their folders."""
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.slow
def test_processes_that_start_at_once_on_a_cold_cache_all_leave_what_a_fifth_can_use(tmp_path):
    env = {"NUMBA_CACHE_DIR": str(tmp_path), "GCREF_NUMBA_CACHE": "1"}
    children = [start(dtype, env) for dtype in ("float32", "float64", "float32", "float64")]
    assert [result(child)[0] for child in children] == [NORMS] * 4
    kept = [name for name in files(tmp_path) if "row_sq_norms" in name]
    assert len(kept) == 2  # one a type, and nothing half written beside
    for dtype in ("float32", "float64"):
        assert result(start(dtype, env)) == [NORMS, 1, "on"]


def test_a_home_and_an_installation_that_cannot_be_written_to_are_left_alone(tmp_path):
    # A file where the folder should be keeps the superuser out, too.
    package = tmp_path / "gcref"
    package.mkdir()
    source = Path(gcref.__file__).parent
    shutil.copy(source / "__init__.py", package)
    shutil.copytree(source / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "kernels" / "__pycache__").write_text("")
    before = files(tmp_path)
    nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": f"{os.devnull}/cache", "NUMBA_CACHE_DIR": ""}
    found, hits, told = result(start("float64", {**nowhere, "GCREF_NUMBA_CACHE": "1"}, cwd=tmp_path))
    assert (found, hits) == (NORMS, 0)
    assert told.startswith("off (")
    assert files(tmp_path) == before


# ------------------------------------------------------------------------------------ one process, one kernel


def _plus(a, b):
    return a + b


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Make the kernel anew, as another process would, with a cache in a folder of the test's own."""
    monkeypatch.setattr(jit, "CACHE", True)
    monkeypatch.setattr(jit.numba.config, "CACHE_DIR", str(tmp_path))
    return lambda: jit.jit(_plus)


def hits(kernel):
    """How often the cache had what the kernel asked for."""
    return sum(kernel.stats.cache_hits.values())


def test_a_second_process_compiles_nothing(fresh, tmp_path):
    assert fresh()(1.0, 2.0) == 3.0
    again = fresh()
    assert (again(2.0, 2.0), hits(again)) == (4.0, 1)
    assert len(files(tmp_path)) == 1


def test_types_that_two_processes_compile_at_once_have_files_of_their_own(fresh, tmp_path):
    # Neither has seen a file of the other when it decides where its own goes.
    first, second = fresh(), fresh()
    names = [kernel._cache._cache_file._name(key) for kernel in (first, second) for key in ("float32", "float64")]
    assert names[:2] == names[2:]
    assert len(set(names)) == 2
    assert (first(1.0, 2.0), second(1, 2)) == (3.0, 3)
    assert len(files(tmp_path)) == 2
    for arguments in ((0.5, 0.25), (3, 4)):
        again = fresh()
        assert (again(*arguments), hits(again)) == (sum(arguments), 1)


def test_what_an_older_source_left_is_not_taken(fresh, monkeypatch):
    assert fresh()(1.0, 2.0) == 3.0
    with monkeypatch.context() as patched:
        locator = type(fresh()._cache._impl.locator)
        patched.setattr(locator, "get_source_stamp", lambda self: b"another source")
        changed = fresh()
        assert (changed(1.0, 2.0), hits(changed)) == (3.0, 0)
    same = fresh()
    assert (same(1.0, 2.0), hits(same)) == (3.0, 1)


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_file_cut_short_is_written_anew(fresh, tmp_path, left):
    fresh()(1.0, 2.0)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    mended = fresh()
    assert (mended(1.0, 2.0), hits(mended)) == (3.0, 0)
    again = fresh()
    assert (again(1.0, 2.0), hits(again)) == (3.0, 1)


def test_a_file_of_another_key_is_not_taken(fresh, tmp_path):
    fresh()(1.0, 2.0)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    cache = fresh()._cache._cache_file
    path.rename(path.with_name(cache._name("other")))
    assert cache.load("other") is None


@pytest.mark.parametrize("where", ["ensure_cache_path", "_open_for_write"])
def test_a_full_disk_is_no_cache(fresh, tmp_path, monkeypatch, where):
    kernel = fresh()
    owner = kernel._cache._cache_file if where == "_open_for_write" else kernel._cache._impl.locator

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, where, full, raising=True)
    assert kernel(1.0, 2.0) == 3.0
    assert files(tmp_path) == []


def test_the_cache_of_the_package_is_of_this_kind():
    assert isinstance(cpu.row_sq_norms._cache, jit._DiskCache) == jit.CACHE
    assert np.array_equal(cpu.row_sq_norms(np.ones((1, 2))), [2.0])
