"""Tiles of products brought by bulk tensor copies (sm_90a): one warp brings, the warpgroups multiply, and nobody waits for all.

    full[s], empty[s]: mbarriers of stage s                    (initialised by one thread, then a barrier of the block)
    warps of the warpgroups, for tile, ko:   wait full[s]; acc += left[s] * right[s]
                                             once the products of ko - 1 are done: arrive at empty[its stage]
                             for tile:       finish the sums of the warp, through shared memory of its own
    a thread of the last warp, for tile, ko: wait empty[s]; full[s] expects the bytes of both tiles; copy left[s], right[s]

Blocks of a cluster make neighbouring tiles of the same columns: each brings its part of the right operand's stages to all of
them at once, and a stage is free when the warps of all of them have given it back.

Blocks stay: each makes one tile after the other, and the copies of the next tile run while the sums of one are finished.

A copy takes a box out of a matrix that a tensor map describes: the host makes the map from the address at the launch
(`Buffer` of space "tensor_map").  What lies outside of the matrix arrives as zero, so neither rows nor k need conditions, and
rows of 128 bytes arrive in the permutation that the matrix unit reads (`StagedTile`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.expr import Expr, Load, Type, Var, as_expr, binary
from ....ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, axis
from ....ir.types import DTYPES
from .operand import ACCESS, Operand, operand_strides
from .staging import StagedTile
from .warpgroup import WarpgroupCore

PRODUCERS = 1  # warps that bring
MOST_BOX = 256  # elements along one axis of a box
MOST_STRIDE = 2**40  # bytes
TILE_ALIGN = 1024  # the permutation repeats after eight rows


@dataclass(frozen=True)
class TensorView:
    """A parameter as a matrix for bulk copies.  map: the kernel's parameter; source: the parameter whose memory it describes,
    from element number `offset` on."""

    map: Buffer
    source: str
    offset: int


def tensor_view(name: str, x: Operand, batches: int, rows: int, depth: int) -> TensorView | None:
    """The map of an operand with boxes of rows x depth, or None where its addresses are not multiples of the numbers of
    batch, row and k, or not those of whole pieces of 16 bytes."""
    found = operand_strides(x, batches)
    if found is None or rows > MOST_BOX or depth > MOST_BOX:
        return None
    offset, steps = found
    shape = (batches, x.own, x.depth)
    size = DTYPES[x.dtype].size
    strides = [s if n > 1 else 0 for s, n in zip(steps, shape, strict=True)]
    # The stride of an axis of one element is never used, but must be a valid one.
    row_bytes = -(-x.depth * size // ACCESS) * ACCESS
    strides = [strides[0] or strides[1] * x.own or row_bytes // size, strides[1] or row_bytes // size, strides[2] or 1]
    pieces = all(n * size % ACCESS == 0 for n in (offset, *strides[:2]))
    if strides[2] != 1 or not pieces or x.buffer.align % ACCESS or max(strides) * size >= MOST_STRIDE:
        return None
    first = 0 if batches > 1 else 1
    box = (1, rows, depth)[first:]
    made = Buffer(f"{name}_map", x.dtype, shape[first:], "tensor_map", tuple(strides[first:]), ACCESS, (("box", *box),))
    return TensorView(made, x.buffer.name, offset)


@dataclass(frozen=True)
class BulkPipeline:
    """The loop over k of one block.  left, right: the maps; consumers: warps that multiply; lane, warp: of the thread; rank:
    the number of the block among those of its cluster."""

    core: WarpgroupCore
    left: TensorView
    right: TensorView
    consumers: int
    warp: Var
    lane: Var
    cluster: int
    rank: Expr

    @property
    def stages(self) -> int:
        return self.core.left.buffer.static_shape[0]

    @property
    def full(self) -> Buffer:
        return Buffer("full", "u64", (self.stages,), "shared")

    @property
    def empty(self) -> Buffer:
        return Buffer("empty", "u64", (self.stages,), "shared")

    def allocate(self) -> Block:
        return (Alloc(self.core.left.buffer), Alloc(self.core.right.buffer), Alloc(self.full), Alloc(self.empty))

    def start(self) -> Block:
        """One thread makes the barriers; all threads of the cluster meet after it."""
        s = axis("s", self.stages)
        made: Block = (Do("mbarrier_init", (_place(self.full, s), as_expr(1))),
                       Do("mbarrier_init", (_place(self.empty, s), as_expr(self.consumers * self.cluster))))
        first = binary("and", binary("eq", self.warp, 0), binary("eq", self.lane, 0))
        return (If(first, (For(s, made, "unroll"), Do("fence_mbarrier_init"))), self.meet())

    def end(self) -> Block:
        """A block of a cluster stays until the others write no more to its memory."""
        return (self.meet(),) if self.cluster > 1 else ()

    def meet(self) -> Barrier | Do:
        return Do("cluster_sync") if self.cluster > 1 else Barrier("block")

    def run(self, produce: Block, consume: Block) -> Block:
        """The two sides: one thread of the last warp, and the warps that multiply."""
        one = If(binary("eq", self.lane, 0), produce)
        return (If(binary("lt", self.warp, self.consumers), consume, (one,)),)

    def consume(self, before: Expr, steps: int, at: tuple[Expr, Expr]) -> Block:
        """The steps of one tile.  before: steps of the block's tiles before it; at: row and column of the warp."""
        ko = axis("ko", steps)
        behind, step = self.core.in_flight, before + ko
        done = binary("and", self.tells, binary("le", behind, ko))
        last = tuple(self.give_back(before + (steps - n)) for n in range(min(behind, steps), 0, -1))
        return (
            For(ko, (
                Do("mbarrier_wait", (_place(self.full, step % self.stages), step / self.stages % 2)),
                *self.core.multiply(step % self.stages, *at, self.lane),
                If(done, (self.give_back(step + (self.stages - behind)),)),
            ), "serial", ("reduce",)),
            *self.core.after_loop(), *((If(self.tells, last),) if last else ()),
        )

    @property
    def tells(self) -> Expr:
        """Whether a thread gives stages back: one of the warp for each block of the cluster."""
        return binary("lt", self.lane, self.cluster) if self.cluster > 1 else binary("eq", self.lane, 0)

    def give_back(self, step: Expr) -> Do:
        """Tell the producers that the stage of a step is free; `stages` steps later it is the same one."""
        place = _place(self.empty, step % self.stages)
        return Do("mbarrier_arrive_at", (place, self.lane)) if self.cluster > 1 else Do("mbarrier_arrive", (place,))

    def produce(self, before: Expr, batch: Expr, start: tuple[Expr, Expr], k_start: Expr, steps: int) -> Block:
        """The copies of one tile.  start: first row of either operand.  The first round of stages finds them empty: the phase
        before the first one counts as complete."""
        ko = axis("ko", steps)
        step = before + ko
        stage = step % self.stages
        k = k_start + ko * self.core.tile.depth
        copies = (self.copy(self.left, self.core.left, (batch, start[0], k), stage),
                  *self.copy_right((batch, start[1], k), stage))
        tiles = self.core.left, self.core.right
        expected = sum(t.own * t.depth * DTYPES[t.buffer.dtype].size for t in tiles)
        return (For(ko, (
            Do("mbarrier_wait", (_place(self.empty, stage), (step / self.stages + 1) % 2)),
            Do("mbarrier_expect", (_place(self.full, stage), as_expr(expected))), *copies,
        )),)

    def copy(self, view: TensorView, tile: StagedTile, at: tuple[Expr, Expr, Expr], stage: Expr) -> Do:
        to = Load.of(tile.buffer, (stage,), Type(tile.buffer.dtype))
        rank = len(view.map.shape)
        source = Load.of(view.map, at[3 - rank:], Type(view.map.dtype))
        return Do(f"bulk_copy_{rank}d", (to, source, _place(self.full, stage)))

    def copy_right(self, at: tuple[Expr, Expr, Expr], stage: Expr) -> Block:
        """The right operand's tile; in a cluster the part of it that this block brings to all."""
        view, tile = self.right, self.core.right
        if self.cluster == 1:
            return (self.copy(view, tile, at, stage),)
        own = self.rank * (tile.own // self.cluster)
        to = Load.of(tile.buffer, (stage, own), Type(tile.buffer.dtype))
        axes = len(view.map.shape)
        source = Load.of(view.map, (at[0], at[1] + own, at[2])[3 - axes:], Type(view.map.dtype))
        every = as_expr((1 << self.cluster) - 1)
        return (Do(f"bulk_share_{axes}d", (to, source, _place(self.full, stage), every)),)


def _place(barriers: Buffer, stage: Expr) -> Load:
    return Load.of(barriers, (stage,), Type(barriers.dtype))
