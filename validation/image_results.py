"""Recompute the numbers of a results file of an image study from scratch.

Data and model are made again by the study's own code and the file is read by the store's. The engine passes single
examples through the network, in float64, and everything else, from the losses to the variances, is plain NumPy that
shares nothing with the code that measured. ``gcref validate`` prints the table.
"""

import json
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from gcref import store
from gcref.data import DataError
from gcref.executor import process_pool
from gcref.studies.image_data import ImageData, build, prepare
from gcref.studies.image_run import ImageRun
from gcref.validation.image_recompute import Recomputation
from gcref.validation.image_structure import Sizes, Trajectory, inspect_file
from gcref.validation.structure import READ_ERRORS
from gcref.validation.tally import Check

Progress = Callable[[int, float], None]


def config_of(path: Path | str) -> ImageRun:
    """Read the configuration of a results file.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read or its configuration is not that of an image study.
    """
    try:
        return ImageRun.from_json(json.dumps(store.read_config(path)))
    except store.StoreError:
        raise
    except ValueError as error:
        raise store.StoreError(f"{path}: {error}") from None


def validate(
    path: Path | str,
    data_dir: str | None = None,
    n_examples: int = 500,
    isolated: bool = False,
    progress: Progress | None = None,
) -> list[Check]:
    """Check a results file of an image study and recompute the numbers at its snapshots.

    Parameters
    ----------
    path : path
    data_dir : path, optional
        Where the data set's files are; see `gcref.data.load`.
    n_examples : int
        Where the gradients of all examples are too many numbers (N·d > 10⁹) to be written out one by one, the closed
        forms are summed over all examples, and the gradients of so many random ones are written out beside them.
    isolated : bool
        Look at the file in a process of its own first, as damage can bring HDF5 itself down.
    progress : callable, optional
        Called now and then with the number of snapshots that are done and the share of the work.

    Returns
    -------
    list of Check
        The file holds what it should if every one of them ``passed``.

    Raises
    ------
    gcref.store.StoreError
        If the file cannot be read as a results file of such a study.
    gcref.data.DataError
        If the data set is missing or damaged.
    """
    run, recomputed = config_of(path), Check("recomputation", "every snapshot could be recomputed")
    try:
        data = prepare(run, data_dir)
    except DataError:
        raise
    except ValueError as error:  # other data, too small for the configuration
        recomputed.fail(run.id, None, "data set", error, "that of the file")
        return [recomputed]
    trajectory, checks = _inspect(str(path), run, _sizes(run, data), isolated)
    if trajectory is None or not all(check.passed for check in checks if check.name in ("data", "contents")):
        recomputed.fail(run.id, None, "trajectory", "damaged", "what can be recomputed")
        return [*checks, recomputed]
    recomputed.n = len(trajectory.snapshots)
    return [*checks, *Recomputation(trajectory, data, n_examples).go(progress), recomputed]


def _sizes(run: ImageRun, data: ImageData) -> Sizes:
    """What data and model say of themselves."""
    net = build(run, data)
    return Sizes(
        n_train=len(data.train), n_test=len(data.test), n_classes=data.n_classes, n_parameters=net.n_parameters,
        n_running=len(net.running), data_digest=data.digest,
    )  # fmt: skip


def _inspect(path: str, run: ImageRun, sizes: Sizes, isolated: bool) -> tuple[Trajectory | None, list[Check]]:
    """Look at the file, here or in a process of its own."""
    try:
        if not isolated:
            return inspect_file(path, run, sizes)
        with process_pool(1) as pool:
            return pool.submit(inspect_file, path, run, sizes).result()
    except BrokenProcessPool:
        raise store.StoreError(f"{path} is damaged: HDF5 broke down while reading it") from None
    except store.StoreError:
        raise
    except READ_ERRORS as error:
        raise store.StoreError(f"{path} cannot be read: {error}") from None
