import numpy as np
from numpy.testing import assert_array_equal

from gcref.clustering.alternating import alternate, balanced_labels, fill_empty_clusters, stream
from gcref.clustering.exact import ExplicitPoints


def test_streams_are_those_of_the_seed_sequence():
    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(3,))).permutation(9)
    assert_array_equal(stream(7, 3).permutation(9), expected)


def test_balanced_labels_differ_by_at_most_one_in_size():
    sizes = np.bincount(balanced_labels(23, 5, seed=1))
    assert sizes.tolist() == [5, 5, 5, 4, 4]
    assert_array_equal(balanced_labels(23, 5, 1), stream(1, 0).permutation(23) % 5)


def products(C, G):
    C, G = np.array(C, dtype=float)[:, None], np.array(G, dtype=float)[:, None]
    return (C**2).sum(1), G @ C.T, (G**2).sum(1)


def test_the_costliest_cluster_gives_half_of_its_members_away():
    # Centres 0, 10, 50, 60 of the A step; clusters 2 and 3 are empty. Costs N_k Σ‖C_k − g‖²:
    #   cluster 0: points 0, 0, 0, 1   → 4·1  = 4
    #   cluster 1: points 10, 11, 12   → 3·5  = 15, so two thirds stay and ⌊3/2⌋ = 1 goes to cluster 2,
    # where it costs (50 − g)² ≥ 1·38² = 1444, but one member cannot be split: cluster 1 is left with at most
    # 2·5 = 10 and at least 2·1 = 2, against 4 of cluster 0.
    G = [0, 0, 0, 1, 10, 11, 12]
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    cc, cg, gg = products([0, 10, 50, 60], G)
    for seed in range(20):
        got = labels.copy()
        fill_empty_clusters(got, cc, cg, gg, np.random.default_rng(seed))
        given = np.random.default_rng(seed).permutation([4, 5, 6])[0]
        assert got[given] == 2
        left = [i for i in (4, 5, 6) if i != given]
        costs = [4, 2 * sum((G[i] - 10) ** 2 for i in left)]
        donor = int(np.argmax(costs))
        assert_array_equal(np.bincount(got), [[2, 2, 1, 2], [4, 1, 1, 1]][donor])


def test_the_members_are_drawn_at_random():
    cc, cg, gg = products([0, 9], [1, 2, 3, 4])
    drawn = []
    for seed in range(200):
        labels = np.zeros(4, dtype=np.int64)
        fill_empty_clusters(labels, cc, cg, gg, np.random.default_rng(seed))
        assert labels.sum() == 2
        drawn.append(labels)
    share = np.mean(drawn, axis=0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(200)


def test_the_largest_cluster_gives_where_all_costs_are_zero():
    cc, cg, gg = products([1, 2, 3], [1, 1, 2, 2, 2])
    labels = np.array([0, 0, 1, 1, 1])
    fill_empty_clusters(labels, cc, cg, gg, np.random.default_rng(0))
    assert_array_equal(np.bincount(labels), [2, 2, 1])


def test_ties_between_donors_go_to_the_lowest():
    cc, cg, gg = products([0, 10, 99], [1, -1, 9, 11])
    labels = np.array([0, 0, 1, 1])
    fill_empty_clusters(labels, cc, cg, gg, np.random.default_rng(0))
    assert_array_equal(np.bincount(labels), [1, 2, 1])


def test_a_cluster_of_one_never_gives_and_one_of_two_may():
    # The cluster of one would cost most, and the two of another together more than the five of the third.
    cc, cg, gg = products([0, 10, 100, 999], [70, 20, 21, 100, 100, 100, 100, 101])
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])
    fill_empty_clusters(labels, cc, cg, gg, np.random.default_rng(0))
    assert_array_equal(np.bincount(labels), [1, 1, 5, 1])
    # Where nothing else costs anything, the largest gives.
    cc, cg, gg = products([0, 10, 100, 999], [70, 10, 10, 100, 100, 100, 100, 100])
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2])
    fill_empty_clusters(labels, cc, cg, gg, np.random.default_rng(0))
    assert_array_equal(np.bincount(labels), [1, 2, 3, 2])


def test_nothing_is_drawn_without_an_empty_cluster():
    cc, cg, gg = products([0, 10], [1, 9])
    rng = np.random.default_rng(0)
    labels = np.array([0, 1])
    fill_empty_clusters(labels, cc, cg, gg, rng)
    assert_array_equal(labels, [0, 1])
    assert rng.random() == np.random.default_rng(0).random()


def test_one_iteration_worked_by_hand():
    # The points and centres worked by hand in the tests of the kernels. Whatever the order, the U step
    # that follows is that of {0, 1, 2, (4)} and {(4), 9, 10}.
    G = np.array([[0.0], [1.0], [2.0], [4.0], [9.0], [10.0]])
    run = alternate(ExplicitPoints(G), np.array([[0.0], [10.0]]), 2, None, 0, range(1, 2))
    if run.labels[3] == 0:
        centers, phi = [[7 / 4], [9.5]], 4 * (21 - 49 / 4) + 2 * 0.5
    else:
        centers, phi = [[1.0], [23 / 3]], 3 * 2.0 + 3 * (197 - 529 / 3)
    np.testing.assert_allclose(run.centers, centers)
    np.testing.assert_allclose(run.objective, [phi])
    # With sizes held fixed at 1 and 4 the order does not matter.
    run = alternate(ExplicitPoints(G), np.array([[0.0], [10.0]]), 2, np.array([1, 4]), 0, range(1, 2))
    assert_array_equal(run.labels, [0, 0, 0, 0, 1, 1])


def test_the_first_minimum_is_kept_and_the_last_iteration_too():
    class Scripted:
        """Φ of 3, 1, 1, 2, whatever the labels."""

        sq_norms = np.ones(4)

        def __init__(self):
            self.script = iter([3.0, 1.0, 1.0, 2.0])
            self.seen = []

        def centers(self, labels, n_clusters):
            self.seen.append(labels)
            return len(self.seen)

        def products(self, centers):
            rng = np.random.default_rng(centers)
            return np.ones(2), rng.random((4, 2))

        def objective(self, labels, centers):
            return next(self.script), None

    points = Scripted()
    run = alternate(points, 0, 2, None, 0, range(1, 5))
    assert run.objective == [3.0, 1.0, 1.0, 2.0]
    assert run.labels is points.seen[1]
    assert run.last_labels is points.seen[3]
    assert run.centers == 4
