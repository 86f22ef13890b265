"""``gcref info`` and ``gcref warmup``."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator

import click

from gcref.cli.common import json_text

PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "h5py",
    "matplotlib",
    "click",
    "rich",
    "jinja2",
    "pillow",
    "scikit-learn",
    "torch",
    "numba-cuda",
    "dask",
)


@click.command(short_help="Show versions, threads, BLAS and GPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def info(as_json: bool) -> None:
    """Show versions, cores and threads, BLAS, GPU and data: what a bug report needs.

    \b
    Examples:
      gcref info
      gcref info --json
    """  # noqa: D301
    found = dict(facts())
    if as_json:
        click.echo(json_text(found))
        return
    for name, text in found.items():
        click.echo(f"{name:<12} {'not installed' if text is None else text}")


def facts() -> Iterator[tuple[str, str | int | None]]:
    """Yield what a bug report needs, each with its name; None for a package that is not installed."""
    from gcref.cores import BLAS_VARIABLES, THREAD_VARIABLES, n_cores
    from gcref.data import reference
    from gcref.kernels import jit

    for name, version in versions():
        yield name, version or None
    yield "cores", n_cores()
    yield from _threads()
    asked = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    threads = ", ".join(f"{k}={v}" for k, v in asked.items()) or "library defaults (no variable set)"
    yield "threads", threads + (" (BLAS's are set by gcref)" if set(BLAS_VARIABLES) <= set(asked) else "")
    yield "blas", blas()
    yield "jit cache", jit.disk_cache()
    yield "gpu", jit.gpu()
    yield "data", f"the paper's digitised points ({len(reference())})"


def versions() -> Iterator[tuple[str, str]]:
    """Yield what is at work here with its version, which is empty for what is not installed."""
    from gcref import __version__

    yield "gcref", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, ""


def _threads() -> Iterator[tuple[str, str]]:
    """Yield, for each kind of run, the processes and threads that are in effect with the present environment."""
    from gcref.cores import n_cores
    from gcref.executor import process_pool
    from gcref.kernels.threads import InEffect, in_effect

    def told(n: int, kind: str, threads: InEffect) -> str:
        total = n * max(threads)
        text = f"{n} {kind} × max(BLAS {threads.blas}, Numba {threads.kernels}) = {total} threads"
        return text + (f", more than the {n_cores()} cores" if total > n_cores() else "")

    with process_pool(1) as pool:
        yield "rf-sweep", told(n_cores(), "workers", pool.submit(in_effect).result())
    for command in ("image", "cluster"):
        yield command, told(1, "process", in_effect())


def blas() -> str:
    """NumPy's BLAS, by its own account."""
    import numpy as np

    try:
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{found['name']} {found['version']}"
    except (KeyError, TypeError):
        return "unknown"


@click.command(short_help="Compile once and for all.")
def warmup() -> None:
    """Compile every kernel once and keep the result on disk, so that later runs start at once.

    \b
    gcref warmup
    """  # noqa: D301
    start = time.monotonic()
    click.echo("compiling ...", err=True)
    from gcref.studies.warmup import compile_all

    n_kernels = compile_all()
    click.echo(f"{n_kernels} kernels ready in {time.monotonic() - start:.1f} s")
