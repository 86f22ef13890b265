import numpy as np
import pytest

import gcref
from gcref.kernels import cpu
from gcref.validation import naive_optimum, optimum

BELL = [1, 1, 2, 5, 15, 52, 203, 877]


def test_the_validation_script_passes(capsys):
    assert optimum.main(["--problems", "300"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("PASS") == 4
    assert "FAIL" not in shown
    assert all(f"  {kind} " in shown for kind in optimum.KINDS)


def test_the_same_seed_gives_the_same_report(capsys):
    reports = []
    for seed in ("3", "3", "4"):
        optimum.main(["--problems", "30", "--seed", seed])
        reports.append(capsys.readouterr().out)
    assert reports[0] == reports[1] != reports[2]


def test_exchange_that_raises_the_objective_fails(monkeypatch, capsys):
    def worst(X, order, labels, sizes, *rest):
        labels[:] = np.roll(labels, 1)
        return len(labels)

    monkeypatch.setattr(cpu, "exchange_sweep", worst)
    assert optimum.main(["--problems", "6"]) == 1  # the first six are explicit
    assert "FAIL  exchange never raises Φ" in capsys.readouterr().out


def test_an_enumeration_that_misses_the_optimum_fails(monkeypatch, capsys):
    monkeypatch.setattr("gcref.clustering.exact.best_partition", lambda sq, K: np.arange(len(sq)) % K)
    assert optimum.main(["--problems", "60"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  no clustering is below the optimum" in shown
    assert "FAIL  plain recursion" in shown


def test_a_median_above_2_percent_fails(monkeypatch, capsys):
    monkeypatch.setattr(optimum, "median", lambda found: 1.0201)
    assert optimum.main(["--problems", "6"]) == 1
    assert "FAIL  exchange is within 2 % in the median: 1.020100" in capsys.readouterr().out


def test_the_problems_are_what_they_say():
    found = list(optimum.problems(240, 0))
    assert {p.form for p in found} == {"explicit", "gram"}
    assert {len(p.G) for p in found} == set(range(2, 11))
    assert {p.G.shape[1] for p in found} == set(range(1, 7))
    assert all(1 <= p.n_clusters <= len(p.G) for p in found)
    assert {(p.kind, p.form) for p in found} == {(k, f) for k in optimum.KINDS for f in ("explicit", "gram")}


def test_the_start_labels_are_those_of_a_cold_start():
    # Gradients that are all equal let nothing move.
    problem = optimum.Problem("", np.ones((9, 2)), 4, "explicit", 7)
    fit = problem.clusterer("exchange").fit(problem.G)
    np.testing.assert_array_equal(fit.labels_, optimum.start_labels(problem, fit.seed))


@pytest.mark.parametrize("arguments", [["--problems", "0"], ["--seed", "-1"], ["--problems", "x"]])
def test_bad_arguments_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        optimum.main(arguments)
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- the oracle


@pytest.mark.parametrize("N", range(1, 8))
def test_the_oracle_tries_every_partition_once(N):
    found = [tuple(labels) for K in range(1, N + 1) for labels in naive_optimum.partitions(N, K)]
    assert len(found) == len(set(found)) == BELL[N]
    for labels in found:
        firsts = [labels.index(k) for k in range(max(labels) + 1)]
        assert firsts == sorted(firsts)


def test_the_objective_of_the_oracle_is_n2_times_the_variance():
    rng = np.random.default_rng(0)
    G, labels = rng.standard_normal((8, 3)), np.array([0, 1, 1, 0, 2, 2, 2, 1])
    sizes = np.bincount(labels)
    expected = sum(sizes[k] ** 2 * G[labels == k].var(axis=0).sum() for k in range(3))
    assert naive_optimum.objective(labels.tolist(), G) == pytest.approx(expected, rel=1e-14)


def test_an_optimum_worked_by_hand():
    # Pairs 0-1 and 4-6 cost 1 + 4; {0, 1, 4} and {6} cost 1 + 16 + 9.
    G = np.array([[0.0], [1.0], [4.0], [6.0]])
    fit = gcref.ExactClustering(2, "enumeration").fit(G)
    np.testing.assert_array_equal(fit.labels_, [0, 0, 1, 1])
    assert fit.objective_[0] == pytest.approx(5.0, rel=1e-15)
