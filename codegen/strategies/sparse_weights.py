"""The encoding of a constant matrix that is mostly zeros: blocks of R x 1 that are not zero, in the order they are read.

The matrix is the right operand of a product, W[depth, columns].  `rows` of a block are R neighbouring columns (outputs) that
share one step of the reduction.  Outputs are cut into chunks, the reduction into tiles; the blocks of one output group in one
tile of the reduction follow each other:

    for chunk: for tile: for group of the chunk: starts[chunk, tile, group] .. starts[.., group + 1] number its blocks
    values[block, R]: the weights;  index[block]: where the left operand's vector of that step begins, in elements

Groups of a chunk may stand in another order for every tile (`order`), those with equal numbers of blocks next to each other,
so that the processor foresees where the short loops end.  With `steps` > 1 the number of blocks of a group in a tile is a
multiple of it.  With `bundle` > 1 so many groups, neighbours in that order, have equally many blocks, which alternate: the
first of each group, the second of each, ..; `starts` are those of bundles.  Lists are filled up with zeros that repeat a step
of the same group, so no product is added that the model lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layout:
    """block: R.  chunk: outputs of one chunk, a multiple of R.  tile: steps of the reduction in one tile.  steps: multiple of
    which the number of blocks of a group in a tile is.  bundle: groups of a chunk that are walked in lockstep."""

    block: int
    chunk: int
    tile: int
    steps: int = 1
    bundle: int = 1


@dataclass(frozen=True, eq=False)
class SparseWeights:
    """matrix: W[depth, columns], float32 or int8; compared by identity.  layout: how it is cut."""

    matrix: np.ndarray
    layout: Layout

    @property
    def depth(self) -> int:
        return self.matrix.shape[0]

    @property
    def columns(self) -> int:
        return self.matrix.shape[1]

    @property
    def tiles(self) -> int:
        return -(-self.depth // self.layout.tile)

    @property
    def chunks(self) -> int:
        return -(-self.columns // self.layout.chunk)

    @property
    def groups(self) -> int:
        """Groups of R outputs in one chunk."""
        return self.layout.chunk // self.layout.block

    @cached_property
    def _padded(self) -> np.ndarray:
        """W by [chunk, group, R, depth], zeros beyond the last column."""
        full = np.zeros((self.chunks * self.layout.chunk, self.depth), self.matrix.dtype)
        full[: self.columns] = self.matrix.T
        return full.reshape(self.chunks, self.groups, self.layout.block, self.depth)

    @cached_property
    def _lists(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(values, step of the reduction of each block, starts, order)."""
        size, steps = self.layout, self.layout.steps
        kept = (self._padded != 0).any(axis=2)  # [chunk, group, depth]
        padding = self.tiles * size.tile - self.depth
        in_tiles = np.pad(kept, ((0, 0), (0, 0), (0, padding))).reshape(self.chunks, self.groups, self.tiles, size.tile)
        counts = in_tiles.sum(axis=3).transpose(0, 2, 1)  # [chunk, tile, group]
        filled = -(-counts // steps) * steps
        order = np.argsort(-filled, axis=2, kind="stable") if self.is_reordered else np.broadcast_to(
            np.arange(self.groups), counts.shape)
        bundles = self.groups // size.bundle
        longest = np.take_along_axis(filled, order, axis=2).reshape(self.chunks, self.tiles, bundles, size.bundle).max(axis=3)
        starts = np.zeros((self.chunks, self.tiles, bundles + 1), np.int64)
        starts.reshape(-1, bundles + 1)[:, 1:] = np.cumsum(longest.reshape(-1, bundles) * size.bundle, axis=1)
        totals = starts[:, :, -1].reshape(-1)
        base = np.concatenate([[0], np.cumsum(totals)])
        starts += base[:-1].reshape(self.chunks, self.tiles, 1)
        values = np.zeros((int(base[-1]), size.block), self.matrix.dtype)
        in_order = np.take_along_axis(in_tiles.transpose(0, 2, 1, 3), order[..., None], axis=2)
        where, inside = np.nonzero(in_order.reshape(-1, size.tile))
        real = np.take_along_axis(counts, order, axis=2)
        before = np.cumsum(real) - real.reshape(-1)  # blocks in front of each group, without fillings
        chunk, tile, _ = np.unravel_index(where, order.shape)
        group = order.reshape(-1)[where]
        k = tile * size.tile + inside
        first = (np.repeat(starts[:, :, :-1], size.bundle, axis=2)
                 + np.tile(np.arange(size.bundle), bundles)).reshape(-1)  # of each group, in order
        index = self._fillings(order, longest, kept)
        number = np.arange(len(where)) - before[where]
        at = first[where] + number * size.bundle
        index[at] = k
        values[at] = self._padded[chunk, group, :, k]
        missing = np.repeat(longest, size.bundle, axis=2) - real
        last = np.maximum(real.reshape(-1) - 1, 0) * size.bundle + first
        for n in range(1, int(missing.max(initial=0)) + 1):
            some = (missing.reshape(-1) >= n) & (real.reshape(-1) > 0)
            index[last[some] + n * size.bundle] = index[last[some]]
        return values, index, starts, order

    def _fillings(self, order: np.ndarray, longest: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """For every block the first step of its group: what a group without blocks in a tile repeats beside longer ones."""
        size = self.layout
        own = np.take_along_axis(np.broadcast_to(kept.argmax(axis=2)[:, None], order.shape), order, axis=2)
        by_bundle = own.reshape(-1, 1, size.bundle)
        lengths = longest.reshape(-1)
        return np.repeat(by_bundle, lengths, axis=0).reshape(-1).astype(np.int64)

    @property
    def is_reordered(self) -> bool:
        """Whether groups stand in another order: where a group's loop is short, and where several run in lockstep."""
        return self.tiles > 1 or self.layout.bundle > 1

    @property
    def blocks(self) -> int:
        """Blocks stored, fillings included."""
        return len(self._lists[1])

    def values(self) -> np.ndarray:
        return self._lists[0]

    def index(self, offset: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """offset: step of the reduction -> element of the left operand's copy."""
        return offset(self._lists[1]).astype(np.int32)

    def starts(self) -> np.ndarray:
        """[chunks, tiles, bundles + 1]"""
        return self._lists[2].astype(np.int32)

    def order(self) -> np.ndarray:
        """[chunks, tiles, groups]: which group of the chunk stands there."""
        return np.ascontiguousarray(self._lists[3]).astype(np.int32)
