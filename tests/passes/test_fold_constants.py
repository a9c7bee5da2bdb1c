"""fold_constants: what is folded, what is not."""

import numpy as np
from passes.meaning import array, counts, f32, number, preserved
from tilewright.compiler.passes.fold_constants import fold_constants
from tilewright.compiler.passes.share import share
from tilewright.ir.expr import Var
from tilewright.ir.graph import Builder
from tilewright.ir.ops.dim_tensor import DimTensor
from tilewright.ir.ops.elementwise import Binary, Cast, Unary
from tilewright.ir.ops.movement import Broadcast, Iota, Reshape, Transpose


def test_a_chain_of_constants_becomes_one_constant() -> None:
    b = Builder()
    x = b.input("x", f32(4))
    c = b.add(Cast("f32"), b.add(Iota(4, "i64")))
    y = b.add(Binary("mul"), x, b.add(Unary("sqrt"), b.add(Binary("add"), c, number(b, 2.0))))
    after = preserved(b.graph([y]), fold_constants)
    assert counts(after) == {"mul": 1}
    again = fold_constants(after)
    assert str(again) == str(after)


def test_a_transposed_weight_is_a_view_of_the_weight() -> None:
    b = Builder()
    weight = array(64, 80)
    y = b.add(Binary("add"), b.input("x", f32(80, 64)), b.add(Transpose((1, 0)), b.constant(weight)))
    after = preserved(b.graph([y]), fold_constants)
    (constant,) = after.constants.values()
    assert counts(after) == {"add": 1} and np.shares_memory(constant, weight)


def test_results_beyond_the_limit_stay_computations() -> None:
    b = Builder()
    big = b.add(Broadcast((64, 64)), number(b, 1.5))
    graph = b.graph([b.add(Binary("add"), b.input("x", f32(64, 64)), big)])
    assert counts(fold_constants(graph, limit=64 * 64 * 4 - 1)) == {"add": 1, "Broadcast": 1}
    assert counts(fold_constants(graph, limit=64 * 64 * 4)) == {"add": 1}


def test_a_result_not_larger_than_its_operands_is_folded_in_spite_of_the_limit() -> None:
    b = Builder()
    y = b.add(Binary("add"), b.input("x", f32(16, 32)), b.add(Reshape((16, 32)), b.constant(array(32, 16))))
    assert counts(fold_constants(b.graph([y]), limit=0)) == {"add": 1}


def test_symbolic_dimensions_are_not_constants() -> None:
    b = Builder()
    b.input("x", f32(1))
    n = Var.of("n", None)
    assert counts(fold_constants(b.graph([b.add(DimTensor((n, 2), (2,)))]))) == {"DimTensor": 1}


def test_share_merges_equal_nodes_and_drops_unused_ones() -> None:
    b = Builder()
    x = b.input("x", f32(3))
    b.add(Unary("neg"), x)
    y = b.add(Binary("add"), b.add(Unary("exp"), x), b.add(Unary("exp"), x))
    assert counts(preserved(b.graph([y]), share)) == {"exp": 1, "add": 1}
