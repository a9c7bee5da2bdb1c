"""The text form: what is printed parses, and prints the same; wrong texts are refused with their place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from suites import rows_a, rows_b, rows_c, rows_q
from suites.lowered import expanded, naive_kernel
from suites.row import Row, type_of
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ModelError
from tilewright.ir.expr import (
    BOOL,
    F32,
    I64,
    Bin,
    Expr,
    HReduce,
    Load,
    Ramp,
    Shuffle,
    Splat,
    Type,
    Var,
    binary,
    call,
    cast,
    const,
    fma,
    select,
    unary,
)
from tilewright.ir.graph import Builder
from tilewright.ir.kernel import (
    Alloc,
    Barrier,
    Buffer,
    Do,
    For,
    If,
    Kernel,
    Prefetch,
    Read,
    Store,
    Write,
    axis,
    nest,
    store,
)
from tilewright.ir.ops.base import form_of
from tilewright.ir.ops.control import If as IfOp
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.movement import Reshape
from tilewright.ir.parse import parse_kernel
from tilewright.ir.parse_expr import parse_expr
from tilewright.ir.parse_graph import parse_graph
from tilewright.ir.text import content_hash, show_expr
from tilewright.ir.types import TensorType

A = Buffer("A", "f32", (8, 16))
B = Buffer("odd name", "u8", (64,))
i, j, n = axis("i", 8), axis("j", 16), axis("N", None)
acc = Var.of("acc", None, F32)
NAMES = {"A": A, "odd name": B, "i": i, "j": j, "N": n, "for": axis("for", 3), "acc": acc}


def v8(x: Expr) -> Expr:
    return Splat.of(x, x.type.with_lanes(8))


def plus(a: Expr, b: Expr) -> Expr:
    return Bin.of("add", a, b, I64)


def times(a: Expr, k: int) -> Expr:
    return Bin.of("mul", a, const(k), I64)


def both(a: Expr, b: Expr) -> Expr:
    return binary("and", a, b)


CASES: dict[str, Expr] = {
    "i*4 + j + 3": i * 4 + j + 3,
    "i*4 - j - 3": i * 4 - j - 3,
    "i - j*2": i - j * 2,
    "i*-1": -i,
    "(i + j)*N": (i + j) * n,
    "((i + 3) // 4)*2": times(Bin.of("div", plus(i, const(3)), const(4), I64), 2),
    "i - (j - N)*2": plus(i, times(plus(j, times(n, -1)), -2)),
    "sub(i, j)": Bin.of("sub", i, j, I64),
    "max(i - 1, 0)": binary("max", i - 1, 0),
    "i < 3": binary("lt", i, 3),
    "(i < 3) & (j <= 2) | (i == j)": binary(
        "or", both(binary("lt", i, 3), binary("le", j, 2)), binary("eq", i, j)),
    "A[i, j] + 1.0": A[i, j] + 1.0,
    "A[i, j] - (A[0, 0] - 2.5)": A[i, j] - (A[0, 0] - 2.5),
    "A[i, j] / A[0, 0] / 2.0": A[i, j] / A[0, 0] / 2.0,
    "-0.0": const(-0.0, "f32"),
    "inf": const(float("inf"), "f32"),
    "-inf:f16": const(float("-inf"), "f16"),
    "nan": const(float("nan"), "f32"),
    "1e-05": const(1e-5, "f32"),
    "true": const(True, BOOL),
    "-3:i8": const(-3, "i8"),
    "1.0:f32x8": const(1.0, Type("f32", 8)),
    "fma(A[i, j], acc, 1.0)": fma(A[i, j], acc, const(1.0, "f32")),
    "select(i < 3, A[i, 0], 0.0)": select(binary("lt", i, 3), A[i, 0], 0.0),
    "i32(A[i, j])": cast(A[i, j], "i32"),
    "neg(exp(A[i, j]))": unary("neg", call("exp", A[i, j])),
    'call("sqrt", A[i, j])': call("sqrt", A[i, j]),
    "dot(A[i, j]):i32": call("dot", A[i, j], dtype="i32"),
    "A[i, 0]:8": Load.of(A, (i, const(0)), Type("f32", 8)),
    '"odd name"[i*4]:i32': Load.of(B, (i * 4,), Type("i32")),
    '"odd name"[0]:i32x16': Load.of(B, (const(0),), Type("i32", 16)),
    "A[i, ramp(i64x8) + splat(j, 8)]:8": Load.of(A, (i, Ramp.of(Type("i64", 8)) + v8(j)), Type("f32", 8)),
    "hreduce(add, A[i, 0]:8)": HReduce.of("add", Load.of(A, (i, const(0)), Type("f32", 8)), F32),
    "shuffle(splat(acc, 8), A[0, 0]:8, (0, 9, 3))": Shuffle.of(
        v8(acc), Load.of(A, (const(0), const(0)), Type("f32", 8)), (0, 9, 3), Type("f32", 3)),
    '"for" % 2': Bin.of("mod", NAMES["for"], const(2), I64),
    '"odd name"[i] << 3:u8 ^ 255:u8': binary("xor", binary("shl", B[i], 3), 255),
    "tdiv(i, j)": binary("tdiv", i, j),
}


@pytest.mark.parametrize("text", CASES)
def test_expressions(text: str) -> None:
    e = CASES[text]
    assert parse_expr(text, NAMES) is e
    assert parse_expr(show_expr(e), NAMES) is e
    assert show_expr(parse_expr(show_expr(e), NAMES)) == show_expr(e)


def random_expr(rng: np.random.Generator, depth: int) -> Expr:
    """Any f32 expression over A; parts are shared by chance."""
    if depth == 0:
        return [A[i, j], const(rng.integers(-9, 9) / 4, "f32"), A[i * 2 - j + 3, (j - i) // 3 % 5]][rng.integers(3)]
    a, b = random_expr(rng, depth - 1), random_expr(rng, depth - 1 - int(rng.integers(0, depth)))
    makers: list[Callable[[], Expr]] = [
        lambda: a + b, lambda: a - b, lambda: a * b, lambda: a / b, lambda: a % b, lambda: unary("neg", a),
        lambda: select(binary("and", binary("lt", a, b), binary("ne", b, a)), a, b), lambda: binary("min", a, b),
        lambda: cast(cast(a, "i64") + i - cast(b, "i64"), "f32"), lambda: call("pow", a, b), lambda: (a + b) * (a - b),
    ]
    return makers[rng.integers(len(makers))]()


@pytest.mark.parametrize("seed", range(60))
def test_random_expressions(seed: int) -> None:
    e = random_expr(np.random.default_rng(seed), 1 + seed % 7)
    assert parse_expr(show_expr(e), NAMES) is e


def test_shared_parts_keep_the_text_short() -> None:
    e = A[i, j]
    for _ in range(40):
        e = e * e + 1.0
    text = show_expr(e)
    assert len(text) < 2000 and "$39 = " in text
    assert parse_expr(text, NAMES) is e


@pytest.mark.parametrize("row", [pytest.param(r, id=r.id) for r in (*rows_a.ROWS, *rows_b.ROWS, *rows_c.ROWS, *rows_q.ROWS)])
def test_rows(row: Row) -> None:
    """Kernels, expansions, and the operator itself with its attributes."""
    b = Builder(row.op.name)
    types = tuple(map(type_of, row.arrays()))
    graph = b.graph(b.add_multi(row.op, *(b.input("x", t) for t in types)))
    again = parse_graph(str(graph))
    assert str(again) == str(graph)
    assert again.nodes[0].op == row.op
    if form_of(row.op) == "expand":
        graph = expanded(row.op, types)
        stored = {content_hash(a): a for a in graph.constants.values()}
        assert str(parse_graph(str(graph), stored)) == str(graph)
    else:
        text = str(naive_kernel(row.op, types))
        assert str(parse_kernel(text)) == text


MATMUL = """\
kernel matmul[M < 512](C: f32[M, 16], A: f32[M, 8], B: f32[8, 16] align 32, M)
  for m < M parallel
    alloc acc: f32[16] in register
    for n < 16 unroll
      acc[n] = 0.0
    for k < 8 attrs ("reduce",)
      prefetch B[k + 1, 0] level 1
      for v < 2 unroll
        acc[v*8] = fma(splat(A[m, k], 8), B[k, v*8]:8, acc[v*8]:8)
    if (m < 4) | (acc[0] != acc[0])
      C[m, 0] = acc[0]:16
    else
      barrier pool
