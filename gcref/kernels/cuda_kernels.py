"""The device code of `gcref.kernels.cuda`: what one thread does, with the block's shared work in device functions.

What shares device functions stands in one module (numba's simulator needs that), whose blocks have THREADS threads
along one axis. Products are formed and added up in float64. A sum belongs to one thread, or to one block that adds its
threads' sums up in a fixed tree; none is made by atomic additions, so that no bit depends on the order in which blocks
run, nor on their number.
"""

import math

import numpy as np

from gcref.kernels.jit import cuda_device_jit, cuda_jit, numba_cuda

cuda = numba_cuda()

TILE = 16  # rows and columns of a matrix product that one block works on
_PITCH = TILE + 1  # of a tile's rows in shared memory, so that the banks of a column differ
THREADS = TILE * TILE  # a power of two
LANES = 8  # threads at least that share a dot product in a sweep; their reads fill a sector of memory

# ----------------------------------------------------------------------------------------- what a block does together


@cuda_device_jit
def block_sum(value):  # type: ignore[no-untyped-def]
    """Return the sum of every thread's value, to all of them."""
    values = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    values[thread] = value
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            values[thread] += values[thread + step]
        cuda.syncthreads()
        step //= 2
    total = values[0]
    cuda.syncthreads()  # nobody writes the next value before all have read this one
    return total


@cuda_device_jit
def block_argmin(index, cost):  # type: ignore[no-untyped-def]
    """Return the index of the lowest cost of any thread, the lowest index on ties, and that cost, to all of them."""
    indices = cuda.shared.array(THREADS, np.int64)
    costs = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    indices[thread] = index
    costs[thread] = cost
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            other = thread + step
            lower = costs[other] < costs[thread]
            if lower or (costs[other] == costs[thread] and indices[other] < indices[thread]):
                indices[thread] = indices[other]
                costs[thread] = costs[other]
        cuda.syncthreads()
        step //= 2
    best = indices[0]
    lowest = costs[0]
    cuda.syncthreads()
    return best, lowest


@cuda_device_jit
def tile_product(X, Y, first, second):  # type: ignore[no-untyped-def]
    """Return X_p·Y_q of this thread's rows p and q, `first` and `second` being the block's first ones."""
    x = cuda.shared.array((TILE, _PITCH), np.float64)
    y = cuda.shared.array((TILE, _PITCH), np.float64)
    row, col = cuda.threadIdx.x // TILE, cuda.threadIdx.x % TILE
    total = 0.0
    for start in range(0, X.shape[1], TILE):
        u = start + col
        x[row, col] = X[first + row, u] if first + row < X.shape[0] and u < X.shape[1] else 0.0
        y[row, col] = Y[second + row, u] if second + row < Y.shape[0] and u < Y.shape[1] else 0.0
        cuda.syncthreads()
        for v in range(TILE):
            total += x[row, v] * y[col, v]
        cuda.syncthreads()
    return total


# --------------------------------------------------------------------------------- inner products and sketches


@cuda_jit
def row_sq_norms(G, out):  # type: ignore[no-untyped-def]
    """A block a row."""
    for i in range(cuda.blockIdx.x, G.shape[0], cuda.gridDim.x):
        total = 0.0
        for j in range(cuda.threadIdx.x, G.shape[1], THREADS):
            value = np.float64(G[i, j])
            total += value * value
        total = block_sum(total)
        if cuda.threadIdx.x == 0:
            out[i] = total


@cuda_jit
def sq_norms(A, D, out):  # type: ignore[no-untyped-def]
    """A block an example; its pairs of positions tile by tile, those above the diagonal counted twice."""
    row, col = cuda.threadIdx.x // TILE, cuda.threadIdx.x % TILE
    T = A.shape[1]
    for i in range(cuda.blockIdx.x, A.shape[0], cuda.gridDim.x):
        total = 0.0
        for t in range(0, T, TILE):
            for s in range(t, T, TILE):
                weight = 1.0 if s == t else 2.0
                product = tile_product(A[i], A[i], t, s) * tile_product(D[i], D[i], t, s)
                if t + row < T and s + col < T:
                    total += weight * product
        total = block_sum(total)
        if cuda.threadIdx.x == 0:
            out[i] = total


