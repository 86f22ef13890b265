import re

import numpy as np
import pytest

from gcref.clustering.low_rank import GradientClustering
from gcref.clustering.passes import Passes, is_traces
from gcref.engine.trace import Trace


def trace(N, T=1, inputs=3, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return Trace(rng.standard_normal((N, T, inputs)), rng.standard_normal((N, T, outputs)))


def test_rows_of_the_batches_follow_each_other():
    batches = [[trace(2), trace(2)], [trace(3), trace(3)]]
    for given in (batches, tuple(batches), lambda: iter(batches)):
        passes = Passes(given)
        for _ in range(2):
            assert [(r.start, r.stop, len(b)) for r, b in passes] == [(0, 2, 2), (2, 5, 2)]
        assert passes.n_examples == 5
        assert passes.blocks == [(1, 3, 2), (1, 3, 2)]


def test_traces_are_told_from_arrays():
    assert is_traces([trace(2)])
    assert is_traces([[trace(2)]])
    assert is_traces(lambda: None)
    assert not is_traces(np.zeros((2, 2)))
    assert not is_traces([[1.0, 2.0]])
    assert not is_traces([])


def growing(*lengths):
    """A function whose first pass has the first length, and so on."""
    left = iter(lengths)
    return lambda: [[trace(4)], [trace(next(left))]]


@pytest.mark.parametrize(
    ("traces", "error", "message"),
    [
        (trace(4), TypeError, "a single Trace; a list"),
        ([], ValueError, "traces is empty"),
        (iter([[trace(4)]]), TypeError, "a function without arguments that yields the batches anew"),
        (np.zeros((4, 3)), TypeError, "traces is a ndarray"),
        ([[trace(4)], [trace(4), trace(4)]], ValueError, "batch 1 of traces has blocks"),
        (
            [[trace(4)], [trace(4, inputs=2)]],
            ValueError,
            "batch 1 of traces has blocks (T, I, O) [(1, 2, 2)]",
        ),
        ([trace(4), trace(3)], ValueError, "traces[1] has 3 examples but traces[0] has 4"),
        ([[trace(4), trace(3)]], ValueError, "batch 0 of traces[1] has 3 examples"),
        ([[]], ValueError, "batch 0 of traces is empty"),
        ([[np.zeros(4), trace(4)]], TypeError, "batch 0 of traces[0] is a ndarray; a Trace is expected"),
        ((np.zeros(4), [trace(4)]), TypeError, "traces is the pair of losses and traces that Network.traces returns"),
        ([(np.zeros(4), [trace(4)])], TypeError, "batch 0 of traces is the pair of losses and traces"),
        (lambda: [trace(4)], TypeError, "batch 0 of traces is a Trace; a list"),
        (lambda: [], ValueError, "n_clusters=2 but there are only 0 examples"),
        (growing(2, 3), ValueError, "traces yielded 7 examples or more in this pass but 6 in the first"),
        (growing(2, 1), ValueError, "traces yielded 5 examples in this pass but 6 in the first"),
    ],
)
def test_bad_traces_are_named(traces, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GradientClustering(2).fit(traces)


@pytest.mark.parametrize("name", ["A", "D"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(name, value):
    traces = [trace(4), trace(4)]
    getattr(traces[1], name)[2, 0, 1] = value
    with pytest.raises(ValueError, match="gradient of example 2 is not finite"):
        GradientClustering(2).fit(traces)


def test_averaged_output_gradients_are_refused():
    with pytest.raises(ValueError, match="averaged"):
        GradientClustering(2).fit([Trace(np.ones((4, 3)), np.ones((1, 2)))])
