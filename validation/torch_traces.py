"""Gradient clustering in PyTorch, worked through: hooks, a trace file, clusters, a DataLoader that draws from them.

Run ``python -m gcref.validation.torch_traces`` (about 20 s). A small CNN learns the digits for a moment; hooks record
A and D of its layers; ``gcref cluster`` reads them and writes labels; and `gcref.StratifiedBatchSampler` draws batches
from the clusters inside a DataLoader of two workers. The weighted gradients, by PyTorch's own autograd, must have the
full gradient for their mean, and the variance that Eq. 1 predicts. It exits with 0 if all is so, with 1 otherwise.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

import gcref
from gcref.trace_files import TraceFile, write_traces

BATCH = 32  # K = B, one example a cluster
DRAWS = 3000
MOST = 4.0  # standard errors; beyond them by chance with probability 6e-5
DIRECTIONS = 32


class Check(NamedTuple):
    """Something measured: `value` may be `allowed` at most."""

    what: str
    value: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether all is as it should be; NaN is not."""
        return self.value <= self.allowed


# ---------------------------------------------------------------------------------------- what you would copy from here


class Recorder:
    """Record A and D of every Linear and Conv2d of a model, during a ``with`` block.

    The loss of each backward pass must be the sum over its examples: then the gradient of the loss with respect to
    an example's output is that of the example's own loss. Layers without parameters record nothing; of others, and
    of layers that share their parameters or are used twice in a pass, this recorder knows nothing.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    ValueError
        If a convolution has groups, or a padding other than by numbers of zeros.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        for layer in self._layers:
            if isinstance(layer, nn.Conv2d) and (
                layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
            ):
                raise ValueError(f"{layer} has groups, or a padding other than by numbers of zeros; none is expected")
        self._inputs: dict[nn.Module, torch.Tensor] = {}
        self._outputs: dict[nn.Module, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> "Recorder":
        for layer in self._layers:
            self._hooks.append(layer.register_forward_hook(self._keep))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        """Keep the input, and have the backward pass keep the gradient with respect to the output."""
        self._inputs[layer] = inputs[0].detach()
        output.register_hook(lambda grad: self._outputs.update({layer: grad.detach()}))

    def traces(self) -> list[gcref.Trace]:
        """Return the traces of the last pass, a layer each."""
        return [self._trace(layer) for layer in self._layers]

    def _trace(self, layer: nn.Module) -> gcref.Trace:
        """A (B, T, I), with a trailing 1 where there is a bias, and D (B, T, O) of a layer."""
        A, D = self._inputs[layer], self._outputs[layer]
        if isinstance(layer, nn.Conv2d):
            padding = cast(tuple[int, ...], layer.padding)
            A = F.unfold(A, layer.kernel_size, layer.dilation, padding, layer.stride).transpose(1, 2)
            D = D.flatten(2).transpose(1, 2)
        if layer.bias is not None:
            A = F.pad(A, (0, 1), value=1.0)
        return gcref.Trace(A.contiguous().numpy(), D.contiguous().numpy())


class Weighted(Dataset[tuple[torch.Tensor, torch.Tensor, float]]):
    """A data set that hands on the weight which the sampler attached to each index."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
        return self.x[i], self.y[i], i.weight


def record(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int = 256) -> Iterator[list[gcref.Trace]]:
    """Yield the traces of all examples, batch by batch, as `write_traces` takes them."""
    with Recorder(model) as recorder:
        for rows in torch.arange(len(x)).split(batch_size):
            F.cross_entropy(model(x[rows]), y[rows], reduction="sum").backward()
            yield recorder.traces()


def cluster(traces: Path, labels: Path, n_clusters: int) -> NDArray[np.int64]:
    """Run ``gcref cluster`` and read its labels."""
    command = [sys.executable, "-m", "gcref.cli", "cluster", str(traces), "--out", str(labels)]
    subprocess.run([*command, "--n-clusters", str(n_clusters)], check=True, capture_output=True)
    with np.load(labels, allow_pickle=False) as found:
        return found["labels"]


# ------------------------------------------------------------------------------------------------ what shows it to hold


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 8 × 8 digits, channels first, in float64, and their classes."""
    data = gcref.data.load("digits")
    return torch.tensor(data.x, dtype=torch.float64).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.y)


def trained(x: torch.Tensor, y: torch.Tensor, seed: int = 0, steps: int = 150) -> nn.Module:
    """Return a CNN of two convolutions and two linear layers after some steps of SGD."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10),
    ).double()  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> NDArray[np.float64]:
    """Σ_i w_i ∇ℓ_i by autograd, (d,), in the order of the traces: a layer's weights (I, O), its bias for a last row."""
    loss = weights @ F.cross_entropy(model(x), y, reduction="none")
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([(g.flatten(1).T if g.ndim > 1 else g).flatten() for g in grads]).numpy()


def draws(model: nn.Module, batches: Iterable[Any]) -> NDArray[np.float64]:
    """Return the weighted gradient of every batch of (x, y, weights), (draws, d)."""
    return np.array([gradient(model, *batch) for batch in batches])


