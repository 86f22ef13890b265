import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gcref.kernels.enumerate import best_partition
from gcref.validation import naive_optimum


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 10**6), st.booleans())
def test_best_partition_matches_the_oracle(N, K, seed, ties):
    rng, K = np.random.default_rng(seed), min(K, N)
    half = rng.integers(0, 3, (N, N)).astype(float) if ties else rng.random((N, N))
    distances = half + half.T
    assert_array_equal(best_partition(distances, K), naive_optimum.best_partition(distances, K))


@pytest.mark.parametrize("K", range(1, 13))
def test_of_equal_partitions_the_first_in_the_alphabet_is_taken(K):
    expected = np.concatenate([np.zeros(12 - K, dtype=int), np.arange(K)])
    assert_array_equal(best_partition(np.zeros((12, 12)), K), expected)


def test_groups_that_cannot_be_missed():
    groups = np.random.default_rng(0).permutation(12) % 4
    distances = np.where(groups[:, None] == groups, 0.0, 1.0)
    found = best_partition(distances, 4)
    assert_array_equal(found[:, None] == found, groups[:, None] == groups)
