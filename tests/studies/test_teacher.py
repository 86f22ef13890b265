import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcref.studies import teacher

QUICK = settings(deadline=None, max_examples=20)
SEEDS = st.integers(0, 2**40)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(teacher, "BLOCK_ROWS", 16)
    monkeypatch.setattr(teacher, "BLOCK_HIDDEN", 8)


# ------------------------------------------------------------------------------------------------- definition


def plain_teacher(seed, x, hidden):
    """The formula of the teacher in float64, from the same draws."""
    theta = teacher.stream(seed, "teacher features", x.shape[1], hidden)
    theta = theta.standard_normal((hidden, x.shape[1]), dtype=np.float32).astype(np.float64)
    v = teacher.stream(seed, "teacher output", x.shape[1], hidden).standard_normal(hidden)
    out = np.zeros(len(x))
    for h in range(hidden):
        out += v[h] * np.maximum(x.astype(np.float64) @ (theta[h] / np.linalg.norm(theta[h])), 0.0)
    return out


@pytest.mark.parametrize("hidden", [1, 7, 8, 21])
def test_teacher_is_its_definition(small_blocks, hidden):
    x = teacher.draw_inputs(5, 6, 40)
    expected = plain_teacher(5, x, hidden)
    exact = teacher.teacher_outputs(5, x, hidden, "float64")
    np.testing.assert_allclose(exact, expected, rtol=1e-12, atol=1e-13)
    single = teacher.teacher_outputs(5, x, hidden)
    assert single.dtype == np.float64
    assert 0 < np.abs(single - expected).max() < 1e-5


@pytest.mark.parametrize("init", ["unit", "uniform"])
def test_student_features_are_their_definition(small_blocks, init):
    x = teacher.draw_inputs(5, 6, 40)
    rng = teacher.stream(5, "student features", 6, 11)
    if init == "unit":
        theta = rng.standard_normal((11, 6))
        theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    else:
        theta = rng.uniform(-1, 1, (11, 6)) / np.sqrt(6)
    expected = np.maximum(x.astype(np.float64) @ theta.T, 0.0)
    found = teacher.student_features(5, x, 11, init)
    np.testing.assert_allclose(found[:, :-1], expected, rtol=1e-12, atol=1e-14)
    assert (found[:, -1] == 1).all()
    assert found.dtype == np.float64


def test_uniform_features_have_norm_about_one_over_root_three():
    theta = teacher.stream(0, "student features", 400, 50).uniform(-1, 1, (50, 400)) / 20
    assert np.linalg.norm(theta, axis=1).mean() == pytest.approx(1 / np.sqrt(3), rel=0.02)


def test_inputs_are_standard_normal():
    x = teacher.draw_inputs(1, 50, 2000).astype(np.float64)
    n = x.size
    assert abs(x.mean()) * np.sqrt(n) < 4
    assert abs((x**2).mean() - 1) * np.sqrt(n / 2) < 4
    assert abs((x[:, :-1] * x[:, 1:]).mean()) * np.sqrt(n) < 4


# ------------------------------------------------------------------------------- nothing depends on how many


@QUICK
@given(SEEDS, st.integers(1, 70), st.integers(1, 70), st.integers(1, 9))
def test_rows_do_not_depend_on_how_many_are_asked_for(seed, few, many, input_dim):
    few, many = sorted((few, many))
    block = teacher.BLOCK_ROWS
    teacher.BLOCK_ROWS = 16
    try:
        small, large = (teacher.draw_inputs(seed, input_dim, n) for n in (few, many))
        assert len(small) % 16 == 0
        assert len(small) >= few
        assert small.tobytes() == large[: len(small)].tobytes()
        f_small, f_large = (teacher.teacher_outputs(seed, x, 5) for x in (small, large))
        assert f_small.tobytes() == f_large[: len(small)].tobytes()
        for init in ("unit", "uniform"):
            a, b = (teacher.student_features(seed, x, 5, init) for x in (small, large))
            assert a.tobytes() == b[: len(a)].tobytes()
    finally:
        teacher.BLOCK_ROWS = block


def test_rows_do_not_depend_on_how_many_at_full_size():
    small, large = (teacher.draw_inputs(3, 300, n) for n in (100, 2500))
    assert small.tobytes() == large[: len(small)].tobytes()
    for precision in ("float32", "float64"):
        a, b = (teacher.teacher_outputs(3, x, 1100, precision) for x in (small, large))
        assert a.tobytes() == b[: len(a)].tobytes()
    a, b = (teacher.student_features(3, x, 1000) for x in (small, large))
    assert a.tobytes() == b[: len(a)].tobytes()


# --------------------------------------------------------------------------------------------------- streams


