"""The house decorator: with `gcref.kernels.tile`, the one place that imports numba.

Every compiled kernel is nopython, releases the GIL and is cached on disk; ``GCREF_NUMBA_CACHE=0`` turns the disk
cache off, as does an installation in which no folder for it can be written. No kernel is compiled at import (no
explicit signatures), none draws random numbers, none is parallel: a kernel's numbers never depend on a thread count.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
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


def numba_cuda() -> Any:
    """Return numba's CUDA target, which is imported when first asked for."""
    from numba import cuda

    return cuda


def cuda_jit(function: Callable[..., object]) -> Any:
    """Make a CUDA kernel, compiled for the types of its arguments when it is first launched on them."""
    return numba_cuda().jit(function)


def cuda_device_jit(function: Callable[..., object]) -> Any:
    """Make a function that CUDA kernels call, compiled with them."""
    return numba_cuda().jit(device=True)(function)


def launch(kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
    """Run a CUDA kernel on a grid of at least one block."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grid size")  # what is sequential runs in one block
        configured = kernel[max(1, blocks), threads]
    configured(*arguments)


def ptx(kernel: Any, arguments: Sequence[object], capability: tuple[int, int]) -> str:
    """Return the PTX of a CUDA kernel for arguments of these types, and a GPU that need not be there.

    Raises
    ------
    RuntimeError
        If the compiler, NVVM, is not installed.
    """
    cuda = numba_cuda()
    if not _has_nvvm():
        raise RuntimeError("NVVM, the compiler of CUDA kernels, is not installed: pip install 'gcref[cuda]'")
    dispatcher: Any = importlib.import_module("numba.cuda.dispatcher")
    current_device = dispatcher.get_current_device
    # Device functions are compiled for the current device, and there may be none.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        return str(cuda.compile_ptx(kernel.py_func, tuple(map(numba.typeof, arguments)), cc=capability)[0])
    finally:
        dispatcher.get_current_device = current_device


def _simulated() -> bool:
    """Tell whether CUDA kernels run in numba's simulator (NUMBA_ENABLE_CUDASIM=1), which counts as a device."""
    return bool(getattr(numba.config, "ENABLE_CUDASIM", False))


def _has_nvvm() -> bool:
    """Tell whether NVVM is installed."""
    try:
        return bool(importlib.import_module("numba.cuda.cudadrv.nvvm").is_available())
    except Exception:  # what is half installed fails in many ways
        return False


def gpu_problem() -> str:
    """Say in a few words why kernels cannot run on a GPU; nothing if they can, if only in numba's simulator."""
    try:
        cuda = numba_cuda()
    except ImportError:
        return "numba has no CUDA target and numba-cuda is not installed (pip install 'gcref[cuda]')"
    if _simulated():
        return ""
    try:
        error = " ".join(str(cuda.cuda_error() or "").split())
        n_devices = 0 if error else len(cuda.gpus)
    except Exception as found:  # drivers fail in many ways, none of which should end a report
        error, n_devices = f"{type(found).__name__}: {found}", 0
    if "NO_DEVICE" in error or "no CUDA-capable device" in error or not (error or n_devices):
        return "there is a CUDA driver but no device"
    if error:
        found_none = "cannot be found" in error
        return "no CUDA driver was found" if found_none else f"the CUDA driver does not work ({error})"
    return "" if _has_nvvm() else "there is a GPU but not numba-cuda's compiler (pip install 'gcref[cuda]')"


def gpu() -> str:
    """Say in a few words which GPU kernels could run on."""
    problem = gpu_problem()
    if problem:
        return f"none ({problem}); everything runs on the CPU"
    if _simulated():
        return "numba's simulator"
    name = numba_cuda().get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)
