"""Which kernels a clusterer's `device` stands for; tests/kernels/test_cuda.py has the numbers of the GPU's."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gcref
from gcref.kernels import cpu, device, subspace

FITS = {
    "sketched": lambda where: gcref.SketchedClustering(5, dim=8, device=where),
    "GC": lambda where: gcref.GradientClustering(5, n_iter=2, device=where),
    "GC of rank 2": lambda where: gcref.GradientClustering(5, center="svd", rank=2, n_iter=1, device=where),
    "exact": lambda where: gcref.ExactClustering(5, n_iter=2, device=where),
    "exchange": lambda where: gcref.ExactClustering(5, update="exchange", form="gram", device=where),
}
KERNELS = {
    "sketched": {"add_position_products", "row_sq_norms", "exchange_sweep", "grouped_sums", "spread"},
    "GC": {"a_step_sequential", "spread_from_products"},
    "GC of rank 2": {"a_step_sequential", "add_cluster_products"},
    "exact": {"row_sq_norms", "grouped_sums", "a_step_sequential", "spread"},
    "exchange": {"exchange_sweep_gram", "grouped_sums"},
}


class Recorder:
    """The CPU's kernels in the place of a GPU's, which write down that they were called."""

    def __init__(self):
        self.called = set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(cpu if hasattr(cpu, name) else subspace, name)


@pytest.fixture
def gpu(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(device, "_cuda", lambda: recorder)
    monkeypatch.setattr(device.jit, "gpu_problem", lambda: "")
    return recorder


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("where", ["cuda", "auto"])
def test_a_fit_runs_the_kernels_of_its_device(name, where, gpu, modes):
    fit = FITS[name](where).fit(modes())
    assert KERNELS[name] <= gpu.called
    gpu.called.clear()
    assert_array_equal(FITS[name]("cpu").fit(modes()).labels_, fit.labels_)
    assert not gpu.called


def test_partial_fits_do_too(gpu, modes):
    fit = FITS["sketched"]("cuda").fit(modes())
    gpu.called.clear()
    fit.partial_fit(modes(seed=1))
    assert {"join", "exchange_sweep"} <= gpu.called


def test_the_device_is_left_after_an_error(gpu, modes):
    bad = modes()
    bad[0].A[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        FITS["GC"]("cuda").fit(bad)
    gpu.called.clear()
    assert device.here.row_sq_norms is cpu.row_sq_norms
    assert not gpu.called


def test_an_absent_gpu_is_one_sentence(monkeypatch, modes):
    monkeypatch.setattr(device.jit, "gpu_problem", lambda: "no CUDA driver was found")
    for make in FITS.values():
        with pytest.raises(RuntimeError, match="device='cuda', but no CUDA driver was found; device='cpu' computes"):
            make("cuda").fit(modes())
        assert make("auto").fit(modes()).labels_.max() == 4
        with pytest.raises(ValueError, match="device='gpu'; expected one of 'cpu', 'cuda', 'auto'"):
            make("gpu").fit(modes())