def test_streams_differ_between_purposes_keys_and_seeds():
    arguments = [
        (seed, purpose, *keys)
        for seed in (0, 1, 2**32, 2**33)
        for purpose in ("inputs", "teacher features", "teacher output", "student features", "batch order")
        for keys in ((), (10,), (10, 100), (100, 10))
    ]
    first = {teacher.stream(*a).integers(2**63) for a in arguments}
    assert len(first) == len(arguments)
    assert teacher.stream(0, "inputs", 10).integers(2**63) == teacher.stream(0, "inputs", 10).integers(2**63)


def test_student_and_teacher_features_are_unrelated():
    draws = [teacher.stream(0, p, 100, 100).standard_normal(10_000) for p in ("teacher features", "student features")]
    assert abs(np.corrcoef(draws)[0, 1]) * 100 < 4


# ---------------------------------------------------------------------------------------------- sizes, labels


@pytest.mark.parametrize(
    ("ratio", "n"), [(0.1, 10000), (0.3, 3333), (1.5, 666), (2.5, 400), (3.0, 333), (10.0, 100), (0.7, 1428)]
)
def test_n_train(ratio, n):
    assert teacher.n_train(ratio, 1000) == n


def test_floor_reads_decimals_as_written():
    assert teacher.floor_of(0.29, 100) == 29
    assert int(0.29 * 100) == 28  # what it is for


@QUICK
@given(SEEDS, st.integers(2, 200))
def test_labels_have_both_classes(seed, n):
    outputs = np.random.default_rng(seed).standard_normal(n)
    labels = teacher.labels_of(outputs)
    assert labels.dtype == np.int8
    assert set(labels) == {0, 1}
    assert (labels == [f > np.mean(outputs) for f in outputs]).all()


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [
        (10, 0.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (10, 0.39, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]),
        (14, 0.5, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 0, 1]),
    ],
)
def test_duplicated_rows(n, fraction, expected):
    assert teacher.duplicated_rows(n, fraction).tolist() == expected


@QUICK
@given(st.integers(50, 3000), st.sampled_from([0.1, 0.29, 0.5, 0.9]))
def test_duplicates_are_the_last_and_equally_frequent(n, fraction):
    rows = teacher.duplicated_rows(n, fraction)
    copies = int(np.floor(round(fraction * n, 9)))
    assert (rows[: n - copies] == np.arange(n - copies)).all()
    counts = np.bincount(rows[n - copies :], minlength=5) if copies else np.zeros(5)
    assert len(counts) == 5
    assert counts.max() - counts.min() <= 1


# ------------------------------------------------------------------------------------------------ batch order


@QUICK
@given(SEEDS, st.integers(1, 60), st.integers(1, 12), st.integers(1, 50))
def test_batch_order(seed, n, batch_size, n_steps):
    batch_size = min(batch_size, n)
    order = teacher.batch_order(seed, n, batch_size, n_steps)
    assert order.shape == (n_steps, batch_size)
    assert order.dtype == np.int32
    assert order.min() >= 0
    assert order.max() < n
    per_epoch = n // batch_size
    for start in range(0, n_steps, per_epoch):
        epoch = order[start : start + per_epoch].ravel()
        assert len(set(epoch.tolist())) == len(epoch), "an example twice in an epoch"
    # A longer run begins with a shorter one.
    longer = teacher.batch_order(seed, n, batch_size, n_steps + 7)
    assert (longer[:n_steps] == order).all()


def test_epochs_are_shuffled_anew_and_drop_others():
    order = teacher.batch_order(0, 25, 10, 40).reshape(20, 20)
    dropped = {frozenset(set(range(25)) - set(epoch.tolist())) for epoch in order}
    assert len(dropped) > 15
    assert len({tuple(epoch) for epoch in order.tolist()}) == 20


# -------------------------------------------------------------------------------------------------- precision


def flipped(seed, input_dim, hidden, n):
    x = teacher.draw_inputs(seed, input_dim, n)
    outputs = [teacher.teacher_outputs(seed, x, hidden, p)[:n] for p in ("float32", "float64")]
    a, b = (teacher.labels_of(f) for f in outputs)
    return np.mean(a != b), np.abs(outputs[0] - outputs[1]).max() / outputs[1].std()


@pytest.mark.parametrize(("input_dim", "hidden"), [(100, 100), (500, 1000)])
def test_single_precision_flips_hardly_a_label(input_dim, hidden):
    share, error = flipped(0, input_dim, hidden, 3000)
    # A label flips where f is within the rounding error of the mean: a share of the order of the error itself.
    assert 0 < error < 2e-5
    assert share <= 1e-3
