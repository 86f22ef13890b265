"""What each CUDA kernel is expected to cost on a GPU: ``python -m gcref.validation.cuda_kernels [FILE]``.

No GPU is needed. Every twin in `gcref.kernels.cuda` is called with its launches recorded instead of run; each kernel is
then compiled to PTX for the very types it was launched on, and, where `ptxas` is found, to machine code, which tells
its registers and shared memory. Bytes and operations come from the formulas below. It prints, or writes to FILE, what
`gcref/kernels/ROOFLINE.md` holds.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from gcref.kernels import cuda, cuda_arrays, cuda_kernels, cuda_moments, jit

CAPABILITIES = {"sm_80": (8, 0), "sm_90": (9, 0)}
# Published by NVIDIA for the A100 and H100 (SXM, 80 GB): float64 without tensor cores in 10¹² operations a second,
# memory in 10⁹ bytes a second. Registers, shared bytes, threads and blocks of a multiprocessor: CUDA C++ Programming
# Guide, technical specifications by compute capability.
GPUS = {"sm_80": ("A100", 9.7, 2039), "sm_90": ("H100", 34.0, 3350)}
REGISTERS, MOST_THREADS, MOST_BLOCKS = 65536, 2048, 32
SHARED = {"sm_80": 164 << 10, "sm_90": 228 << 10}


@dataclass
class Launch:
    """A kernel, its name, and what it was launched with."""

    name: str
    kernel: Any
    threads: int
    arguments: tuple[Any, ...]


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Record launches, on NumPy arrays, instead of running them."""
    launches: list[Launch] = []

    def record(kernel: Any, blocks: int, threads: int, *arguments: Any) -> None:
        launches.append(Launch(kernel.py_func.__name__.lstrip("_"), kernel, threads, arguments))

    with ExitStack() as stack:
        for module in (cuda, cuda_moments):
            stack.enter_context(mock.patch.object(module, "launch", record))
        for module in (cuda, cuda_arrays, cuda_moments):
            stack.enter_context(mock.patch.object(module, "put", np.ascontiguousarray))
        yield launches


