"""Stratified batches as anyone's training loop takes them."""

import copy
import doctest
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loader_cases import WeightedRows

import gcref
import gcref.sampling
from estimator_cases import LABELS, SIZES
from gcref.sampling import WeightedIndex, allocate
from gcref.validation import enumeration

GAPS = np.array([7, 2, 7, 7, 2, 9, 7, 2, 12, 12, 7, 2])  # 5, 4, 2 and 1 of the labels 7, 2, 12 and 9
CASES = [(None, False), (1, False), (2, False), (3, False), (4, True), (6, False), (7, True), (12, False), (20, True)]
EVERY_CASE = pytest.mark.parametrize(("batch_size", "replacement"), CASES)


def sampler(batch_size=None, replacement=False, **kwargs):
    return gcref.StratifiedBatchSampler(GAPS, batch_size, replacement=replacement, **kwargs)


# ----------------------------------------------------------------------------------------------------- allocation


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data(), st.booleans())
def test_the_allocation_is_the_best_of_all(sizes, data, replacement):
    most = 10 if replacement else min(sum(sizes), 10)
    batch_size = data.draw(st.integers(min(len(sizes), most), most))
    expected = enumeration.allocation(sizes, batch_size, replacement)
    assert tuple(allocate(np.array(sizes), batch_size)) == expected


