"""The number of threads changes no bit: of kernels never, of BLAS where it keeps to one thread."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import same_bits
from threadpoolctl import threadpool_limits

from gcref.cores import THREAD_VARIABLES
from gcref.executor import process_pool
from gcref.kernels import threads

HERE = Path(__file__).parent


@pytest.fixture
def hands(monkeypatch):
    """Set the number of threads that kernels use."""
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        yield lambda n: monkeypatch.setattr(threads, "n_threads", lambda: n)


def differing(found, expected):
    """The names of the numbers whose bytes differ; there are the same ones in both."""
    assert found.keys() == expected.keys()
    return [name for name in expected if found[name] != expected[name]]


QUICK = {("mlp", "float64"), ("resnet8", "float32")}
PAIRS = [(model, dtype) for model in same_bits.MODELS for dtype in ("float32", "float64")]


@pytest.mark.parametrize(
    ("model", "dtype"), [pytest.param(*p, marks=[pytest.mark.slow] * (p not in QUICK)) for p in PAIRS]
)
def test_kernels_on_several_threads_make_the_same_bits(model, dtype, hands):
    with threadpool_limits(1, user_api="blas"):
        hands(1)
        expected = same_bits.digests([model], [dtype])
        for n in (2, 4):
            hands(n)
            assert differing(same_bits.digests([model], [dtype]), expected) == []


def test_a_sum_whose_ranges_follow_the_threads_would_be_seen(hands):
    # The control of the test above: the ranges are as many as there are threads.
    x = np.random.default_rng(0).standard_normal((1000, 20))

    def total():
        parts = threads.ranges(len(x), threads.n_threads())
        sums = dict.fromkeys(parts)
        threads.run(parts, lambda *part: sums.update({part: np.cumsum(x[slice(*part)], axis=0)[-1]}))
        return sum(sums.values())

    hands(1)
    one = total()
    hands(4)
    np.testing.assert_allclose(total(), one, rtol=1e-9)
    assert not np.array_equal(total(), one)


def child(blas, kernels):
    """The digests of a process that sees so many threads in the environment, as a user sets them."""
    env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(blas)), "NUMBA_NUM_THREADS": str(kernels)}
    command = [sys.executable, str(HERE / "same_bits.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_environment_of_a_process_changes_no_bit():
    one = child(1, 1)
    for n in (2, 4):
        assert differing(child(1, n), one) == []


def test_workers_are_spawned_and_not_forked(monkeypatch):
    # A forked worker would have what was set here, and locks that nobody opens.
    monkeypatch.setattr(threads, "set_here", True, raising=False)
    seen = "hasattr(__import__('gcref.kernels.threads').kernels.threads, 'set_here')"
    assert eval(seen)
    with process_pool(1) as pool:
        assert not pool.submit(eval, seen).result()
