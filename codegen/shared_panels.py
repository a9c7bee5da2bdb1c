"""Panels of constant operands in which several programs of one model can agree, so that the weights are kept once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .strategies.choices import BY_MODEL, Choice
from .strategies.scheduled import Scheduled


class SharedPanels:
    """By the shape of a constant, the columns of its panels in the program that was lowered first.  The others take the
    same where it costs little (`tiles.PANEL_LOSS`), and no layout that only their own sizes want."""

    def __init__(self) -> None:
        self._columns: dict[tuple[int, ...], int] = {}

    def choice(self, arrays: Mapping[str, np.ndarray]) -> Choice:
        """For a group with these constants."""
        found = [self._columns[a.shape] for a in arrays.values() if a.shape in self._columns]
        return Choice(panel=found[0], halved=0) if found else BY_MODEL

    def keep(self, made: Scheduled, arrays: Mapping[str, np.ndarray]) -> None:
        for _, pack in made.packs:
            columns = pack.shape[-1]
            if pack.transform is None and pack.source in arrays and isinstance(columns, int):
                self._columns.setdefault(arrays[pack.source].shape, columns)
