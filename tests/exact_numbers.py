"""Definitions in rational numbers: what the arithmetic of floats would give without rounding."""

from fractions import Fraction
from itertools import chain

import numpy as np

EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


def rational(array):
    """A nested list of Fractions of the numbers of an array, which they are equal to."""
    return [rational(row) for row in array] if np.ndim(array) else Fraction(float(array))


def gradients(traces):
    """g_i = Σ_t A_it D_itᵀ, block after block, as lists of d Fractions."""
    parts = [[_gradient(a, d) for a, d in zip(rational(t.A), rational(t.D), strict=True)] for t in traces]
    return [list(chain(*blocks)) for blocks in zip(*parts, strict=True)]


def _gradient(a, d):
    """One example's gradient of one block, in C order."""
    pairs = list(zip(a, d, strict=True))
    return [sum(at[i] * dt[o] for at, dt in pairs) for i in range(len(a[0])) for o in range(len(d[0]))]


def mean(rows):
    """The mean of vectors."""
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def spread(rows):
    """The variance (divisor n) of each coordinate."""
    columns = zip(*rows, strict=True)
    return [sum((g - m) ** 2 for g in column) / len(rows) for column, m in zip(columns, mean(rows), strict=True)]


def second_moment(rows):
    """The mean square of each coordinate."""
    return [sum(g * g for g in column) / len(rows) for column in zip(*rows, strict=True)]


def share(size, n_examples, n_draws, replacement):
    """(N_k/N)² c_k / n_k, c_k the correction of draws without replacement."""
    if size == 1:
        return Fraction(0)
    finite = Fraction(1) if replacement else Fraction(size - n_draws, size - 1)
    return Fraction(size, n_examples) ** 2 * finite / n_draws


def variance(rows, strata):
    """V_j of an estimate from strata, (d,), and the same sum with E[g_j²] in place of the variance."""
    V, second = [Fraction(0)] * len(rows[0]), [Fraction(0)] * len(rows[0])
    for stratum in strata:
        own = [rows[i] for i in stratum.indices]
        w = share(len(own), len(rows), stratum.n_draws, stratum.replacement)
        V = [v + w * s for v, s in zip(V, spread(own), strict=True)]
        second = [q + w * s for q, s in zip(second, second_moment(own), strict=True)]
    return V, second


def normalized(V, full):
    """The average of V_j / (V_j + ḡ_j²), 0/0 = 0."""
    return sum(v / (v + f * f) if v + f * f else Fraction(0) for v, f in zip(V, full, strict=True)) / len(V)


def objective(rows, labels, centers=None):
    """Φ = Σ_k N_k Σ_{i∈k} ‖C_k − g_i‖², about the cluster means unless `centers` are given."""
    total = Fraction(0)
    for k in sorted(set(labels)):
        own = [g for g, label in zip(rows, labels, strict=True) if label == k]
        center = mean(own) if centers is None else centers[k]
        total += len(own) * sum((g - c) ** 2 for row in own for g, c in zip(row, center, strict=True))
    return total


def sq_norms(rows):
    """‖g_i‖² of every row."""
    return [sum(g * g for g in row) for row in rows]
