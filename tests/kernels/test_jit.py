from types import SimpleNamespace

import numba
import pytest

from gcref.kernels import jit


@pytest.fixture
def no_folder(monkeypatch):
    """Let numba find no folder that its cache could be written to."""

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(jit, "numba", SimpleNamespace(njit=njit))
    monkeypatch.setattr(jit, "CACHE", True)


def add(a, b):
    return a + b


@pytest.mark.parametrize("decorate", [jit.jit, jit.fast_jit])
def test_without_a_place_for_the_cache_kernels_compile_all_the_same(no_folder, decorate):
    assert decorate(add)(1.0, 2.0) == 3.0
    assert jit.disk_cache().startswith("off (")


def test_no_cache_is_asked_for_where_it_is_turned_off(monkeypatch):
    asked = []
    njit = lambda **options: asked.append(options) or (lambda function: function)  # noqa: E731
    monkeypatch.setattr(jit, "numba", SimpleNamespace(njit=njit))
    monkeypatch.setattr(jit, "CACHE", False)
    jit.jit(add)
    jit.fast_jit(add)
    assert [options.get("cache", False) for options in asked] == [False, False]
    assert [bool(options.get("fastmath")) for options in asked] == [False, True]
