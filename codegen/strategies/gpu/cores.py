"""What a warp does with the tiles in shared memory: products by tensor cores, or by every thread for itself.

Tensor cores: 32 bytes of k at a time, fragments by ldmatrix, mma.sync.  The 16 x 8 sums of one instruction are four registers
of each thread.  Plain arithmetic: the threads of a warp are 4 x 8, each has sums of rows and columns 4 and 8 apart (or of
four neighbours, where the tile lies in rows of its own axis), and reads operands by 16 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....ir.expr import Expr, Load, Type, Var, as_expr, cast, const, fma, load
from ....ir.kernel import Alloc, Block, Buffer, Do, For, Store, axis, nest, store
from ....ir.types import DTYPES
from .operand import ACCESS
from .staging import StagedTile
from .tiles import GpuTile

MANY_SUMS = 64  # of a thread in plain arithmetic
LANE_ROWS, LANE_COLUMNS = 4, 8  # threads of a warp in plain arithmetic
INSTRUCTIONS = {
    ("f16", "f16"): "mma_m16n8k16_f16", ("bf16", "bf16"): "mma_m16n8k16_bf16", ("f32", "f32"): "mma_m16n8k8_tf32",
    ("i8", "i8"): "mma_m16n8k32_s8", ("u8", "i8"): "mma_m16n8k32_u8s8",
}
"""By the element types of the operands; f32 is rounded to tf32."""
K_BYTES = 32  # of k in one matrix instruction


def _unroll(names: Sequence[Var], body: Block) -> Block:
    return nest(tuple(names), body, "unroll")


@dataclass(frozen=True)
class MatrixCore:
    """left, right: the tiles.  Fragments are arrays of registers in the order of the instruction's operands."""

    tile: GpuTile
    left: StagedTile
    right: StagedTile
    acc_dtype: str

    @property
    def fragments(self) -> tuple[int, int]:
        rows, columns = self.tile.warp_tile
        return rows // 16, columns // 8

    @property
    def acc(self) -> Buffer:
        return Buffer("acc", self.acc_dtype, (*self.fragments, 4), "register")

    def start(self) -> Block:
        m, n, e = axis("mf", self.fragments[0]), axis("nf", self.fragments[1]), axis("e", 4)
        zero = const(0, Type(self.acc_dtype))
        return (Alloc(self.acc), *_unroll((m, n, e), (store(self.acc, (m, n, e), zero),)))

    @property
    def in_flight(self) -> int:
        """Stages that are still read when `multiply` has returned."""
        return 0

    def before_barrier(self) -> Block:
        return ()

    def after_loop(self) -> Block:
        return ()

    def multiply(self, stage: Expr, row: Expr, column: Expr, lane: Expr) -> Block:
        """acc += left[row.., k] * right[column.., k] over the k of one stage; row, column: where the warp's tile begins."""
        mf, nf = self.fragments
        dtype = self.left.buffer.dtype, self.right.buffer.dtype
        size = DTYPES[dtype[0]].size
        a = Buffer("a", dtype[0], (mf, 16 // size), "register")
        b = Buffer("b", dtype[1], (nf // 2, 2, 8 // size), "register")
        step = K_BYTES // size
        kf, m, n, h = axis("kf", self.tile.depth // step), axis("mf", mf), axis("np", nf // 2), axis("h", 2)
        k = kf * step
        load_a = load_matrices(self.left, a, (m,), stage, row + m * 16, k, lane, True)
        load_b = load_matrices(self.right, b, (n,), stage, column + n * 16, k, lane, False)
        args = (Load.of(self.acc, (m, n * 2 + h), Type(self.acc_dtype)), Load.of(a, (m,), Type(dtype[0])),
                Load.of(b, (n, h), Type(dtype[1])))
        body = (
            Alloc(a), Alloc(b), *_unroll((m,), load_a), *_unroll((n,), load_b),
            *_unroll((m, n, h), (Do(INSTRUCTIONS[dtype], args),)),
        )
        return (For(kf, body, "unroll", ("reduce",)),)

    def drain(self, sums: Buffer, row: Expr, column: Expr, lane: Expr) -> Block:
        """The sums of a warp to a tile in shared memory, two neighbours at a time."""
        m, n, h = axis("mf", self.fragments[0]), axis("nf", self.fragments[1]), axis("h", 2)
        at = row + m * 16 + lane / 4 + h * 8, column + n * 8 + lane % 4 * 2
        pair = Type(self.acc_dtype, 2)
        return _unroll((m, n, h), (Store(sums, at, Load.of(self.acc, (m, n, h * 2), pair)),))


def load_matrices(
    tile: StagedTile, to: Buffer, fragment: tuple[Expr, ...], stage: Expr, own: Expr, k: Expr, lane: Expr, is_left: bool
) -> Block:
    """Four 8 x 8 matrices: 16 of the operand's own axis, 32 bytes of k.  The left operand's registers run over its own axis
    first, the right one's over k.  Every thread gives the address of one row of one matrix."""
    per = ACCESS // DTYPES[tile.buffer.dtype].size
    number, row = lane / 8, lane % 8
    own_part, k_part = (number % 2, number / 2) if is_left else (number / 2, number % 2)
    if tile.k_major:
        at = tile.index(stage, own + own_part * 8 + row, k + k_part * per)
    else:
        at = tile.index(stage, own + own_part * 8, k + k_part * 8 + row)
    type = Type(tile.buffer.dtype)
    fn = "ldmatrix_x4" if tile.k_major else "ldmatrix_x4_trans"
    return (Do(fn, (Load.of(to, fragment, type), Load.of(tile.buffer, at, type))),)


@dataclass(frozen=True)
class PlainCore:
    """Every thread has `cells` sums of rows and columns."""

    tile: GpuTile
    left: StagedTile
    right: StagedTile
    acc_dtype: str
    name: str = "acc"

    @property
    def cells(self) -> tuple[int, int]:
        rows, columns = self.tile.warp_tile
        return rows // LANE_ROWS, columns // LANE_COLUMNS

    @property
    def acc(self) -> Buffer:
        return Buffer(self.name, self.acc_dtype, self.cells, "register")

    @property
    def group(self) -> int:
        """k's that are read together."""
        size = max(DTYPES[t.buffer.dtype].size for t in (self.left, self.right))
        return min(max(ACCESS // size, 2), 4)

    def start(self) -> Block:
        i, j = axis("i", self.cells[0]), axis("j", self.cells[1])
        return (Alloc(self.acc), *_unroll((i, j), (store(self.acc, (i, j), const(0, Type(self.acc_dtype))),)))

    @property
    def in_flight(self) -> int:
        """Stages that are still read when `multiply` has returned."""
        return 0

    def before_barrier(self) -> Block:
        return ()

    def after_loop(self) -> Block:
        return ()

    def multiply(self, stage: Expr, row: Expr, column: Expr, lane: Expr, right_stage: Expr | None = None) -> Block:
        """acc += left[row.., k] * right[column.., k] over the k of one stage, or of one of the left and one of the right."""
        right = stage if right_stage is None else right_stage
        (ti, tj), group = self.cells, self.group
        g = axis("g", self.tile.depth // group)
        places = ((self.left, "a", ti, stage, row, lane / LANE_COLUMNS, LANE_ROWS),
                  (self.right, "b", tj, right, column, lane % LANE_COLUMNS, LANE_COLUMNS))
        body: Block = ()
        values = []
        k, i, j = axis("k", group), axis("i", ti), axis("j", tj)
        for (tile, name, count, at, start, own, lanes), v in zip(places, (i, j), strict=True):
            read = Buffer(name, tile.buffer.dtype, (count, group) if tile.k_major else (group, count), "register")
            body += (Alloc(read), *self._read(tile, read, at, start, own, lanes, g * group))
            values.append(cast(load(read, v, k) if tile.k_major else load(read, k, v), self.acc_dtype))
        cell = load(self.acc, i, j)
        total = fma(values[0], values[1], cell) if DTYPES[self.acc_dtype].kind == "f" else cell + values[0] * values[1]
        body += _unroll((k, i, j), (Store(self.acc, (i, j), total),))
        # Straight-line code of more k's would need more registers than two blocks leave a thread with so many sums.
        if self.tile.depth // group <= 4 and ti * tj < MANY_SUMS:
            return (For(g, body, "unroll", ("reduce",)),)
        return (For(g, body, "serial", ("reduce", "rolled")),)

    def _read(self, tile: StagedTile, to: Buffer, stage: Expr, start: Expr, own: Expr, lanes: int, k: Expr) -> Block:
        """This thread's elements for a few k's, whole pieces at a time."""
        count, group = (to.static_shape[0], to.static_shape[1]) if tile.k_major else to.static_shape[::-1]
        if tile.k_major:
            i = axis("i", count)
            at = tile.index(stage, start + thread_place(tile, i, own, lanes), k)
            return _unroll((i,), (Store(to, (i, as_expr(0)), Load.of(tile.buffer, at, Type(to.dtype, group))),))
        piece = _piece(tile)
        q, i = axis("k", group), axis("i", count // piece)
        at = tile.index(stage, start + thread_place(tile, i * piece, own, lanes), k + q)
        value = Load.of(tile.buffer, at, Type(to.dtype, piece))
        return _unroll((q, i), (Store(to, (q, i * piece), value),))

    def drain(self, sums: Buffer, row: Expr, column: Expr, lane: Expr) -> Block:
        """The sums of a thread to a tile in shared memory, neighbours together."""
        i = axis("i", self.cells[0])
        piece = 1 if self.right.k_major else min(_piece(self.right), ACCESS // DTYPES[self.acc_dtype].size)
        j = axis("j", self.cells[1] // piece)
        at = (row + thread_place(self.left, i, lane / LANE_COLUMNS, LANE_ROWS),
              column + thread_place(self.right, j * piece, lane % LANE_COLUMNS, LANE_COLUMNS))
        value = Load.of(self.acc, (i, j * piece), Type(self.acc_dtype, piece))
        return _unroll((i, j), (Store(sums, at, value),))


def _piece(tile: StagedTile) -> int:
    """Neighbours along its own axis that a thread has together: four, or two of eight bytes."""
    return min(4, ACCESS // DTYPES[tile.buffer.dtype].size)


def thread_place(tile: StagedTile, i: Expr, own: Expr, lanes: int) -> Expr:
    """The row or column that is number i of a thread.  own: the thread's number among `lanes`."""
    if tile.k_major:
        return i * lanes + own
    piece = _piece(tile)
    return i / piece * (lanes * piece) + own * piece + i % piece

