"""simplify: one small graph per rule, with the operators that are left."""

from collections.abc import Callable

import numpy as np
import pytest
from passes.meaning import array, counts, f32, number, preserved
from tilewright.compiler.passes.simplify import simplify
from tilewright.compiler.passes.simplify_arithmetic import holds
from tilewright.ir.graph import Builder, Value
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.control import If
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.movement import Broadcast, Concat, Gather, GatherND, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.quantize import Saturate
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.types import DTYPES, NUMBERS, TensorType

Make = Callable[[Builder, Value], Value]


def add(b: Builder, x: Value, y: Value) -> Value:
    return b.add(Binary("add"), x, y)


def binary(fn: str, value: float) -> Make:
    return lambda b, x: b.add(Binary(fn), x, number(b, value))


def chain(*ops: object) -> Make:
    def make(b: Builder, x: Value) -> Value:
        for op in ops:
            x = b.add(op, x)  # type: ignore[arg-type]
        return x

    return make


def reversed_operands(fn: str, value: float) -> Make:
    return lambda b, x: b.add(Binary(fn), number(b, value), x)


def clipped(*limits: float) -> Make:
    def make(b: Builder, x: Value) -> Value:
        for limit in limits:
            x = b.add(Binary("min"), x, number(b, limit))
        return x

    return make


def slices(*ranges: tuple[int, int, int]) -> Make:
    def make(b: Builder, x: Value) -> Value:
        for start, size, step in ranges:
            x = b.add(Slice((0, start, 0), (2, size, 6), (1, step, 1)), x)
        return x

    return make


def halves_joined(b: Builder, x: Value) -> Value:
    parts = [b.add(Slice((0, start, 0), (2, 2, 6), (1, 1, 1)), x) for start in (0, 2)]
    return b.add(Concat(1), *parts)


def part_of_concat(b: Builder, x: Value) -> Value:
    return b.add(Slice((0, 5, 0), (2, 2, 6), (1, 1, 1)), b.add(Concat(1), x, b.add(Unary("neg"), x)))


def padded_twice(b: Builder, x: Value) -> Value:
    for before in ((0, 1, 0), (0, 2, 3)):
        x = b.add(Pad(before, (0, 1, 0), "constant"), x, number(b, 0.0))
    return x


def gathered(*indices: object) -> Make:
    return lambda b, x: b.add(Gather(1), x, b.constant(np.array(*indices)))


def every_element(b: Builder, x: Value) -> Value:
    rows = np.stack(np.meshgrid(np.arange(2), np.arange(4), indexing="ij"), axis=-1)
    return b.add(GatherND(0), x, b.constant(rows[:, :, None]))


def added_to_broadcast(b: Builder, x: Value) -> Value:
    return add(b, x, b.add(Broadcast((2, 4, 6)), b.add(Slice((0, 0, 0), (1, 1, 6), (1, 1, 1)), x)))


def product_of_rows(b: Builder, x: Value) -> Value:
    y = b.add(MatMul(), b.add(Reshape((8, 6)), x), b.constant(array(6, 5)))
    return b.add(Reshape((2, 4, 5)), add(b, y, b.constant(array(5))))


def chosen(condition: bool) -> Make:
    def make(b: Builder, x: Value) -> Value:
        flags = b.constant(np.full((4, 6), condition))
        return b.add(Select(), flags, b.add(Unary("exp"), x), b.add(Unary("abs"), x))

    return make


# (name, what is built on x: f32[2, 4, 6], operators that are left)
RULES: list[tuple[str, Make, dict[str, int]]] = [
    ("x + 0", binary("add", 0), {}),
    ("0 + x", reversed_operands("add", 0), {}),
    ("x - 0", binary("sub", 0), {}),
    ("x * 1", binary("mul", 1), {}),
    ("x / 1", binary("div", 1), {}),
    ("x / 8", binary("div", 8), {"mul": 1}),
    ("x / 3", binary("div", 3), {"div": 1}),
    ("2 / x", reversed_operands("div", 2), {"div": 1}),
    ("pow 1", binary("pow", 1), {}),
    ("max -inf", binary("max", float("-inf")), {}),
    ("min 8, 6, 7", clipped(8, 6, 7), {"min": 1}),
    ("neg neg", chain(Unary("neg"), Unary("neg")), {}),
    ("floor floor", chain(Unary("floor"), Unary("floor")), {"floor": 1}),
    ("x + neg x", lambda b, x: add(b, b.add(Unary("exp"), x), b.add(Unary("neg"), x)), {"exp": 1, "sub": 1}),
    ("cast there and back", chain(Cast("f64"), Cast("f32")), {}),
    ("cast to less and back", chain(Cast("f16"), Cast("f32")), {"Cast": 2}),
    ("cast twice", chain(Cast("f64"), Cast("i32")), {"Cast": 1}),
    ("select true", chosen(True), {"exp": 1}),
    ("select false", chosen(False), {"abs": 1}),
    ("reshape twice", chain(Reshape((8, 6)), Reshape((4, 12))), {"Reshape": 1}),
    ("reshape back", chain(Reshape((8, 6)), Reshape((2, 4, 6))), {}),
    ("transpose back", chain(Transpose((1, 2, 0)), Transpose((2, 0, 1))), {}),
    ("transpose twice", chain(Transpose((1, 0, 2)), Transpose((0, 2, 1))), {"Transpose": 1}),
    ("transpose of unit axes", chain(Reshape((8, 1, 6)), Transpose((1, 0, 2))), {"Reshape": 1}),
    ("rounded reshape", chain(Reshape((8, 6)), Saturate("u8", 0, 255), Reshape((2, 4, 6))), {"Saturate": 1}),
    ("merge and split around a move",
     chain(Reshape((8, 6)), Transpose((1, 0)), Reshape((6, 2, 4))), {"Transpose": 1}),
    ("merge and split elsewhere", chain(Reshape((8, 6)), Transpose((1, 0)), Reshape((6, 4, 2))),
     {"Reshape": 2, "Transpose": 1}),
    ("broadcast to itself", chain(Broadcast((2, 4, 6))), {}),
    ("broadcast of unit axes", chain(Broadcast((1, 2, 4, 6))), {"Reshape": 1}),
    ("broadcast twice", chain(Broadcast((3, 2, 4, 6)), Broadcast((2, 3, 2, 4, 6))), {"Broadcast": 1}),
    ("exp of broadcast", chain(Broadcast((3, 2, 4, 6)), Unary("exp")), {"exp": 1, "Broadcast": 1}),
    ("add of broadcast", added_to_broadcast, {"Slice": 1, "add": 1}),
    ("whole slice", slices((0, 4, 1)), {}),
    ("slice of slice", slices((0, 4, 1), (3, 2, -2)), {"Slice": 1}),
    ("reversed twice", slices((3, 4, -1), (3, 4, -1)), {}),
    ("slice of a part", part_of_concat, {"neg": 1, "Slice": 1}),
    ("joined halves", halves_joined, {}),
    ("concat of one", chain(Concat(1)), {}),
    ("pad of pad", padded_twice, {"Pad": 1}),
    ("gather one", gathered(-1), {"Slice": 1, "Reshape": 1}),
    ("gather neighbours", gathered([1, 2, 3]), {"Slice": 1}),
    ("gather backwards", gathered([[3, 1]]), {"Slice": 1, "Reshape": 1}),
    ("gather all over", gathered([0, 3, 1]), {"Gather": 1}),
    ("gather every element", every_element, {"Reshape": 1}),
    ("sum of unit axes", chain(Reshape((2, 1, 24)), Reduce("sum", (1,), False)), {"Reshape": 1}),
    ("product of rows", product_of_rows, {"MatMul": 1, "add": 1}),
]


