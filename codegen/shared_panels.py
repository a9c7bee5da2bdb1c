"""Panels of constant operands in which several programs of one model can agree, so that the weights are kept once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .strategies.choices import Choice
from .strategies.scheduled import Scheduled
from .strategies.strassen_weights import BOTH, HalvedWeights


class SharedPanels:
    """By the shape of a constant, the columns of its panels in the program that was lowered first, and whether they are parts
    of halved products, which serve all.  The others take the same where it costs little (`tiles.PANEL_LOSS`), and no layout
    that only their own sizes want."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, ...], Choice] = {}

    def choice(self, arrays: Mapping[str, np.ndarray]) -> Choice:
        """For a group with these constants."""
        return next((self._found[a.shape] for a in arrays.values() if a.shape in self._found), Choice(parts=BOTH))

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
