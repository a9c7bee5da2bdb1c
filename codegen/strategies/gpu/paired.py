"""Products with weights of which two of any four neighbours along k are zero (2:4), on the sparse tensor cores of sm_80 on.

    y[row, column] = sum_k x[row, k] * w[k, column]   ->   the two of each four that are not zero, and where they stand

The instruction (`mma_sp_m16n8k32`) takes the sparse operand as its left one, so it computes columns x rows: 16 columns of w by
8 rows of x.  Weights are packed as values[column, k / 2] and words that say which elements they are, in the order in which
the threads want them: of 16 columns and 32 k's, thread 4 g + h gives columns g (low half) and g + 8, k's from 16 h on; four
bits for each four k's, two for the place of either value, which increase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from ....ir.expr import Expr, Load, Type, const, load
from ....ir.kernel import Alloc, Block, Buffer, Do, For, Store, axis, nest, store
from ....ir.types import DTYPES
from ...machine_gpu import GpuMachine
from ..scheduled import Pack
from .cores import load_matrices
from .operand import ACCESS, MatrixProduct, Operand
from .staging import StagedTile
from .tiles import GpuTile

INSTRUCTIONS = {"f16": "mma_sp_m16n8k32_f16", "bf16": "mma_sp_m16n8k32_bf16"}
K_STEP = 32  # of one instruction
COLUMNS = 16
LEAST_DEPTH = 64


def takes_pairs(p: MatrixProduct, arrays: Mapping[str, np.ndarray], machine: GpuMachine) -> bool:
    """Whether the right operand is a weight in 16 bits with two zeros in any four, and the machine multiplies it as such.
    The matrix unit of sm_90a, which is faster at dense products, is preferred."""
    dtype = p.right.dtype
    fits = machine.has("mma_sp") and not machine.has("wgmma") and dtype in INSTRUCTIONS and p.right_pack is not None
    fits = fits and p.left.dtype in (dtype, "f32") and p.compute.acc == "f32" and p.sizes[0] == 1 and p.sizes[3] >= LEAST_DEPTH
    if not fits or p.right_pack is None:
        return False
    _, pack = p.right_pack("w", 8, True)
    return bool((_fours(pack.apply(arrays[pack.source])[0]) != 0).sum(-1).max() <= 2)


def _fours(weights: np.ndarray, own: int = COLUMNS, depth: int = K_STEP) -> np.ndarray:
    """w[column, k] as [columns, fours of k, 4], filled up with zeros to multiples of own and depth."""
    filled = np.pad(weights, ((0, -weights.shape[0] % own), (0, -weights.shape[1] % depth)))
    return filled.reshape(filled.shape[0], -1, 4)


def _places(fours: np.ndarray) -> np.ndarray:
    """[column, four, 2]: where the values stand, increasing; beside a single one, or none, a zero is taken."""
    zero = fours == 0
    first = np.argmin(zero, -1)  # of what is not zero
    last = 3 - np.argmin(zero[..., ::-1], -1)
    first, last = np.where(zero.all(-1), 0, first), np.where(zero.all(-1), 3, last)
    alone = first == last
    return np.stack([np.where(alone & (first == 3), 2, first), np.where(alone & (first < 3), first + 1, last)], -1)


def _values(pack: Pack, own: int, depth: int, array: np.ndarray) -> np.ndarray:
    fours = _fours(pack.apply(array)[0], own, depth)
    return np.ascontiguousarray(np.take_along_axis(fours, _places(fours), -1).reshape(1, fours.shape[0], -1))


def _words(pack: Pack, own: int, depth: int, array: np.ndarray) -> np.ndarray:
    places = _places(_fours(pack.apply(array)[0], own, depth)).astype(np.uint32)
    nibbles = places[..., 0] | places[..., 1] << 2  # [column, four]
    halves = nibbles.reshape(len(nibbles), -1, 2, 4)  # [column, step, half of it, four]
    bits = (halves << (4 * np.arange(4, dtype=np.uint32))).sum(-1, dtype=np.uint32)
    by_rows = bits.reshape(-1, 2, 8, bits.shape[1], 2)  # [sixteen, low or high, g, step, h]
    words = by_rows[:, 0] | by_rows[:, 1] << 16
    return np.ascontiguousarray(words.transpose(0, 2, 1, 3).reshape(1, len(words), -1))


def paired_operands(p: MatrixProduct, tile: GpuTile) -> tuple[Operand, Operand, dict[Buffer, Pack]]:
    """(the values, the words that say where they stand, their packs), filled up to whole tiles: a word of zeros is none."""
    assert p.right_pack is not None
    _, pack = p.right_pack("w", 8, True)
    own, depth = -(-p.sizes[2] // tile.columns) * tile.columns, tile.splits * tile.steps(p.sizes[3]) * tile.depth
    values = Buffer("w", p.right.dtype, (1, own, depth // 2))
    words = Buffer("places", "u32", (1, own // COLUMNS, depth // 2))
    unit = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    packs = {b: Pack(pack.source, b.static_shape, (0, 0, 0), unit, partial(f, pack, own, depth))
             for b, f in ((values, _values), (words, _words))}
    return _operand(values), _operand(words), packs


def _operand(b: Buffer) -> Operand:
    def at(batch: Expr, own: Expr, k: Expr) -> Load:
        return Load.of(b, (batch, own, k), Type(b.dtype))

    return Operand(b.dtype, at, None, b.static_shape[1], b.static_shape[2], ACCESS // DTYPES[b.dtype].size, 1, b)


@dataclass(frozen=True)
class PairedCore:
    """left: rows of x.  right: values of the weights, of half the depth.  words: for each 16 columns."""

    tile: GpuTile
    left: StagedTile
    right: StagedTile
    words: StagedTile
    acc_dtype: str = "f32"

    @property
    def fragments(self) -> tuple[int, int]:
        rows, columns = self.tile.warp_tile
        return columns // COLUMNS, rows // 8

    @property
    def acc(self) -> Buffer:
        return Buffer("acc", self.acc_dtype, (*self.fragments, 4), "register")

    @property
    def in_flight(self) -> int:
        """Stages that are still read when `multiply` has returned."""
        return 0

    def before_barrier(self) -> Block:
        return ()

    def after_loop(self) -> Block:
        return ()

    def start(self) -> Block:
        axes = axis("mf", self.fragments[0]), axis("nf", self.fragments[1]), axis("e", 4)
        return (Alloc(self.acc), *nest(axes, (store(self.acc, axes, const(0, Type(self.acc_dtype))),), "unroll"))

    def multiply(self, stage: Expr, row: Expr, column: Expr, lane: Expr) -> Block:
        """acc += values[column..] * left[row..] over the k of one stage."""
        mf, nf = self.fragments
        dtype = self.left.buffer.dtype
        type = Type(dtype)
        a, b = Buffer("a", dtype, (mf, 8), "register"), Buffer("b", dtype, (nf, 8), "register")
        where = Buffer("where", "u32", (mf,), "register")
        kf, m, n = axis("kf", self.tile.depth // K_STEP), axis("mf", mf), axis("nf", nf)
        place = self.words.index(stage, column / COLUMNS + m, kf * (K_STEP // 2) + lane / 4 * 2 + lane % 2)
        of_row = self.left.index(stage, row + n * 8 + lane % 8, kf * K_STEP + lane / 8 * 8)
        args = (Load.of(self.acc, (m, n), Type(self.acc_dtype)), Load.of(a, (m,), type), Load.of(b, (n,), type), load(where, m))
        body = (
            Alloc(a), Alloc(b), Alloc(where),
            *nest((m,), (*load_matrices(self.right, a, (m,), stage, column + m * COLUMNS, kf * (K_STEP // 2), lane, True),
                         store(where, (m,), load(self.words.buffer, *place))), "unroll"),
            *nest((n,), (Do("ldmatrix_x4", (Load.of(b, (n,), type), Load.of(self.left.buffer, of_row, type))),), "unroll"),
            *nest((m, n), (Do(INSTRUCTIONS[dtype], args),), "unroll"),
        )
        return (For(kf, body, "unroll", ("reduce",)),)

    def drain(self, sums: Buffer, row: Expr, column: Expr, lane: Expr) -> Block:
        """The sums of a warp to a tile in shared memory."""
        m, n, e = axis("mf", self.fragments[0]), axis("nf", self.fragments[1]), axis("e", 4)
        at = row + n * 8 + lane % 4 * 2 + e % 2, column + m * COLUMNS + lane / 4 + e / 2 * 8
        return nest((m, n, e), (Store(sums, at, load(self.acc, m, n, e)),), "unroll")
