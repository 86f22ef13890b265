import os
import subprocess
import sys

import pytest

from gcref.studies import warmup

SWEEP = """
import json, sys
from pathlib import Path
from gcref import shards, store
from gcref.kernels import cpu, random_features
from gcref.studies.grid import Sweep
from gcref.studies.random_features import run_unit
sweep = Sweep(learning_rate=(0.1,), overparametrization=(0.5, 1.0), duplicate_fraction=(0.0, 0.25), input_dim=(6,),
    teacher_hidden=(7,), seed=(0,), batch_size=4, student_hidden=40, iterations=40, measure_every=10, refresh_every=20)
path = Path(sys.argv[1])
shards.claim(path, sweep.to_json())
run_unit(sweep, sweep.specs(), str(store.parts_of(path)))
kernels = [k for m in (cpu, random_features) for k in vars(m).values() if hasattr(k, "stats")]
print(sum(sum(k.stats.cache_misses.values()) for k in kernels), sum(sum(k.stats.cache_hits.values()) for k in kernels))
"""


def test_every_kernel_is_called():
    n_ready = warmup.compile_all()
    ready = warmup.compiled()
    assert [name for name, signatures in ready.items() if not signatures] == []
    assert n_ready == len(ready) > 30
    own = {"random_features.moments", "subspace._add_cluster_products", "convolution._patches"}
    assert {f"gcref.kernels.{name}" for name in own} <= set(ready)
    assert "gcref.kernels.dot.dot" not in ready  # a part of those that call it


@pytest.mark.slow
def test_after_it_a_sweep_compiles_nothing(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "GCREF_NUMBA_CACHE": "1"}

    def python(*arguments):
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    python("-c", "from gcref.studies.warmup import compile_all; compile_all()")
    misses, hits = python("-c", SWEEP, str(tmp_path / "warm.h5")).split()
    assert (int(misses), int(hits) > 5) == (0, True)
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "empty")
    misses, _ = python("-c", SWEEP, str(tmp_path / "cold.h5")).split()
    assert int(misses) > 5
