import pytest

from gcref.studies.grid import Sweep


@pytest.fixture
def sweep():
    """Eight trajectories of a few milliseconds, in two units of work."""
    return Sweep(
        learning_rate=(0.1, 0.3),
        overparametrization=(0.5, 1.0),
        input_dim=(6,),
        teacher_hidden=(7,),
        seed=(0, 1),
        batch_size=4,
        student_hidden=12,
        iterations=40,
        measure_every=10,
        refresh_every=20,
    )
