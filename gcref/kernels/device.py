"""Where kernels run: the modules of one device, which have the same functions.

``kernels(device).row_sq_norms(G)`` is `gcref.kernels.cpu.row_sq_norms` or its twin on a GPU, and
``moments(device).fold(...)`` likewise. In numba's simulator (NUMBA_ENABLE_CUDASIM=1 before numba is imported) there
is a GPU, a very slow one.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from gcref.kernels import cpu, jit
from gcref.kernels import moments as cpu_moments
from gcref.kernels import subspace as cpu_subspace

DEVICES = ("cpu", "cuda", "auto")

_current: ContextVar[str] = ContextVar("device", default="cpu")


class _Here:
    """The kernels of the device in force, by their names: what clustering calls."""

    def __getattr__(self, name: str) -> Any:
        if _current.get() == "cuda":
            return getattr(_cuda(), name)
        return getattr(cpu if hasattr(cpu, name) else cpu_subspace, name)


here = _Here()


@contextmanager
def on(device: str) -> Iterator[None]:
    """Let `here` be the kernels of a device, for this thread and inside the block; raises as `kernels` does."""
    token = _current.set(resolve(device))
    try:
        yield
    finally:
        _current.reset(token)


def kernels(device: str) -> ModuleType:
    """Return the kernels of gradient clustering, `gcref.kernels.cpu` or `gcref.kernels.cuda`.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
        "auto" is a GPU if there is one that works, else the CPU.

    Raises
    ------
    ValueError
        If `device` is none of these.
    RuntimeError
        If it is "cuda" and kernels cannot run on a GPU; the message says what was found.
    """
    return _cuda() if resolve(device) == "cuda" else cpu


def moments(device: str) -> ModuleType:
    """Return the module that has `second_moment`, `add_moments` and `fold`; as `kernels` otherwise."""
    return _cuda() if resolve(device) == "cuda" else cpu_moments


def subspace(device: str) -> ModuleType:
    """Return the module that has `add_cluster_products`; as `kernels` otherwise."""
    return _cuda() if resolve(device) == "cuda" else cpu_subspace


def resolve(device: str) -> str:
    """Return "cpu" or "cuda", what `device` comes to here; raises as `kernels` does."""
    if not isinstance(device, str) or device not in DEVICES:
        raise ValueError(f"device={device!r}; expected one of {', '.join(map(repr, DEVICES))}")
    if device == "cpu":
        return "cpu"
    problem = jit.gpu_problem()
    if problem and device == "cuda":
        raise RuntimeError(f"device='cuda', but {problem}; device='cpu' computes the same")
    return "cpu" if problem else "cuda"


def _cuda() -> ModuleType:
    """Return the kernels of a GPU, which import numba's CUDA target."""
    return importlib.import_module("gcref.kernels.cuda")
