import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from gcref import cores, executor

PARENT = """
import os, sys, time
from gcref.executor import process_pool
if __name__ == "__main__":
    with process_pool(2) as pool:
        print(os.getpid(), *{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_cores_are_those_this_process_may_use():
    assert 1 <= cores.n_cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert cores.n_cores() == len(os.sched_getaffinity(0))


def test_workers_see_one_thread_and_the_parent_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with executor.process_pool(1) as pool:
        found = {name: pool.submit(os.getenv, name).result() for name in cores.THREAD_VARIABLES}
        pid = pool.submit(os.getpid).result()
    assert found == dict.fromkeys(cores.THREAD_VARIABLES, "1")
    assert pid != os.getpid()
    assert dict(os.environ) == before


def assert_no_children():
    """A thread of the pool may have reaped a worker and not yet written that down."""
    end = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.01)
    assert multiprocessing.active_children() == []


def test_an_error_in_a_worker_comes_through():
    with pytest.raises(ZeroDivisionError), executor.process_pool(1) as pool:
        pool.submit(divmod, 1, 0).result()
    assert_no_children()


def test_a_worker_that_dies_breaks_the_pool():
    with pytest.raises(BrokenProcessPool), executor.process_pool(1) as pool:
        pool.submit(os._exit, 3).result()
    assert_no_children()


def test_an_interrupt_ends_the_workers_at_once():
    start = time.monotonic()

    def interrupted():
        with executor.process_pool(1) as pool:
            pool.submit(os.getpid).result()
            pool.submit(time.sleep, 60)
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_no_children()
    assert time.monotonic() - start < 30


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids[0] == parent.pid
    assert len(pids) >= 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids[1:]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids[1:])


def alive(pid):
    """Whether a process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
