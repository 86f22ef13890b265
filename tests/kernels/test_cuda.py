import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gcref.kernels import cpu, cuda, cuda_kernels, cuda_moments, cuda_sums, device, jit, moments, subspace
from gcref.validation import cuda_kernels as costs

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = cuda_kernels, cuda_moments, cuda_sums


def kernels():
    """Every CUDA kernel and device function, by name."""
    return {
        f"{module.__name__}.{name}": value
        for module in LAUNCHED
        for name, value in vars(module).items()
        if hasattr(value, "py_func")
    }


def is_device_function(kernel):
    return bool(kernel.targetoptions.get("device"))


# ------------------------------------------------------------------------------------------------------- names


def public(module):
    """The functions of a module that other rooms may call."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(getattr(value, "py_func", value))
        and (getattr(value, "__module__", "") == module.__name__ or name in getattr(module, "__all__", ()))
    }


@pytest.mark.parametrize("module", [cpu, moments, subspace], ids=lambda module: module.__name__)
def test_every_kernel_has_a_twin_of_the_same_signature(module):
    names = public(module)
    assert len(names) >= 2
    assert names <= set(cuda.__all__)
    for name in names:
        ours, theirs = (getattr(m, name) for m in (module, cuda))
        ours, theirs = (getattr(function, "py_func", function) for function in (ours, theirs))
        of_ours, of_theirs = (inspect.signature(f).parameters for f in (ours, theirs))
        assert list(of_ours) == list(of_theirs), name
        assert [p.default for p in of_ours.values()] == [p.default for p in of_theirs.values()], name


def test_there_is_no_twin_of_nothing():
    assert set(cuda.__all__) == public(cpu) | public(moments) | public(subspace)


# ------------------------------------------------------------------------------------------------ the simulator


def simulate(*arguments):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        [*command, "tests/kernels/cuda_cases.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_kernels_agree_with_their_twins_in_the_simulator():
    simulate()


@pytest.mark.slow
def test_the_rest_agrees_in_the_simulator():
    simulate("-m", "slow")


# ------------------------------------------------------------------------------------------------------- device


def test_importing_compiles_nothing_and_needs_no_gpu():
    program = (
        "import sys\n"
        "from gcref.kernels import device\n"
        "assert 'gcref.kernels.cuda' not in sys.modules\n"
        "from gcref.kernels import cuda_kernels, cuda_moments, cuda_sums, cuda\n"
        "modules = cuda_kernels, cuda_moments, cuda_sums\n"
        "made = [value for m in modules for value in vars(m).values() if hasattr(value, 'py_func')]\n"
        "assert len(made) > 20\n"
        "assert not any(kernel.overloads for kernel in made)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, env=environment, check=True)


@pytest.fixture
def target(monkeypatch):
    """Let numba's CUDA target be what a test says, with a compiler."""

    def be(error=None, devices=(), nvvm=True):
        monkeypatch.setattr(jit, "numba_cuda", lambda: SimpleNamespace(cuda_error=lambda: error, gpus=devices))
        monkeypatch.setattr(jit, "_has_nvvm", lambda: nvvm)

    return be


FOUND = [
    ("\nCUDA driver library cannot be found.\nIf you are sure…", "no CUDA driver was found"),
    ("Call to cuInit results in CUDA_ERROR_NO_DEVICE (100)", "there is a CUDA driver but no device"),
    ("no CUDA-capable device is detected", "there is a CUDA driver but no device"),
    (None, "there is a CUDA driver but no device"),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\n(803)", "does not work (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803))"),
]


@pytest.mark.parametrize(("error", "words"), FOUND)
def test_a_gpu_that_is_not_there_is_one_sentence_that_says_what_was_found(target, error, words):
    target(error)
    with pytest.raises(RuntimeError, match="device='cpu'") as raised:
        device.kernels("cuda")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert device.kernels("auto") is cpu
    assert device.moments("auto") is moments
    assert device.subspace("auto") is subspace
    assert words in jit.gpu()


