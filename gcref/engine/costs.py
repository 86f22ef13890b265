"""Operation counts of gradient clustering (Table 1), and the choice between Eq. 8 and Eq. 9."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

FORMS = ("Eq. 8", "Eq. 9")


# Of a convolution's g ⊙ g, Eq. 9's operations take longer, by `gcref bench --suite table1`: it forms the patches, which
# Eq. 8 does not, and multiplies in float64, since its terms may cancel.
PATCHES = 2.5


class Operations(NamedTuple):
    """Multiplications for one example by the two forms: Eq. 8 sums over the positions first, Eq. 9 last."""

    eq8: int
    eq9: int

    @property
    def choice(self) -> str:
        """The form of fewer operations; Eq. 9, which forms no gradient, on ties."""
        return FORMS[0] if self.eq8 < self.eq9 else FORMS[1]


class OnPatches(Operations):
    """The same where Eq. 9's operations take longer."""

    @property
    def choice(self) -> str:
        """The form that takes less time."""
        return FORMS[0] if self.eq8 < PATCHES * self.eq9 else FORMS[1]


def sq_norm(T: int, I: int, O: int) -> Operations:  # noqa: E741
    """Count g ⊙ g: ‖Σ_t A_t D_tᵀ‖² or Σ_ts (A_t·A_s)(D_t·D_s)."""
    return (OnPatches if T > 2 else Operations)(T * I * O, T * T * (I + O))


def inner_products(T: int, I: int, O: int, K: int) -> Operations:  # noqa: E741
    """Count C ⊙ g with K centres: c_kᵀ(Σ_t A_t D_tᵀ)d_k or Σ_t (c_k·A_t)(d_k·D_t)."""
    return Operations((T + K) * I * O, T * K * (I + O))


def sketch(T: int, I: int, O: int, m: int) -> Operations:  # noqa: E741
    """Count a sketch of m numbers: r_jᵀ(Σ_t A_t D_tᵀ)q_j or Σ_t (r_j·A_t)(q_j·D_t)."""
    return Operations((T + m) * I * O, T * m * (I + O))


@dataclass(frozen=True)
class Costs:
    """Multiplications for one example, block by block.

    Parameters
    ----------
    names : list of str
        Of the blocks.
    shapes : list of (T, I, O)
    n_clusters : int
        K.
    """

    names: Sequence[str]
    shapes: Sequence[tuple[int, int, int]]
    n_clusters: int

    def inner_products(self) -> list[Operations]:
        """C ⊙ g, K centres with one example."""
        return [inner_products(*shape, self.n_clusters) for shape in self.shapes]

    def sq_norms(self) -> list[Operations]:
        """Count g ⊙ g."""
        return [sq_norm(*shape) for shape in self.shapes]

    def backprop(self) -> list[int]:
        """T I O, of one of the three products of a forward and backward pass."""
        return [T * I * O for T, I, O in self.shapes]  # noqa: E741

    def centers(self) -> list[int]:
        """Count C ⊙ C, K (I + O)."""
        return [self.n_clusters * (I + O) for _, I, O in self.shapes]  # noqa: E741

    def u_step(self) -> list[int]:
        """T (I + O), the sums over positions; Table 1 leaves out the T."""
        return [T * (I + O) for T, I, O in self.shapes]  # noqa: E741

    def __str__(self) -> str:
        header = (
            "block",
            "T",
            "I",
            "O",
            "back-prop",
            "C⊙g Eq. 8",
            "Eq. 9",
            "taken",
            "g⊙g Eq. 8",
            "Eq. 9",
            "taken",
            "U step",
        )
        rows = [
            (name, *shape, 3 * product, cg.eq8, cg.eq9, cg.choice, gg.eq8, gg.eq9, gg.choice, u)
            for name, shape, product, cg, gg, u in zip(
                self.names, self.shapes, self.backprop(), self.inner_products(), self.sq_norms(), self.u_step(),
                strict=True,
            )
        ]  # fmt: skip
        cells = [header, *([f"{c:,}" if isinstance(c, int) else c for c in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        lines = [
            "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([f"multiplications for one example, K = {self.n_clusters}", *lines])
