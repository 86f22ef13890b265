"""Time of one gradient of an MLP 784-1024-1024-10, B = 128, float32: gcref against PyTorch on the CPU.

Run ``python -m gcref.validation.benchmarks.mlp`` (about 20 seconds) on a machine that is otherwise idle. Both
sides compute the mean loss and its gradient into fresh memory, on two threads each, in one process. They take
turns in blocks: the pause and the untimed runs before each let the other side's waiting threads go to sleep.
Loss and gradient are compared before anything is timed. The exit code is 0 if the claim holds, 1 otherwise.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import gcref
from gcref.engine.network import Network

SIZES = (784, 1024, 1024, 10)
BATCH_SIZE = 128
THREADS = 2
N_BLOCKS = 24
RUNS_PER_BLOCK = 12
TARGET = 1.05


def torch_model(net: Network) -> torch.nn.Sequential:
    """Return PyTorch's MLP with the parameters of `net`."""
    modules: list[torch.nn.Module] = []
    for weight in net.weights:
        module = torch.nn.Linear(weight.shape[0] - 1, weight.shape[1])
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(weight[:-1].T.copy()))
            module.bias.copy_(torch.from_numpy(weight[-1].copy()))
        modules += [module, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def torch_gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Compute the mean loss and its gradient the usual way, with gradients reset to None."""
    model.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss.item()


def flat_gradient(model: torch.nn.Module) -> np.ndarray:
    """Return PyTorch's gradient in the order of `Network.theta`."""
    gradients = [p.grad.numpy() for p in model.parameters() if p.grad is not None]
    pairs = zip(gradients[::2], gradients[1::2], strict=True)
    return np.concatenate([np.vstack([weight.T, bias]).ravel() for weight, bias in pairs])


def block_time(run: Callable[[], object]) -> float:
    """Return the median seconds of a block of runs, after a pause and untimed runs."""
    time.sleep(0.2)
    seconds = []
    for number in range(RUNS_PER_BLOCK + 3):
        start = time.perf_counter()
        run()
        if number >= 3:
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def main() -> int:
    """Check agreement, time both sides in turn, print the ratio; return 0 if the claim holds, 1 if not."""
    print(f"Claim: a gradient of the MLP {'-'.join(map(str, SIZES))} takes at most {TARGET} of PyTorch's time.")
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    net = gcref.mlp(SIZES, dtype="float32")
    x = rng.standard_normal((BATCH_SIZE, SIZES[0])).astype(np.float32)
    y = rng.integers(0, SIZES[-1], BATCH_SIZE)
    model, x_torch, y_torch = torch_model(net), torch.from_numpy(x), torch.from_numpy(y)

    loss, gradient = net.gradient(x, y)
    loss_gap = abs(loss / torch_gradient(model, x_torch, y_torch) - 1)
    expected = flat_gradient(model)
    gradient_gap = float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected))
    print(f"  relative deviation: loss {loss_gap:.1e}, gradient {gradient_gap:.1e} (float32, at most 1e-5)")

    with threadpool_limits(THREADS, user_api="blas"):
        pairs = [
            (
                block_time(lambda: net.gradient(x, y)),
                block_time(lambda: torch_gradient(model, x_torch, y_torch)),
            )
            for _ in range(N_BLOCKS)
        ]
    ours, theirs = np.array(pairs).T
    low, ratio, high = np.percentile(ours / theirs, [25, 50, 75])
    print(f"  gcref {1e3 * np.median(ours):.2f} ms, PyTorch {1e3 * np.median(theirs):.2f} ms (medians)")
    passed = bool(ratio <= TARGET and max(loss_gap, gradient_gap) <= 1e-5)
    print(f"{'PASS' if passed else 'FAIL'}: ratio {ratio:.3f}, quartiles {low:.3f} and {high:.3f}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
