"""sink, merge, rfactor, localize, alias, stage, prefetch: same results, and every precondition."""

from __future__ import annotations

import pytest
from codegen.small_kernels import affine, conv, matmul, row_sum, softmax
from codegen.stepwise import loop_names, run_steps
from tilewright.codegen.schedule import (
    alias,
    cut,
    has_loop,
    localize,
    loops,
    merge,
    prefetch,
    rfactor,
    sink,
    split,
    stage,
    unroll,
    vectorize,
)
from tilewright.ir.compute import Compute, lower_group
from tilewright.ir.errors import ScheduleError
from tilewright.ir.expr import HReduce
from tilewright.ir.kernel import Alloc, Buffer, Kernel, Prefetch, Store, axis, walk_block
from tilewright.ir.traverse import walk


def temporaries(kernel: Kernel) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {s.buf.name: (s.buf.space, s.buf.shape) for s in walk_block(kernel.body) if isinstance(s, Alloc)}  # type: ignore


def test_sink() -> None:
    k = run_steps(matmul(4, 6, 3), ("C",), lambda k: split(k, "n", 3), lambda k: sink(k, ["ni"]), lambda k: sink(k, ["no"]),
                  lambda k: split(k, "m", 2), lambda k: sink(k, ["mi"]))
    assert loop_names(k)[0] == "mo" and len(loops(k, "mi")) == 3
    assert temporaries(k) == {"acc": ("register", (2, 2, 3))}
    k = run_steps(matmul(4, 6, 3), ("C",), lambda k: sink(k, ["m", "n"]))
    assert temporaries(k) == {"acc": ("register", (4, 6))}
    assert len(loops(k, "m")) == len(loops(k, "n")) == 3
    with pytest.raises(ScheduleError, match="sink k: k is a reduction"):
        sink(matmul(4, 6, 3), ["k"])
    with pytest.raises(ScheduleError, match="sink n, m: expected only the loop m inside n"):
        sink(matmul(4, 6, 3), ["n", "m"])


def test_sink_needs_fixed_extents() -> None:
    x, y = Buffer("X", "f32", (4, 5)), Buffer("Y", "f32", (4,))
    i = axis("i", 4)
    j = axis("j", i + 2)
    ragged = lower_group("ragged", (x, y), (Compute(y, (i,), x[i, j], (j,), "add"),))
    with pytest.raises(ScheduleError, match="sink i: the extent of j depends on it"):
        sink(ragged, ["i"])
    run_steps(ragged, ("Y",), lambda k: split(k, "i", 2))


def test_merge_and_localize() -> None:
    k = run_steps(softmax(3, 5), ("Y",), lambda k: merge(k, "i"), lambda k: localize(k, "most", "i"),
                  lambda k: localize(k, "total", "i"), lambda k: localize(k, "e", "i", "stack"), lambda k: merge(k, "j"),
                  exact=False)
    assert len(loops(k, "i")) == 1 and len(loops(k, "j")) == 3, "the sum is taken while the row is written"
    assert temporaries(k) == {
        "acc0": ("register", ()), "acc2": ("register", ()), "e": ("stack", (5,)), "most": ("register", ()),
        "total": ("register", ()),
    }
    with pytest.raises(ScheduleError, match="merge j: loops of that name became one 0 times, not 1"):
        merge(affine(3, 3), "j")


def chain(index_of_second_read: int) -> Kernel:
    """t[i] = X[i] + 1; Y[i] = t[3 - i] or t[i]"""
    x, y, t = (Buffer(n, "f32", (4,)) for n in ("X", "Y", "t"))
    i = axis("i", 4)
    at = i if index_of_second_read == 0 else 3 - i
    return lower_group("chain", (x, y), (Compute(t, (i,), x[i] + 1.0), Compute(y, (i,), t[at] * 2.0)))


def test_merge_needs_equal_places() -> None:
    assert len(loops(merge(chain(0), "i"), "i")) == 1
    with pytest.raises(ScheduleError, match="became one 0 times"):
        merge(chain(1), "i")


def test_localize_preconditions() -> None:
    run_steps(chain(0), ("Y",), lambda k: merge(k, "i"), lambda k: localize(k, "t", "i"))
    with pytest.raises(ScheduleError, match="localize t: expected its uses in one loop i, found them in 2"):
        localize(chain(0), "t", "i")
    with pytest.raises(ScheduleError, match="localize X: it is a parameter"):
        localize(chain(0), "X", "i")
    x, y, t = (Buffer(n, "f32", (4, 4)) for n in ("X", "Y", "t"))
    i, j = axis("i", 4), axis("j", 4)
    swapped = lower_group("swapped", (x, y), (Compute(t, (i, j), x[j, i], index=(j, i)), Compute(y, (i, j), t[j, i])))
    with pytest.raises(ScheduleError, match="localize t: its first 1 indices change inside i"):
        localize(merge(swapped, "i"), "t", "i")
    shifted = lower_group("shifted", (x, y), (Compute(t, (i, j), x[i, j]), Compute(y, (i, j), t[i, j] + t[3 - i, j])))
    with pytest.raises(ScheduleError, match="expected its uses in one loop i"):
        localize(shifted, "t", "i")


