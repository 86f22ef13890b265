"""A sweep on workers that are lost, or out of reach of its folder."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from gcref import cores, executor, store
from gcref.studies import random_features as study
from gcref.studies.grid import Sweep
from gcref.studies.sweep import run_sweep
from gcref.validation.kills import differences

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills by signal")
PRIVATE = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}  # beside other tests


@pytest.fixture(scope="module")
def long_sweep():
    """Some seconds of work on two workers."""
    return Sweep(
        learning_rate=(0.1,), overparametrization=(0.5, 1.0), input_dim=(6, 9), teacher_hidden=(7,), seed=(0, 1, 2),
        batch_size=10, student_hidden=500, iterations=1000, measure_every=100, refresh_every=500,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reference(long_sweep, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "results.h5"
    assert run_sweep(long_sweep, path, 2)
    return path


def when_there_are_shards(parts, action):
    """Start a thread that does `action` once some trajectories are finished."""

    def wait_and_act():
        end = time.monotonic() + 60
        while not list(parts.glob("*.h5")) and time.monotonic() < end:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@pytest.mark.parametrize("n_units", [1, 2, 3, 5, 8, 100])
def test_units_can_be_cut_for_many_workers(n_units):
    sweep = Sweep(learning_rate=(0.1, 0.3), seed=(0, 1), input_dim=(6, 600), teacher_hidden=(7, 70))
    specs = sweep.specs()
    groups = study.units(sweep, specs, n_units)
    assert len(groups) == max(4, min(n_units, len(specs)))
    assert sorted(spec.id for group in groups for spec in group) == sorted(spec.id for spec in specs)
    assert all(len({(s.seed, s.input_dim) for s in group}) == 1 for group in groups)
    cost = [sum(study.costs(sweep, group).values()) for group in groups]
    assert cost == sorted(cost, reverse=True)


def test_workers_out_of_reach_send_their_shards_back(sweep, tmp_path):
    near, far = tmp_path / "near.h5", tmp_path / "far.h5"
    run_sweep(sweep, near, 1)
    with ThreadPoolExecutor(2) as pool:
        assert run_sweep(sweep, far, 2, executor=pool)
    assert differences(near, far) == []


def test_the_run_goes_on_with_fewer_workers(long_sweep, reference, tmp_path):
    path = tmp_path / "results.h5"

    def kill_one():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = when_there_are_shards(store.parts_of(path), kill_one)
    expected = r"the worker process \d+ was ended by SIGKILL, most often for want of memory; .* with 1 worker$"
    with pytest.warns(RuntimeWarning, match=expected):
        assert run_sweep(long_sweep, path, 2)
    killer.join()
    assert differences(reference, path) == []


def test_the_last_worker_ends_the_run_and_keeps_what_is_finished(long_sweep, reference, tmp_path):
    path = tmp_path / "results.h5"
    parts = store.parts_of(path)
    killer = when_there_are_shards(parts, lambda: os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL))
    with pytest.raises(BrokenProcessPool, match=r"the worker process \d+ was ended by SIGKILL"):
        run_sweep(long_sweep, path, 1)
    killer.join()
    assert list(parts.glob("*.h5"))
    assert run_sweep(long_sweep, path, 2)
    assert differences(reference, path) == []


def test_without_dask_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ImportError, match=r'pip install "gcref\[distributed\]"'), executor.dask_pool():
        pass


class TestDask:
    """A cluster of two processes."""

    pytest.importorskip("distributed")
    pytestmark = pytest.mark.slow

    def test_the_bytes_are_those_of_one_process(self, long_sweep, reference, tmp_path):
        path = tmp_path / "results.h5"
        with executor.dask_pool(n_workers=2) as pool:
            assert pool.n_workers == 2
            assert run_sweep(long_sweep, path, pool.n_workers, executor=pool)
        assert differences(reference, path) == []

    def test_a_lost_worker_is_replaced(self, long_sweep, reference, tmp_path):
        path = tmp_path / "results.h5"
        with executor.dask_pool(n_workers=2) as pool:
            victim = pool.submit(os.getpid).result()
            killer = when_there_are_shards(store.parts_of(path), lambda: os.kill(victim, signal.SIGKILL))
            assert run_sweep(long_sweep, path, pool.n_workers, executor=pool)
            killer.join()
        assert differences(reference, path) == []

    def test_work_that_kills_every_worker_is_named(self):
        lost = pytest.raises(BrokenProcessPool, match="were lost over one piece of work")
        with lost, executor.dask_pool(n_workers=2) as pool:
            pool.submit(os._exit, 1).result()

    def test_a_scheduler_elsewhere(self, long_sweep, reference, tmp_path):
        from distributed import LocalCluster

        path = tmp_path / "results.h5"
        with (
            cores.single_threaded_children(),
            LocalCluster(2, threads_per_worker=1, **PRIVATE) as there,
            executor.dask_pool(there.scheduler_address) as pool,
        ):
            assert pool.n_workers == 2
            run_sweep(long_sweep, path, pool.n_workers, executor=pool)
        assert differences(reference, path) == []

    def test_two_at_once_on_one_machine(self):
        with executor.dask_pool(n_workers=1) as one, executor.dask_pool(n_workers=1) as other:
            assert one.submit(os.getpid).result() != other.submit(os.getpid).result()

    def test_workers_with_several_threads_are_refused(self):
        from distributed import LocalCluster

        refused = pytest.raises(ValueError, match=r"may run several threads.*--nthreads 1")
        cluster = LocalCluster(1, threads_per_worker=2, **PRIVATE)
        with cluster, refused, executor.dask_pool(cluster.scheduler_address):
            pass

    @pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:9"])
    def test_an_address_that_leads_nowhere(self, address):
        from distributed import default_client

        refused = pytest.raises(ValueError, match=f"scheduler='{address}' does not answer")
        with refused, executor.dask_pool(address):
            pass
        with pytest.raises(ValueError, match="No clients found"):  # nobody else is to take a lost one for his own
            default_client()
