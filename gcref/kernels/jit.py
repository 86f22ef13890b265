"""The house decorator: the one place that imports numba.

Every compiled kernel is nopython, releases the GIL and is cached on disk; ``GCREF_NUMBA_CACHE=0`` turns the disk
cache off. No kernel is compiled at import (no explicit signatures), none draws random numbers, none is parallel:
a kernel's numbers never depend on a thread count.
"""

import os
from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

CACHE = os.environ.get("GCREF_NUMBA_CACHE", "1") != "0"

# Sums may be reordered and fused, so that they vectorise; NaN and infinity keep their meaning.
FAST = frozenset({"reassoc", "contract", "nsz"})


def jit(function: F) -> F:
    """Compile `function` on its first call, keeping the order of every operation as written."""
    return cast(F, numba.njit(cache=CACHE, nogil=True, error_model="numpy")(function))


def fast_jit(function: F) -> F:
    """Compile `function` on its first call, letting sums be reordered (and so vectorised)."""
    return cast(F, numba.njit(cache=CACHE, nogil=True, error_model="numpy", fastmath=set(FAST))(function))


def gpu() -> str:
    """Say in a few words which GPU kernels could run on."""
    try:
        from numba import cuda

        if not cuda.is_available():
            return "none found (no CUDA driver or device); everything runs on the CPU"
        return str(cuda.get_current_device().name.decode())
    except Exception as error:  # drivers fail in many ways, none of which should end a report
        return f"none usable ({type(error).__name__}); everything runs on the CPU"
