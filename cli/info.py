"""``gcref info`` and ``gcref warmup``."""

import importlib.metadata
import os
import platform
import time

import click

PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "h5py",
    "matplotlib",
    "click",
    "rich",
    "scikit-learn",
    "torch",
    "numba-cuda",
    "dask",
)


@click.command(short_help="Show versions, threads, BLAS and GPU.")
def info() -> None:
    """Show versions, cores and threads, BLAS, GPU and data: what a bug report needs.

    \b
    gcref info
    """  # noqa: D301
    from gcref import __version__
    from gcref.executor import THREAD_VARIABLES, n_cores
    from gcref.kernels import jit

    click.echo(f"gcref        {__version__}")
    click.echo(f"python       {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            click.echo(f"{name:<12} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            click.echo(f"{name:<12} not installed")
    click.echo(f"cores        {n_cores()}; rf-sweep runs that many workers of one thread each, image that many threads")
    asked = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    threads = ", ".join(f"{k}={v}" for k, v in asked.items())
    click.echo(f"threads      {threads or 'library defaults (no variable set)'}")
    click.echo(f"blas         {_blas()}")
    click.echo(f"jit cache    {jit.disk_cache()}")
    click.echo(f"gpu          {jit.gpu()}")
    from gcref.data import reference

    click.echo(f"data         the paper's digitised points ({len(reference())})")


def _blas() -> str:
    """NumPy's BLAS, by its own account."""
    import numpy as np

    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
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
