"""Launches, warps and asynchronous copies in the interpreter of the loop IR."""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.ir.errors import InternalError
from tilewright.ir.expr import as_expr, binary, call, cast, load
from tilewright.ir.kernel import Barrier, Buffer, For, If, Kernel, axis, store
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_launch import launch_size, split_launches
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.ir.kernel_warp import Copies

X, Y, Z = (Buffer(name, "f32", (64,)) for name in "xyz")


def threads(body, extent: int = 64):  # type: ignore[no-untyped-def]
    t = axis("t", extent)
    return For(t, body(t), "thread.x")


def run(*body, x: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    y = np.full(64, np.nan, np.float32)
    run_kernel(Kernel("k", (Y, X), body), {"x": x, "y": y})
    return y


NUMBERS = np.random.default_rng(0).integers(-9, 9, 64).astype(np.float32)


@pytest.mark.parametrize("width", [32, 16, 8, 4, 2])
@pytest.mark.parametrize(("op", "reduce"), [("add", np.add), ("max", np.maximum), ("min", np.minimum)])
def test_reductions_over_groups_of_a_warp(op: str, reduce: np.ufunc, width: int) -> None:
    fn = f"warp_{op}" if width == 32 else f"warp_{op}_{width}"
    y = run(threads(lambda t: (store(Y, (t,), call(fn, load(X, t))),)), x=NUMBERS)
    np.testing.assert_array_equal(y, np.repeat(reduce.reduce(NUMBERS.reshape(-1, width), 1), width))


def test_shuffles() -> None:
    lane = np.arange(64)
    for fn, operand, source in (
        ("shuffle", 5, lane // 32 * 32 + 5), ("shuffle_xor", 3, lane ^ 3),
        ("shuffle_down", 4, np.where(lane % 32 < 28, lane + 4, lane)),
    ):
        by = cast(as_expr(operand), "i32")
        y = run(threads(lambda t, fn=fn, by=by: (store(Y, (t,), call(fn, load(X, t), by)),)), x=NUMBERS)
        np.testing.assert_array_equal(y, NUMBERS[source])


def test_threads_beyond_a_smaller_loop_skip_it() -> None:
    first = threads(lambda t: (store(Y, (t,), load(X, t)),))
    second = threads(lambda t: (store(Y, (t,), load(X, t) + 1.0),), 10)
    kernel = Kernel("k", (Y, X), (first, second))
    assert launch_size(kernel) == ((1, 1, 1), (64, 1, 1))
    y = run(first, second, x=NUMBERS)
    np.testing.assert_array_equal(y, NUMBERS + (np.arange(64) < 10))


def test_a_pool_barrier_divides_launches() -> None:
    first = threads(lambda t: (store(Z, (t,), load(X, t)),))
    second = threads(lambda t: (store(Y, (t,), load(Z, 63 - t)),))
    kernel = Kernel("k", (Y, X, Z), (first, Barrier("pool"), second))
    parts = split_launches(kernel)
    assert [(p.name, [b.name for b in p.buffers]) for p in parts] == [("k_1", ["x", "z"]), ("k_2", ["y", "z"])]
    arrays = {"x": NUMBERS, "y": np.zeros(64, np.float32), "z": np.zeros(64, np.float32)}
    run_kernel(kernel, arrays)
    np.testing.assert_array_equal(arrays["y"], NUMBERS[::-1])


def test_a_barrier_that_half_of_the_threads_reach_is_an_error() -> None:
    body = threads(lambda t: (If(binary("lt", t, 32), (Barrier("block"),)), store(Y, (t,), load(X, t))))
    with pytest.raises(InternalError, match="divergent barrier"):
        run(body, x=NUMBERS)


def test_warp_operations_need_whole_warps() -> None:
    with pytest.raises(InternalError, match="warp of 16 threads"):
        run(threads(lambda t: (store(Y, (t,), call("warp_add", load(X, t))),), 48), x=NUMBERS)
    body = threads(lambda t: (If(binary("lt", t, 20), (store(Y, (t,), call("warp_add", load(X, t))),)),))
    with pytest.raises(InternalError, match="different operations"):
        run(body, x=NUMBERS)


def test_stores_stand_inside_of_all_thread_loops() -> None:
    t, u = axis("t", 64), axis("u", 2)
    first = For(t, (store(Y, (t,), load(X, t)),), "thread.x")
    second = For(u, (For(t, (store(Z, (t,), load(X, t)),), "thread.x"),), "thread.y")
    verify_kernel(Kernel("k", (Y, X), (first,)))
    verify_kernel(Kernel("k", (Y, X, Z), (first, Barrier("pool"), second)))
    with pytest.raises(InternalError, match=r"y would be stored to many times, outside of the loops of kind thread\.y"):
        verify_kernel(Kernel("k", (Y, X, Z), (first, second)))


def test_copies_arrive_in_groups() -> None:
    target, copies = np.zeros(3), Copies()
    for n in range(3):
        copies.start(target[n : n + 1], np.array([n + 1.0]), np.nan)
        copies.commit()
    assert np.isnan(target).all()
    copies.wait(1)
    np.testing.assert_array_equal(target, [1, 2, np.nan])
    copies.wait(0)
    np.testing.assert_array_equal(target, [1, 2, 3])