def test_alias() -> None:
    k = run_steps(softmax(3, 5), ("Y",), lambda k: alias(k, "e", "Y"), lambda k: merge(k, "i"), exact=False)
    assert "e" not in temporaries(k)
    with pytest.raises(ScheduleError, match=r"alias most: f32\[3\] cannot live in f32\[3, 5\]"):
        alias(softmax(3, 5), "most", "Y")
    with pytest.raises(ScheduleError, match="alias e: X is read, or not written"):
        alias(softmax(3, 5), "e", "X")
    with pytest.raises(ScheduleError, match="alias e: most must be a parameter, e must not"):
        alias(softmax(3, 5), "e", "most")
    with pytest.raises(ScheduleError, match="alias t: it is read in the next iteration of i, after Y is written"):
        alias(chain(1), "t", "Y")
    x, y, z, t = (Buffer(n, "f32", (4,)) for n in ("X", "Y", "Z", "t"))
    i = axis("i", 4)
    uses = Compute(y, (i,), t[i] * 2.0), Compute(z, (i,), t[i])
    again = lower_group("again", (x, y, z), (Compute(t, (i,), x[i] + 1.0), *uses))
    with pytest.raises(ScheduleError, match="alias t: it is read after Y is written"):
        alias(again, "t", "Y")


@pytest.mark.parametrize("op", ["add", "max", "min", "mul"])
@pytest.mark.parametrize("dtype", ["f32", "i64", "i32", "u8"])
def test_rfactor(op: str, dtype: str) -> None:
    k = run_steps(row_sum(3, 12, dtype, op), ("Y",), lambda k: split(k, "j", 3), lambda k: rfactor(k, "jo", "ji"),
                  lambda k: vectorize(k, "ji"), exact=op != "mul" or dtype != "f32")
    assert temporaries(k)["acc_ji"] == ("register", (3,))
    assert sum(isinstance(e, HReduce) for s in walk_block(k.body) if isinstance(s, Store) for e in walk(s.value)) == 1


def test_rfactor_twice_makes_several_vectors() -> None:
    k = run_steps(row_sum(3, 26), ("Y",), lambda k: cut(k, "j", 24), lambda k: split(k, "j0", 4, "jo", "jl"),
                  lambda k: rfactor(k, "jo", "jl"), lambda k: split(k, "jo", 3, "jo", "ju"),
                  lambda k: rfactor(k, "jo", "ju"), lambda k: unroll(k, "ju"), lambda k: vectorize(k, "jl", "j1"))
    assert temporaries(k) == {"acc": ("register", ()), "acc_jl": ("register", (4,)), "acc_jl_ju": ("register", (3, 4))}
    with pytest.raises(ScheduleError, match="rfactor i, j: no reduction into a register that depends on neither"):
        rfactor(affine(3, 4), "i", "j")


def test_rfactor_of_accumulators_with_dimensions() -> None:
    run_steps(matmul(4, 4, 6), ("C",), lambda k: sink(k, ["n"]), lambda k: split(k, "k", 2), lambda k: rfactor(k, "ko", "ki"),
              lambda k: unroll(k, "ki"), lambda k: vectorize(k, "n"))


def test_stage() -> None:
    k = run_steps(matmul(4, 6, 4), ("C",), lambda k: split(k, "n", 3),
                  lambda k: stage(k, "no", "B", lambda env: (0, env["no"] * 3), (4, 3), "stack", "Bs", "f"))
    assert temporaries(k)["Bs"] == ("stack", (4, 3))
    assert has_loop(k, "f0") and has_loop(k, "f1")
    with pytest.raises(ScheduleError, match=r"stage B: index .* is not proved to lie in the tile \(4, 2\)"):
        stage(split(matmul(4, 6, 4), "n", 3), "no", "B", lambda env: (0, env["no"] * 3), (4, 2), "stack")
    with pytest.raises(ScheduleError, match="stage C: it is written inside m"):
        stage(matmul(4, 6, 4), "m", "C", lambda env: (env["m"], 0), (1, 6), "stack")
    with pytest.raises(ScheduleError, match="stage C: it is not read in a loop k"):
        stage(matmul(4, 6, 4), "k", "C", lambda env: (0, 0), (4, 6), "stack")


def test_stage_of_a_window() -> None:
    run_steps(conv(6, 6, 2, 3, 3, 1), ("C",),
              lambda k: stage(k, "oh", "A", lambda env: (env["oh"], 0, 0), (3, 6, 2), "stack"))


def test_prefetch() -> None:
    k = run_steps(matmul(4, 6, 4), ("C",), lambda k: prefetch(k, "k", "B", lambda env: (env["k"] + 1, env["n"])),
                  lambda k: prefetch(k, "m", "A", lambda env: [(env["m"] + 1, 0), (env["m"] + 1, 2)], level=1))
    assert [(s.buf.name, s.level) for s in walk_block(k.body) if isinstance(s, Prefetch)] == [("B", 2), ("A", 1), ("A", 1)]
    with pytest.raises(ScheduleError, match="prefetch B: expected 2 indices, got 1"):
        prefetch(matmul(4, 6, 4), "k", "B", lambda env: (0,))
