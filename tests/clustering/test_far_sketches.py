"""Sketches that workers make piece by piece are those of one pass."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gcref
from gcref.trace_files import TraceFile, write_traces


@pytest.fixture(params=["h5", "npz", "compressed npz"])
def traces(request, tmp_path):
    rng = np.random.default_rng(0)
    blocks = [
        gcref.Trace(rng.standard_normal((60, 3, 5)), rng.standard_normal((60, 3, 2))),
        gcref.Trace(rng.standard_normal((60, 1, 4)), rng.standard_normal((60, 1, 3))),
    ]
    path = tmp_path / f"traces.{request.param.split()[-1]}"
    if request.param == "compressed npz":
        np.savez_compressed(path, A0=blocks[0].A, D0=blocks[0].D, A1=blocks[1].A, D1=blocks[1].D)
    else:
        write_traces(path, blocks)
    return TraceFile(path, batch_bytes=3000)


def test_pieces_are_the_batches(traces):
    pieces = traces.pieces()
    assert len(pieces) > 3
    assert [i for piece in pieces for i in piece] == list(range(60))
    for piece, batch in zip(pieces, traces(), strict=True):
        (alone,) = traces(piece)
        for a, b in zip(alone, batch, strict=True):
            np.testing.assert_array_equal(a.A, b.A)
            np.testing.assert_array_equal(a.D, b.D)


def test_the_bits_are_those_of_one_pass(traces):
    here = gcref.SketchedClustering(5, dim=7, check_dim=3).fit(traces)
    with ThreadPoolExecutor(3) as pool:
        far = gcref.SketchedClustering(5, dim=7, check_dim=3).fit(traces, pool)
        more = gcref.Sketches(4).add(traces, pool).add(traces, pool)
    np.testing.assert_array_equal(far.sketches_.values, here.sketches_.values)
    np.testing.assert_array_equal(far.labels_, here.labels_)
    assert far.variance_ == here.variance_
    assert far.sketches_.blocks == here.sketches_.blocks == traces.blocks
    np.testing.assert_array_equal(more.values, gcref.Sketches(4).add(traces).add(traces).values)


def test_what_cannot_be_cut_is_refused():
    traces = [gcref.Trace(np.ones((3, 4)), np.ones((3, 2)))]
    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match=r"traces is a list; .* pieces\(\) is expected"):
        gcref.Sketches(4).add(traces, pool)


def test_other_blocks_than_before_are_refused(traces):
    sketches = gcref.Sketches(4).add([gcref.Trace(np.ones((3, 4)), np.ones((3, 2)))])
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="blocks"):
        sketches.add(traces, pool)


def test_the_example_that_is_not_finite_is_named_by_its_place_among_all():
    class Bad:
        def pieces(self):
            return [range(0, 4), range(4, 8)]

        def __call__(self, piece):
            big = 1e200 if 6 in piece else 1.0
            A, D = np.ones((4, 1, 2)), np.ones((4, 1, 2))
            A[2], D[2] = big, big
            yield [gcref.Trace(A, D)]

    sketches = gcref.Sketches(4)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="the gradient of example 6 is not finite"):
        sketches.add(Bad(), pool)
    other = [gcref.Trace(np.ones((3, 5)), np.ones((3, 1)))]  # of other blocks, which nothing came of
    assert len(sketches.add(other)) == 3