def test_a_large_allocation_is_proportional_to_the_sizes():
    sizes = np.random.default_rng(0).integers(1, 2000, 300)
    batch_size = int(sizes.sum() // 5)
    n_draws = allocate(sizes, batch_size)
    assert n_draws.sum() == batch_size
    # The least of Σ N²/n over real n ≥ 1 is n ∝ N where that is above 1; the best integers are next to it.
    above = sizes > 5
    assert (np.abs(n_draws[above] - sizes[above] / 5) <= 1).all()
    assert (n_draws[~above] == 1).all()
    np.testing.assert_array_equal(allocate(sizes, int(sizes.sum())), sizes)


# -------------------------------------------------------------------------------------------------------- batches


@EVERY_CASE
def test_a_batch_is_what_stratified_draws(batch_size, replacement):
    net, ds = enumeration.problem(len(GAPS), SIZES, 0)
    stratified = gcref.Stratified(GAPS, batch_size, replacement)
    stream = np.random.SeedSequence(3, spawn_key=(gcref.sampling._BATCHES, 0))
    rng = np.random.default_rng(stream)
    for batch in sampler(batch_size, replacement, seed=3, n_batches=4):
        weights = gcref.StratifiedBatchSampler.weights(batch)
        found = net.gradient(ds.x[batch], ds.y[batch], weights)[1]
        np.testing.assert_array_equal(found, stratified.sample(net, ds, rng))


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_drawn_batch_is_the_caller_s_to_change(batch_size):
    strata = gcref.sampling.Strata("labels", GAPS, batch_size, False)
    drawn = strata.draw(np.random.default_rng(0))
    expected = [array.copy() for array in drawn]
    for array in drawn:
        array[:] = -1
    for array, again in zip(expected, strata.draw(np.random.default_rng(0)), strict=True):
        np.testing.assert_array_equal(array, again)


@EVERY_CASE
def test_weighted_sums_are_unbiased(batch_size, replacement):
    values = np.random.default_rng(0).standard_normal((len(GAPS), 4)) + np.arange(4)
    batches = with_weights(sampler(batch_size, replacement, n_batches=4000))
    draws = np.array([weights @ values[batch] for batch, weights in batches])
    rounding = len(batches) * np.finfo(float).eps * np.abs(values).max()
    assert (distances(draws, values) <= 5 * standard_errors(draws) + rounding).all()
    if batch_size not in {1, 12}:  # where all examples are as likely
        unweighted = np.array([values[batch].mean(axis=0) for batch, _ in batches])
        assert (distances(unweighted, values) > 5 * standard_errors(unweighted)).any()


def distances(draws, values):
    return np.abs(draws.mean(axis=0) - values.mean(axis=0))


def standard_errors(draws):
    return draws.std(axis=0, ddof=1) / np.sqrt(len(draws))


def with_weights(batches):
    return [(batch, gcref.StratifiedBatchSampler.weights(batch)) for batch in batches]


@EVERY_CASE
def test_batches_have_b_examples_and_weights_that_sum_to_1(batch_size, replacement):
    size = 4 if batch_size is None else batch_size
    for batch, weights in with_weights(sampler(batch_size, replacement, n_batches=50)):
        assert len(batch) == size
        assert (weights > 0).all()
        assert abs(weights.sum() - 1) <= size * np.finfo(float).eps
        if not replacement:
            assert len(set(batch)) == size


def test_the_weight_is_the_cluster_s_share_over_its_draws():
    sizes = {7: 5, 2: 4, 12: 2, 9: 1}
    for batch in sampler(6, n_batches=20):
        labels = GAPS[batch].tolist()
        for i, label in zip(batch, labels, strict=True):
            assert i.weight == sizes[label] / (12 * labels.count(label))


def test_fewer_draws_than_labels_have_the_share_of_their_group():
    # Two groups of two labels: the sizes 5, 4, 2 and 1 of the labels make 9 + 3, 7 + 5 or 6 + 6.
    seen = {tuple(sorted(round(12 * i.weight) for i in batch)) for batch in sampler(2, n_batches=200)}
    assert seen == {(3, 9), (5, 7), (6, 6)}
    # Of a group of K − B + 1 labels at most one is drawn; three groups of four labels are two of one and one of two.
    for batch in sampler(3, n_batches=50):
        assert len(set(GAPS[batch].tolist())) == 3


def test_labels_that_no_example_has_are_no_stratum():
    gaps = with_weights(gcref.StratifiedBatchSampler([10**12, 4, 4, 10**12]))
    none = with_weights(gcref.StratifiedBatchSampler([1, 0, 0, 1]))
    for (batch, weights), (expected, expected_weights) in zip(gaps, none, strict=True):
        assert batch == expected
        np.testing.assert_array_equal(weights, expected_weights)


# --------------------------------------------------------------------------------------------------------- epochs


def test_each_epoch_has_a_stream_of_its_own():
    batches = sampler(6, seed=1, n_batches=5)
    epochs = [list(batches) for _ in range(3)]
    assert batches.epoch == 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    again = sampler(6, seed=1, n_batches=5)
    for epoch in (2, 0, 1):
        again.set_epoch(epoch)
        assert list(again) == epochs[epoch]
    assert list(sampler(6, seed=2, n_batches=5)) != epochs[0]


def test_an_iterator_without_a_batch_begins_no_epoch():
    batches = sampler(6, n_batches=5)
    iter(batches), iter(batches)
    assert batches.epoch == 0
    assert list(batches) == list(sampler(6, n_batches=5))


def test_an_epoch_left_early_and_one_inside_another_change_nothing():
    expected = [list(batches) for batches in [sampler(6, n_batches=5)] for _ in range(3)]
    batches = sampler(6, n_batches=5)
    first = iter(batches)
    assert next(first) == expected[0][0]
    second = iter(batches)
    assert next(second) == expected[1][0]
    assert list(first) == expected[0][1:]
    assert list(batches) == expected[2]


@pytest.mark.parametrize(
    ("kwargs", "n_batches"),
    [
        ({}, 3),
        ({"batch_size": 5}, 2),
        ({"batch_size": 12}, 1),
        ({"batch_size": 13, "replacement": True}, 1),
        ({"n_batches": 9}, 9),
    ],
)
def test_an_epoch_has_about_as_many_draws_as_examples(kwargs, n_batches):
    assert len(sampler(**kwargs)) == n_batches
    assert len(list(sampler(**kwargs))) == n_batches


# -------------------------------------------------------------------------------------------------------- indices


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_index_survives_the_way_to_a_worker(protocol):
    index = WeightedIndex(7, 0.25)
    for found in (pickle.loads(pickle.dumps(index, protocol)), copy.copy(index), copy.deepcopy(index)):
        assert type(found) is WeightedIndex
        assert (found, found.weight) == (7, 0.25)


def test_an_index_is_an_integer():
    index = WeightedIndex(2, 0.25)
    assert isinstance(index, int)
    assert (index, hash(index), repr(index), f"{index:03d}") == (2, hash(2), "2", "002")
    assert "abc"[index] == "c"
    assert type(index + 1) is int


def test_numpy_takes_a_batch_for_indices():
    (batch,) = sampler(12)
    plain = [int(i) for i in batch]
    assert np.asarray(batch).dtype == np.asarray(plain).dtype
    x = np.random.default_rng(0).standard_normal((12, 3))
    np.testing.assert_array_equal(x[batch], x[plain])
    np.testing.assert_array_equal(x[batch[0]], x[plain[0]])


def test_the_example_runs():
    assert doctest.testmod(gcref.sampling, extraglobs=vars(gcref.sampling)).failed == 0


def test_a_sampler_survives_pickle_and_says_what_it_is():
    batches = sampler(6, seed=5)
    next(iter(batches))
    assert list(pickle.loads(pickle.dumps(batches))) == list(batches)
    shown = "StratifiedBatchSampler(labels of 12 examples, batch_size=6, seed=5, n_batches=2, replacement=False)"
    assert repr(batches) == shown


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], r"labels has shape \(2,\) and dtype float64; a vector of integer labels"),
        ([[0, 1]], r"labels has shape \(1, 2\) and dtype int64"),
        ([], r"labels has shape \(0,\)"),
        (None, r"labels has shape \(\) and dtype object"),
        ([0, -3], "labels has the label -3 at 1; labels start at 0"),
        (np.array([0, 2**63], np.uint64), f"labels has the label {2**63} at 1"),
    ],
)
def test_labels_are_a_vector_of_integers(labels, message):
    with pytest.raises(ValueError, match=message):
        gcref.StratifiedBatchSampler(labels)


