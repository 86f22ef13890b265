"""An image run whose measuring passes are summed elsewhere has the numbers of one that is not."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gcref import closed_form, data, executor
from gcref.studies import image_data, trajectory
from gcref.studies.image import run_image
from gcref.studies.image_run import ImageRun
from gcref.validation.kills import differences

RUN = ImageRun(
    dataset="digits", model="mlp", hidden=(12,), n_examples=300, n_test_examples=20, batch_size=8, iterations=20,
    measure_every=10, refresh_every=20, methods=("sgb", "sg2b", "svrg", "gc", "sketched", "sketched-drift0.1"),
)  # fmt: skip


def test_the_bytes_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(closed_form, "PIECE", 40)
    monkeypatch.setattr(trajectory, "SKETCH_PIECE", 1)
    monkeypatch.setattr(trajectory, "KEPT_BYTES", 0)
    here, far = tmp_path / "here.h5", tmp_path / "far.h5"
    assert run_image(RUN, here)
    with ThreadPoolExecutor(2) as pool:
        assert run_image(RUN, far, executor=pool)
    assert differences(here, far) == []


def test_a_training_set_travels_as_its_configuration():
    made = image_data.prepare(RUN)
    far = image_data.FarSet(made, RUN, None)
    sent = pickle.dumps(far)
    assert len(sent) < 2000 < made.train.x.nbytes
    there = pickle.loads(sent)
    np.testing.assert_array_equal(there.x, made.train.x)
    np.testing.assert_array_equal(there.y, made.train.y)
    assert pickle.loads(sent) is there  # made once


def test_other_files_on_a_worker_are_refused():
    made = image_data.prepare(RUN)._replace(digest="other")
    with pytest.raises(data.DataError, match="the files of digits here are others"):
        pickle.loads(pickle.dumps(image_data.FarSet(made, RUN, None)))


@pytest.mark.slow
def test_dask(tmp_path):
    pytest.importorskip("distributed")
    here, far = tmp_path / "here.h5", tmp_path / "far.h5"
    assert run_image(RUN, here)
    with executor.dask_pool(n_workers=2) as pool:
        assert run_image(RUN, far, executor=pool)
    assert differences(here, far) == []