@cuda_jit
def gram(A, D, A2, D2, out):  # type: ignore[no-untyped-def]
    """A block a tile of pairs."""
    row, col = cuda.threadIdx.x // TILE, cuda.threadIdx.x % TILE
    n_cols = (out.shape[1] + TILE - 1) // TILE
    n_tiles = (out.shape[0] + TILE - 1) // TILE * n_cols
    for tile in range(cuda.blockIdx.x, n_tiles, cuda.gridDim.x):
        first, second = tile // n_cols * TILE, tile % n_cols * TILE
        total = 0.0
        for t in range(A.shape[1]):
            for s in range(A2.shape[1]):
                of_inputs = tile_product(A[:, t], A2[:, s], first, second)
                total += of_inputs * tile_product(D[:, t], D2[:, s], first, second)
        if first + row < out.shape[0] and second + col < out.shape[1]:
            out[first + row, second + col] = total


@cuda_jit
def add_bilinear(G, R, Q, out):  # type: ignore[no-untyped-def]
    """out_ij += r_jᵀ g_i q_j: a block an example and a tile of j, over the tiles of G_i Qᵀ in turn."""
    sums = cuda.shared.array((TILE, TILE), np.float64)
    row, col = cuda.threadIdx.x // TILE, cuda.threadIdx.x % TILE
    n_cols = (out.shape[1] + TILE - 1) // TILE
    for tile in range(cuda.blockIdx.x, out.shape[0] * n_cols, cuda.gridDim.x):
        i, second = tile // n_cols, tile % n_cols * TILE
        j = second + col
        total = 0.0
        for first in range(0, G.shape[1], TILE):
            product = tile_product(G[i], Q, first, second)
            if first + row < G.shape[1] and j < out.shape[1]:
                total += R[j, first + row] * product
        sums[row, col] = total
        cuda.syncthreads()
        if row == 0 and j < out.shape[1]:
            for other in range(1, TILE):
                total += sums[other, col]
            out[i, j] += total
        cuda.syncthreads()


# -------------------------------------------------------------------------------------------------- clusters


@cuda_device_jit
def sq_distance(cc, cg, gg):  # type: ignore[no-untyped-def]
    """Return ‖C − g‖², never below 0."""
    distance = cc - 2.0 * cg + gg
    return 0.0 if distance < 0.0 else distance


@cuda_device_jit
def nearest(weights, cc, cg, gg):  # type: ignore[no-untyped-def]
    """Return argmin_k weights_k ‖C_k − g‖² over the block's threads; 0 if no cost is finite."""
    best, best_cost = cg.shape[0], np.inf
    for k in range(cuda.threadIdx.x, cg.shape[0], THREADS):
        cost = weights[k] * sq_distance(cc[k], cg[k], gg)
        if cost < best_cost:
            best, best_cost = k, cost
    best, best_cost = block_argmin(best, best_cost)
    return best if best < cg.shape[0] else 0


@cuda_jit
def a_step_fixed(cc, cg, gg, sizes, labels):  # type: ignore[no-untyped-def]
    """A block an example."""
    for i in range(cuda.blockIdx.x, cg.shape[0], cuda.gridDim.x):
        best = nearest(sizes, cc, cg[i], gg[i])
        if cuda.threadIdx.x == 0:
            labels[i] = best


@cuda_jit
def a_step_sequential(cc, cg, gg, order, weights, labels):  # type: ignore[no-untyped-def]
    """One block; weights_k = N_k + 1."""
    for step in range(order.shape[0]):
        i = order[step]
        best = nearest(weights, cc, cg[i], gg[i])
        if cuda.threadIdx.x == 0:
            labels[i] = best
            weights[best] += 1.0
        cuda.syncthreads()


