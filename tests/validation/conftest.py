import shutil

import pytest
from sweep_cases import run_here

from gcref.studies.grid import Sweep


@pytest.fixture(scope="session")
def tiny():
    """Four trajectories of a few milliseconds, half of them with duplicates."""
    return Sweep(
        learning_rate=(0.1,), overparametrization=(0.5, 1.0), input_dim=(6,), teacher_hidden=(7,), seed=(0,),
        duplicate_fraction=(0.0, 0.3), batch_size=4, student_hidden=30, iterations=40, measure_every=10,
        refresh_every=20,
    )  # fmt: skip


@pytest.fixture(scope="session")
def pristine(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("pristine") / "results.h5"
    run_here(tiny, path)
    return path


@pytest.fixture
def results(pristine, tmp_path):
    """A copy to do with as one likes."""
    return shutil.copy(pristine, tmp_path / "results.h5")
