"""Patterns of zeros: which weights stand or fall together, and which of them to keep.

A layer's weights are W[depth, outputs].  "unstructured": each weight alone.  "8x1" (2, 4, 8, 16): that many neighbouring
outputs share their zeros in a step of the reduction.  "8x4": they do so in four neighbouring steps, which products of integers
multiply at once.  "2:4" (N:M): at most N of M neighbours along the depth stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...ir.errors import OptionError

KINDS = ("unstructured", "2x1", "4x1", "8x1", "16x1", "8x4", "2:4", "channels")
_BLOCK, _N_OF_M = re.compile(r"(\d+)x([14])"), re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Pattern:
    """block: outputs that share their zeros, in `deep` steps of the reduction.  keep, of: N and M of N:M; 0, 0 for any
    number."""

    name: str
    block: int = 1
    keep: int = 0
    of: int = 0
    deep: int = 1

    @property
    def density(self) -> float | None:
        """What the pattern itself says about the share of weights that stay."""
        return self.keep / self.of if self.of else None

    def fits(self, depth: int, outputs: int) -> bool:
        return outputs % self.block == 0 and depth % self.deep == 0 and (not self.of or depth % self.of == 0)

    def gather(self, scores: np.ndarray) -> np.ndarray:
        """scores[depth, outputs] -> of each block [depth / deep, outputs / block]."""
        return scores.reshape(len(scores) // self.deep, self.deep, -1, self.block).sum(axis=(1, 3))

    def spread(self, mask: np.ndarray) -> np.ndarray:
        """The inverse of `gather` for masks."""
        return np.repeat(np.repeat(mask, self.block, axis=1), self.deep, axis=0)

    def thinned(self, scores: np.ndarray, keep: int, share: float) -> np.ndarray:
        """On the way to N:M: the mask with `keep` of every `of` neighbours in the share of groups that lose least by it, and
        one more in the others."""
        found = self.gather(scores)
        groups = found.reshape(-1, self.of, found.shape[1])
        order = np.argsort(-groups, axis=1, kind="stable")
        mask = np.zeros(groups.shape, bool)
        np.put_along_axis(mask, order[:, : keep + 1], True, axis=1)
        last = order[:, keep : keep + 1]
        lost = np.take_along_axis(groups, last, axis=1)
        goes = np.zeros(lost.size, bool)
        goes[np.argsort(lost, axis=None, kind="stable")[: round(share * lost.size)]] = True
        np.put_along_axis(mask, last, ~goes.reshape(lost.shape), axis=1)
        return self.spread(mask.reshape(found.shape))

    def select(self, scores: np.ndarray, density: float, per_output: bool = False) -> np.ndarray:
        """The mask of what stays: the largest scores[depth, outputs].  per_output: as many in each block column."""
        found = self.gather(scores)
        if self.of:
            groups = found.reshape(-1, self.of, found.shape[1])
            order = np.argsort(-groups, axis=1, kind="stable")
            mask = np.zeros(groups.shape, bool)
            np.put_along_axis(mask, order[:, : self.keep], True, axis=1)
            return self.spread(mask.reshape(found.shape))
        if per_output:
            count = round(density * len(found))
            order = np.argsort(-found, axis=0, kind="stable")
            mask = np.zeros(found.shape, bool)
            np.put_along_axis(mask, order[:count], True, axis=0)
            return self.spread(mask)
        count = round(density * found.size)
        mask = np.zeros(found.size, bool)
        mask[np.argsort(-found, axis=None, kind="stable")[:count]] = True
        return self.spread(mask.reshape(found.shape))


def parse_pattern(text: str) -> Pattern:
    """Raises OptionError for what is no pattern."""
    block, part = _BLOCK.fullmatch(text), _N_OF_M.fullmatch(text)
    if text in ("unstructured", "channels"):
        return Pattern(text)
    if block and 1 < int(block[1]) <= 64:
        return Pattern(text, block=int(block[1]), deep=int(block[2]))
    if part and 0 < int(part[1]) < int(part[2]) <= 64:
        return Pattern(text, keep=int(part[1]), of=int(part[2]))
    raise OptionError(f"pattern: expected one of {', '.join(KINDS)} (or another R x 1, R x 4 or N:M), got {text!r}")
