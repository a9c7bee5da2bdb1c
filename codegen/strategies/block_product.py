"""Products with weights of 2, 4 and 8 bits: unpacked in registers, one panel of columns after the other.

For a tile of rows and a panel of columns the sums stay in registers over the whole reduction.  A block of the weights is
multiplied without its scale, then added with it:

    in floats     the weights are converted, 16 at a time, and multiplied with f32; zero points by the sum of x in the block
    in integers   one instruction multiplies 64 bytes of weights (a mask away from their words) with four bytes of x, and
                  the scales of x and of the weights meet the sum of a block
"""

from __future__ import annotations

from ...ir.expr import Call, Expr, Load, Type, as_expr, binary, cast, const, fma, load, splat
from ...ir.kernel import Alloc, Block, Buffer, For, Kernel, Stmt, Store, axis
from ...ir.ops.block_product import BlockMatMul, shifts
from ...ir.types import TensorType
from ..machine import Machine
from .scheduled import Scheduled

FEW_ROWS = 4  # up to which panels are wide
WIDE, NARROW = 4, 2  # vectors of a panel
FLOAT_ROWS, INTEGER_ROWS = 6, 6  # rows of a tile over a narrow panel


def panel_of(rows: int, columns: int, machine: Machine) -> int:
    """Columns of a panel for so many rows; 0 if the machine or the columns do not suit this strategy."""
    lanes = machine.lanes("f32")
    if "vpdpbusd" not in machine.calls or lanes < 8:
        return 0
    vectors = (WIDE, NARROW) if rows <= FEW_ROWS else (NARROW,)
    return next((v * lanes for v in vectors if columns % (v * lanes) == 0), 0)


def takes_block_product(op: BlockMatMul, types: tuple[TensorType, ...], machine: Machine) -> bool:
    """Whether the words are in panels of this strategy."""
    words = types[3 if op.integers else 1]
    if not all(t.is_static for t in types):
        return False
    panels, _, columns = words.static_shape
    return panel_of(types[0].static_shape[0], panels * columns, machine) == columns


def schedule_block_product(
    op: BlockMatMul, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...], machine: Machine
) -> Scheduled:
    rows, (panels, _, columns) = outs[0].static_shape[0], ins[3 if op.integers else 1].static_shape
    lanes = machine.lanes("f32")
    most = FEW_ROWS if columns == WIDE * lanes else INTEGER_ROWS if op.integers else FLOAT_ROWS
    p = axis("p", panels)
    body: list[Stmt] = []
    whole, rest = divmod(rows, min(most, rows))
    size = min(most, rows)
    if whole == 1:
        body += _Tile(op, outs[0], ins, p, as_expr(0), size, lanes, "a").block()
    else:
        t = axis("t", whole)
        body.append(For(t, tuple(_Tile(op, outs[0], ins, p, t * size, size, lanes, "a").block())))
    if rest:
        body += _Tile(op, outs[0], ins, p, as_expr(whole * size), rest, lanes, "b").block()
    kernel = Kernel("block_matmul", (*outs, *ins), (For(p, tuple(body), "parallel"),))
    kind = "sums of bytes" if op.integers else "unpacked to f32"
    tile = f"tile {size} x {columns // lanes} vectors of {lanes}"
    return Scheduled(kernel, note=f"{tile}, {op.bits} bits {kind}, threads share panels")