def test_without_numba_cuda_or_its_compiler_the_extra_is_named(target, monkeypatch):
    target(devices=["a GPU"], nvvm=False)
    with pytest.raises(RuntimeError, match=r"compiler \(pip install 'gcref\[cuda\]'\).*device='cpu'"):
        device.kernels("cuda")

    def missing():
        raise ImportError("No module named 'numba.cuda'")

    monkeypatch.setattr(jit, "numba_cuda", missing)
    with pytest.raises(
        RuntimeError, match=r"numba-cuda is not installed \(pip install 'gcref\[cuda\]'\).*device='cpu'"
    ):
        device.moments("cuda")


def test_a_driver_that_raises_is_reported(monkeypatch):
    def broken():
        raise OSError("libcuda is damaged")

    monkeypatch.setattr(jit, "numba_cuda", lambda: SimpleNamespace(cuda_error=broken))
    with pytest.raises(RuntimeError, match="OSError: libcuda is damaged"):
        device.kernels("cuda")


def test_a_gpu_that_works_is_taken(target):
    target(devices=["a GPU"])
    assert device.kernels("cuda") is device.kernels("auto") is device.moments("cuda") is device.subspace("auto") is cuda
    assert device.kernels("cpu") is cpu


@pytest.mark.parametrize("value", ["gpu", "CUDA", "", None, 0])
def test_an_unknown_device_is_named(value):
    with pytest.raises(ValueError, match="'cpu', 'cuda', 'auto'") as raised:
        device.kernels(value)
    assert f"device={value!r}" in str(raised.value)


# ---------------------------------------------------------------------------------------------------------- PTX


def test_every_kernel_is_launched_by_a_twin():
    launched = {launch.kernel for launch in costs.launches("float32")}
    assert launched == {kernel for kernel in kernels().values() if not is_device_function(kernel)}
    assert {launch.name for launch in costs.launches("float64")} == set(costs.COSTS)


@pytest.mark.skipif(not jit._has_nvvm(), reason="NVVM is not installed: pip install 'gcref[cuda]'")
@pytest.mark.parametrize("target", costs.CAPABILITIES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_every_kernel_compiles_without_a_gpu(target, dtype):
    for launch in costs.launches(dtype):
        code = jit.ptx(launch.kernel, launch.arguments, costs.CAPABILITIES[target])
        assert f".target {target}" in code, launch.name
        assert ".entry" in code, launch.name
        assert not re.search(r"\b(atom|red)\.", code), launch.name


def test_without_the_compiler_ptx_says_what_to_install(monkeypatch):
    monkeypatch.setattr(jit, "_has_nvvm", lambda: False)
    launch = costs.launches("float32")[0]
    with pytest.raises(RuntimeError, match=r"pip install 'gcref\[cuda\]'"):
        jit.ptx(launch.kernel, launch.arguments, (8, 0))


def test_launches_are_recorded_with_the_arrays_of_the_call():
    with costs.recording() as found:
        cuda.row_sq_norms(np.ones((3, 2), np.float32))
    assert [(launch.name, launch.threads) for launch in found] == [("row_sq_norms", cuda_kernels.THREADS)]
    assert found[0].arguments[0].dtype == np.float32


def test_occupancy_worked_by_hand():
    # 64 registers: 2,048 a warp, 32 warps of 65,536, four blocks of 256 threads; 40: 1,280, 51 warps, six blocks.
    assert costs.blocks_at_once(64, 0, 256, "sm_80") == 4
    assert costs.blocks_at_once(40, 0, 256, "sm_80") == 6
    assert costs.blocks_at_once(16, 0, 256, "sm_90") == 8
    assert costs.blocks_at_once(16, 81 << 10, 256, "sm_80") == 2
    assert costs.blocks_at_once(16, 0, 32, "sm_80") == 32