"""


def test_a_scheduled_kernel() -> None:
    kernel = parse_kernel(MATMUL)
    assert str(kernel) == MATMUL
    assert kernel.param("A").shape[0] is kernel.params[3]
    assert isinstance(kernel.body[0], For) and kernel.body[0].var.extent is kernel.params[3]


def test_every_statement() -> None:
    i, m = axis("i", 4), axis("M", axis("K", 9) * 2)
    x = Buffer("x.1", "f32", (4, m), strides=(100, 1), attrs=("may_alias", 3, None, ("a",)))
    s, t = Buffer("s", "f32", (4,), "stream"), Buffer("t", "f32", (4,), "shared", align=16)
    body = (
        Alloc(t),
        For(i, (
            Read(s, t, (i,)), Write(s, t[i]), Prefetch(x, (i, i * 2)), Store(t, (i,), x[i, 0], "async"),
            Do("mma", (t[i], i + 1), (t, s)), Do("commit"), Barrier("block"),
            If(binary("lt", i, 2), (store(t, (i,), 1.0),)),
        ), "thread.x", ("role", 2)),
        If(const(True, BOOL), (If(const(False, BOOL), (), (Barrier(),)),), ()),
    )
    kernel = Kernel("weird \"name\"", (x, s, m), body)
    text = str(kernel)
    again = parse_kernel(text)
    assert str(again) == text
    assert again.params == kernel.params
    x_text = 'x.1: f32[4, M] strides (100, 1) attrs ("may_alias", 3, None, ("a",))'
    assert text.startswith(f'kernel "weird \\"name\\""[K < 9, M < K*2]({x_text}, s: f32[4] in stream, M)')


def test_large_statements_define_their_repeated_parts() -> None:
    i = axis("i", 8)
    x, y = Buffer("x", "f32", (8,)), Buffer("y", "f32", (8,))
    e = x[i]
    for _ in range(12):
        e = e * call("erf", e)
    kernel = lower_group("chain", (y, x), (Compute(y, (i,), e),))
    text = str(kernel)
    assert "    let $1 = " in text and len(text) < 1500
    assert str(parse_kernel(text)) == text


def test_one_name_for_several_loops() -> None:
    a, b = axis("i", 4), axis("i", 3)
    x = Buffer("x", "i64", (7,))
    kernel = Kernel("cut", (x,), (*nest((a,), (store(x, (a,), a),)), *nest((b,), (store(x, (b + 4,), b),))))
    again = parse_kernel(str(kernel))
    assert str(again) == str(kernel)
    assert isinstance(again.body[1], For) and again.body[1].var is b


def sample_graph() -> Builder:
    n = axis("batch size", 64)
    b = Builder("main")
    x = b.input("x", TensorType("f32", (n, 4)))
    c = b.constant(np.array([1.5, -0.0, np.inf, np.nan], np.float32), "c")
    w = b.constant(np.arange(40, dtype=np.int8).reshape(10, 4), "w/weights")
    flag = b.input("flag", TensorType("bool", ()))
    y = b.add(Binary("add"), x, c, name="relu", where='node "a"; b')
    y = b.add(Reshape((n * 2, 2)), y)
    inner = Builder("then branch")
    z = inner.input("v", y.type)
    then = inner.graph([inner.add(Unary("exp"), z)])
    inner = Builder("other")
    z = inner.input("v", y.type)
    other = inner.graph([z])
    picked = b.add(IfOp(then, other), flag, y)
    b.result = b.graph([picked, w, y], ["probabilities", "w/weights", "reshape"])  # type: ignore[attr-defined]
    return b


def test_graphs() -> None:
    graph = sample_graph().result  # type: ignore[attr-defined]
    text = str(graph)
    weights = next(a for v, a in graph.constants.items() if v.name == "w/weights")
    again = parse_graph(text, {content_hash(weights): weights})
    assert str(again) == text
    assert again.output_names == graph.output_names
    assert [n.op for n in again.nodes[:2]] == [n.op for n in graph.nodes[:2]]
    assert 'graph main["batch size" < 64](%x: f32["batch size", 4], %flag: bool[])' in text
    assert "    then graph \"then branch\"" in text
    with pytest.raises(ModelError, match=r"line \d+: no constant with the hash"):
        parse_graph(text)


def test_values_of_one_name_stay_apart() -> None:
    b = Builder("twice")
    first = b.input("x", TensorType("f32", ()))
    graph = b.graph([b.add(Unary("exp"), first, name="y")])
    object.__setattr__(graph.nodes[0].outputs[0], "name", "x")
    assert "%x.1 = Unary" in str(graph)
    assert str(parse_graph(str(graph))).count("x.1") == 2


WRONG: dict[str, tuple[str, str]] = {
    "unknown name": ("kernel k(x: f32[4])\n  x[0] = y[1]\n", r"column 10: expected a name that is defined here, got 'y'"),
    "unknown type": ("kernel k(x: f12[4])\n", r"line 1, column 13: expected an element type, got 'f12'"),
    "operand types": ("kernel k(x: f32[4])\n  x[0] = x[0] + 1\n", r"line 2: operands of add have types"),
    "indentation": ("kernel k(x: f32[4])\n    x[0] = 1.0\n  x[0] = 1.0\n", r"line 3: expected 4 spaces"),
    "rubbish": ("kernel k(x: f32[4]) ?\n", r"line 1, column 21: unexpected '\?'"),
    "tail": ("kernel k(x: f32[4]) x\n", r"line 1, column 21: expected the end of the line, got 'x'"),
    "arguments": ("kernel k(x: f32[4])\n  x[0] = max(x[0])\n", r"expected 2 arguments of max"),
    "empty": ("", r"it ends too early"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_kernels(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(ModelError, match=message):
        parse_kernel(text)


WRONG_GRAPHS: dict[str, tuple[str, str]] = {
    "operator": ("graph g(%x: f32[])\n  %y = Nothing()(%x) : f32[]\n  return %y\n", r"line 2, column 8: expected an operator"),
    "field": ('graph g(%x: f32[])\n  %y = Unary(f="exp")(%x) : f32[]\n  return %y\n', r"line 2: Unary: .*'f'"),
    "value": ('graph g(%x: f32[])\n  return %y\n', r"line 2, column 11: expected a value that is defined before, got 'y'"),
    "twice": ('graph g(%x: f32[], %x: f32[])\n', r"%x is defined twice"),
    "no return": ("graph g()\n", r"it ends too early"),
}


@pytest.mark.parametrize("case", WRONG_GRAPHS)
def test_wrong_graphs(case: str) -> None:
    text, message = WRONG_GRAPHS[case]
    with pytest.raises(ModelError, match=message):
        parse_graph(text)
