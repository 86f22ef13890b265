"""Small sweeps for tests of what is done with their files."""

from concurrent.futures import ThreadPoolExecutor

from gcref.studies.sweep import run_sweep


def run_here(sweep, path):
    """Write the results file of a sweep from this process: to start another takes longer than such a sweep."""
    with ThreadPoolExecutor(1) as pool:
        assert run_sweep(sweep, path, 1, executor=pool)
    return path
