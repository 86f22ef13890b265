import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcref.kernels import threads


@pytest.fixture
def hands(monkeypatch, request):
    """As many threads as the test's parameter says."""
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(threads, "n_threads", lambda: request.param)
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        yield request.param


@given(st.integers(0, 300), st.integers(1, 40))
def test_ranges_cover_everything_once_and_evenly(n, n_parts):
    ranges = threads.ranges(n, n_parts)
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(n))
    assert len(ranges) == max(1, min(n, n_parts))
    lengths = [stop - start for start, stop in ranges]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("hands", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_every_example_is_done_once(hands, n):
    done = []
    threads.over(n, lambda start, stop: done.append((start, stop)))
    assert sorted(done) == threads.ranges(n, hands)


@pytest.mark.parametrize("hands", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("n_parts", [1, 2, 3, 7])
def test_every_part_is_done_once_as_it_was_given(hands, n_parts):
    parts, done = threads.ranges(20, n_parts), []
    threads.run(parts, lambda start, stop: done.append((start, stop)))
    assert sorted(done) == parts


@pytest.mark.parametrize("hands", [4], indirect=True)
def test_what_is_not_worthwhile_stays_in_this_thread(hands):
    done = []
    threads.over(10, lambda start, stop: done.append((start, stop, threading.get_ident())), worthwhile=False)
    assert done == [(0, 10, threading.get_ident())]


@pytest.mark.parametrize("hands", [2, 4], indirect=True)
def test_parts_run_side_by_side(hands):
    # The barrier opens only when as many tasks are under way as there are threads.
    barrier = threading.Barrier(hands, timeout=60)
    threads.over(hands, lambda start, stop: barrier.wait())


@pytest.mark.parametrize("hands", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("bad", range(6))
def test_an_error_of_any_part_reaches_the_caller(hands, bad):
    def task(start, stop):
        if start == bad:
            raise LookupError(f"part {start}")

    with pytest.raises(LookupError, match=f"part {bad}"):
        threads.run(threads.ranges(6, 6), task)


@pytest.mark.parametrize("hands", [2], indirect=True)
@pytest.mark.parametrize("bad", [0, 1])
def test_nothing_runs_any_more_once_an_error_is_out(hands, bad):
    started, finished = threading.Barrier(2, timeout=60), []

    def task(start, stop):
        started.wait()
        if start == bad:
            raise LookupError
        threading.Event().wait(0.05)
        finished.append(start)

    with pytest.raises(LookupError):
        threads.over(2, task)
    assert finished == [1 - bad]


@pytest.mark.parametrize(("value", "want"), [("1", 1), ("3", 3), ("0", None), ("-2", None), ("two", None), ("", None)])
def test_numba_num_threads_is_obeyed_where_it_is_a_number(value, want, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads.n_threads.__wrapped__() == (want or cores)


def test_the_pool_and_the_caller_are_as_many_as_the_threads(monkeypatch):
    monkeypatch.setattr(threads, "n_threads", lambda: 3)
    barrier = threading.Barrier(2, timeout=60)
    with threads._pool.__wrapped__() as pool:
        for future in [pool.submit(barrier.wait) for _ in range(2)]:
            future.result()
        assert pool._max_workers == 2


def test_blas_is_asked_itself():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    found = threadpoolctl.threadpool_info()
    of_numpy = [pool["num_threads"] for pool in found if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    if not of_numpy:
        pytest.skip("this NumPy comes without a BLAS of its own")
    with threadpoolctl.threadpool_limits(1):
        assert threads.in_effect().blas == 1
    assert threads.in_effect() == (of_numpy[0], threads.n_threads())


@pytest.mark.parametrize(
    ("variables", "want"),
    [
        ({}, 7),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "many"}, 7),
    ],
)
def test_another_blas_is_known_by_its_variables(monkeypatch, variables, want):
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda path: object())
    monkeypatch.setattr(threads, "_openblas", threads._openblas.__wrapped__)
    monkeypatch.setattr(threads, "n_cores", lambda: 7)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert threads.in_effect().blas == want


@pytest.mark.parametrize("shape", [(40, 300, 200), (200, 300, 40), (3, 5, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_has_the_same_bits_for_any_number_of_threads(monkeypatch, shape, transposed):
    M, L, N = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((L, M)).T if transposed else rng.standard_normal((M, L))
    b = rng.standard_normal((N, L)).T if transposed else rng.standard_normal((L, N))
    monkeypatch.setattr(threads, "blas_threads", lambda: 1)
    found = []
    for hands in (1, 2, 4):
        monkeypatch.setattr(threads, "n_threads", lambda hands=hands: hands)
        pool = ThreadPoolExecutor(max(1, hands - 1))
        monkeypatch.setattr(threads, "_pool", lambda pool=pool: pool)
        with pool:
            found.append(threads.product(a, b))
            out = np.full((M, N), np.nan)
            assert threads.product(a, b, out=out) is out
            np.testing.assert_array_equal(out, found[0])
    rows, columns = a.tolist(), b.T.tolist()
    expected = [[sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in rows]
    np.testing.assert_allclose(found[0], expected, rtol=1e-10, atol=1e-10)
