from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from gcref.kernels import subspace, threads
from gcref.validation import naive, naive_low_rank

SETTINGS = settings(deadline=None, max_examples=25)
sizes = st.integers(0, 9)
types = st.sampled_from(["float64", "float32"])


@SETTINGS
@given(sizes, st.integers(1, 4), st.integers(1, 3), types, st.sampled_from("CF"), st.integers(0, 10**6))
def test_cluster_products_match_the_oracle(N, K, b, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    A, D = (np.asarray(rng.standard_normal((N, n)), dtype, order=layout) for n in (6, 4))
    labels, G = rng.integers(0, K, N), A[:, :, None].astype(float) * D[:, None]
    for X, Y, transposed in ((A, D, False), (D, A, True)):
        V, out = rng.standard_normal((K, b, Y.shape[1])), np.ones((K, b, X.shape[1]))
        subspace.add_cluster_products(X, Y, labels, V, out)
        assert_allclose(out - 1, naive_low_rank.add_cluster_products(G, labels, V, transposed), atol=1e-12)


@SETTINGS
@given(sizes, st.integers(1, 4), types, st.integers(0, 10**6))
def test_grouped_sums_of_several_arrays_match_the_oracle(N, K, dtype, seed):
    rng = np.random.default_rng(seed)
    labels, arrays = rng.integers(0, K, N), [rng.standard_normal((N, n)).astype(dtype) for n in (5, 1, 3)]
    pairs = [(X, np.ones((K, X.shape[1]))) for X in arrays]
    subspace.add_grouped_sums(pairs, labels)
    for X, sums in pairs:
        assert_allclose(sums, naive.grouped_sums(X.astype(float), labels, K, np.ones(sums.shape)), atol=1e-13)


@SETTINGS
@given(st.sampled_from([0, 1, 7, 600]), st.integers(1, 4), types, st.sampled_from("CF"), st.integers(0, 10**6))
def test_rank_one_products_of_several_blocks_match_the_oracle(N, K, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    blocks = [
        tuple(np.asarray(rng.standard_normal((n, m)), dtype, order=layout) for n, m in ((N, i), (N, o), (K, i), (K, o)))
        for i, o in ((4, 3), (1, 2))
    ]
    out = np.ones((N, K))
    subspace.add_rank_one_products(blocks, out)
    exact = [[x.astype(float) for x in block] for block in blocks]
    want = 1 + sum(naive.inner_products(A[:, None], D[:, None], c, d) for A, D, c, d in exact)
    assert_allclose(out, want, atol=1e-12 if dtype == "float64" else 1e-4)


@SETTINGS
@given(st.integers(0, 5), st.integers(1, 4), st.integers(5, 12), st.integers(0, 10**6))
def test_extended_rows_are_orthonormal_and_span_the_same(m, b, width, seed):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((3, width, m)))[0].transpose(0, 2, 1).copy()
    before = rng.standard_normal((3, b, width)) * 10.0 ** rng.integers(-150, 150, (3, b, 1))
    Y = before.copy()
    subspace.extend(U, Y)
    rows = np.concatenate([U, Y], axis=1)
    found = min(m + b, width)
    grams = rows @ rows.transpose(0, 2, 1)
    assert_allclose(grams[:, :found, :found], np.broadcast_to(np.eye(found), (3, found, found)), atol=1e-13)
    assert (grams[:, found:] == 0).all()
    unit = before / np.linalg.norm(before, axis=2, keepdims=True)
    assert_allclose(unit @ rows.transpose(0, 2, 1) @ rows, unit, atol=1e-12)


def test_rows_that_add_nothing_leave_the_others_orthonormal_and_what_they_add_is_not_lost():
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((1, 40, 5)))[0].transpose(0, 2, 1).copy()
    new = rng.standard_normal(40)
    Y = np.stack([np.zeros(40), U[0, 2], U[0].sum(axis=0) + 1e-9 * new, new, new])[None]
    subspace.extend(U, Y)
    rows = np.concatenate([U[0], Y[0]])
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths[5] == 0
    assert_allclose(lengths[7], 1)
    assert_allclose(rows @ rows.T, np.diag(np.round(lengths)), atol=1e-14)
    assert_allclose(rows.T @ (rows @ new), new, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_bit_depends_on_the_number_of_threads(dtype, monkeypatch):
    def results():
        rng = np.random.default_rng(0)
        A, D, labels = (*rng.standard_normal((2, 97, 400)).astype(dtype), rng.integers(0, 5, 97))
        V, out, sums = rng.standard_normal((5, 20, 400)), np.zeros((5, 20, 400)), np.zeros((2, 5, 400))
        subspace.add_cluster_products(A, D, labels, V, out)
        subspace.add_grouped_sums([(A, sums[0]), (D, sums[1])], labels)
        subspace.extend(np.zeros((5, 0, 400)), V)
        return out, sums, V

    used = set()
    monkeypatch.setattr(threads, "n_threads", lambda: 1)
    alone = results()
    with ThreadPoolExecutor(3, initializer=lambda: used.add(True)) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        for n_threads in (2, 4):
            monkeypatch.setattr(threads, "n_threads", lambda n_threads=n_threads: n_threads)
            for got, want in zip(results(), alone, strict=True):
                assert_array_equal(got, want)
    assert used
