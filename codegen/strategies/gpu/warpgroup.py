"""Products by the matrix unit of sm_90a: four warps together multiply 64 rows straight out of shared memory.

The instruction takes the addresses of both tiles (`wgmma_m64nNk16`), whose rows of k are 128 bytes in the permutation that
`StagedTile` writes anyway, and runs on while the threads go on; `wgmma_wait` waits for it.  What asynchronous copies have
written must first be made visible to the unit, by every thread, before the barrier (`fence_async_proxy`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.expr import Expr, Load, Type, as_expr, const
from ....ir.kernel import Alloc, Block, Buffer, Do, For, Store, axis, nest, store
from ....ir.types import DTYPES
from .staging import StagedTile
from .tiles import GpuTile

GROUP_ROWS = 64
DEPTH_BYTES = 128  # of k in one stage: the row of the permutation
STEP_BYTES = 32  # of k in one instruction


@dataclass(frozen=True)
class WarpgroupCore:
    """Every warp has the sums of 16 rows and all columns of the tile."""

    tile: GpuTile
    left: StagedTile
    right: StagedTile
    acc_dtype: str

    @property
    def acc(self) -> Buffer:
        return Buffer("acc", self.acc_dtype, (self.tile.columns // 8, 4), "register")

    def start(self) -> Block:
        n, e = axis("nf", self.tile.columns // 8), axis("e", 4)
        return (Alloc(self.acc), *nest((n, e), (store(self.acc, (n, e), const(0, Type(self.acc_dtype))),), "unroll"))

    @property
    def in_flight(self) -> int:
        """Stages that are still read when `multiply` has returned."""
        return 1

    def before_barrier(self) -> Block:
        return (Do("fence_async_proxy"),)

    def after_loop(self) -> Block:
        return (Do("wgmma_wait", (as_expr(0),)),)

    def multiply(self, stage: Expr, row: Expr, column: Expr, lane: Expr) -> Block:
        """acc += left[row.., k] * right[all, k] over the k of one stage; that of the one before is then complete."""
        dtype = self.left.buffer.dtype
        step = STEP_BYTES // DTYPES[dtype].size
        kf = axis("kf", self.tile.depth // step)
        type = Type(dtype)
        a = Load.of(self.left.buffer, self.left.index(stage, row / GROUP_ROWS * GROUP_ROWS, kf * step), type)
        b = Load.of(self.right.buffer, self.right.index(stage, as_expr(0), kf * step), type)
        product = Do(f"wgmma_m64n{self.tile.columns}k16_{dtype}", (Load.of(self.acc, (), Type(self.acc_dtype)), a, b))
        return (Do("wgmma_fence"), For(kf, (product,), "unroll", ("reduce",)), Do("wgmma_commit"),
                Do("wgmma_wait", (as_expr(self.in_flight),)))

    def drain(self, sums: Buffer, row: Expr, column: Expr, lane: Expr) -> Block:
        """The sums of a warp to a tile in shared memory, two neighbours at a time."""
        n, h = axis("nf", self.tile.columns // 8), axis("h", 2)
        at = row + lane / 4 + h * 8, column + n * 8 + lane % 4 * 2
        return nest((n, h), (Store(sums, at, Load.of(self.acc, (n, h * 2), Type(self.acc_dtype, 2))),), "unroll")

    def drain_piece(self, sums: Buffer, warp: Expr, piece: Expr, lane: Expr) -> Block:
        """Columns number `piece` of the warp's 16 rows to sums[warp, row, column], which has as many columns."""
        columns = sums.static_shape[2]
        n, h = axis("nf", columns // 8), axis("h", 2)
        value = Load.of(self.acc, (piece * (columns // 8) + n, h * 2), Type(self.acc_dtype, 2))
        return nest((n, h), (Store(sums, (warp, lane / 4 + h * 8, n * 8 + lane % 4 * 2), value),), "unroll")
