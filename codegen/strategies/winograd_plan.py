"""Which convolutions are transformed by Winograd, into tiles of what side, and what that is expected to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ...ir.compute import Compute
from ...ir.dims import multiply_dims, normal_dim, symbols
from ...ir.types import Dim
from ..machine import Machine
from ..sizing import Symbol, evaluate
from .axes import size_of
from .open_axes import fewest
from .product import find_dot, operands
from .winograd_transforms import FORMS, Form

SMALLEST_CHANNELS = 16
STRIDES = (1, 2)
BLOCK_TILES = 64  # tiles of one block at most, and a quarter of it at least
PIXELS = 224  # of an image whose height or width is open, where a choice has to be made at compile time


@dataclass(frozen=True)
class Plan:
    """out: rows and columns of the output; tiles: of tiles per image.  How many images there are may be open: choices are
    then made for the fewest.  typical: of out, where that is open."""

    form: Form
    images: Dim
    out: tuple[Dim, Dim]
    channels: int
    outputs: int
    block: int = BLOCK_TILES
    fewest: int = 1
    typical: tuple[int, int] = (0, 0)

    @property
    def m(self) -> int:
        return self.form.m

    @property
    def is_open(self) -> bool:
        """Whether the rows or columns are open."""
        return not all(isinstance(n, int) for n in self.out)

    @property
    def tiles(self) -> tuple[Dim, Dim]:
        rows, columns = (normal_dim((n + (self.m - 1)) // self.m) for n in self.out)
        return rows, columns

    @property
    def count(self) -> Dim:
        return normal_dim(multiply_dims([self.images, *self.tiles]))

    @property
    def least(self) -> int:
        """Tiles, of one image where these are open."""
        return prod(-(-n // self.m) for n in self.typical) * (self.images if isinstance(self.images, int) else self.fewest)

    @property
    def block_rows(self) -> int:
        """Tile rows of one block; 0 where the threads share the phases.  Of a known number of rows and columns."""
        rows, columns = self.tiles
        assert isinstance(rows, int) and isinstance(columns, int)
        if self.least < 2 * self.block:
            return 0
        fits = [r for r in range(1, rows + 1) if rows % r == 0 and r * columns <= self.block]
        return max(fits, default=1)


def winograd_tile(c: Compute, machine: Machine, known: Sequence[Symbol] = ()) -> int:
    """The tile side that is expected to be the fastest for this computation; 0 for direct convolution.  known: of the
    symbols in it."""
    pair = operands(c)
    if pair is None or not is_transformable(c):
        return 0
    (_, _, _, o), (_, _, i) = c.axes, c.reduce
    left, right = pair
    if min(size_of(i), size_of(o)) < SMALLEST_CHANNELS:
        return 0
    plans = _plans(c, known)
    pairs = find_dot(left.type.dtype, right.type.dtype, c.acc, machine) is not None
    rate = 2 * machine.lanes("f32") * (2 if pairs else 1) * 0.95
    images = plans[0].images if isinstance(plans[0].images, int) else plans[0].fewest
    direct = images * prod(plans[0].typical) * 9.0 * size_of(i) * size_of(o) / rate
    best = min((_cycles(p, machine), p.m) for p in plans)
    return best[1] if best[0] < 0.9 * direct else 0


def winograd_cycles(c: Compute, machine: Machine) -> float:
    """Expected cycles of the best transformed convolution.  Requires `is_transformable`."""
    return min(_cycles(p, machine) for p in _plans(c))


def _plans(c: Compute, known: Sequence[Symbol] = ()) -> list[Plan]:
    return [plan_of(c, m, BLOCK_TILES, known) for m in (4, 2)]


def is_transformable(c: Compute) -> bool:
    """Whether this is a 3 x 3 convolution of stride 1 or 2 with f32 sums."""
    return stride_of(c) is not None


def stride_of(c: Compute) -> int | None:
    """The stride of a convolution that can be transformed."""
    pair = operands(c)
    if pair is None or len(c.axes) != 4 or len(c.reduce) != 3 or c.acc != "f32":
        return None
    (n, y, x, o), (ky, kx, i) = c.axes, c.reduce
    left, right = pair
    if right.idx != (ky, kx, i, o) or (ky.extent, kx.extent) != (3, 3):
        return None
    strides = [s for s in STRIDES if left.idx == (n, y * s + ky, x * s + kx, i)]
    return strides[0] if strides else None


def plan_of(c: Compute, m: int, block: int, known: Sequence[Symbol] = ()) -> Plan:
    stride = stride_of(c)
    assert stride is not None
    images, y, x = (v.extent or 0 for v in c.axes[:3])
    sizes = dict.fromkeys(symbols([y, x]), PIXELS) | {s.var: min(max(s.low, PIXELS), s.high or PIXELS) for s in known}
    typical = evaluate(y, sizes), evaluate(x, sizes)
    return Plan(
        FORMS[m, stride], images, (y, x), size_of(c.reduce[2]), size_of(c.axes[3]), block, fewest(images, known), typical
    )


def _cycles(p: Plan, machine: Machine) -> float:
    """Expected cycles: products or the stream of their weights, and about one cycle per vector of a plane transformed."""
    lanes = machine.lanes("f32")
    weights = p.form.products * p.channels * p.outputs
    multiply = p.least * weights / (2 * lanes) / 0.9
    passes = 1.0
    if p.is_open:
        passes = max(1.0, p.least / p.block)
    elif p.block_rows:
        passes = p.least / (p.block_rows * evaluate(p.tiles[1], {}))
    stream = passes * weights * 4.0 / (9.0 if weights * 4 > machine.l2 / 2 else 40.0)
    transforms = p.least * (p.form.products * p.channels + p.form.n**2 * p.outputs) / lanes * 2.2
    return max(multiply, stream) + transforms
