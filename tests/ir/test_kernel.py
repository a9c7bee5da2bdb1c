"""Buffers, statements, mapping and walking of kernels; lowering of computations."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.compute import Compute, acc_var, append, identity, inline, lower_compute, lower_group
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import Expr, as_expr, binary, call, cast, const, select
from tilewright.ir.kernel import (
    Alloc,
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
    coefficient,
    flat_index,
    map_block,
    nest,
    store,
    substitute_block,
    walk_block,
)
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.traverse import rewrite

X, Y = Buffer("X", "f32", (4, 6)), Buffer("Y", "f32", (4, 6))
I, J = axis("i", 4), axis("j", 6)  # noqa: E741


def test_flat_index() -> None:
    assert flat_index(X, (I, J)) is I * 6 + J
    assert flat_index(Buffer("S", "f32", (4, 6), strides=(1, 8)), (I, J)) is I + J * 8
    assert flat_index(Buffer("Z", "f32", ()), ()) is as_expr(0)
    n = axis("N", None)
    assert coefficient(Buffer("D", "f32", (4, n)), (I, J), J) == 1


def test_coefficient() -> None:
    assert [coefficient(X, (I, J), v) for v in (I, J, axis("k", 3))] == [6, 1, 0]
    assert coefficient(X, (I, J * 2 + I), J) == 2
    assert coefficient(X, (I, J // 2), J) is None
    c = axis("c", 24)
    assert coefficient(X, (c // 6, c % 6), c) == 1, "the run is found in the flattened address"


def test_buffer_size() -> None:
    assert X.size == 24
    with pytest.raises(InternalError, match="buffer D has a symbolic dimension N"):
        _ = Buffer("D", "f32", (axis("N", None),)).size


def test_kernel_parameters() -> None:
    n = axis("N", None)
    k = Kernel("k", (X, Y, n), ())
    assert k.buffers == (X, Y) and k.param("Y") is Y
    with pytest.raises(InternalError, match="kernel k has no parameter 'Z'"):
        k.param("Z")


def test_axis_of_a_constant_expression() -> None:
    assert axis("i", as_expr(5)) is axis("i", 5)


def test_map_block_visits_every_expression() -> None:
    stream, tile = Buffer("s", "f32", (4,), "stream"), Buffer("t", "f32", (4,), "register")
    body = (
        For(I, (
            Alloc(tile),
            If(binary("lt", I, as_expr(2)), (store(X, (I, 0), 1.0),), (Read(stream, tile, (I,)),)),
            Prefetch(X, (I, as_expr(0))), Write(stream, cast(I, "f32")), Do("commit", (I,)),
        )),
    )
    seen: list[Expr] = []

    def look(e: Expr) -> Expr:
        seen.append(e)
        return e

    assert str(Kernel("k", (), map_block(body, None, look))) == str(Kernel("k", (), body))
    assert seen.count(I) == 4 and cast(I, "f32") in seen
    assert [type(s).__name__ for s in walk_block(body)] == ["For", "Alloc", "If", "Store", "Read", "Prefetch", "Write", "Do"]


def test_map_block_replaces_one_statement_by_none_or_several() -> None:
    body = nest((I,), (store(X, (I, 0), 1.0), store(Y, (I, 0), 2.0)))
    gone = map_block(body, lambda s: () if isinstance(s, Store) and s.buf is X else None)
    assert [s.buf.name for s in walk_block(gone) if isinstance(s, Store)] == ["Y"]
    twice = map_block(body, lambda s: (s, s) if isinstance(s, Store) else None)
    assert sum(isinstance(s, Store) for s in walk_block(twice)) == 4


def test_substitution_reaches_extents() -> None:
    ragged = axis("r", I + 1)
    body = (For(ragged, (store(X, (I, ragged), 1.0),)),)
    made = substitute_block(body, {I: as_expr(2)})
    (loop,) = made
    assert isinstance(loop, For) and loop.var is axis("r", 3)
    (inner,) = loop.body
    assert isinstance(inner, Store) and inner.idx == (as_expr(2), loop.var)


def test_nest_carries_kind_and_attributes() -> None:
    (outer,) = nest((I, J), (store(X, (I, J), 0.0),), "unroll", ("reduce",))
    assert isinstance(outer, For) and (outer.kind, outer.attrs) == ("unroll", ("reduce",))
    assert isinstance(outer.body[0], For) and outer.body[0].var is J


# ---- lowering ----------------------------------------------------------------------------------------------------


def run(kernel: Kernel, **arrays: np.ndarray) -> np.ndarray:
    shape = [int(d) for d in kernel.buffers[-1].shape]
    out = np.zeros(shape, np.float32)
    run_kernel(kernel, {**arrays, kernel.buffers[-1].name: out})
    return out


DATA = np.arange(24, dtype=np.float32).reshape(4, 6)


def test_maps_and_reductions() -> None:
    total = Buffer("T", "f32", (4,))
    assert np.array_equal(run(lower_group("m", (X, Y), (Compute(Y, (I, J), X[I, J] + 1.0),)), X=DATA), DATA + 1)
    mean = Compute(total, (I,), X[I, J], (J,), "add", acc_var("f32") / const(6.0, "f32"))
    assert np.array_equal(run(lower_group("r", (X, total), (mean,)), X=DATA), DATA.mean(1))
    with pytest.raises(InternalError, match="a map has no reduction axes"):
        lower_compute(Compute(Y, (I,), X[I, J], (J,)))


def test_reduction_loops_have_their_role() -> None:
    total = Buffer("T", "f32", (4,))
    k = lower_group("r", (X, total), (Compute(total, (I,), X[I, J], (J,), "add"),))
    assert {s.var.name: s.attrs for s in walk_block(k.body) if isinstance(s, For)} == {"i": (), "j": ("reduce",)}


def test_index_and_casts() -> None:
    out = Buffer("T", "i32", (6, 4))
    k = lower_group("t", (X, out), (Compute(out, (I, J), X[I, J] * 2.0, index=(J, I)),))
    got = np.zeros((6, 4), np.int32)
    run_kernel(k, {"X": DATA, "T": got})
    assert np.array_equal(got, (DATA.T * 2).astype(np.int32))


def test_temporaries_of_a_group_are_allocated_once() -> None:
    t = Buffer("t", "f32", (4, 6))
    k = lower_group("g", (X, Y), (Compute(t, (I, J), X[I, J] + 1.0), Compute(Y, (I, J), t[I, J] * t[3 - I, J])))
    assert [s.buf for s in k.body if isinstance(s, Alloc)] == [t]
    assert np.array_equal(run(k, X=DATA), (DATA + 1) * (DATA[::-1] + 1))


@pytest.mark.parametrize("op, dtype, expected", [
    ("add", "f32", 0), ("mul", "i8", 1), ("max", "f32", -np.inf), ("max", "i8", -128), ("max", "u8", 0), ("min", "u16", 65535),
    ("min", "bool", True), ("max", "bool", False), ("min", "bf16", np.inf),
])
def test_neutral_elements(op: str, dtype: str, expected: float) -> None:
    assert identity(op, dtype) == expected


def test_inline_substitutes_a_producer() -> None:
    t = Buffer("t", "f32", (4, 6))
    producer = Compute(t, (I, J), select(binary("lt", X[I, J], const(5.0, "f32")), const(0.0, "f32"), X[I, J]))
    a, b = axis("a", 6), axis("b", 4)
    consumer = Compute(Buffer("Z", "f32", (6, 4)), (a, b), t[b, a] * 2.0)
    k = lower_group("i", (X, consumer.out), (inline(consumer, producer),))
    assert np.array_equal(run(k, X=DATA), (np.where(DATA < 5, 0, DATA) * 2).T)
    with pytest.raises(InternalError, match="cannot inline t: it is not a plain map"):
        inline(consumer, Compute(t, (I,), X[I, J], (J,), "add"))


def test_append_applies_an_epilogue() -> None:
    total, out = Buffer("T", "f32", (4,)), Buffer("O", "f32", (4,))
    bias = Buffer("bias", "f32", (4,))
    m = axis("m", 4)
    reduction = Compute(total, (I,), X[I, J], (J,), "add", acc_var("f32") * 0.5)
    epilogue = Compute(out, (m,), call("exp", -total[m]) + bias[m])
    k = lower_group("e", (X, bias, out), (append(reduction, epilogue),))
    b = np.arange(4, dtype=np.float32)
    np.testing.assert_allclose(run(k, X=DATA / 16, bias=b), np.exp(-(DATA / 16).sum(1) / 2) + b, rtol=1e-6)
    with pytest.raises(InternalError, match="T is read elsewhere than at the axes"):
        append(reduction, Compute(out, (m,), total[3 - m]))
    with pytest.raises(InternalError, match="only a map can be appended"):
        append(reduction, reduction)


def test_reads() -> None:
    g = Buffer("G", "i64", (4,))
    c = Compute(Y, (I, J), X[g[I], J] + X[g[I], J], finish=None)
    assert {r.buf.name for r in c.reads()} == {"X", "G"} and len(c.reads()) == 2
    assert rewrite(c.body, lambda e: None) is c.body
