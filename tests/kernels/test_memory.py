import copy
import gc

import numpy as np
import pytest

from gcref.kernels import memory

SHAPE = (memory.SMALLEST // 4096, 32, 16)  # 4 times SMALLEST in float64


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_free", {})


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
    del array
    assert memory._free == {}


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


def test_no_more_is_kept_than_that(monkeypatch):
    n_bytes = 8 * np.prod(SHAPE)
    monkeypatch.setattr(memory, "MOST", 2 * n_bytes + 10)
    arrays = [memory.empty(SHAPE, "float64") for _ in range(2)] + [memory.empty((*SHAPE, 2), "float64")]
    del arrays[:2]
    assert {size: len(blocks) for size, blocks in memory._free.items()} == {n_bytes: 2}
    del arrays[:]
    assert {size: len(blocks) for size, blocks in memory._free.items()} == {2 * n_bytes: 1}


def test_a_block_too_large_to_keep_is_not(monkeypatch):
    monkeypatch.setattr(memory, "MOST", 100)
    memory.empty(SHAPE, "float64")
    assert memory._free == {}
