"""The package's front door: light to import, and `gcref.variance` a function come what may."""

import importlib
import subprocess
import sys

import pytest

import gcref

CONTRACT = {
    "ExactClustering",
    "GradientClustering",
    "MiniBatch",
    "SVRG",
    "Stratified",
    "Trace",
    "Variance",
    "data",
    "linear",
    "mlp",
    "per_example_gradients",
    "random_features",
    "variance",
}


def in_a_fresh_python(program):
    """Run a program in an interpreter of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_is_light():
    heavy = "{'numpy', 'numba', 'scipy', 'h5py', 'matplotlib', 'click', 'rich'}"
    program = f"import gcref, sys; dir(gcref); print(*sorted({heavy} & set(sys.modules)))"
    assert in_a_fresh_python(program) == []


def test_that_check_sees_numpy():
    assert in_a_fresh_python("import gcref, sys; gcref.Trace; print('numpy' in sys.modules)") == ["True"]


def test_no_public_name_is_missing():
    assert set(gcref.__all__) >= CONTRACT


@pytest.mark.parametrize("name", gcref.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(gcref, name) is not None
    assert name in dir(gcref)
    program = f"from gcref import {name}; import gcref; print(gcref.{name} is {name})"
    assert in_a_fresh_python(program) == ["True"]


@pytest.mark.parametrize("name", ["trace_files.write_traces", "executor.dask_pool", "tables.read_results"])
def test_what_the_reference_names_in_a_module_needs_no_import_of_it(name):
    assert in_a_fresh_python(f"import gcref; print(gcref.{name}.__name__)") == [name.split(".")[1]]


def test_a_star_import_brings_them_all():
    names = {}
    exec("from gcref import *", names)
    assert set(names) >= set(gcref.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'gcref' has no attribute 'Variances'"):
        _ = gcref.Variances


def test_a_name_that_is_almost_right_is_suggested():
    done = subprocess.run([sys.executable, "-c", "import gcref; gcref.Minibatch"], capture_output=True, text=True)
    assert done.stderr.rstrip().endswith("has no attribute 'Minibatch'. Did you mean: 'MiniBatch'?")


@pytest.mark.parametrize(
    "imports",
    [
        "import gcref.variance",
        "import gcref.variance; import gcref.estimators, gcref.variance",
        "from gcref.variance import Variance",
        "import gcref; gcref.variance; import gcref.variance",
        "import importlib; importlib.import_module('gcref.variance')",
        "import gcref; gcref.Variance",
    ],
)
def test_variance_stays_a_function(imports):
    program = f"{imports}; import gcref; print(type(gcref.variance).__name__, gcref.variance.__module__)"
    assert in_a_fresh_python(program) == ["function", "gcref.variance"]


def test_the_module_of_that_name_can_still_be_had():
    module = importlib.import_module("gcref.variance")
    assert module.variance is gcref.variance
    assert module.Variance is gcref.Variance
