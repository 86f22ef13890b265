"""The one piece of machine code written by hand: a small matrix product that stays in the vector registers.

Numba cannot be told to keep a block of sums in registers, which is what makes a matrix product fast; LLVM can. A tile
of M rows and BYTES of columns is summed over a doubly indexed reduction, so that the rows of A may overlap, as the
patches of a convolution do: no patch matrix is ever needed.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.core.errors import TypingError
from numba.extending import intrinsic

_INDEX = types.intp
BYTES = 64  # of a row of the tile: one AVX-512 register, two of AVX2, four of NEON

# Eight rows fill half of AVX-512's registers, four those of older machines; an element's sum is the same either way.
HEIGHTS = (8, 4, 1) if "+avx512f" in get_host_cpu_features() else (4, 4, 1)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of an element of a contiguous array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Return a vector with the scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, zeros)


class _Tile:
    """The body of one tile product, as LLVM instructions."""

    def __init__(self, n_rows: int, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.n_rows, self.builder = n_rows, builder
        a, a0, self.am, self.ar1, self.ar2, b, b0, self.br1, self.br2, self.n1, self.n2, c, c0, cm, self.fresh = args
        a_type, b_type, c_type = signature.args[0], signature.args[5], signature.args[11]
        number = context.get_value_type(a_type.dtype)
        self.itemsize = context.get_abi_sizeof(number)
        self.vector = ir.VectorType(number, BYTES // self.itemsize)
        self.a = _pointer(context, builder, a_type, a, a0)
        self.b = _pointer(context, builder, b_type, b, b0)
        self.rows = [
            builder.bitcast(_pointer(context, builder, c_type, c, self._plus(c0, cm, m)), self.vector.as_pointer())
            for m in range(n_rows)
        ]
        suffix = f"v{self.vector.count}f{8 * self.itemsize}"
        signature_fma = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, signature_fma, f"llvm.fmuladd.{suffix}")

    def _plus(self, start: Any, step: Any, times: int) -> Any:
        return self.builder.add(start, self.builder.mul(step, ir.Constant(step.type, times)))

    def _load(self, pointer: Any) -> Any:
        loaded = self.builder.load(pointer)
        loaded.align = self.itemsize
        return loaded

    def emit(self) -> None:
        """Write the two loops, with the sums in variables that LLVM turns into registers."""
        builder = self.builder
        sums = [cgutils.alloca_once(builder, self.vector) for _ in range(self.n_rows)]
        zero = ir.Constant(self.vector, [0.0] * self.vector.count)
        with builder.if_else(builder.icmp_signed("!=", self.fresh, ir.Constant(self.fresh.type, 0))) as (new, old):
            with new:
                for slot in sums:
                    builder.store(zero, slot)
            with old:
                for slot, row in zip(sums, self.rows, strict=True):
                    builder.store(self._load(row), slot)
        with cgutils.for_range(builder, self.n1) as outer:
            a = builder.gep(self.a, [builder.mul(outer.index, self.ar1)])
            b = builder.gep(self.b, [builder.mul(outer.index, self.br1)])
            with cgutils.for_range(builder, self.n2) as inner:
                self._step(a, b, inner.index, sums)
        for slot, row in zip(sums, self.rows, strict=True):
            builder.store(builder.load(slot), row).align = self.itemsize

    def _step(self, a: Any, b: Any, index: Any, sums: list[Any]) -> None:
        """Add one outer product: M numbers of A, each times one row of B."""
        builder = self.builder
        place = builder.gep(b, [builder.mul(index, self.br2)])
        row_of_b = self._load(builder.bitcast(place, self.vector.as_pointer()))
        column = builder.mul(index, self.ar2)
        for m, slot in enumerate(sums):
            number = builder.load(builder.gep(a, [self._plus(column, self.am, m)]))
            spread = _splat(builder, number, self.vector)
            builder.store(builder.call(self.fma, [spread, row_of_b, builder.load(slot)]), slot)


def _tile(n_rows: int) -> Any:
    """Make the tile product of `n_rows` rows."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typingctx, a, a0, am, ar1, ar2, b, b0, br1, br2, n1, n2, c, c0, cm, fresh
    ):
        if not all(isinstance(z, types.Array) and z.dtype == a.dtype and z.layout == "C" for z in (a, b, c)):
            raise TypingError(f"a tile takes contiguous arrays of one dtype, not {a}, {b} and {c}")
        signature = types.void(a, *[_INDEX] * 4, b, *[_INDEX] * 5, c, *[_INDEX] * 3)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _Tile(n_rows, context, builder, signature, args).emit()
            return context.get_dummy_value()

        return signature, codegen

    return tile


# c[c0 + m cm + o] = Σ_{p<n1, q<n2} a[a0 + m am + p ar1 + q ar2] · b[b0 + p br1 + q br2 + o] for M rows m and one
# vector of columns o, added to what c holds unless `fresh`. All arrays are flat, contiguous and of one dtype, and rows
# of b and c are read and written BYTES wide. Cost 2 M n1 n2 BYTES/itemsize.
tile_high = _tile(HEIGHTS[0])
tile_middle = _tile(HEIGHTS[1])
tile_one = _tile(HEIGHTS[2])
