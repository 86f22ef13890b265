"""The house decorator: with `gcref.kernels.tile`, the one place that imports numba.

Every compiled kernel is nopython, releases the GIL and is cached on disk; ``GCREF_NUMBA_CACHE=0`` turns the disk
cache off, as does an installation in which no folder for it can be written. No kernel is compiled at import (no
explicit signatures), none draws random numbers, none is parallel: a kernel's numbers never depend on a thread count.
"""

import hashlib
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

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


def min_jit(function: F) -> F:
    """Compile `function` on its first call, taking it that no number is NaN, so that a minimum can be vectorised."""
    return _compile(function, {"fastmath": {"nnan", "nsz"}})


def _compile(function: F, options: dict[str, Any]) -> F:
    """Return the kernel, cached on disk if there is a place for it."""
    global CACHE
    kernel = numba.njit(nogil=True, error_model="numpy", **options)(function)
    if CACHE and hasattr(kernel, "enable_caching"):  # a plain function where NUMBA_DISABLE_JIT=1
        try:
            kernel._cache = _DiskCache(function)
        except RuntimeError:  # numba found neither the package's folder nor the user's cache writable
            CACHE = False
    return cast(F, kernel)


class _DiskCache(FunctionCache):
    """Numba's disk cache, in which processes that start at once, or are killed, never leave a wrong kernel.

    Numba numbers the files of a kernel and keeps in an index which number is for which types. Two processes can give
    one number to different types, and one killed between index and file leaves a number to whatever an older source
    had there; that machine code would then run on arrays it was not made for. Here a file is named by all that it
    depends on, says so itself, and is renamed into place: there is no index. What cannot be read or written (a full
    disk, a file cut short) counts as not cached.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the kernel compiled for a signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what is cut short fails in many ways
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the kernel compiled for a signature, if that is possible."""
        with suppress(OSError):
            super().save_overload(sig, data)


class _Files(IndexDataCacheFile):
    """The files of one kernel, one for each signature, processor and source."""

    def save(self, key: Any, data: Any) -> None:
        """Write, or overwrite, the file of a key."""
        self._save_data(self._name(key), (self._whole(key), data))

    def load(self, key: Any) -> Any:
        """Return the data of a key, or None."""
        whole, data = self._load_data(self._name(key))
        return data if whole == self._whole(key) else None

    def flush(self) -> None:
        """Forget nothing: a file is right for ever."""

    def _whole(self, key: Any) -> str:
        """Say what a compiled kernel depends on."""
        return repr((self._version, self._source_stamp, key))

    def _name(self, key: Any) -> str:
        return self._data_name(int(hashlib.sha256(self._whole(key).encode()).hexdigest()[:16], 16))


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
