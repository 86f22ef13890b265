"""The fused random-features trajectory (section 4.2 of the paper).

Only the last layer is trained, so example i's gradient is one number times its features,

    g_i = r_i φ_i          φ_i ∈ R^I (the trailing 1 for the bias included),   r_i = σ(φ_i·w) − y_i,

and one pass over the features gives the moments from which every estimator's exact variance follows. A
two-class softmax with weights w₀, w₁ is the same model in w = w₁ − w₀: its gradient is (−r_i φ_i, r_i φ_i),
so w moves with twice the learning rate and the sum w₀ + w₁ only decays.
"""

import numpy as np
from numpy.typing import NDArray

from gcref.kernels.jit import fast_jit, jit

Array = NDArray[np.float64]


@jit
def _residual(z: float, y: int) -> float:
    """σ(z) − y as ±σ(∓z), in which nothing overflows and nothing cancels, however sure the model is."""
    away = z if y == 0 else -z
    e = np.exp(-abs(away))
    miss = (1.0 if away >= 0.0 else e) / (1.0 + e)
    return miss if y == 0 else -miss


@fast_jit
def _dot(a: Array, b: Array) -> float:
    """a·b."""
    total = 0.0
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@fast_jit
def sgd_steps(
    features: Array,
    targets: NDArray[np.int8],
    w: Array,
    batches: NDArray[np.int32],
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Run one SGD step a row of `batches`, in place: w ← (1 − ηλ) w − (η/B) Σ_b (σ(φ_b·w) − y_b) φ_b.

    features (N, I), targets (N,) in {0, 1}, w (I,), batches (S, B) indices of examples, η the learning rate,
    λ the weight decay. Cost: 4 B I operations a step.
    """
    n_steps, batch_size = batches.shape
    n_inputs = w.shape[0]
    residuals = np.empty(batch_size)
    shrink = 1.0 - learning_rate * weight_decay
    for step in range(n_steps):
        # Every residual is taken at the old w, before any of the batch moves it.
        for b in range(batch_size):
            i = batches[step, b]
            residuals[b] = _residual(_dot(features[i], w), targets[i])
        for j in range(n_inputs):
            w[j] *= shrink
        for b in range(batch_size):
            phi = features[batches[step, b]]
            c = learning_rate * residuals[b] / batch_size
            for j in range(n_inputs):
                w[j] -= c * phi[j]


@jit
def residuals_and_losses(features: Array, targets: NDArray[np.int8], w: Array, residuals: Array, losses: Array) -> None:
    """Write r_i = σ(z_i) − y_i and ℓ_i = log(1 + e^{∓z_i}), z_i = φ_i·w, − where y_i = 1.

    features (N, I), targets (N,) in {0, 1}, w (I,); residuals and losses (N,) are outputs. Cost: 2 N I
    operations.
    """
    for i in range(features.shape[0]):
        z = _dot(features[i], w)
        residuals[i] = _residual(z, targets[i])
        away = z if targets[i] == 0 else -z
        losses[i] = max(away, 0.0) + np.log1p(np.exp(-abs(away)))


@fast_jit
def moments(
    features: Array,
    residuals: Array,
    labels: NDArray[np.int64],
    sizes: NDArray[np.int64],
    sums: Array,
    squares: Array,
    group_sums: Array,
    group_squares: Array,
) -> None:
    """Add, in one pass over the features, what the variances need of g_i = r_i φ_i, coordinate by coordinate.

        sums[m]          = Σ_i r_mi φ_i                squares[m]       = Σ_i r_mi² φ_i∘φ_i
        group_sums[l, k] = Σ_{i: a_li = k} r_0i φ_i    group_squares[l] = Σ_i N_{l, a_li} r_0i² φ_i∘φ_i

    features (N, I); residuals (M, N): row 0 the model's own, further rows of other gradients of the same form
    (SVRG's r − r̃); labels (L, N) and sizes (L, K): one row a clustering. Outputs, zero on entry: sums,
    squares (M, I), group_sums (L, K, I), group_squares (L, I). Cost: 5 N I (M + L) operations; a row of
    features is read once.
    """
    n_examples, n_inputs = features.shape
    for i in range(n_examples):
        phi = features[i]
        for m in range(residuals.shape[0]):
            r = residuals[m, i]
            total, square = sums[m], squares[m]
            for j in range(n_inputs):
                g = r * phi[j]
                total[j] += g
                square[j] += g * g
        r = residuals[0, i]
        for ell in range(labels.shape[0]):
            k = labels[ell, i]
            weight = float(sizes[ell, k])
            total, square = group_sums[ell, k], group_squares[ell]
            for j in range(n_inputs):
                g = r * phi[j]
                total[j] += g
                square[j] += weight * g * g
