"""Device code in which every number of the result is one thread's, added up in float64 in the order of the examples."""

import numpy as np

from gcref.kernels.jit import cuda_jit, numba_cuda

cuda = numba_cuda()


@cuda_jit
def add_position_products(a, b, out):  # type: ignore[no-untyped-def]
    """out_i += Σ_t a_it ∘ b_it."""
    m = out.shape[1]
    for u in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        i, j = u // m, u % m
        total = out[i, j]
        for t in range(a.shape[1]):
            total += np.float64(a[i, t, j]) * np.float64(b[i, t, j])
        out[i, j] = total


@cuda_jit
def grouped_sums(X, members, starts, sums):  # type: ignore[no-untyped-def]
    """sums_k += Σ X_i over the members starts_k…starts_{k+1}−1, as on the CPU."""
    M = X.shape[1]
    for u in range(cuda.grid(1), sums.size, cuda.gridsize(1)):
        k, j = u // M, u % M
        total = sums[k, j]
        for p in range(starts[k], starts[k + 1]):
            total += X[members[p], j]
        sums[k, j] = total


@cuda_jit
def cluster_products(D, labels, V, products):  # type: ignore[no-untyped-def]
    """products_is = D_i·V_ks of i's cluster k."""
    b = V.shape[1]
    for number in range(cuda.grid(1), products.size, cuda.gridsize(1)):
        i, s = number // b, number % b
        k = labels[i]
        total = 0.0
        for u in range(D.shape[1]):
            total += np.float64(D[i, u]) * np.float64(V[k, s, u])
        products[i, s] = total


@cuda_jit
def add_weighted_sums(A, products, members, starts, out):  # type: ignore[no-untyped-def]
    """out_ks += Σ_{i∈k} products_is A_i."""
    b, I = out.shape[1], out.shape[2]  # noqa: E741
    for number in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        k, s, u = number // (b * I), number // I % b, number % I
        total = out[k, s, u]
        for p in range(starts[k], starts[k + 1]):
            total += products[members[p], s] * A[members[p], u]
        out[k, s, u] = total