def test_the_labels_are_in_the_file_of_cluster(tmp_path):
    np.savez(tmp_path / "labels.npz", labels=[0, 1, 1], sizes=[1, 2])
    with np.load(tmp_path / "labels.npz") as found:
        for use, name in ((gcref.StratifiedBatchSampler, "labels"), (gcref.Stratified, "clustering")):
            expected = rf"{name} is a NpzFile; a vector of integer labels, such as its \['labels'\], is expected"
            with pytest.raises(TypeError, match=expected):
                use(found)
    with pytest.raises(TypeError, match="labels is a dict; a vector of integer labels is expected"):
        gcref.StratifiedBatchSampler({"a": 1})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size=0; an integer not below 1"),
        ({"batch_size": -2, "replacement": True}, "batch_size=-2; an integer not below 1"),
        ({"batch_size": 2.0}, "batch_size=2.0; an integer not below 1"),
        ({"batch_size": 8}, "batch_size=8 but labels gives labels of 7 examples; draw fewer, or use replacement=True"),
        ({"n_batches": 0}, "n_batches=0; an integer not below 1"),
        ({"seed": -1}, "seed=-1; an integer not below 0"),
        ({"seed": None}, "seed=None; an integer not below 0"),
    ],
)
def test_other_arguments_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gcref.StratifiedBatchSampler(LABELS, **kwargs)


@pytest.mark.parametrize("epoch", [-1, 1.5, None, True])
def test_an_epoch_is_a_number(epoch):
    batches = sampler()
    with pytest.raises(ValueError, match=f"epoch={epoch}; an integer not below 0"):
        batches.set_epoch(epoch)
    assert batches.epoch == 0


def test_indices_without_weights_are_refused():
    with pytest.raises(TypeError, match="batch holds 3 of type int; the indices of a sampler are expected"):
        gcref.StratifiedBatchSampler.weights([WeightedIndex(1, 0.5), 3])


# --------------------------------------------------------------------------------------------------------- workers


def test_a_data_loader_with_two_workers():
    pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    x = np.random.default_rng(0).standard_normal((len(GAPS), 3))
    batches = sampler(3, n_batches=4)  # weights of a random grouping, which the index alone does not tell
    shared = {"batch_sampler": batches, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(WeightedRows(x), multiprocessing_context="spawn", **shared)
    assert len(loader) == 4
    expected = sampler(3, n_batches=4)
    processes = set()
    for epoch in range(2):
        assert batches.epoch == epoch
        found = list(loader)
        assert len(found) == 4
        for (rows, indices, weights, pids), batch in zip(found, expected, strict=True):
            np.testing.assert_array_equal(rows.numpy(), x[batch])
            assert indices.tolist() == batch
            np.testing.assert_array_equal(weights.numpy(), gcref.StratifiedBatchSampler.weights(batch))
            processes |= set(pids.tolist())
    assert len(processes - {os.getpid()}) == 2
