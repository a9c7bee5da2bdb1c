"""Tiles of products on a graphics processor, and the cost model that chooses among them.

A block of threads computes rows x columns of one matrix, `depth` of k at a time; a pipeline of `stages` tiles of both
operands lies in shared memory.  Its warps form a grid of warp_rows x warp_columns.  With splits > 1 the k of one tile is
shared out among that many blocks, whose sums a second launch adds in a fixed order.

The model: a multiprocessor works on the blocks it is given one after the other, each limited by arithmetic, by what it
reads from the second-level cache, or by the latency of its stages; what all blocks move through memory bounds the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from ....ir.dims import split_index
from ....ir.expr import Expr
from ....ir.types import DTYPES
from ...machine_gpu import MAX_RESIDENT, REGISTERS, GpuMachine

DEPTH_BYTES = 64  # of k in one stage: two matrix instructions
PADDING = 32  # bytes after each row of the tile of sums, so that their stores meet no bank twice
LAUNCH = 2.5e-6  # seconds that another launch costs
STEP_LATENCY = 0.35e-6  # of one stage when nothing else hides it
SPARE_REGISTERS = 64
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
CLOCK_OF_L2 = 2.2  # times the bandwidth of memory
OLDER_SHARE = 0.65  # of the peak of tensor cores made for warpgroups that mma.sync reaches
RASTERS = (8, 4, 2)  # rows of tiles that follow each other, the first number that divides them
PAIRED_GAIN = 1.8  # of sparse tensor cores, in arithmetic and in bytes of weights
OVERLAP = 0.85  # of the faster one of arithmetic and memory that hides behind the other


@dataclass(frozen=True)
class GpuTile:
    """matrix: by tensor cores; warpgroup: by four warps together (sm_90a); bulk: a warp of its own brings the
    tiles by bulk copies, and blocks stay for several tiles, the sums of which warps finish `piece` columns at a time.  depth:
    elements of k in a stage.  cluster: blocks that make neighbouring tiles of the same columns, each of which brings a part of
    the right operand's stages to all of them.  paired: by sparse tensor cores, two of any four weights along k are zero.
    threads: of the warps that multiply."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    depth: int
    stages: int
    matrix: bool
    splits: int = 1
    warpgroup: bool = False
    bulk: bool = False
    piece: int = 0
    paired: bool = False
    cluster: int = 1

    @property
    def threads(self) -> int:
        return 32 * self.warp_rows * self.warp_columns

    @property
    def warp_tile(self) -> tuple[int, int]:
        return self.rows // self.warp_rows, self.columns // self.warp_columns

    def steps(self, k: int) -> int:
        """Stages that each part of k takes."""
        return -(-k // (self.depth * self.splits))

    def shared_bytes(self, size: int, acc_size: int) -> int:
        stages = self.stages * (self.rows + self.columns) * self.depth * size
        if self.paired:
            stages = self.stages * (self.rows * size + self.columns * size // 2 + self.columns // 8) * self.depth
        if self.bulk:
            return stages + self.stages * 16 + self.rows * (self.piece * acc_size + PADDING)
        return max(stages, self.rows * (self.columns * acc_size + PADDING))

    def __str__(self) -> str:
        split = f", k in {self.splits} parts" if self.splits > 1 else ""
        rows, columns = self.warp_tile
        brought = ", brought by bulk copies" if self.bulk else ""
        if self.cluster > 1:
            brought += f", those of the right operand for {self.cluster} blocks at once"
        return (f"tiles of {self.rows} x {self.columns} x {self.depth} in {self.stages} stages, "
                f"{rows} x {columns} a warp{split}{brought}")


# (rows, columns, warps along rows, warps along columns)
MATRIX_SHAPES = (
    (256, 128, 4, 2), (128, 256, 2, 4), (128, 128, 2, 2), (128, 128, 2, 4), (128, 64, 2, 2), (64, 128, 2, 2), (64, 64, 2, 2),
    (128, 32, 4, 1), (64, 32, 2, 1), (32, 64, 1, 2), (32, 128, 1, 4), (32, 32, 1, 2), (16, 64, 1, 2), (16, 128, 1, 4),
    (64, 16, 2, 1), (16, 32, 1, 1), (128, 16, 4, 1),
)
PLAIN_SHAPES = (
    (128, 128, 4, 2), (128, 64, 4, 2), (64, 128, 2, 2), (64, 64, 2, 2), (64, 32, 2, 1), (32, 64, 1, 2), (32, 64, 2, 1),
    (16, 64, 1, 1), (32, 32, 1, 1), (16, 32, 1, 1),
)


WARPGROUP_SHAPES = ((256, 128, 16, 1), (128, 256, 8, 1), (128, 128, 8, 1), (128, 64, 8, 1), (64, 128, 4, 1), (64, 64, 4, 1))


def tile_candidates(
    dtype: str, acc: str, matrix: bool, machine: GpuMachine, warpgroup: bool = False, paired: bool = False
) -> list[GpuTile]:
    """Every tile that the machine's shared memory holds, the largest first.  warpgroup: only those for four warps together;
    paired: those for sparse weights."""
    size, acc_size = DTYPES[dtype].size, DTYPES[acc].size
    if warpgroup:
        every = [GpuTile(*shape, 128 // size, stages, True, warpgroup=True) for shape in WARPGROUP_SHAPES for stages in (4, 3)]
        return [x for x in every if x.shared_bytes(size, acc_size) <= machine.shared_bytes]
    depth = max(DEPTH_BYTES // size, 4) * (2 if paired else 1) if matrix or size >= 4 else 16
    stages = (4, 3) if machine.has("cp_async") else (2,)
    found = []
    for (rows, columns, wr, wc), count in product(MATRIX_SHAPES if matrix else PLAIN_SHAPES, stages):
        tile = GpuTile(rows, columns, wr, wc, depth, count, matrix, paired=paired)
        if tile.shared_bytes(size, acc_size) <= machine.shared_bytes and _fits_registers(tile, acc_size):
            found.append(tile)
    return found


def _fits_registers(tile: GpuTile, acc_size: int) -> bool:
    """Sums, fragments and addresses within 255 registers of a thread."""
    rows, columns = tile.warp_tile
    return rows * columns // 32 * (acc_size // 4) <= 128


def rank_tiles(
    sizes: tuple[int, int, int, int], dtype: str, acc: str, matrix: bool, machine: GpuMachine, warpgroup: bool = False,
    paired: bool = False,
) -> list[tuple[float, GpuTile]]:
    """Every tile with the seconds that the model expects, the fastest first.  sizes: batches, rows, columns, k."""
    ranked = []
    for tile in tile_candidates(dtype, acc, matrix, machine, warpgroup, paired):
        for splits in SPLITS:
            if splits > 1 and sizes[3] < splits * tile.depth * 4:
                break
            tried = replace(tile, splits=splits)
            ranked.append((estimate(tried, sizes, dtype, acc, machine), tried))
    return sorted(ranked, key=lambda item: round(item[0], 9))  # stable: of equal ones the larger


def choose_tile(
    sizes: tuple[int, int, int, int], dtype: str, acc: str, matrix: bool, machine: GpuMachine, warpgroup: bool = False,
    rank: int = 0, paired: bool = False,
) -> tuple[GpuTile, str]:
    """The tile that the model expects to be fastest (or that many places behind it), and why."""
    ranked = rank_tiles(sizes, dtype, acc, matrix, machine, warpgroup, paired)
    time, tile = ranked[min(rank, len(ranked) - 1)]
    return tile, _reason(tile, sizes, dtype, time, machine)


def blocks_of(tile: GpuTile, sizes: tuple[int, int, int, int]) -> int:
    batches, rows, columns, _ = sizes
    return batches * -(-rows // tile.rows) * -(-columns // tile.columns) * tile.splits


def estimate(tile: GpuTile, sizes: tuple[int, int, int, int], dtype: str, acc: str, machine: GpuMachine) -> float:
    """Seconds of a product with this tile."""
    batches, rows, columns, k = sizes
    size, acc_size = DTYPES[dtype].size, DTYPES[acc].size
    blocks = blocks_of(tile, sizes)
    resident = max(1, min(machine.shared_per_processor // (tile.shared_bytes(size, acc_size) + 1024),
                          machine.threads_per_processor // tile.threads, 65536 // (tile.threads * _registers(tile, acc_size))))
    per_processor = -(-blocks // machine.processors)
    steps = tile.steps(k)
    macs = tile.rows * tile.columns * tile.depth
    columns_read = tile.columns / PAIRED_GAIN if tile.paired else tile.columns
    macs = macs / PAIRED_GAIN if tile.paired else macs
    arithmetic = macs / (_rate(dtype, tile.matrix, machine) / machine.processors * _efficiency(tile))
    traffic = (tile.rows + columns_read) * tile.depth * size / (machine.bandwidth * CLOCK_OF_L2 / machine.processors)
    together = min(resident, per_processor)
    step = max(arithmetic, traffic, STEP_LATENCY / (together * (tile.stages - 1)))
    busy = per_processor * (steps * step + STEP_LATENCY * 3 / together)
    memory = batches * (rows * k + columns * k) * size + batches * rows * columns * size
    more = 0.0
    if tile.splits > 1:
        more = LAUNCH + batches * rows * columns * acc_size * 2 * tile.splits / (machine.bandwidth * CLOCK_OF_L2)
    slow, fast = sorted((busy, memory / machine.bandwidth), reverse=True)
    return slow + (1 - OVERLAP) * fast + more


def _rate(dtype: str, matrix: bool, machine: GpuMachine) -> float:
    """Multiply-accumulates per second of the whole machine."""
    if not matrix:
        return machine.simt_macs / (32 if dtype == "f64" else 1)
    older = OLDER_SHARE if machine.newest.tensor_macs > 3e14 and not machine.has("wgmma") else 1.0
    return older * machine.tensor_macs * 2 / DTYPES[dtype].size


def _registers(tile: GpuTile, acc_size: int) -> int:
    rows, columns = tile.warp_tile
    return min(255, rows * columns // 32 * (acc_size // 4) + (rows + columns) // 4 + 48)


def resident_blocks(tile: GpuTile, acc_size: int, machine: GpuMachine) -> int:
    """How many blocks a multiprocessor shall hold as far as registers go, with room for addresses: the CUDA compiler, told
    nothing, spills a few registers for more."""
    registers = min(255, _registers(tile, acc_size) + SPARE_REGISTERS)
    return max(1, min(REGISTERS // (tile.threads * registers), machine.threads_per_processor // tile.threads, MAX_RESIDENT))


def _efficiency(tile: GpuTile) -> float:
    """What part of the peak a warp's tile allows: the larger it is, the fewer reads of shared memory each product takes."""
    rows, columns = tile.warp_tile
    if tile.warpgroup:
        return min(0.9, 0.5 + columns / 512) * min(1.0, tile.warp_rows / 16 + 0.5)
    reads = (rows + columns) / (rows * columns)
    limit = (1 / 16 if tile.matrix else 1 / 14) / reads / 2
    return min(0.9, limit) * min(1.0, tile.warp_rows * tile.warp_columns / 4 + 0.4)


def _reason(tile: GpuTile, sizes: tuple[int, int, int, int], dtype: str, time: float, machine: GpuMachine) -> str:
    batches, rows, columns, k = sizes
    blocks = blocks_of(tile, sizes)
    waves = -(-blocks // machine.processors)
    work = batches * rows * columns * k / _rate(dtype, tile.matrix, machine)
    return (f"{blocks} blocks on the {machine.processors} processors of {machine.newest.board} ({waves} each); "
            f"expected {time * 1e6:.3g} us, arithmetic alone {work * 1e6:.3g} us")


def tile_numbers(block: Expr, counts: tuple[int, int, int, int]) -> tuple[Expr, Expr, Expr, Expr]:
    """(batch, split, row of tiles, column of tiles) of a block.  Several rows of tiles share each column before the next."""
    batches, splits, rows, columns = counts
    raster = next(n for n in (*RASTERS, 1) if rows % n == 0) if columns > 1 else 1
    if raster == 1:
        return tuple(split_index([batches, splits, rows, columns], block))  # type: ignore[return-value]
    batch, split, group, column, within = split_index([batches, splits, rows // raster, columns, raster], block)
    return batch, split, group * raster + within, column
