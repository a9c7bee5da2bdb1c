"""Panels of constant operands in which several programs of one model can agree, so that the weights are kept once."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from .strategies.choices import Choice
from .strategies.scheduled import Group, Pack, Scheduled
from .strategies.strassen_weights import BOTH, HalvedWeights


class SharedPanels:
    """By the shape of a constant, the columns of its panels in the program that was lowered first, and whether they are parts
    of halved products, which serve all.  The others take the same where it costs little (`tiles.PANEL_LOSS`), and no layout
    that only their own sizes want.  clear: groups whose measured numbers gain more than that (`group_hash`)."""

    def __init__(self, clear: Set[str] = frozenset()) -> None:
        self._clear = clear
        self._found: dict[tuple[int, ...], Choice] = {}

    def choice(self, arrays: Mapping[str, np.ndarray]) -> Choice:
        """For a group with these constants."""
        return next((self._found[a.shape] for a in arrays.values() if a.shape in self._found), Choice(parts=BOTH))

    def takes(self, key: str, measured: Scheduled, shared: Scheduled, group: Group) -> bool:
        """Whether a group has its measured kernel instead of the one that shares weights: where the weights are the same, or it
        is clearly faster."""
        mine, theirs = (_weights(made, group) for made in (measured, shared))
        return mine == theirs or key in self._clear

    def keep(self, made: Scheduled, arrays: Mapping[str, np.ndarray]) -> None:
        for _, pack in made.packs:
            columns = pack.shape[-1]
            if pack.source not in arrays or not isinstance(columns, int):
                continue
            shape = arrays[pack.source].shape
            if pack.transform is None:
                self._found.setdefault(shape, Choice(panel=columns, halved=0))
            elif isinstance(pack.transform, HalvedWeights):
                self._found.setdefault(shape, Choice(panel=columns, parts=BOTH))


def _weights(made: Scheduled, group: Group) -> list[tuple[str, Pack]]:
    return [(name, pack) for name, pack in made.packs if pack.source in group.constants]