def stratified_variance(G: NDArray, labels: NDArray) -> float:
    """Eq. 1, V = 1/(N² d) Σ_k N_k² (mean_{i∈k} ‖g_i‖² − ‖ḡ_k‖²), written out."""
    total = 0.0
    for k in np.unique(labels):
        members = G[labels == k]
        total += len(members) * float(((members - members.mean(axis=0)) ** 2).sum())
    return total / G.shape[0] ** 2 / G.shape[1]


def plain_variance(G: NDArray, batch_size: int) -> float:
    """V of SG-B with replacement, (mean ‖g_i‖² − ‖ḡ‖²) / (B d)."""
    return float(G.var(axis=0).mean()) / batch_size


def z_of_mean(found: NDArray, expected: NDArray) -> float:
    """Return the largest |z| of the mean draw's deviation, along random directions and that of the full gradient."""
    U = np.random.default_rng(1).standard_normal((DIRECTIONS, len(expected)))
    along = (found - expected) @ np.vstack([U, expected]).T
    return float(np.abs(along.mean(axis=0) / (along.std(axis=0, ddof=1) / np.sqrt(len(found)))).max())


def z_of_variance(found: NDArray, mean: NDArray, predicted: float) -> tuple[float, float]:
    """Return the measured V, mean over draws and coordinates of (ĝ − ḡ)², and how many standard errors it is off."""
    squares = ((found - mean) ** 2).mean(axis=1)
    error = squares.std(ddof=1) / np.sqrt(len(squares))
    return float(squares.mean()), float(abs(squares.mean() - predicted) / error)


def plain_batches(x: torch.Tensor, y: torch.Tensor, n_draws: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield batches of SG-B with replacement, of equal weights."""
    rng = np.random.default_rng(2)
    weights = torch.full((BATCH,), 1 / BATCH, dtype=torch.float64)
    for _ in range(n_draws):
        rows = torch.from_numpy(rng.integers(len(y), size=BATCH))
        yield x[rows], y[rows], weights


def measure(folder: Path, n_draws: int) -> Iterator[Check | str]:
    """Go through the example in `folder`, and yield what is found as it is found."""
    x, y = digits()
    model = trained(x, y)
    write_traces(folder / "traces.h5", record(model, x, y))
    batches = TraceFile(folder / "traces.h5")
    yield f"recorded {batches.n_examples} examples, {batches.nbytes / 1e6:.0f} MB, blocks (T, I, O) {batches.blocks}"
    G = np.concatenate([gcref.per_example_gradients(batch) for batch in batches()])
    few = np.arange(0, len(y), 100)
    own = np.array([gradient(model, x[[i]], y[[i]], torch.ones(1, dtype=torch.float64)) for i in few])
    yield Check("an example's gradient, traces against autograd, relative", _relative(G[few], own), 1e-12)
    mean = gradient(model, x, y, torch.full((len(y),), 1 / len(y), dtype=torch.float64))
    yield Check("the full gradient, traces against autograd, relative", _relative(G.mean(axis=0), mean), 1e-12)

    labels = cluster(folder / "traces.h5", folder / "labels.npz", BATCH)
    sizes = np.bincount(labels)
    predicted, plain = stratified_variance(G, labels), plain_variance(G, BATCH)
    yield f"clustered into {len(sizes)} of {sizes.min()} to {sizes.max()} examples"
    sampler = gcref.StratifiedBatchSampler(labels, seed=3, n_batches=n_draws)
    loader: DataLoader = DataLoader(
        Weighted(x, y), batch_sampler=sampler, num_workers=2, multiprocessing_context="spawn"
    )
    found = draws(model, loader)
    yield Check(
        f"mean of {n_draws} stratified gradients, largest of {DIRECTIONS + 1} |z|", z_of_mean(found, mean), MOST
    )
    of_clusters = np.array([G[labels == k].mean(axis=0) for k in range(BATCH)])
    unweighted = found - mean + of_clusters.mean(axis=0)
    yield f"  (of draws about the unweighted mean of the clusters it would be {z_of_mean(unweighted, mean):.0f})"
    measured, z = z_of_variance(found, mean, predicted)
    yield Check("its variance against Eq. 1, |z|", z, MOST)
    measured_plain, z = z_of_variance(draws(model, plain_batches(x, y, n_draws)), mean, plain)
    yield Check("variance of SG-B against its formula, |z|", z, MOST)
    yield f"variance    predicted  measured ({n_draws} draws of {BATCH})"
    yield f"SG-B        {plain:.4e} {measured_plain:.4e}"
    yield f"stratified  {predicted:.4e} {measured:.4e}"
    yield f"ratio       {predicted / plain:.4f}     {measured / measured_plain:.4f}"
    yield Check("variance as a share of SG-B's", measured / measured_plain, 0.5)


def _relative(found: NDArray, expected: NDArray) -> float:
    """Return the largest deviation, as a share of the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> int:
    """Print what is found; return 1 if a check fails."""
    torch.set_num_threads(1)  # more would only wait for one another, with layers so small
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for line in measure(Path(folder), DRAWS):
            if isinstance(line, Check):
                failed += not line.passed
                verdict = "ok" if line.passed else "FAIL"
                line = f"{line.what}: {line.value:.2g} (at most {line.allowed:g}) {verdict}"
            print(line, flush=True)
    print(f"{failed} checks failed" if failed else "every check passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
