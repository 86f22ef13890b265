"""``gcref info`` and ``gcref warmup``."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator

import click

PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "h5py",
    "matplotlib",
    "click",
    "rich",
    "jinja2",
    "scikit-learn",
    "torch",
    "numba-cuda",
    "dask",
)


@click.command(short_help="Show versions, threads, BLAS and GPU.")
def info() -> None:
    """Show versions, cores and threads, BLAS, GPU and data: what a bug report needs.

    \b
    Examples:
      gcref info
    """  # noqa: D301
    from gcref.cores import BLAS_VARIABLES, THREAD_VARIABLES, n_cores
    from gcref.kernels import jit

    for name, version in versions():
        click.echo(f"{name:<12} {version or 'not installed'}")
    click.echo(f"cores        {n_cores()}")
    for command, text in _threads():
        click.echo(f"{command:<12} {text}")
    asked = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    threads = ", ".join(f"{k}={v}" for k, v in asked.items())
    threads += " (BLAS's are set by gcref)" if set(BLAS_VARIABLES) <= set(asked) else ""
    click.echo(f"threads      {threads or 'library defaults (no variable set)'}")
    click.echo(f"blas         {blas()}")
    click.echo(f"jit cache    {jit.disk_cache()}")
    click.echo(f"gpu          {jit.gpu()}")
    from gcref.data import reference

    click.echo(f"data         the paper's digitised points ({len(reference())})")


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
    Examples:
      gcref warmup
    """  # noqa: D301
    start = time.monotonic()
    click.echo("compiling ...", err=True)
    from gcref.studies.warmup import compile_all

    n_kernels = compile_all()
    click.echo(f"{n_kernels} kernels ready in {time.monotonic() - start:.1f} s")
