import copy
import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gcref.kernels import memory

SHAPE = (memory.SMALLEST // 4096, 32, 16)  # 4 times SMALLEST in float64


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_store", memory._Store())


def address(array):
    return array.__array_interface__["data"][0]


def test_it_is_an_array_like_any_other():
    array = memory.empty(SHAPE, "float64")
    assert (type(array), array.shape, array.dtype) == (np.ndarray, SHAPE, np.float64)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert address(array) % 64 == 0
    array[...] = 3.0
    np.testing.assert_array_equal(copy.deepcopy(array), array)
    assert memory.empty_like(array.astype("f4")).dtype == np.float32
    assert not memory.zeros(SHAPE, "f4").any()


@pytest.mark.parametrize("shape", [(0,), (3, 4), (0, 5, 10**6)])
def test_small_ones_are_numpys_own(shape):
    array = memory.empty(shape, np.float32)
    assert array.shape == shape
    assert memory._store.n_bytes == 0


def test_memory_is_used_again_once_nobody_holds_it():
    array = memory.empty(SHAPE, "float64")
    where = address(array)
    del array
    again = memory.empty(SHAPE[::-1], "float64")  # of another shape, of as many bytes
    assert address(again) == where
    assert address(memory.empty(SHAPE, "float64")) != where


VIEWS = {
    "a row": lambda a: a[3],
    "columns": lambda a: a[:, ::2],
    "another shape": lambda a: a.reshape(-1)[5:9].reshape(2, 2),
    "transposed": lambda a: a.T.swapaxes(0, 1),
    "bytes": lambda a: a.view(np.uint8),
    "a view of a view": lambda a: a[1:][1:][1:].T,
    "a memoryview": lambda a: memoryview(a)[1:2],
    "an iterator": lambda a: a.flat,
    "broadcast": lambda a: np.broadcast_to(a[0], (7, *a.shape[1:])),
    "a subclass": lambda a: a.view(np.recarray),
    "asarray of a list's end": lambda a: np.asarray(a[-1, -1]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_it(name):
    array = memory.empty(SHAPE, "float64")
    where = address(array)
    view = VIEWS[name](array)
    del array
    gc.collect()
    others = [memory.empty(SHAPE, "float64") for _ in range(3)]
    assert where not in map(address, others)
    del view
    gc.collect()
    assert address(memory.empty(SHAPE, "float64")) == where


def test_there_are_never_more_blocks_than_that(monkeypatch):
    n_bytes = 8 * int(np.prod(SHAPE))
    monkeypatch.setattr(memory, "MOST", 2 * n_bytes + 10)
    arrays = [memory.empty(SHAPE, "float64") for _ in range(4)]
    assert memory._store.n_bytes == 2 * n_bytes
    where = {address(array) for array in arrays}
    assert len(where) == 4
    del arrays[:]
    larger = memory.empty((*SHAPE, 2), "float64")  # for which those that are free make room
    assert larger.shape == (*SHAPE, 2)
    assert (memory._store.n_bytes, memory._store.free) == (2 * n_bytes, {})
    assert memory.empty(SHAPE, "float64").base is None  # NumPy's own
    del larger
    assert memory.empty((*SHAPE, 2), "float64").base is not None


def test_threads_share_it():
    def use(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            array = memory.empty(SHAPE[: rng.integers(2, 4)], rng.choice(["f4", "f8"]))
            array.fill(seed)
            assert (array[:: len(array) // 3] == seed).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(8)))


INTERRUPTED = """
import signal, time
from gcref.kernels import memory

def interrupt(number, frame):
    if armed:
        raise KeyboardInterrupt

seen, armed, end = 0, False, time.monotonic() + 0.5
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while time.monotonic() < end:
    try:
        armed = True
        while True:
            array = memory.empty((1 << 17,), "f8")
            del array
    except KeyboardInterrupt:
        armed = False
        seen += 1
array = memory.empty((1 << 17,), "f8")
print(seen)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_no_interrupt_is_lost_where_an_array_goes():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""  # Python would say "Exception ignored"
    assert int(done.stdout) > 20


def test_memory_that_cannot_be_had_is_not_counted(monkeypatch):
    def none(n_bytes):
        raise MemoryError

    monkeypatch.setattr(memory, "_fresh", none)
    with pytest.raises(MemoryError):
        memory.empty(SHAPE, "float64")
    assert memory._store.n_bytes == 0


def test_nobody_waits_for_a_lock_that_is_never_given_back():
    with memory._store.lock:
        assert memory.empty(SHAPE, "float64").base is None
