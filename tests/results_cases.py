"""Small results files of both studies, for tests of what is done with them."""

import contextlib
import json

import h5py
import numpy as np
from sweep_cases import run_here

from gcref.studies.grid import Sweep
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun

SWEEP = Sweep(
    learning_rate=(0.1, 0.3), overparametrization=(0.5, 1.0), input_dim=(6,), teacher_hidden=(7,), seed=(0,),
    methods=("gc", "sgb"), batch_size=4, student_hidden=12, iterations=40, measure_every=10, refresh_every=20,
)  # fmt: skip
RUN = ImageRun(
    dataset="digits", model="mlp", hidden=(6,), n_examples=60, n_test_examples=20, batch_size=6, iterations=60,
    measure_every=15, refresh_every=30, gc_iterations=2, learning_rate=0.05, milestones=(20,), seed=1,
)  # fmt: skip


def sweep_file(folder):
    """The file of a sweep: 4 trajectories of 5 measuring points and 2 methods."""
    return run_here(SWEEP, folder / "sweep.h5")


def image_file(folder):
    """The file of an image run: 5 measuring points and 4 methods."""
    assert run_image(RUN, folder / "image.h5", command="gcref image --out image.h5")
    return folder / "image.h5"


def unfinished_file(folder):
    """The file of an image run that was stopped after 3 measuring points."""

    def stop(iteration, share):
        if iteration == 40:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_image(RUN, folder / "part.h5", progress=stop)
    return folder / "part.h5"


def diverged_file(path):
    """A file with a trajectory that ended early and another that holds NaN, as the two studies have them."""
    with h5py.File(path, "w") as file:
        config = {"schema": "rf-sweep/1", "methods": ["sgb"], "learning_rate": [0.1, 0.2]}
        file.attrs.update(schema="gcref/1", config=json.dumps(config), complete=True)
        file["summary"] = np.zeros(0)
        for name, rate, values in (("a", 0.1, [1.0, 2.0, np.nan]), ("b", 0.2, [4.0, 8.0])):
            group = file.create_group(f"trajectories/{name}")
            group.attrs.update(
                status="diverged", learning_rate=rate, overparametrization=1.0, n_train=10, input_dim=2,
                teacher_hidden=3, duplicate_fraction=0.0, seed=0,
            )  # fmt: skip
            group["iteration"] = np.arange(len(values)) * 10
            group["noise_scale"] = np.array(values) * 100
            group["variance/sgb"] = np.array(values)
            group["normalized_variance/sgb"] = np.array(values) / 10
    return path
