"""The simplifier: every rule exhaustively on small ranges against Python integers, then random expressions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import (
    BOOL,
    F32,
    I64,
    Bin,
    Cast,
    Const,
    Expr,
    Select,
    Splat,
    Type,
    Var,
    all_of,
    as_expr,
    binary,
    bounds,
    call,
    cast,
    const,
    fma,
    from_linear,
    is_const,
    linear,
    load,
    select,
    splat,
)
from tilewright.ir.kernel import Buffer, axis
from tilewright.ir.traverse import rebuild, rewrite, substitute, uses, walk

_VALUE: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a // b,
    "mod": lambda a, b: a % b, "min": min, "max": max, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}


def value(e: Expr, env: dict[Expr, int]) -> int:
    match e:
        case Const():
            return e.value
        case Var():
            return env[e]
        case Bin():
            return _VALUE[e.op](value(e.a, env), value(e.b, env))
        case Select():
            return value(e.a if value(e.cond, env) else e.b, env)
    raise AssertionError(type(e))


def environments(*variables: Var):
    for values in itertools.product(*(range(v.extent) for v in variables)):  # type: ignore[arg-type]
        yield dict(zip(variables, values, strict=True))


def check(made: Expr, meant: Callable[..., int], *variables: Var) -> None:
    """The expression has the meant value everywhere, and its bounds hold."""
    lo, hi = bounds(made)
    for env in environments(*variables):
        expected = meant(*env.values())
        assert value(made, env) == expected, f"{made} at {env}"
        assert (lo is None or lo <= expected) and (hi is None or expected <= hi), f"bounds {lo}, {hi} of {made}"


# ---- rules of division -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("extent", range(1, 8))
def test_quotient_and_remainder_of_a_split_index(n: int, extent: int) -> None:
    """(n*x + b) / n and % n, for b that fits below n and b that does not."""
    x, b = axis("x", 4), axis("b", extent)
    for shift in (-3, 0, 2):
        e = x * n + b + shift
        check(e // n, lambda x, b, s=shift: (x * n + b + s) // n, x, b)
        check(e % n, lambda x, b, s=shift: (x * n + b + s) % n, x, b)
    if extent <= n > 1:
        assert (x * n + b) // n is x
        assert (x * n + b) % n is b


@pytest.mark.parametrize("g, q", [(g, q) for g in range(1, 6) for q in range(1, 6)])
def test_common_factors_are_cancelled(g: int, q: int) -> None:
    """(g*y + z) / (g*q) -> y / q and % -> g * (y % q) + z, for 0 <= z < g."""
    y, z = axis("y", 7), axis("z", g)
    n = g * q
    check((y * g + z) // n, lambda y, z: (y * g + z) // n, y, z)
    check((y * g + z) % n, lambda y, z: (y * g + z) % n, y, z)
    if g > 1 and q > 1:
        assert (y * g + z) // n is y // q
        assert (y * g + z) % n is y % q * g + z


@pytest.mark.parametrize("n", range(1, 7))
def test_quotient_and_remainder_recombine(n: int) -> None:
    """(x/n)*n*q + (x%n)*q -> x*q inside any sum."""
    x, y = axis("x", 20), axis("y", 3)
    for q in (1, 2, -3):
        e = x // n * (n * q) + x % n * q + y + 5
        assert e is x * q + y + 5
    check(x // n * n + x % n * 2, lambda x: x // n * n + x % n * 2, x)
    check(x // n * (n + 1) + x % n, lambda x: x // n * (n + 1) + x % n, x)


@pytest.mark.parametrize("m, n", [(2, 3), (4, 2), (3, 7)])
def test_quotients_of_quotients(m: int, n: int) -> None:
    """(x/m)/n -> x/(m*n), of negative numbers too."""
    x = axis("x", 40)
    assert x // m // n is x // (m * n)
    for shift in (-23, 0, 5):
        check((x + shift) // m // n, lambda x, s=shift: (x + s) // m // n, x)
    check((x // m * 2 + 1) // n, lambda x: (x // m * 2 + 1) // n, x)


def test_an_index_that_was_split_in_three_recombines() -> None:
    x = axis("x", 210)
    assert x // 7 // 6 * 42 + x // 7 % 6 * 7 + x % 7 is x


def test_flattened_address_of_a_fused_loop_is_one_run() -> None:
    """What makes (kw, ic) one contiguous run: [c / IC, c % IC] of a buffer with IC columns."""
    c = axis("c", 12)
    row, column = c // 4, c % 4
    assert row * 4 + column is c
    assert (axis("ow", 5) + row) * 4 + column is axis("ow", 5) * 4 + c


@pytest.mark.parametrize("op", ["div", "mod"])
def test_division_of_constants_and_negative_divisors(op: str) -> None:
    for a, b in itertools.product(range(-7, 8), (-3, -2, -1, 1, 2, 3)):
        assert binary(op, a, const(b)).value == _VALUE[op](a, b)
    x = axis("x", 9)
    for b in (-3, -1, 2):
        check(binary(op, x - 4, const(b)), lambda x, b=b: _VALUE[op](x - 4, b), x)
    with_zero = binary(op, const(1), const(0))
    assert isinstance(with_zero, Bin), "not folded: it has no value"


def test_division_by_itself() -> None:
    n = axis("n", None)
    assert binary("div", n, n) is const(1) and binary("mod", n, n) is const(0)


# ---- linear forms ------------------------------------------------------------------------------------------------


def test_sums_are_canonical() -> None:
    x, y = axis("x", 5), axis("y", 5)
    assert x + y - x is y
    assert x * 3 + y * 2 - (x * 3 + y * 2) is const(0)
    assert (x + 1) * 4 is x * 4 + 4
    assert -(x - y) - (y - x) is const(0)
    assert 7 - x + x is const(7)
    assert linear(x * 2 + y - 3) == (-3, {x: 2, y: 1})
    assert from_linear(-3, {x: 2, y: 1}) is x * 2 + y - 3
    assert 0 * x is const(0) and 1 * x is x
    assert x * y - x * y is const(0)


def test_sums_of_another_order_are_equal_as_linear_forms() -> None:
    x, y = axis("x", 5), axis("y", 5)
    assert linear(x + y) == linear(y + x)
    assert (x + y) - (y + x) is const(0)


def test_comparisons_and_extremes() -> None:
    x, y = axis("x", 6), axis("y", 4)
    for op in ("lt", "le", "eq", "ne"):
        assert binary(op, const(2), const(3)) is const(_VALUE[op](2, 3), BOOL)
        check(select(binary(op, x, y), x - y, y * 2), lambda x, y, op=op: x - y if _VALUE[op](x, y) else y * 2, x, y)
    for op in ("min", "max"):
        check(binary(op, x * 2 - 3, y), lambda x, y, op=op: _VALUE[op](x * 2 - 3, y), x, y)
        assert binary(op, x, x) is x


def test_conjunction() -> None:
    a, b = binary("lt", axis("x", 3), const(2)), binary("eq", axis("y", 3), const(1))
    assert all_of([]) is const(True, BOOL)
    assert all_of([a]) is a
    assert all_of([a, b]) is Bin.of("and", a, b, BOOL)


def random_expression(rng: random.Random, variables: list[Var], depth: int) -> tuple[Expr, Callable[..., int]]:
    if depth == 0 or rng.random() < 0.15:
        if rng.random() < 0.3:
            c = rng.randint(-6, 12)
            return const(c), lambda *_: c
        n = rng.randrange(len(variables))
        return variables[n], lambda *v: v[n]
    op = rng.choice(["add", "sub", "mul", "div", "mod", "div", "mod", "min", "max", "add"])
    a, fa = random_expression(rng, variables, depth - 1)
    if op in ("div", "mod", "mul"):
        k = rng.randint(1, 12)
        return binary(op, a, k), lambda *v: _VALUE[op](fa(*v), k)
    b, fb = random_expression(rng, variables, depth - 1)
    return binary(op, a, b), lambda *v: _VALUE[op](fa(*v), fb(*v))


@pytest.mark.parametrize("seed", range(40))
def test_random_index_expressions(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        variables = [axis("x", 6), *(axis(name, rng.randint(1, 6)) for name in "yz")]
        e, meant = random_expression(rng, variables, 4)
        check(e, meant, *variables)
        inner = axis("inner", 3)
        deeper = substitute(e, {variables[0]: inner * 2 + 1})
        check(deeper, lambda i, y, z, f=meant: f(i * 2 + 1, y, z), inner, variables[1], variables[2])


# ---- bounds ------------------------------------------------------------------------------------------------------


def test_bounds() -> None:
    x, n = axis("x", 6), axis("n", None)
    assert bounds(x) == (0, 5)
    assert bounds(n) == (0, None)
    assert bounds(n + x - 3) == (-3, None)
    assert bounds(x * -2 + 1) == (-9, 1)
    assert bounds(n % 5) == (0, 4) and bounds(x % 9) == (0, 5)
    assert bounds(binary("min", n, const(7))) == (0, 7)
    assert bounds(binary("max", n - 2, const(3))) == (3, None)
    m = axis("m", 4)
    assert bounds(axis("ragged", m + 2)) == (0, 4)
    buf = Buffer("G", "i64", (3,))
    assert bounds(buf[axis("i", 3)]) == (None, None)


# ---- identity and types ------------------------------------------------------------------------------------------


def test_constants_that_compare_equal_stay_apart() -> None:
    assert const(0.0, "f32") is not const(-0.0, "f32")
    assert const(1) is not const(True, "bool")
    assert const(1, "i64") is not const(1, "i32")
    assert const(1.0, "f32") is not const(1, "i64")
    assert const(float("nan"), "f32") is const(float("nan"), "f32")
    assert const(0.1, "f32") is const(0.1, "f32")
    assert is_const(const(3), 3) and not is_const(axis("x", 3))


def test_equal_expressions_are_one_object() -> None:
    x = axis("x", 5)
    buf = Buffer("A", "f32", (5,))
    assert buf[x] + 1.0 is Buffer("A", "f32", (5,))[axis("x", 5)] + 1.0
    assert axis("x", 5) is not axis("x", 6)
    assert 1 + x is x + 1


def test_numbers_take_the_other_type_and_scalars_are_widened() -> None:
    v = load(Buffer("A", "f32", (8,)), axis("x", 8))
    wide = splat(v, 4)
    assert (v * 2).type == F32 and (2 * v).type == F32
    assert (wide + v).type == Type("f32", 4) and isinstance((wide + v).b, Splat)
    assert (wide * 2).type == Type("f32", 4)
    assert fma(wide, v, v).type == Type("f32", 4)
    assert select(const(True, BOOL), v, 0.0) is v
    assert select(binary("lt", wide, v), v, 1.0).type == Type("f32", 4)
    assert call("exp", wide).type == Type("f32", 4)
    assert binary("le", v, v).type == BOOL


def test_types_must_agree() -> None:
    v = load(Buffer("A", "f32", (8,)), axis("x", 8))
    with pytest.raises(InternalError, match="operands of add differ in type: f32 and i64"):
        _ = v + axis("y", 2)
    with pytest.raises(InternalError, match="cannot widen 4 lanes to 8"):
        splat(splat(v, 4), 8)
    with pytest.raises(InternalError, match="A has 1 dimensions, indexed with 2"):
        load(Buffer("A", "f32", (8,)), 0, 1)


@pytest.mark.parametrize("source, value_, target, expected", [
    ("f32", 2.7, "i64", 2), ("f32", -2.7, "i32", -2), ("i64", 300, "u8", 44), ("f64", 0.1, "f32", float(np.float32(0.1))),
    ("i64", 5, "bool", True), ("bool", True, "f32", 1.0), ("f32", 1.00048828125, "f16", 1.0), ("i64", -1, "u64", 2**64 - 1),
])
def test_casts_of_constants_fold(source: str, value_: float, target: str, expected: float) -> None:
    made = cast(const(value_, source), target)
    assert isinstance(made, Const) and made.value == expected and made.type == Type(target)
    assert isinstance(cast(load(Buffer("A", source, (1,)), 0), target), Cast)


# ---- walking and rewriting ---------------------------------------------------------------------------------------


def test_rewriting_simplifies() -> None:
    x, y = axis("x", 12), axis("y", 4)
    e = x // 4 * 4 + y
    assert substitute(e, {y: x % 4}) is x
    buf = Buffer("A", "f32", (12,))
    moved = substitute(buf[x] * 2.0, {x: y * 3})
    assert moved is buf[y * 3] * 2.0
    assert rewrite(buf[x], lambda n: n * 1 if n is x else None) is buf[x]


def test_substitution_is_simultaneous() -> None:
    x, y = axis("x", 5), axis("y", 5)
    assert substitute(x * 2 + y, {x: y, y: x}) is y * 2 + x


def test_walk_and_uses() -> None:
    x, y = axis("x", 5), axis("y", 5)
    buf = Buffer("A", "f32", (25,))
    e = buf[x * 5 + y] + buf[x * 5 + y]
    nodes = list(walk(e))
    assert len(nodes) == len(set(nodes)) and nodes[-1] is e
    assert nodes.index(x) < nodes.index(buf[x * 5 + y])
    assert uses(e, x) and not uses(e, axis("z", 5))


def test_rebuild_keeps_nodes_whose_children_do_not_change() -> None:
    v = load(Buffer("A", "f32", (8,)), axis("x", 8))
    for e in (v + 1.0, fma(v, v, v), select(binary("lt", v, v), v, v), call("exp", v), splat(v, 4), cast(v, "f16")):
        from tilewright.ir.traverse import children

        assert rebuild(e, children(e)) is e
    assert as_expr(3).type == I64


def test_comparisons_of_constants_are_decided() -> None:
    """NaN differs from itself; the guard of `max` for a constant that is no NaN disappears."""
    nan, x = const(float("nan"), "f32"), Var.of("x", None, Type("f32"))
    assert is_const(binary("ne", nan, nan), True)
    zero = const(0.0, "f32")
    guarded = select(binary("ne", zero, zero), zero, binary("max", x, zero))
    assert guarded is binary("max", x, zero)
