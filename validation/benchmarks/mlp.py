"""Time of one gradient of an MLP 784-1024-1024-10, B = 128, float32: gcref against PyTorch on the CPU.

Run ``python -m gcref.validation.benchmarks.mlp`` (about 20 seconds) on a machine that is otherwise idle. Both
sides compute the mean loss and its gradient into fresh memory, on two threads each, in one process, in turn.
Loss and gradient are compared before anything is timed. The exit code is 0 if the claim holds, 1 otherwise.
"""

import os
import sys

os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import gcref
from gcref.engine.network import Network
from gcref.validation.benchmarks.alternating import compare

SIZES = (784, 1024, 1024, 10)
BATCH_SIZE = 128
THREADS = 2
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
        ratio = compare(lambda: net.gradient(x, y), lambda: torch_gradient(model, x_torch, y_torch))
    passed = ratio.report("a gradient over PyTorch's", TARGET) and max(loss_gap, gradient_gap) <= 1e-5
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