class _Tile:
    """Some rows of a panel."""

    def __init__(
        self, op: BlockMatMul, y: Buffer, ins: tuple[Buffer, ...], p: Expr, row: Expr, rows: int, lanes: int, name: str
    ) -> None:
        first = 3 if op.integers else 1
        self.op, self.y, self.x, self.sides = op, y, ins[0], ins[1:first]
        self.words, self.scales, *self.zeros = ins[first:]
        self.p, self.row, self.rows, self.lanes, self.name = p, row, rows, lanes, name
        self.columns = self.words.static_shape[2]
        self.vectors = self.columns // lanes
        self.f32, self.i32 = Type("f32", lanes), Type("i32", lanes)
        self.total = self._registers("total", "f32")
        self.dot = self._registers("dot", "i32" if op.integers else "f32")
        self.sum = Buffer(f"sum_{name}", "f32", (rows,), "register")

    def _registers(self, what: str, dtype: str) -> Buffer:
        return Buffer(f"{what}_{self.name}", dtype, (self.rows, self.columns), "register")

    def _at(self, buf: Buffer, r: int, v: int) -> Expr:
        return Load.of(buf, (as_expr(r), as_expr(v * self.lanes)), Type(buf.dtype, self.lanes))

    def _set(self, buf: Buffer, r: int, v: int, value: Expr) -> Store:
        return Store(buf, (as_expr(r), as_expr(v * self.lanes)), value)

    def _each(self) -> list[tuple[int, int]]:
        return [(r, v) for r in range(self.rows) for v in range(self.vectors)]

    @property
    def _sums_x(self) -> bool:
        """Whether the zero points need the sum of x: in floats."""
        return not self.op.integers

    def block(self) -> list[Stmt]:
        g = axis(f"g_{self.name}", self.scales.static_shape[1])
        per = self.op.group // self.op.per_word
        start: list[Stmt] = [self._set(self.total, r, v, splat(const(0.0, "f32"), self.lanes)) for r, v in self._each()]
        inside: list[Stmt] = [self._set(self.dot, r, v, self._first(r, g)) for r, v in self._each()]
        if self._sums_x:
            inside += [Store(self.sum, (as_expr(r),), const(0.0, "f32")) for r in range(self.rows)]
        step = self._integer_step if self.op.integers else self._float_step
        if per == 1:
            inside += step(g * per)
        else:
            several = next(u for u in (2, 1) if per % u == 0) if self.rows * self.vectors <= 4 else 1
            k = axis(f"k_{self.name}", per // several)
            inside.append(For(k, tuple(s for u in range(several) for s in step(g * per + k * several + u)), attrs=("reduce",)))
        inside += [self._set(self.total, r, v, self._added(r, v, g)) for r, v in self._each()]
        base = self.p * self.columns
        out = [
            Store(self.y, (self.row + r, base + v * self.lanes), self._at(self.total, r, v)) for r, v in self._each()
        ]
        registers = [Alloc(self.total), Alloc(self.dot), *([Alloc(self.sum)] if self._sums_x else [])]
        return [*registers, *start, For(g, tuple(inside), attrs=("reduce",)), *out]

    def _first(self, r: int, g: Expr) -> Expr:
        """What a block's sum starts with: in integers, what the zero point takes away."""
        if not self.op.integers:
            return splat(const(0.0, "f32"), self.lanes)
        if self.zeros:
            return splat(const(0, "i32"), self.lanes)
        return splat(binary("mul", load(self.sides[1], self.row + r, g), const(-self.op.zero, "i32")), self.lanes)

    def _word(self, k: Expr, v: int) -> Expr:
        return Load.of(self.words, (self.p, k, as_expr(v * self.lanes)), self.i32)

    def _integer_step(self, k: Expr) -> Block:
        """The products of one word of every column: four bytes at a time."""
        made: list[Stmt] = []
        quads = self.op.per_word // 4
        for v in range(self.vectors):
            for q in range(quads):
                word = self._word(k, v)
                if quads > 1:
                    word = binary("shr", word, splat(const(q * self.op.bits, "i32"), self.lanes)) if q else word
                    word = binary("and", word, splat(const((2**self.op.bits - 1) * 0x01010101, "i32"), self.lanes))
                for r in range(self.rows):
                    at = k * self.op.per_word + 4 * q
                    four = splat(Load.of(self.x, (self.row + r, at), Type("i32")), self.lanes)
                    added = Call.of("vpdpbusd", (self._at(self.dot, r, v), word, four), self.i32)
                    made.append(self._set(self.dot, r, v, added))
        return tuple(made)

    def _float_step(self, k: Expr) -> Block:
        made: list[Stmt] = []
        mask = splat(const(2**self.op.bits - 1, "i32"), self.lanes)
        for j, shift in enumerate(shifts(self.op.bits)):
            at = k * self.op.per_word + j
            xs = [load(self.x, self.row + r, at) for r in range(self.rows)]
            made += [Store(self.sum, (as_expr(r),), load(self.sum, r) + x) for r, x in enumerate(xs)]
            for v in range(self.vectors):
                word = self._word(k, v)
                word = binary("shr", word, splat(const(shift, "i32"), self.lanes)) if shift else word
                weight = cast(binary("and", word, mask), "f32")
                made += [
                    self._set(self.dot, r, v, fma(splat(x, self.lanes), weight, self._at(self.dot, r, v)))
                    for r, x in enumerate(xs)
                ]
        return tuple(made)

    def _added(self, r: int, v: int, g: Expr) -> Expr:
        """The total with a block."""
        at = (self.p, g, as_expr(v * self.lanes))
        scale, dot = Load.of(self.scales, at, self.f32), self._at(self.dot, r, v)
        if self.op.integers:
            dot = cast(dot, "f32")
            if self.zeros:
                sums = cast(load(self.sides[1], self.row + r, g), "f32")
                dot = dot - splat(sums, self.lanes) * Load.of(self.zeros[0], at, self.f32)
            dot = dot * splat(load(self.sides[0], self.row + r, g), self.lanes)
        else:
            zero = Load.of(self.zeros[0], at, self.f32) if self.zeros else splat(const(float(self.op.zero), "f32"), self.lanes)
            dot = dot - splat(load(self.sum, r), self.lanes) * zero
        return fma(dot, scale, self._at(self.total, r, v))
