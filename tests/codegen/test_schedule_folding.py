"""expand, fold, forward: same results, and every precondition."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.small_kernels import affine, matmul
from codegen.stepwise import Stepwise, run_steps
from tilewright.codegen.schedule import (
    expand,
    fma_contract,
    fold,
    forward,
    localize,
    merge,
    relayout,
    sink,
    split,
    vectorize,
)
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import Bin, Load
from tilewright.ir.kernel import Alloc, Buffer, Kernel, Store, axis, store, walk_block
from tilewright.ir.traverse import walk

P = np.array([[1, 0, -1], [0, 2, 0], [0, 1, 1]], np.float32)
Q = np.array([[0, 1, 0], [1, 0, 1], [0, 0, -1]], np.float32)


def two_products() -> Kernel:
    """Y[c, x] = P[x, i] Q[i, j] X[c, j]: constant sparse matrices, one after the other."""
    x, y, t = (Buffer(n, "f32", (8, 3)) for n in ("X", "Y", "t"))
    p, q = Buffer("P", "f32", (3, 3)), Buffer("Q", "f32", (3, 3))
    c, a, i = axis("c", 8), axis("a", 3), axis("i", 3)
    return lower_group("products", (x, y, p, q), (
        Compute(t, (c, a), x[c, i] * q[a, i], (i,), "add"), Compute(y, (c, a), t[c, i] * p[a, i], (i,), "add")))


def operations(kernel: Kernel) -> int:
    return sum(isinstance(e, Bin) and e.type.dtype == "f32" for s in walk_block(kernel.body) if isinstance(s, Store)
               for e in walk(s.value))


def test_expand_fold_forward() -> None:
    at = Stepwise(two_products(), ("Y",), inputs={"P": P, "Q": Q})
    at(merge, "c")
    at(localize, "t", "c")
    at(split, "c", 4)
    at(sink, ["ci"])
    at(relayout, "t", (3, 4), lambda c, a: (a, c))
    at(expand, "a", "i")
    at(fold, "Q", Q)
    at(fold, "P", P)
    before = operations(at.kernel)
    at(forward)
    at(vectorize, "ci")
    at(fma_contract)
    at.finish()
    assert [p.name for p in at.kernel.params] == ["X", "Y"]
    assert operations(at.kernel) <= before
    assert sum(isinstance(s, Store) and s.buf.name == "Y" for s in walk_block(at.kernel.body)) == 3


def test_expand() -> None:
    k = run_steps(affine(3, 4), ("Y",), lambda k: expand(k, "j"), lambda k: expand(k, "i"))
    assert sum(isinstance(s, Store) for s in k.body) == 12
    n = axis("N", None)
    y = Buffer("Y", "f32", (n,))
    i = axis("i", n)
    with pytest.raises(ScheduleError, match="expand i: the extent N is not constant"):
        expand(lower_group("d", (y, n), (Compute(y, (i,), y[i] * 2.0),)), "i")  # type: ignore[arg-type]


def test_fold_preconditions() -> None:
    with pytest.raises(ScheduleError, match=r"fold B: expected values of shape \(3, 3\), got \(2, 2\)"):
        fold(matmul(3, 3, 3), "B", np.zeros((2, 2), np.float32))
    with pytest.raises(ScheduleError, match="fold B: it is read at"):
        fold(matmul(3, 3, 3), "B", np.zeros((3, 3), np.float32))


def test_forward_of_single_uses_only() -> None:
    x, y = Buffer("X", "f32", (4,)), Buffer("Y", "f32", (4,))
    t, u = Buffer("t", "f32", (2,), "register"), Buffer("u", "f32", (), "register")
    body = (
        Alloc(t), Alloc(u),
        store(t, (0,), x[0] * 2.0),
        store(t, (1,), x[1] + t[0]),
        store(u, (), x[2] + 1.0),
        store(y, (0,), t[1] * 3.0),
        store(y, (1,), u[()]),
        store(y, (2,), u[()]),
        store(y, (3,), x[3]),
    )
    k = run_steps(Kernel("forward", (x, y), body), ("Y",), forward)
    assert [s.buf.name for s in walk_block(k.body) if isinstance(s, Alloc)] == ["u"], "t is gone, u is read twice"
    assert [e.buf.name for e in walk(k.body[2].value) if isinstance(e, Load)] == ["X", "X"]  # type: ignore[attr-defined]


def test_forward_keeps_what_changes_in_between() -> None:
    y = Buffer("Y", "f32", (2,))
    t = Buffer("t", "f32", (), "register")
    swap = (store(y, (0,), 1.0), store(y, (1,), 2.0), Alloc(t), store(t, (), y[0]), store(y, (0,), y[1]), store(y, (1,), t[()]))
    k = run_steps(Kernel("swap", (y,), swap), ("Y",), forward)
    assert len(k.body) == len(swap)


def test_forward_keeps_carried_values() -> None:
    x, y = Buffer("X", "f32", (4,)), Buffer("Y", "f32", (4,))
    i = axis("i", 4)
    k = lower_group("sum", (x, y), (Compute(y, (i,), x[axis("j", 4)] * 2.0, (axis("j", 4),), "add"),))
    assert str(run_steps(k, ("Y",), forward)) == str(k)
