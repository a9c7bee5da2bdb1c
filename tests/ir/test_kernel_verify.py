"""What the verifier of kernels refuses, and that its errors show the kernel."""

from __future__ import annotations

import pytest
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import Bin, Call, Cast, HReduce, Load, Ramp, Select, Shuffle, Splat, Type, as_expr, binary, const, splat
from tilewright.ir.kernel import Alloc, Barrier, Buffer, For, If, Kernel, Prefetch, Stmt, Store, Write, axis, store
from tilewright.ir.kernel_verify import verify_kernel

X, Y = Buffer("X", "f32", (4, 8)), Buffer("Y", "f32", (4, 8))
I, J = axis("i", 4), axis("j", 8)  # noqa: E741
WIDE = Type("f32", 8)
ROW = Load.of(X, (I, as_expr(0)), WIDE)


def kernel(*body: Stmt, params=(X, Y)) -> Kernel:
    return Kernel("test", params, body)


def refuse(message: str, *body: Stmt, params=(X, Y), scheduled: bool = False) -> None:
    with pytest.raises(InternalError, match=message) as caught:
        verify_kernel(kernel(*body, params=params), scheduled=scheduled)
    assert str(caught.value).startswith("kernel test: ")
    assert caught.value.ir.startswith("kernel test")


def test_accepts_what_is_right() -> None:
    acc = Buffer("acc", "f32", (2, 8), "register")
    u = axis("u", 2)
    verify_kernel(kernel(
        For(I, (
            Alloc(acc),
            For(u, (Store(acc, (u, as_expr(0)), ROW),), "unroll"),
            If(binary("lt", I, as_expr(2)), (Store(Y, (I, as_expr(0)), Load.of(acc, (as_expr(1), as_expr(0)), WIDE)),)),
            Prefetch(X, (I + 1, as_expr(0))),
        ), "parallel"),
        Barrier(),
    ), scheduled=True)


def test_names_and_scopes() -> None:
    t = Buffer("t", "f32", (4,), "stack")
    refuse("two parameters are called X", params=(X, X))
    refuse("parameter t lies in stack", params=(t,))
    refuse("buffer t is used where it is not allocated", store(t, (0,), 1.0))
    refuse("buffer t is used where it is not allocated", For(I, (Alloc(t), store(t, (I,), 1.0))), store(t, (0,), 1.0))
    refuse("buffer t is allocated where one is in use", Alloc(t), For(I, (Alloc(t),)))
    refuse("buffer X is used where it is not allocated", store(Buffer("X", "f32", (5,)), (0,), 1.0))
    refuse("variable i is used outside its loop", store(Y, (I, 0), 1.0))
    refuse("variable i is used outside its loop", For(I, (store(Y, (I, 0), 1.0),)), store(Y, (I, 0), 1.0))
    refuse("variable i is used outside its loop", For(axis("i", 3), (store(Y, (I, 0), 1.0),)))
    refuse("loop i stands where the name i is in use", For(I, (For(axis("i", 2), ()),)))
    refuse("variable N is used outside its loop", params=(Buffer("D", "f32", (axis("N", None),)),))


def test_buffers() -> None:
    refuse("unknown element type f8", params=(Buffer("D", "f8", (1,)),))
    refuse("unknown space heap", Alloc(Buffer("D", "f32", (1,), "heap")))
    refuse("buffer D: one stride per dimension", params=(Buffer("D", "f32", (1, 2), strides=(1,)),))
    refuse("buffer D has the dimension -1", params=(Buffer("D", "f32", (-1,)),))


def test_loops_and_threads() -> None:
    refuse("loop i has the unknown kind vector", For(I, (), "vector"))
    refuse("loop n needs an i64 variable with an extent", For(axis("n", None), ()))
    shared = For(J, (store(Y, (I, J), 1.0),), "parallel")
    refuse("parallel loop j stands inside a loop that not every thread runs as a whole", For(I, (shared,), "parallel"))
    verify_kernel(kernel(For(I, (shared, Barrier()))))
    refuse("unrolled loop r has no constant extent", For(I, (For(axis("r", I + 1), (), "unroll"),)))
    refuse("a pool barrier stands inside a loop that not every thread runs", For(I, (Barrier(),), "parallel"))
    refuse("every thread would store to Y, outside a parallel loop", For(I, (store(Y, (I, 0), 1.0),), "parallel"),
           store(Y, (0, 1), 1.0))
    verify_kernel(kernel(For(I, (For(J, (store(Y, (I, J), 1.0),)), Barrier()))))


