"""vectorize, dot, legalize, fma_contract: same results, and every precondition."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.small_kernels import affine, dot_bytes, matmul, row_sum, transpose
from codegen.stepwise import Stepwise, run_steps
from tilewright.codegen.schedule import (
    cut,
    dot,
    fma_contract,
    fuse,
    legalize,
    prefetch,
    relayout,
    reorder,
    sink,
    split,
    unroll,
    vectorize,
)
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import (
    Bin,
    Call,
    Expr,
    Fma,
    HReduce,
    Load,
    Splat,
    Type,
    as_expr,
    binary,
    call,
    cast,
    const,
    select,
)
from tilewright.ir.kernel import Buffer, For, If, Kernel, Store, axis, walk_block
from tilewright.ir.traverse import walk


def expressions(kernel: Kernel) -> list[Expr]:
    return [e for s in walk_block(kernel.body) if isinstance(s, Store) for root in (*s.idx, s.value) for e in walk(root)]


def vectors(kernel: Kernel, name: str) -> list[Load]:
    return [e for e in expressions(kernel) if isinstance(e, Load) and e.buf.name == name]


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_contiguous_and_broadcast(lanes: int) -> None:
    k = run_steps(affine(3, 24), ("Y",), lambda k: split(k, "j", lanes), lambda k: vectorize(k, "ji"))
    assert [e.type for e in vectors(k, "X")] == [("f32", lanes)]
    k = run_steps(matmul(3, 8, 4), ("C",), lambda k: sink(k, ["n"]), lambda k: vectorize(k, "n"))
    assert [e.type for e in vectors(k, "A")] == [("f32", 1)]
    assert [e.buf.name for s in expressions(k) if isinstance(s, Splat) for e in [s.a] if isinstance(e, Load)] == ["A"]


def test_tails_have_their_own_lanes() -> None:
    k = run_steps(affine(2, 40), ("Y",), lambda k: cut(k, "j", 32), lambda k: split(k, "j0", 16),
                  lambda k: vectorize(k, "j0i", "j1"))
    assert sorted(e.type.lanes for e in vectors(k, "X")) == [8, 16]


def test_gather_and_scatter() -> None:
    k = run_steps(transpose(6, 8), ("Y",), lambda k: vectorize(k, "j"))
    assert any(e.type == ("i64", 8) for s in walk_block(k.body) if isinstance(s, Store) for e in s.idx)
    k = run_steps(transpose(6, 8), ("Y",), lambda k: reorder(k, ["i", "j"], ["j", "i"]), lambda k: vectorize(k, "i"))
    assert [e.type.lanes for e in vectors(k, "X")] == [6]
    x, g, y = Buffer("X", "f32", (9,)), Buffer("G", "i64", (8,)), Buffer("Y", "f32", (8,))
    i = axis("i", 8)
    kernel = lower_group("gather", (x, g, y), (Compute(y, (i,), x[g[i]] + x[i // 2 * 2 + 1] + x[7 - i]),))
    run_steps(kernel, ("Y",), lambda k: vectorize(k, "i"), inputs={"G": np.array([8, 0, 3, 3, 1, 7, 2, 5])})


def test_a_run_over_fused_axes_is_one_vector() -> None:
    x, y = Buffer("X", "f32", (4, 3)), Buffer("Y", "f32", (4, 3))
    i, j = axis("i", 4), axis("j", 3)
    kernel = lower_group("flat", (x, y), (Compute(y, (i, j), x[i, j] * 2.0),))
    k = run_steps(kernel, ("Y",), lambda k: fuse(k, "i", "j", "p"), lambda k: split(k, "p", 4), lambda k: vectorize(k, "pi"))
    assert [e.type.lanes for e in vectors(k, "X")] == [4]
    assert all(i.type.lanes == 1 for e in vectors(k, "X") for i in e.idx)


@pytest.mark.parametrize("dtype, op", [("f32", "add"), ("f32", "max"), ("i64", "add"), ("i64", "min"), ("u8", "add")])
def test_reductions_are_horizontal(dtype: str, op: str) -> None:
    k = run_steps(row_sum(3, 12, dtype, op), ("Y",), lambda k: split(k, "j", 4), lambda k: vectorize(k, "ji"))
    assert [e.op for e in expressions(k) if isinstance(e, HReduce)] == [op]


def test_integer_values_and_conditions_widen() -> None:
    x, y = Buffer("X", "i32", (16,)), Buffer("Y", "f32", (16,))
    i = axis("i", 16)
    body = select(binary("lt", x[i], const(0, "i32")), cast(i * 3, "f32"), cast(x[i], "f32"))
    kernel = lower_group("mix", (x, y), (Compute(y, (i,), body),))
    run_steps(kernel, ("Y",), lambda k: split(k, "i", 8), lambda k: vectorize(k, "ii"))


def test_strides_decide() -> None:
    x, y = Buffer("X", "f32", (4, 8), strides=(1, 5)), Buffer("Y", "f32", (4, 8), strides=(9, 1))
    i, j = axis("i", 4), axis("j", 8)
    kernel = lower_group("strided", (x, y), (Compute(y, (i, j), x[i, j] + 1.0),))
    k = run_steps(kernel, ("Y",), lambda k: vectorize(k, "j"))
    assert any(i.type.lanes == 8 for e in vectors(k, "X") for i in e.idx), "a gather"
    k = run_steps(kernel, ("Y",), lambda k: reorder(k, ["i", "j"], ["j", "i"]), lambda k: vectorize(k, "i"))
    assert all(i.type.lanes == 1 for e in vectors(k, "X") for i in e.idx)


def test_a_prefetch_is_kept_once() -> None:
    k = prefetch(affine(3, 8), "j", "X", lambda env: (env["i"] + 1, env["j"]))
    run_steps(k, ("Y",), lambda k: vectorize(k, "j"))


def test_conditions_of_all_lanes_stay() -> None:
    y, x = Buffer("Y", "f32", (4, 8)), Buffer("X", "f32", (4, 8))
    i, j = axis("i", 4), axis("j", 8)
    stores = tuple((Store(y, (i, j), x[i, j] * factor),) for factor in (2.0, 3.0))
    body = For(i, (For(j, (If(binary("lt", i, as_expr(2)), *stores),)),))
    k = run_steps(Kernel("either", (y, x), (body,)), ("Y",), lambda k: vectorize(k, "j"))
    assert [type(s).__name__ for s in walk_block(k.body)] == ["For", "If", "Store", "Store"]


def test_vectorize_preconditions() -> None:
    y, x = Buffer("Y", "f32", (4,)), Buffer("X", "f32", (4, 4))
    i, j = axis("i", 4), axis("j", 4)
    with pytest.raises(ScheduleError, match="vectorize m: only stores can be inside, found loop n"):
        vectorize(matmul(3, 3, 3), "m")
    overwritten = lower_group("over", (x, y), (Compute(y, (i, j), x[i, j], index=(i,)),))
    with pytest.raises(ScheduleError, match=r"vectorize j: Y\[i\] is overwritten in every iteration"):
        vectorize(overwritten, "j")
    with pytest.raises(ScheduleError, match="vectorize jo: Y is given a vector already"):
        both = split(affine(4, 8), "j", 4)
        vectorize(vectorize(both, "ji"), "jo")
    cond = For(i, (If(binary("lt", i, as_expr(2)), (Store(y, (i,), const(0.0, "f32")),)),))
    with pytest.raises(ScheduleError, match="the condition i < 2 differs between lanes"):
        vectorize(Kernel("cond", (y,), (cond,)), "i")
    n = axis("N", None)
    with pytest.raises(ScheduleError, match="the extent N is not constant"):
        z = Buffer("Z", "f32", (n,))
        v = axis("v", n)
        vectorize(Kernel("dyn", (z, n), (For(v, (Store(z, (v,), const(0.0, "f32")),)),)), "v")
    k = sink(matmul(4, 4, 3), ["m", "n"])
    with pytest.raises(ScheduleError, match="register array acc is not contiguous in m"):
        vectorize(reorder(k, ["m", "n"], ["n", "m"]), "m")


def test_dot() -> None:
    def quads(k: Kernel) -> Kernel:
        return relayout(k, "B", (2, 6, 4), lambda r, n: (r // 4, n, r % 4), packed=True)

    packs = {"B": lambda a: a["B"].reshape(2, 4, 6).transpose(0, 2, 1)}
    at = Stepwise(dot_bytes(3, 6, 8), ("C",), packs)
    at(quads)
    at(sink, ["n"])
    at(split, "k", 4, "kq", "q")
    at(reorder, ["q", "n"], ["n", "q"])
    at(dot, "n", "q", "vpdpbusd", 4, "i32")
    at(vectorize, "n")
    at.finish()
    assert [e.type for e in expressions(at.kernel) if isinstance(e, Call)] == [("i32", 6)]


def test_dot_preconditions() -> None:
    def nest(k: Kernel) -> Kernel:
        return reorder(split(sink(k, ["n"]), "k", 4, "kq", "q"), ["q", "n"], ["n", "q"])

    with pytest.raises(ScheduleError, match=r"dot n, q: a, b and acc move by \[0, 1, 1, 6, 1, 0\] for the two loops"):
        dot(nest(dot_bytes(3, 6, 8)), "n", "q", "vpdpbusd", 4, "i32")
    with pytest.raises(ScheduleError, match="no loop n has only a loop q inside"):
        dot(dot_bytes(3, 6, 8), "n", "q", "vpdpbusd", 4, "i32")
    floats = relayout(matmul(3, 6, 8), "B", (2, 6, 4), lambda r, n: (r // 4, n, r % 4))
    with pytest.raises(ScheduleError, match="summed in i32"):
        dot(nest(floats), "n", "q", "vpdpbusd", 4, "i32")


def test_legalize() -> None:
    x, y = Buffer("X", "f32", (8,)), Buffer("Y", "f32", (8,))
    i = axis("i", 8)
    kernel = lower_group("f", (x, y), (Compute(y, (i,), call("double", x[i]) + call("exp", x[i])),))
    k = legalize(kernel, {"double": lambda a: a + a, "exp": lambda a: None})
    assert [e.fn for e in expressions(k) if isinstance(e, Call)] == ["exp"]
    run_steps(k, ("Y",), lambda k: vectorize(k, "i"))


def test_fma_contract() -> None:
    a, b, y = (Buffer(n, "f32", (8,)) for n in ("A", "B", "Y"))
    i = axis("i", 8)
    for body in (a[i] * b[i] + a[i], a[i] + a[i] * b[i], a[i] - a[i] * b[i], a[i] * b[i] - b[i]):
        kernel = lower_group("f", (a, b, y), (Compute(y, (i,), body),))
        k = run_steps(kernel, ("Y",), fma_contract, lambda k: vectorize(k, "i"))
        made = expressions(k)
        assert sum(isinstance(e, Fma) for e in made) == 1
        assert not any(isinstance(e, Bin) and e.op in ("add", "sub", "mul") and e.type.dtype == "f32" for e in made)
    integers = lower_group("i", (x := Buffer("X", "i32", (8,)), z := Buffer("Z", "i32", (8,))),
                           (Compute(z, (i,), x[i] * x[i] + x[i]),))
    assert not any(isinstance(e, Fma) for e in expressions(fma_contract(integers)))


def test_vectorized_bodies_of_reinterpreted_bytes() -> None:
    """Four bytes as one i32, 5 at once."""
    x, y = Buffer("X", "u8", (5, 4)), Buffer("Y", "i32", (5,))
    i = axis("i", 5)
    value = Load.of(x, (i, as_expr(0)), Type("i32"))
    kernel = Kernel("quads", (x, y), (For(i, (Store(y, (i,), value),)),))
    k = run_steps(kernel, ("Y",), lambda k: unroll(k, "i"), lambda k: vectorize(k, "i"))
    assert [e.type for e in vectors(k, "X")] == [("i32", 5)]
