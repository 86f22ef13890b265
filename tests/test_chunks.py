"""What an example contributes to an estimate, and how many examples are in memory at once."""

import tracemalloc

import numpy as np
import pytest

import gcref
import gcref.estimators
from estimator_cases import ESTIMATORS, SIZES, prepared
from gcref.data import Dataset
from gcref.engine.network import Network
from gcref.engine.trace import per_example_gradients
from gcref.estimators import chunks, full_gradient
from gcref.validation import enumeration


def record_lengths(monkeypatch, method):
    """Have `Network.<method>` note how many examples it is given."""
    lengths, original = [], getattr(Network, method)

    def recording(self, x, *args, **kwargs):
        lengths.append(len(x))
        return original(self, x, *args, **kwargs)

    monkeypatch.setattr(Network, method, recording)
    return lengths


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_contributions_average_to_the_full_gradient(make):
    estimator = make()
    net, ds = prepared(estimator)
    traces = net.traces(ds.x, ds.y)[1]
    found = per_example_gradients(estimator.contribution(traces, ds.x, ds.y))
    expected = enumeration.gradients(net, ds.x, ds.y)
    assert estimator.plain == (not isinstance(estimator, gcref.SVRG))
    if not estimator.plain:
        snapshot = net.copy()
        snapshot.theta = estimator.theta_
        expected = expected - enumeration.gradients(snapshot, ds.x, ds.y)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_contribution_of_svrg_needs_a_snapshot():
    net, ds = enumeration.problem(5, SIZES, 0)
    with pytest.raises(ValueError, match=r"SVRG has no snapshot yet; call prepare\(net, ds\) first"):
        gcref.SVRG(2).contribution(net.traces(ds.x, ds.y)[1], ds.x, ds.y)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_follow_the_indices(monkeypatch, chunk):
    monkeypatch.setattr(gcref.estimators, "CHUNK", chunk)
    net, ds = enumeration.draw(7, enumeration.Model("", enumeration.pooled, enumeration.IMAGE), 0)
    indices = np.array([5, 2, 2, 6, 0])
    expected = enumeration.gradients(net, ds.x[indices], ds.y[indices])
    parts = list(chunks(net, ds, indices))
    assert [len(y) for _, _, y in parts] == [min(chunk, 5 - start) for start in range(0, 5, chunk)]
    np.testing.assert_array_equal(np.concatenate([x for _, x, _ in parts]), ds.x[indices])
    np.testing.assert_array_equal(np.concatenate([y for _, _, y in parts]), ds.y[indices])
    found = np.concatenate([per_example_gradients(traces) for traces, _, _ in parts])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


CHUNKED = {
    "MLP": (lambda: gcref.mlp((5, 4, 3), dtype="float32"), (5,)),
    "CNN": (lambda: gcref.cnn((8, 6, 2), 3, width=2), (8, 6, 2)),
    "ResNet8 with batch norm": (lambda: gcref.resnet8((6, 5, 3), 3, "batch", width=2), (6, 5, 3)),
}


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("room", [0.5, 1, 7.9, 30])
def test_the_traces_of_a_chunk_take_no_more_than_they_may(monkeypatch, name, room):
    net, in_shape = CHUNKED[name][0](), CHUNKED[name][1]
    rng = np.random.default_rng(0)
    ds = Dataset(rng.standard_normal((25, *in_shape)), rng.integers(0, 3, 25))
    one = sum(array.nbytes for trace in net.traces(ds.x[:1], ds.y[:1])[1] for _, array in trace.arrays())
    monkeypatch.setattr(gcref.estimators, "CHUNK_BYTES", int(room * one))
    monkeypatch.setattr(gcref.estimators, "CHUNK", 20)
    sizes = [(len(y), sum(trace.nbytes for trace in traces)) for traces, _, y in chunks(net, ds, np.arange(25))]
    assert all(size == n * one for n, size in sizes)
    assert max(n for n, _ in sizes) == {0.5: 1, 1: 1, 7.9: 7, 30: 20}[room]
    # Whatever goes through the data set goes by these chunks.
    passes = [record_lengths(monkeypatch, method) for method in ("traces", "gradient")]
    svrg = gcref.SVRG(2).prepare(net, ds)
    gcref.Stratified(gcref.GradientClustering(2, n_iter=1)).prepare(net, ds)
    gcref.variances({"SG-B": gcref.MiniBatch(2), "SVRG": svrg}, net, ds)
    for lengths in passes:
        assert max(lengths) == max(n for n, _ in sizes)


@pytest.mark.parametrize("make", [lambda: gcref.resnet8(width=4), lambda: gcref.resnet8(norm="batch", width=4)])
def test_what_a_chunk_takes_beside_its_traces_is_in_proportion(monkeypatch, make):
    monkeypatch.setattr(gcref.estimators, "CHUNK_BYTES", 1 << 22)
    net = make()
    n = 3 * gcref.estimators.chunk_size(net, Dataset(np.zeros((1, 32, 32, 3), np.float32), np.zeros(1, int)))
    ds = Dataset(np.random.default_rng(0).standard_normal((n, 32, 32, 3)).astype(np.float32), np.arange(n) % 10)
    tracemalloc.start()
    try:
        for _ in chunks(net, ds, np.arange(n)):
            pass
        full_gradient(net, ds)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1 << 22 < peak < 4 << 22