@pytest.mark.parametrize(("make", "left"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rule(make: Make, left: dict[str, int]) -> None:
    b = Builder()
    after = preserved(b.graph([make(b, b.input("x", f32(2, 4, 6)))]), simplify)
    assert counts(after) == left
    assert str(simplify(after)) == str(after)


def test_leading_axes_that_broadcasting_adds_stay() -> None:
    b = Builder()
    x, y = b.input("x", f32(1, 8, 6)), b.input("y", f32(1, 8, 6))
    after = preserved(b.graph([b.add(Binary("mul"), b.add(Reshape((8, 6)), x), y)]), simplify)
    assert counts(after) == {"mul": 1}


@pytest.mark.parametrize(("power", "left"), [(2, {"mul": 1}), (3, {"mul": 2}), (0.5, {"sqrt": 1}), (-1, {"reciprocal": 1})])
def test_powers_become_products(power: float, left: dict[str, int]) -> None:
    b = Builder()
    x = b.add(Unary("abs"), b.input("x", f32(2, 4, 6)))
    after = preserved(b.graph([binary("pow", power)(b, x)]), simplify, tolerance=3e-7)
    assert counts(after) == {"abs": 1, **left}


def test_a_cube_of_halves_keeps_its_single_rounding() -> None:
    b = Builder()
    x = b.input("x", TensorType("f16", (8,)))
    assert counts(simplify(b.graph([b.add(Binary("pow"), x, number(b, 3, "f16"))]))) == {"pow": 1}


def test_division_by_a_power_of_two_whose_reciprocal_is_not_normal_stays() -> None:
    b = Builder()
    x = b.input("x", f32(8))
    assert counts(simplify(b.graph([b.add(Binary("div"), x, number(b, 2.0**127))]))) == {"div": 1}


def test_integers_regroup_where_floats_do_not() -> None:
    for dtype, left in (("i32", {"add": 1}), ("f32", {"add": 2})):
        b = Builder()
        x = b.input("x", TensorType(dtype, (5,)))
        y = b.add(Binary("add"), b.add(Binary("add"), x, number(b, 3, dtype)), number(b, 4, dtype))
        assert counts(preserved(b.graph([y]), simplify)) == left


def test_a_decided_condition_picks_the_branch() -> None:
    def branch(fn: str) -> object:
        inner = Builder(fn)
        return inner.graph([inner.add(Unary(fn), inner.input("x", f32(3)))])

    b = Builder()
    y = b.add(If(branch("exp"), branch("neg")), b.constant(np.array(False)), b.input("x", f32(3)))  # type: ignore
    assert counts(preserved(b.graph([y]), simplify)) == {"neg": 1}


@pytest.mark.parametrize("narrow", ["bool", "i8", "u8", "i16", "u16", "f16", "bf16"])
@pytest.mark.parametrize("wide", list(NUMBERS))
def test_holds_means_that_all_values_survive(wide: str, narrow: str) -> None:
    if wide == "bool" and narrow != "bool":
        return
    size = DTYPES[narrow].size
    bits = np.arange(2 if narrow == "bool" else 2 ** (8 * size), dtype=f"uint{8 * size}")
    values = bits.view(DTYPES[narrow].numpy)
    with np.errstate(all="ignore"):
        moved, kept = values.astype(DTYPES[wide].numpy).astype(np.float64), values.astype(np.float64)
    assert holds(wide, narrow) == np.array_equal(moved, kept, equal_nan=True)