@cuda_jit
def spread_from_products(cc, cg, gg, members, starts, out):  # type: ignore[no-untyped-def]
    """A block a cluster k and part of its members; out (K, parts)."""
    n_parts = out.shape[1]
    for u in range(cuda.blockIdx.x, out.size, cuda.gridDim.x):
        k, part = u // n_parts, u % n_parts
        size = starts[k + 1] - starts[k]
        last = starts[k] + (part + 1) * size // n_parts
        total = 0.0
        for p in range(starts[k] + part * size // n_parts + cuda.threadIdx.x, last, THREADS):
            i = members[p]
            total += sq_distance(cc[k], cg[i, k], gg[i])
        total = block_sum(total)
        if cuda.threadIdx.x == 0:
            out[k, part] = total


@cuda_jit
def spread(G, C, members, starts, out):  # type: ignore[no-untyped-def]
    """A block a cluster k and part of its members, whose coordinates are shared out; out (K, parts)."""
    n_parts, d = out.shape[1], G.shape[1]
    for u in range(cuda.blockIdx.x, out.size, cuda.gridDim.x):
        k, part = u // n_parts, u % n_parts
        size = starts[k + 1] - starts[k]
        first, last = starts[k] + part * size // n_parts, starts[k] + (part + 1) * size // n_parts
        total = 0.0
        for v in range(cuda.threadIdx.x, (last - first) * d, THREADS):
            i, j = members[first + v // d], v % d
            difference = np.float64(G[i, j]) - C[k, j]
            total += difference * difference
        total = block_sum(total)
        if cuda.threadIdx.x == 0:
            out[k, part] = total


# ------------------------------------------------------------------------------------------ orthonormal rows


@cuda_jit
def extend(U, Y):  # type: ignore[no-untyped-def]
    """A block a cluster, a thread some coordinates. Y_ks is normalised, then made orthogonal, four times at most."""
    m = U.shape[1]
    for k in range(cuda.blockIdx.x, Y.shape[0], cuda.gridDim.x):
        for s in range(Y.shape[1]):
            turn, going = 0, True
            while going:
                least, total = 0.0, 0.0
                for j in range(cuda.threadIdx.x, Y.shape[2], THREADS):
                    if -abs(Y[k, s, j]) < least:
                        least = -abs(Y[k, s, j])
                most = -block_argmin(turn, least)[1]
                for j in range(cuda.threadIdx.x, Y.shape[2], THREADS):
                    Y[k, s, j] = Y[k, s, j] / most if most > 0.0 else 0.0
                    total += Y[k, s, j] * Y[k, s, j]
                norm = math.sqrt(block_sum(total))
                kept = most * norm > (0.5 if turn > 0 else 0.0)
                last = kept if turn > 0 else not kept
                for j in range(cuda.threadIdx.x, Y.shape[2], THREADS):
                    Y[k, s, j] = Y[k, s, j] / norm if norm > 0.0 and (kept or turn < 4) else 0.0
                going = turn < 4 and not last
                for other in range(m + s if going else 0):
                    along = 0.0
                    for j in range(cuda.threadIdx.x, Y.shape[2], THREADS):
                        along += Y[k, s, j] * (U[k, other, j] if other < m else Y[k, other - m, j])
                    along = block_sum(along)
                    for j in range(cuda.threadIdx.x, Y.shape[2], THREADS):
                        Y[k, s, j] -= along * (U[k, other, j] if other < m else Y[k, other - m, j])
                turn += 1


# -------------------------------------------------------------------------------------------------- exchange


@cuda_device_jit
def join_cost(size, e, sg, q, drift):  # type: ignore[no-untyped-def]
    """Return n q + e − 2⟨s, g⟩ + (2n + 1) τ²."""
    return size * q + e - 2.0 * sg + (2.0 * size + 1.0) * drift


@cuda_device_jit
def candidate(candidates, a, place):  # type: ignore[no-untyped-def]
    """Return the cluster at a place of the list that a member of a looks at: all, or candidates_a and then a."""
    if candidates.shape[1] == 0:
        return np.int64(place)
    return np.int64(candidates[a, place]) if place < candidates.shape[1] else np.int64(a)


@cuda_device_jit
def cheapest(g, q, a, sizes, e, s, drift, candidates):  # type: ignore[no-untyped-def]
    """Return the place of the cheapest candidate b ≠ a (or −1), its cost, and the cost for a's own cluster.

    Groups of threads take a candidate each; a group's threads share its dot product ⟨s_b, g⟩.
    """
    partial = cuda.shared.array(THREADS, np.float64)
    own = cuda.shared.array(1, np.float64)
    n_places = s.shape[0] if candidates.shape[1] == 0 else candidates.shape[1] + 1
    thread = cuda.threadIdx.x
    n_groups = n_places if n_places < THREADS // LANES else THREADS // LANES
    n_lanes = THREADS // n_groups
    group, lane = thread // n_lanes, thread % n_lanes
    best, best_cost = n_places, np.inf
    for start in range(0, n_places, n_groups):
        place = start + group
        here = group < n_groups and place < n_places
        b = candidate(candidates, a, place) if here else np.int64(0)
        total = 0.0
        if here:
            for j in range(lane, g.shape[0], n_lanes):
                total += s[b, j] * np.float64(g[j])
        partial[thread] = total
        cuda.syncthreads()
        if here and lane == 0:
            for other in range(1, n_lanes):
                total += partial[thread + other]
            cost = join_cost(sizes[b], e[b], total, q, drift)
            if b == a:
                own[0] = cost
            elif cost < best_cost:
                best, best_cost = place, cost
        cuda.syncthreads()
    best, best_cost = block_argmin(best, best_cost)
    return (best if best < n_places else -1), best_cost, own[0]


@cuda_device_jit
def relabel(i, a, b, labels, sizes, e, q):  # type: ignore[no-untyped-def]
    """Let one thread write down that example i goes from cluster a to b."""
    if cuda.threadIdx.x == 0:
        labels[i] = b
        sizes[a] -= 1
        sizes[b] += 1
        e[a] -= q
        e[b] += q


@cuda_jit
def exchange_sweep(G, q, order, labels, sizes, e, s, threshold, drift, candidates, moved):  # type: ignore[no-untyped-def]
    """One block; candidates (K, L), or (K, 0) for all clusters; q = ‖g‖²."""
    for step in range(order.shape[0]):
        i = order[step]
        a = labels[i]
        if sizes[a] > 1:
            place, cost, own = cheapest(G[i], q[i], a, sizes, e, s, drift, candidates)
            if place >= 0 and cost - (own - 2.0 * drift) < -threshold:
                b = candidate(candidates, a, place)
                for j in range(cuda.threadIdx.x, s.shape[1], THREADS):
                    s[a, j] -= G[i, j]
                    s[b, j] += G[i, j]
                relabel(i, a, b, labels, sizes, e, q[i])
                if cuda.threadIdx.x == 0:
                    moved[0] += 1
        cuda.syncthreads()


@cuda_jit
def join(G, q, order, labels, sizes, e, s, drift, everyone):  # type: ignore[no-untyped-def]
    """One block; everyone (K, 0): all clusters are candidates."""
    for step in range(order.shape[0]):
        i = order[step]
        place, _, _ = cheapest(G[i], q[i], -1, sizes, e, s, drift, everyone)
        best = place if place > 0 else 0
        for j in range(cuda.threadIdx.x, s.shape[1], THREADS):
            s[best, j] += G[i, j]
        if cuda.threadIdx.x == 0:
            labels[i] = best
            sizes[best] += 1
            e[best] += q[i]
        cuda.syncthreads()


@cuda_jit
def exchange_sweep_gram(gram, order, labels, sizes, e, s_dot_g, threshold, drift, moved):  # type: ignore[no-untyped-def]
    """One block."""
    K = sizes.shape[0]
    for step in range(order.shape[0]):
        i = order[step]
        a = labels[i]
        if sizes[a] > 1:
            q = gram[i, i]
            best, best_cost = K, np.inf
            for b in range(cuda.threadIdx.x, K, THREADS):
                cost = join_cost(sizes[b], e[b], s_dot_g[i, b], q, drift)
                if b != a and cost < best_cost:
                    best, best_cost = b, cost
            best, best_cost = block_argmin(best, best_cost)
            own = join_cost(sizes[a], e[a], s_dot_g[i, a], q, drift)
            cuda.syncthreads()  # all have read s_dot_g before any of it changes
            if best < K and best_cost - (own - 2.0 * drift) < -threshold:
                for j in range(cuda.threadIdx.x, gram.shape[0], THREADS):
                    s_dot_g[j, a] -= gram[i, j]
                    s_dot_g[j, best] += gram[i, j]
                relabel(i, a, best, labels, sizes, e, q)
                if cuda.threadIdx.x == 0:
                    moved[0] += 1
        cuda.syncthreads()
