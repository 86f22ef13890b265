"""The clock gives every second to one step, and the share is that of the steps that durability needs."""

import time

import pytest

from gcref.studies.image_run import ImageRun
from gcref.validation.benchmarks import durability


def test_an_inner_step_is_not_the_outer_ones(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    clock = durability.Clock()
    flush = clock.timed(lambda *_: "flush", lambda: wait(3.0))

    def write():
        wait(2.0)
        flush()
        raise OSError("full")

    wait(10.0)
    with pytest.raises(OSError, match="full"):
        clock.timed(lambda *_: "write", write)()
    wait(1.0)
    assert clock.turn() == {"compute": 11.0, "write": 2.0, "flush": 3.0}


def test_the_share_of_one_worker_and_of_two():
    seconds = {"compute": 80.0, "pack": 10.0, "write": 2.0, "flush": 4.0, "merge": 3.0, "check": 1.0}
    assert durability.share(seconds) == pytest.approx(0.1)
    assert durability.share(seconds, 2) == pytest.approx((3 + 4) / (45 + 3 + 4))


def test_a_sweeps_steps(tiny, tmp_path):
    seconds = durability.sweep_seconds(tiny, tmp_path / "results.h5")
    assert set(seconds) == {"compute", "pack", "write", "flush", "check", "merge", "claim"}
    assert min(seconds.values()) > 0
    assert "durability: " in durability.line("rf-sweep", seconds, 2)


def test_an_image_runs_steps(tmp_path):
    run = ImageRun(
        dataset="digits", hidden=(4,), n_examples=60, n_test_examples=20, batch_size=6, iterations=4, measure_every=2,
        refresh_every=2, gc_iterations=1,
    )  # fmt: skip
    seconds = durability.image_seconds(run, tmp_path / "results.h5")
    assert set(seconds) == {"compute", "pack", "pack checkpoints", "write", "flush", "check", "merge", "claim"}