def launches(dtype: str) -> list[Launch]:
    """Return one launch of every kernel, on arrays of `dtype` where it takes any."""
    N, T, I, O, K, m = 6, 2, 4, 3, 2, 5  # noqa: E741
    A, D, G = np.ones((N, T, I), dtype), np.ones((N, T, O), dtype), np.ones((N, I, O), dtype)
    c, d, R, Q = (np.ones(shape, dtype) for shape in ((K, I), (K, O), (m, I), (m, O)))
    labels, order, sizes = np.arange(N) % K, np.arange(N), np.full(K, N // K)
    cc, cg, gg, near = np.ones(K), np.ones((N, K)), np.ones(N), np.zeros((K, 1), np.int64)
    flat, sums = G.reshape(N, I * O), np.ones((K, I * O))
    with recording() as found:
        cuda.sq_norms(A, D)
        cuda.gram(A, D, A, D)
        cuda.add_rank_one_products([(A[:, 0], D[:, 0], c, d)], np.ones((N, K)))
        cuda.row_sq_norms(flat)
        cuda.add_gradient_sketch(G, R, Q, np.ones((N, m)))
        cuda.add_position_products(A, A, np.ones((N, I)))
        cuda.grouped_sums(flat, labels, K)
        cuda.add_cluster_products(A[:, 0], D[:, 0], labels, np.ones((K, m, O)), np.ones((K, m, I)))
        cuda.extend(np.ones((K, 2, I)), np.ones((K, m, I)))
        cuda.a_step_fixed(cc, cg, gg, sizes)
        cuda.a_step_sequential(cc, cg, gg, order)
        cuda.spread_from_products(cc, cg, gg, labels)
        cuda.spread(flat, sums, labels)
        cuda.exchange_sweep_among(flat, order, labels, sizes, cc, sums, 0.0, 0.0, near)
        cuda.join(flat, order, labels, sizes, cc, sums, 0.0)
        cuda.exchange_sweep_gram(np.ones((N, N)), order, labels, sizes, cc, cg, 0.0)
        cuda.second_moment(A, D)
        cuda.add_moments(flat, np.ones(I * O), np.ones(I * O))
        fields = np.ones((5, I * O))
        cuda.fold(fields[0], fields[1], N, 1.0, 0.0, fields[2], fields[3], fields[4])
    return list({launch.name: launch for launch in found}.values())


# Sizes of the target of the README: Fashion-MNIST on the first block of the MLP, K = 128, sketches of m = 64 numbers,
# float32; Gram matrices and gradients written out of 10,000 examples, of 2,570 coordinates. Bytes are those that have
# to come from memory once, operations those in float64. A sequential kernel is one block's, on one multiprocessor, and
# its sums fit the cache, so that bytes and the roofline say little of it: it is bound by the latency of its steps.
N, I, O, K, m, n, d = 60_000, 785, 1024, 128, 64, 10_000, 2_570  # noqa: E741
COSTS: dict[str, tuple[str, float, float]] = {
    "sq_norms": ("2,000 examples, T = 196, I = 25, O = 16", 2000 * 196 * 41 * 4, 2000 * 196**2 / 2 * 2 * 41),
    "gram": (f"{n:,} examples with themselves, T = 1", 2 * n * (I + O) * 4 + 8 * n * n, 2 * n * n * (I + O)),
    "row_sq_norms": (f"N = {N:,}, m = {m}", N * m * 4 + 8 * N, 2 * N * m),
    "add_bilinear": (f"2,000 gradients {25} × {16}, m = {m}", 2000 * 25 * 16 * 4 + 2000 * m * 16, 2000 * m * 2 * 416),
    "add_position_products": (f"N = {N:,}, T = 1, m = {m}", N * m * (4 + 4 + 16), 2 * N * m),
    "grouped_sums": (f"N = {N:,}, M = {O}, K = {K}", N * O * 4 + 8 * N + K * O * 16, N * O),
    "cluster_products": (f"N = {N:,}, O = {O}, b = 4, K = {K}", N * O * 4 + N * 40 + K * 4 * O * 8, 2 * N * 4 * O),
    "add_weighted_sums": (f"N = {N:,}, I = {I}, b = 4, K = {K}", N * I * 4 + N * 40 + K * 4 * I * 16, 2 * N * 4 * I),
    "extend": (f"K = {K}, m = 4, b = 4, I = {I}, two turns", 3 * K * 4 * I * 8, K * 4 * 2 * (4 * (4 + 1.5) + 4) * I),
    "a_step_fixed": (f"N = {N:,}, K = {K}", 8 * N * K + 16 * N, 4 * N * K),
    "a_step_sequential": (f"N = {N:,}, K = {K}; one block", 8 * N * K + 24 * N, 4 * N * K),
    "spread_from_products": (f"N = {N:,}, K = {K}", 24 * N, 4 * N),
    "spread": (f"N = {N:,}, d = {m}, K = {K}", N * m * 4 + 16 * N + K * m * 8, 3 * N * m),
    "exchange_sweep": (f"N = {N:,}, K = {K}, m = {m}; one block", N * m * 4 + 24 * N, 2 * N * K * m),
    "join": (f"N = {N:,}, K = {K}, m = {m}; one block", N * m * 4 + 24 * N, 2 * N * K * m),
    "exchange_sweep_gram": (f"N = {n:,}, K = {K}, nobody moves; one block", 8 * n * K + 40 * n, 6 * n * K),
    "second_moment": (f"N = {N:,}, T = 1, I = {I}, O = {O}", N * (I + O) * 4 + 16 * I * O, 4 * N * I * O),
    "add_moments": (f"N = {n:,}, M = {d:,}", n * d * 4 + 32 * d, 3 * n * d),
    "sum_parts": (f"51 parts, M = {d:,}", 8 * 51 * d, 51 * d),
    "fold": (f"d = {I * O:,}", 9 * 8 * I * O, 10 * I * O),
}


def resources(ptx: str, target: str, ptxas: str) -> tuple[int, int, int]:
    """Return registers a thread, shared bytes a block and spilled bytes, by the account of ptxas."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [ptxas, "-v", f"-arch={target}", "-o", str(Path(folder) / "kernel.cubin"), str(source)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr.replace(",", "").split()

    def number(*after: str) -> int:
        """Return the number that stands before these words, 0 if they are not said."""
        places = range(len(said) - len(after))
        return max((int(said[p]) for p in places if said[p + 1 : p + 1 + len(after)] == list(after)), default=0)

    return number("registers"), number("bytes", "smem"), number("bytes", "spill", "stores")


def blocks_at_once(registers: int, shared: int, threads: int, target: str) -> int:
    """Return how many blocks a multiprocessor holds; registers are given to warps by 256, shared memory plus 1 KiB."""
    of_warp = -(-registers * 32 // 256) * 256
    by_registers = REGISTERS // of_warp * 32 // threads
    return min(MOST_BLOCKS, MOST_THREADS // threads, by_registers, SHARED[target] // (shared + 1024))


def find_ptxas() -> str | None:
    """Return the path of ptxas: on the PATH, or in NVIDIA's wheel."""
    beside = [Path(path) / "nvidia" / "cuda_nvcc" / "bin" / "ptxas" for path in sys.path]
    return shutil.which("ptxas") or next((str(path) for path in beside if path.exists()), None)


def rows(found: list[Launch], ptxas: str | None) -> Iterator[str]:
    """Yield the lines of the table."""
    yield (
        "| kernel | sizes | MB | 10⁹ op | op/B | "
        + " | ".join(f"{target}: registers, shared B, occupancy, {GPUS[target][0]} ms" for target in CAPABILITIES)
        + " |"
    )
    yield "| --- | --- | --- | --- | --- |" + " --- |" * len(CAPABILITIES)
    for launch in sorted(found, key=lambda launch: list(COSTS).index(launch.name)):
        sizes, moved, operations = COSTS[launch.name]
        cells = [
            f"`{launch.name}`",
            sizes,
            f"{moved / 1e6:.3g}",
            f"{operations / 1e9:.3g}",
            f"{operations / moved:.2g}",
        ]
        for target, capability in CAPABILITIES.items():
            ptx = jit.ptx(launch.kernel, launch.arguments, capability)
            cells.append(_cell(launch, ptx, target, ptxas))
        yield "| " + " | ".join(cells) + " |"


def _cell(launch: Launch, ptx: str, target: str, ptxas: str | None) -> str:
    """Return what is known of a kernel on one GPU."""
    sizes, moved, operations = COSTS[launch.name]
    _, peak, bandwidth = GPUS[target]
    least = "latency" if "one block" in sizes else f"{1e3 * max(operations / peak / 1e12, moved / bandwidth / 1e9):.2g}"
    if ptxas is None:
        return f"?, ?, ?, {least}"
    registers, shared, spilled = resources(ptx, target, ptxas)
    share = blocks_at_once(registers, shared, launch.threads, target) * launch.threads / MOST_THREADS
    return f"{registers}, {shared:,}, {share:.0%}, {least}" + (f", spills {spilled} B" if spilled else "")


PREFACE = """# What CUDA kernels are expected to cost

Expectation, not measurement: none of these kernels has been timed on a GPU. Written by
`python -m gcref.validation.cuda_kernels gcref/kernels/ROOFLINE.md`.

Bytes are what has to come from memory once, and operations those in float64, for the sizes named, traces in float32.
Registers and shared memory are ptxas's; occupancy follows from them at {threads} threads a block. The last number is
the roofline's bound in milliseconds, max(operations / peak, bytes / bandwidth), by figures that NVIDIA published:
{gpus}.
A kernel of fewer operations a byte than the ridge ({ridge}) is bound by memory.

Products of tiles read two numbers from shared memory for each multiplication, so a quarter of the peak is the most to
expect of `gram`, `sq_norms` and `add_bilinear`. Sequential kernels run in one block: their time is the number of
examples times the latency of a step (dot products that 8 threads or more share, then a reduction with 8 barriers). At
a guess of 1 to 2 µs a step that is about 0.1 s a sweep of 60,000 examples.

"""


def report(dtype: str = "float32") -> str:
    """Return the text of ROOFLINE.md."""
    preface = PREFACE.format(
        threads=cuda_kernels.THREADS,
        gpus="; ".join(f"{name} (SXM, 80 GB) {peak} TFLOP/s, {memory} GB/s" for name, peak, memory in GPUS.values()),
        ridge=", ".join(f"{name} {1e3 * peak / memory:.1f}" for name, peak, memory in GPUS.values()),
    )
    return preface + "\n".join(rows(launches(dtype), find_ptxas())) + "\n"


if __name__ == "__main__":
    text = report()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text)
