"""The numbers that strategies take from their cost models, unless measurement has found better ones.

A `Choice` is part of a `Group`: it travels with what it is for.  Tuning (`compiler/tuning.py`) searches over choices by
running the kernels they give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ...ir.errors import OptionError
from ..machine import Machine
from .tiles import Tile, fits

MOST_ROWS, MOST_VECTORS = 28, 16


@dataclass(frozen=True)
class Choice:
    """None: by the cost model.

    rows, vectors: the register tile of a product, both or neither.  chunks: parts that the rows are cut into for the
    threads; 1: threads share the panels.  unroll: steps of the reduction in one iteration.  winograd: side of a tile of
    the transformed convolution; 0: direct.  block: tiles of one block of it at most.  halved: 1 for seven products of half
    the size, 0 for one.  panel: columns of a panel that other programs have, taken where that costs little.  parts: in how
    many parts a halved product keeps its weights; 8 with a panel: other programs have them so, and direct products read them.
    For graphics processors: tile_rows, tile_columns: the tile of a block, both or neither; stages: of its pipeline; splits:
    parts of k; library: 1 for a product by cuBLASLt or a convolution by cuDNN, where they make such ones.  rank: the tile that
    the cost model puts at that place, the best being 0 (for the search).
    """

    rows: int | None = None
    vectors: int | None = None
    chunks: int | None = None
    unroll: int | None = None
    winograd: int | None = None
    block: int | None = None
    halved: int | None = None
    sparse: int | None = None
    panel: int | None = None
    parts: int | None = None
    tile_rows: int | None = None
    tile_columns: int | None = None
    stages: int | None = None
    splits: int | None = None
    library: int | None = None
    rank: int | None = None

    def tile(self, machine: Machine) -> Tile | None:
        """The register tile.  Raises OptionError for one that the registers do not hold."""
        if self.rows is None or self.vectors is None:
            return None
        if not fits(self.rows, self.vectors, machine.vector_registers):
            raise OptionError(f"tuning: a tile of {self.rows} rows and {self.vectors} vectors does not fit the registers of "
                              f"{machine.name}; remove the entry, or tune again for this machine")
        return Tile(self.rows, self.vectors)

    def to_json(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @staticmethod
    def from_json(values: Mapping[str, object]) -> Choice:
        """The inverse of `to_json`.  Raises OptionError for unknown names and for values outside of `RANGES`."""
        known = {f.name for f in fields(Choice)}
        for name, value in values.items():
            if name not in known:
                raise OptionError(f"tuning: unknown number {name!r}; known are {', '.join(sorted(known))}")
            low, high = RANGES[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise OptionError(f"tuning: {name}: expected a whole number from {low} to {high}, got {value!r}")
        for pair in (("rows", "vectors"), ("tile_rows", "tile_columns")):
            if len(set(pair) & set(values)) == 1:
                raise OptionError(f"tuning: expected {' and '.join(pair)} together")
        if values.get("winograd", 0) not in (0, 2, 4):
            raise OptionError(f"tuning: winograd: expected 0, 2 or 4, got {values['winograd']}")
        return Choice(**values)  # type: ignore[arg-type]


RANGES: dict[str, tuple[int, int]] = {
    "rows": (1, MOST_ROWS), "vectors": (1, MOST_VECTORS), "chunks": (1, 4096), "unroll": (1, 64), "winograd": (0, 4),
    "block": (1, 65536), "halved": (0, 1), "sparse": (0, 64), "panel": (1, 65536), "parts": (7, 8), "tile_rows": (16, 256),
    "tile_columns": (16, 256), "stages": (2, 8), "splits": (1, 64), "library": (0, 1), "rank": (0, 63),
}
BY_MODEL = Choice()


def divides(name: str, value: int, total: int) -> int:
    """The value of a choice that must divide a number.  Raises OptionError if it does not."""
    if total % value:
        raise OptionError(f"tuning: {name} = {value} does not divide {total}; remove the entry, or tune again")
    return value
