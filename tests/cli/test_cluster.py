import io
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import gcref
from gcref.cli.cluster import _progress, _variance_share, cluster
from gcref.kernels import jit
from gcref.trace_files import TraceFile, write_traces

N, K = 60, 5
FIELDS = {"labels", "sizes", "weights", "objective", "method", "n_clusters", "seed", "gcref_version"}
FITS = {
    "sketched": lambda: gcref.SketchedClustering(K, seed=3),
    "gc": lambda: gcref.GradientClustering(K, seed=3),
    "exact": lambda: gcref.ExactClustering(K, seed=3),
    "exchange": lambda: gcref.ExactClustering(K, update="exchange", n_iter=20, seed=3),
}


def traces(n=N):
    rng = np.random.default_rng(0)
    return [
        gcref.Trace(rng.standard_normal((n, 3, 4)), rng.standard_normal((n, 3, 2))),
        gcref.Trace(rng.standard_normal((n, 6)), rng.standard_normal((n, 2))),
    ]


@pytest.fixture
def source(tmp_path):
    write_traces(tmp_path / "traces.h5", traces())
    return tmp_path / "traces.h5"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "labels.npz"


def call(*args):
    return CliRunner().invoke(cluster, [str(arg) for arg in args])


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def refused(message, *args):
    result = call(*args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "clustering" not in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("method", FITS)
def test_the_file_holds_what_the_method_finds(source, out, method):
    result = call(source, "--n-clusters", K, "--out", out, "--method", method, "--seed", 3)
    assert result.exit_code == 0, result.output
    expected, found = FITS[method]().fit(traces()), load(out)
    assert set(found) == FIELDS
    np.testing.assert_array_equal(found["labels"], expected.labels_)
    np.testing.assert_array_equal(found["sizes"], np.bincount(expected.labels_, minlength=K))
    np.testing.assert_array_equal(found["objective"], expected.objective_)
    np.testing.assert_array_equal(found["weights"], found["sizes"][found["labels"]] / N)
    assert (found["labels"].dtype, found["sizes"].dtype, found["weights"].dtype) == (np.int64, np.int64, np.float64)
    assert (found["method"], found["n_clusters"], found["seed"]) == (method, K, 3)
    assert found["gcref_version"] == gcref.__version__
    assert sorted(os.listdir(out.parent)) == ["labels.npz", "traces.h5"]


def test_a_centre_of_higher_rank(source, out):
    result = call(source, "--n-clusters", K, "--out", out, "--method", "gc-rank2")
    assert result.exit_code == 0, result.output
    expected = gcref.GradientClustering(K, center="svd", rank=2).fit(traces())
    np.testing.assert_array_equal(load(out)["labels"], expected.labels_)


def test_options_reach_the_method(source, out):
    result = call(source, "--n-clusters", K, "--out", out, "--dim", 7, "--drift", 0.5, "--n-iter", 2, "--seed", 1)
    assert result.exit_code == 0, result.output
    expected = gcref.SketchedClustering(K, dim=7, drift=0.5, n_iter=2, seed=1).fit(traces())
    np.testing.assert_array_equal(load(out)["labels"], expected.labels_)
    assert len(load(out)["objective"]) == 2


def test_both_formats_give_the_same_file(tmp_path, source, out):
    write_traces(tmp_path / "traces.npz", traces())
    for path in (source, tmp_path / "traces.npz"):
        assert call(path, "--n-clusters", K, "--out", out, "--overwrite").exit_code == 0
        labels = load(out)["labels"]
        np.testing.assert_array_equal(labels, gcref.SketchedClustering(K).fit(traces()).labels_)


def test_the_weights_are_those_of_the_sampler(source, out):
    call(source, "--n-clusters", K, "--out", out)
    found = load(out)
    for batch in gcref.StratifiedBatchSampler(found["labels"], seed=0):
        np.testing.assert_array_equal(found["weights"][batch], gcref.StratifiedBatchSampler.weights(batch))


def test_what_it_says(source, out):
    result = call(source, "--n-clusters", K, "--out", out)
    sizes = load(out)["sizes"]
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[-1] == f"wrote {out}"
    assert result.stderr == f"clustering {N} examples ...\n"
    for start in (
        f"examples     {N}",
        "parameters   20 in 2 blocks",
        f"clusters     {K}, of {sizes.min()} to {sizes.max()} examples",
        "method       sketched, ",
        "objective    ",
        "variance     0.",
    ):
        assert any(line.startswith(start) for line in lines), start


# ------------------------------------------------------------------------------------------------ the share of variance


def share_of(fit, G):
    """Φ of the labels over that of one cluster, N² tr Σ, divided by K: pair by pair, Eq. 2."""
    sq_distances = ((G[:, None] - G[None]) ** 2).sum(axis=2)
    same = fit.labels_[:, None] == fit.labels_
    return fit.n_clusters * sq_distances[same].sum() / sq_distances.sum()


def test_the_share_of_variance_is_unbiased():
    G = gcref.per_example_gradients(traces())
    fit = gcref.ExactClustering(K, update="exchange").fit(G)
    z, errors = [], []
    for seed in range(200):
        share, error = _variance_share(fit, gcref.Sketches(64, seed).add(traces()).values)
        z.append(share - share_of(fit, G))
        errors.append(error)
    assert abs(np.mean(z)) < 4 * np.std(z) / np.sqrt(200)
    assert 0.8 < np.std(z) / np.mean(errors) < 1.25


def test_the_share_of_variance_of_one_parameter_is_exact():
    """One number a gradient is the same in every component of its sketch, up to its sign."""
    one = [gcref.Trace(np.random.default_rng(1).standard_normal((N, 1)) * 1e200, np.ones((N, 1)))]
    fit = gcref.SketchedClustering(K).fit([gcref.Trace(one[0].A / 1e200, one[0].D)])
    share, error = _variance_share(fit, gcref.Sketches(64).add(one).values)
    np.testing.assert_allclose(share, share_of(fit, one[0].A[:, 0] / 1e200), rtol=1e-12)
    assert error < 1e-12


def test_all_gradients_equal(tmp_path, out):
    write_traces(tmp_path / "t.npz", [gcref.Trace(np.full((N, 2), 0.1), np.full((N, 3), 0.7))])
    result = call(tmp_path / "t.npz", "--n-clusters", K, "--out", out)
    assert result.exit_code == 0
    assert "none: all gradients are equal" in result.stdout
    assert load(out)["sizes"].min() >= 1


@pytest.mark.parametrize("n_clusters", [1, N])
def test_one_cluster_and_as_many_as_examples(source, out, n_clusters):
    result = call(source, "--n-clusters", n_clusters, "--out", out)
    assert result.exit_code == 0
    expected = "variance     1 ± " if n_clusters == 1 else "variance     0 ± 0"
    assert expected in result.stdout


# ------------------------------------------------------------------------------------------------------------ refusals


def test_bad_options(source, out, tmp_path):
    for message, *args in (
        ("--method 'kmeans' is unknown; choose from sketched, gc, gc-rankR", "--method", "kmeans"),
        ("--method 'gc-rank0' is unknown", "--method", "gc-rank0"),
        ("--method 'sgb' is unknown", "--method", "sgb"),
        ("--dim 8 has no meaning for --method gc", "--method", "gc", "--dim", 8),
        ("--drift 0.1 has no meaning for --method exact", "--method", "exact", "--drift", 0.1),
        ("0 is not in the range x>=1", "--n-clusters", 0),
        ("0 is not in the range x>=1", "--n-iter", 0),
        ("-1 is not in the range", "--seed", -1),
        ("-0.1 is not in the range", "--drift", -0.1),
        ("--drift nan: a finite number is expected", "--drift", "nan"),
        ("--drift inf: a finite number is expected", "--drift", "inf"),
        (f"--n-clusters {N + 1} but {source} has only {N} examples", "--n-clusters", N + 1),
    ):
        more = () if "--n-clusters" in args else ("--n-clusters", K)
        refused(message, source, "--out", out, *args, *more)
    assert not out.exists()
    for message, name in (
        ("ends in .npz", tmp_path / "labels.h5"),
        ("does not exist", tmp_path / "no" / "labels.npz"),
    ):
        refused(message, source, "--n-clusters", K, "--out", name)
    refused("Missing option '--out'", source)


def test_files_are_kept(source, out, tmp_path):
    out.write_text("precious")
    refused("is already there; give another name, or --overwrite", source, "--n-clusters", K, "--out", out)
    assert out.read_text() == "precious"
    write_traces(tmp_path / "t.npz", traces())
    args = (tmp_path / "t.npz", "--n-clusters", K, "--out", tmp_path / "t.npz", "--overwrite")
    refused("is the file that is read", *args)
    assert TraceFile(tmp_path / "t.npz").n_examples == N
    assert call(source, "--n-clusters", K, "--out", out, "--overwrite").exit_code == 0
    assert set(load(out)) == FIELDS


def test_a_folder_that_cannot_be_written(source, out, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    refused("cannot be written", source, "--n-clusters", K, "--out", out)


def test_files_that_hold_no_traces(tmp_path, out):
    (tmp_path / "notes.npz").write_text("notes")
    np.savez(tmp_path / "half.npz", A0=np.ones((9, 2)))
    for name, message in (("notes.npz", "neither an HDF5"), ("half.npz", "D0 is missing"), ("no.h5", "no such file")):
        refused(message, tmp_path / name, "--n-clusters", 2, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("method", FITS)
def test_nan(tmp_path, out, method):
    D = np.ones((9, 2))
    D[4, 1] = np.nan
    np.savez(tmp_path / "t.npz", A0=np.ones((9, 2)), D0=D)
    result = call(tmp_path / "t.npz", "--n-clusters", 2, "--out", out, "--method", method)
    assert result.exit_code == 2
    assert f"{tmp_path / 't.npz'}: D0 has NaN or infinity at example 4" in result.stderr
    assert os.listdir(tmp_path) == ["t.npz"]


def test_more_memory_than_there_is(source, out, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1}.get)
    for method in ("exact", "exchange"):
        args = (source, "--n-clusters", K, "--out", out, "--method", method)
        refused(f"method {method} needs about 0 GiB for {N} examples of 20 parameters", *args)


def test_a_full_disk(source, out, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = call(source, "--n-clusters", K, "--out", out)
    assert result.exit_code == 1
    assert f"Error: {out} cannot be written: No space left on device" in result.stderr
    assert os.listdir(out.parent) == ["traces.h5"]


# ------------------------------------------------------------------------------------------------------------ the rest


def test_progress_on_a_terminal(source, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with _progress(TraceFile(source)) as read:
        for _ in range(2):
            assert sum(batch[0].n_examples for batch in read()) == N
    assert f"clustering {N} examples" in shown.getvalue()


def test_traces_too_large_to_keep_are_read_again(source, out, monkeypatch):
    monkeypatch.setattr(sys.modules["gcref.cli.cluster"], "KEPT", 0)
    assert call(source, "--n-clusters", K, "--out", out, "--method", "gc").exit_code == 0
    np.testing.assert_array_equal(load(out)["labels"], gcref.GradientClustering(K).fit(traces()).labels_)


def test_the_whole_command(source, out):
    command = [sys.executable, "-m", "gcref.cli", "cluster", str(source), "--n-clusters", "5", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith(f"wrote {out}")
    assert done.stderr == f"clustering {N} examples ...\n"


def test_help_documents_the_file():
    shown = CliRunner().invoke(cluster, ["--help"]).stdout
    for part in ("A0, A1, ...  (N, T, I) or (N, I)", "D0, D1, ...", "Examples:", "gcref cluster traces.h5", "weights"):
        assert part in shown


def test_a_device_that_is_absent_is_named_before_any_work(source, out, monkeypatch):
    monkeypatch.setattr(jit, "gpu_problem", lambda: "no driver")
    refused("--device cuda: device='cuda', but no driver", source, "--out", out, "--device", "cuda")
    assert not out.exists()