def test_stores() -> None:
    refuse("Y of f32 is given i64", Store(Y, (as_expr(0), as_expr(0)), as_expr(1)))
    refuse("Y has 2 dimensions, indexed with 1", Store(Y, (as_expr(0),), const(1.0, "f32")))
    refuse("4 indices of Y for 1 lanes", Store(Y, (as_expr(0), Ramp.of(Type("i64", 4))), const(1.0, "f32")))
    refuse("Y is indexed by a value of i32", Store(Y, (as_expr(0), const(0, "i32")), const(1.0, "f32")))
    refuse(r"the indices of Y have \[4, 8\] lanes",
           Store(Y, (Ramp.of(Type("i64", 4)), Ramp.of(Type("i64", 8))), splat(const(1.0, "f32"), 8)))
    scalar = Buffer("s", "f32", (), "register")
    refuse("8 lanes of s, which has one element", Alloc(scalar), For(I, (Store(scalar, (), ROW),)))


def test_expressions() -> None:
    one, row = const(1.0, "f32"), splat(const(1.0, "f32"), 8)
    wrong = [
        Bin.of("add", one, const(1), Type("f32")), Bin.of("lt", one, one, Type("f32")), Bin.of("add", row, one, WIDE),
        Select.of(const(True, "bool"), row, row, WIDE), Cast.of(row, Type("f32")), Splat.of(row, WIDE),
        Shuffle.of(row, row, (0, 16), Type("f32", 2)), Shuffle.of(row, row, (0, 1), WIDE), HReduce.of("add", row, WIDE),
        Call.of("exp", (one,), WIDE), Load.of(X, (as_expr(0), Ramp.of(Type("i64", 4))), WIDE),
    ]
    for e in wrong:
        target = (as_expr(0), as_expr(0))
        value = e if e.type.dtype == "f32" else one
        refuse(r"differ in type|gives Type", Store(Y, target, value))
    refuse("a condition has the type", If(one, ()))
    refuse("X is not a stream", Write(X, one))


def test_what_printers_need() -> None:
    t = Buffer("t", "f32", (4,))
    refuse("temporary t has no space of its own", Alloc(t), scheduled=True)
    verify_kernel(kernel(Alloc(t)))
    acc = Buffer("acc", "f32", (4, 8), "register")
    use = store(acc, (I, 0), 1.0)
    refuse("register array acc is indexed by i, which is not unrolled", Alloc(acc), For(I, (use,)), scheduled=True)
    verify_kernel(kernel(Alloc(acc), For(I, (use,), "unroll")), scheduled=True)
    vector = Store(acc, (as_expr(1), as_expr(0)), splat(const(1.0, "f32"), 8))
    refuse("element 8 of register array acc is used in a cell of 1 lanes from 8 and in one of 8 lanes from 8|"
           "element 8 of register array acc is used in a cell of 8 lanes from 8 and in one of 1 lanes from 8",
           Alloc(acc), For(I, (use,), "unroll"), vector, scheduled=True)
    overlap = Store(acc, (as_expr(1), as_expr(4)), splat(const(1.0, "f32"), 8))
    refuse("element 12 of register array acc is used", Alloc(acc), vector, overlap, scheduled=True)
    n = axis("N", None)
    refuse("register array acc has a symbolic dimension", Alloc(Buffer("acc", "f32", (n,), "register")), params=(X, n),
           scheduled=True)


def test_register_indices_with_quotients_are_enumerated() -> None:
    acc = Buffer("acc", "f32", (2, 2), "register")
    u = axis("u", 4)
    verify_kernel(kernel(Alloc(acc), For(u, (store(acc, (u // 2, u % 2), 1.0), store(acc, (u % 2, u // 2), 1.0)), "unroll")),
                  scheduled=True)
