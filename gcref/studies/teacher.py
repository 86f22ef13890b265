"""The data of the random-features study (section 4.2 of the paper): inputs, labels, student features.

A row's numbers depend on the seed, the dimensions and the row's own index, never on how many rows are asked
for: the data set of N examples is the first N rows of any larger one, and is computed once for all of them.
Products are formed in blocks of a fixed shape for the same reason: BLAS may round a row differently in a
block of another shape.
"""

import zlib
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 1000
BLOCK_HIDDEN = 1000
N_DUPLICATED = 5  # "there are 5 data points that are repeated equally" (caption of Fig. 8)


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Return the random stream of one purpose, independent of every other purpose, key and seed."""
    return np.random.default_rng(stream_seed(seed, purpose, *keys))


def stream_seed(seed: int, purpose: str, *keys: int) -> np.random.SeedSequence:
    """Return the seed of `stream`."""
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *keys))


def floor_of(value: float, n: int | Fraction) -> int:
    """Return ⌊value·n⌋ with `value` read as the decimal it is written as (0.29·100 is 29, not 28.999…)."""
    return floor(Fraction(repr(value)) * n)


def n_train(overparametrization: float, n_hidden: int) -> int:
    """Return N = ⌊h_s / ratio⌋."""
    return floor(n_hidden / Fraction(repr(overparametrization)))


def draw_inputs(seed: int, input_dim: int, n_examples: int) -> NDArray[np.float32]:
    """Draw x ~ N(0, I), (rows, input_dim), with rows = `n_examples` rounded up to whole blocks."""
    rows = -(-n_examples // BLOCK_ROWS) * BLOCK_ROWS
    x = np.empty((rows, input_dim), np.float32)
    stream(seed, "inputs", input_dim).standard_normal(out=x, dtype=np.float32)
    return x


def teacher_outputs(
    seed: int, x: NDArray[np.float32], teacher_hidden: int, precision: str = "float32"
) -> NDArray[np.float64]:
    """Compute f(x) = Σ_h v_h relu(x·θ_h / ‖θ_h‖) with θ_h ~ N(0, I) and v_h ~ N(0, 1).

    Parameters
    ----------
    seed : int
    x : ndarray, shape (rows, I), float32
        From `draw_inputs`: rows is a multiple of the block size.
    teacher_hidden : int
    precision : {"float32", "float64"}
        Of the product with the features; the draws are the same for both. The sum over h is always float64.

    Returns
    -------
    ndarray, shape (rows,), float64

    Notes
    -----
    The features pass by in blocks, so memory is that of x and one block. Cost: 2·rows·I·teacher_hidden
    operations.
    """
    n_rows, input_dim = x.shape
    draw = stream(seed, "teacher features", input_dim, teacher_hidden)
    v = stream(seed, "teacher output", input_dim, teacher_hidden).standard_normal(teacher_hidden)
    f = np.zeros(n_rows)
    for start in range(0, teacher_hidden, BLOCK_HIDDEN):
        theta = draw.standard_normal((min(BLOCK_HIDDEN, teacher_hidden - start), input_dim), dtype=np.float32)
        # relu(x·θ/‖θ‖) = relu(x·θ)/‖θ‖, so the norm is divided out of v instead of out of every feature.
        scale = v[start : start + len(theta)] / np.sqrt(np.einsum("hi,hi->h", theta, theta, dtype=np.float64))
        theta = theta.astype(precision, copy=False)
        for row in range(0, n_rows, BLOCK_ROWS):
            z = x[row : row + BLOCK_ROWS].astype(precision, copy=False) @ theta.T
            f[row : row + BLOCK_ROWS] += np.maximum(z, 0, out=z) @ scale
    return f


def student_features(seed: int, x: NDArray[np.float32], n_hidden: int, init: str = "unit") -> NDArray[np.float64]:
    """Compute φ(x) = [relu(x·θ_h) for h = 1…n_hidden, 1] in float64, (rows, n_hidden + 1).

    `init` "unit": θ_h ~ N(0, I) scaled to norm 1; "uniform": uniform in ±1/√input_dim, of norm about 1/√3.
    """
    n_rows, input_dim = x.shape
    rng = stream(seed, "student features", input_dim, n_hidden)
    if init == "unit":
        theta = rng.standard_normal((n_hidden, input_dim))
        theta /= np.sqrt(np.einsum("hi,hi->h", theta, theta))[:, None]
    else:
        theta = rng.uniform(-1.0, 1.0, (n_hidden, input_dim)) / np.sqrt(input_dim)
    features = np.ones((n_rows, n_hidden + 1))
    for row in range(0, n_rows, BLOCK_ROWS):
        z = x[row : row + BLOCK_ROWS].astype(np.float64) @ theta.T
        np.maximum(z, 0, out=features[row : row + BLOCK_ROWS, :-1])
    return features


def labels_of(outputs: NDArray[np.float64]) -> NDArray[np.int8]:
    """Label each of N training points [f(x) > mean of f over the N], so that both classes appear."""
    return (outputs > outputs.mean()).astype(np.int8)


def duplicated_rows(n_examples: int, fraction: float) -> NDArray[np.int64]:
    """Return the row of each of N examples when the last ⌊f N⌋ are copies of examples 0 to 4 in turn."""
    rows = np.arange(n_examples)
    n_copies = floor_of(fraction, n_examples)
    rows[n_examples - n_copies :] = np.arange(n_copies) % N_DUPLICATED
    return rows


def batch_order(seed: int, n_examples: int, batch_size: int, n_steps: int) -> NDArray[np.int32]:
    """Draw the examples of each step, (n_steps, batch_size): shuffled epochs, a short last batch dropped."""
    rng = stream(seed, "batch order", n_examples)
    per_epoch = n_examples // batch_size
    n_epochs = -(-n_steps // per_epoch)
    used = per_epoch * batch_size
    order = np.concatenate([rng.permutation(n_examples)[:used] for _ in range(n_epochs)])
    return order.reshape(-1, batch_size)[:n_steps].astype(np.int32)
