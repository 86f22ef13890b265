import pytest

from gcref.kernels import jit


@pytest.fixture
def no_folder(monkeypatch):
    """Let numba find no folder that its cache could be written to."""

    def refused(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit, "_DiskCache", refused)
    monkeypatch.setattr(jit, "CACHE", True)


def add(a, b):
    return a + b


@pytest.mark.parametrize("decorate", [jit.jit, jit.fast_jit])
def test_without_a_place_for_the_cache_kernels_compile_all_the_same(no_folder, decorate):
    assert decorate(add)(1.0, 2.0) == 3.0
    assert jit.disk_cache().startswith("off (")


def test_no_cache_is_asked_for_where_it_is_turned_off(monkeypatch):
    monkeypatch.setattr(jit, "_DiskCache", None)  # which cannot be called
    monkeypatch.setattr(jit, "CACHE", False)
    kernels = [jit.jit(add), jit.fast_jit(add)]
    assert [kernel(1.0, 2.0) for kernel in kernels] == [3.0, 3.0]
    assert [kernel.stats.cache_path for kernel in kernels] == [None, None]


def test_sums_are_reordered_only_where_asked():
    assert [bool(kernel.targetoptions.get("fastmath")) for kernel in (jit.jit(add), jit.fast_jit(add))] == [False, True]
