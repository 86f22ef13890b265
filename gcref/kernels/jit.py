"""The house decorator: with `gcref.kernels.tile`, the one place that imports numba.

Every compiled kernel is nopython, releases the GIL and is cached on disk; ``GCREF_NUMBA_CACHE=0`` turns the disk
cache off, as does an installation in which no folder for it can be written. No kernel is compiled at import (no
explicit signatures), none draws random numbers, none is parallel: a kernel's numbers never depend on a thread count.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

CACHE = os.environ.get("GCREF_NUMBA_CACHE", "1") != "0"

# Sums may be reordered and fused, so that they vectorise; NaN and infinity keep their meaning.
FAST = frozenset({"reassoc", "contract", "nsz"})


def jit(function: F) -> F:
    """Compile `function` on its first call, keeping the order of every operation as written."""
    return _compile(function, {})


def fast_jit(function: F) -> F:
    """Compile `function` on its first call, letting sums be reordered (and so vectorised)."""
    return _compile(function, {"fastmath": set(FAST)})


def _compile(function: F, options: dict[str, Any]) -> F:
    """Return the kernel, cached on disk if there is a place for it."""
    global CACHE
    if CACHE:
        try:
            return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function))
        except RuntimeError:  # numba found neither the package's folder nor the user's cache writable
            CACHE = False
    return cast(F, numba.njit(nogil=True, error_model="numpy", **options)(function))


def disk_cache() -> str:
    """Say in a few words whether compiled kernels are kept on disk."""
    _compile(disk_cache, {})  # only once a kernel is made (not compiled) is it known
    if CACHE:
        return "on"
    return "off (GCREF_NUMBA_CACHE=0, or no folder for it can be written; NUMBA_CACHE_DIR names one)"


def gpu() -> str:
    """Say in a few words which GPU kernels could run on."""
    try:
        from numba import cuda

        if not cuda.is_available():
            return "none found (no CUDA driver or device); everything runs on the CPU"
        return str(cuda.get_current_device().name.decode())
    except Exception as error:  # drivers fail in many ways, none of which should end a report
        return f"none usable ({type(error).__name__}); everything runs on the CPU"
