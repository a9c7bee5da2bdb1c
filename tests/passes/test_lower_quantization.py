"""`lower_quantization`: products become sums of integers, what is between them stays in integers, and the meaning holds.

Integers may differ by one unit where a value is within rounding errors of a tie; these graphs are drawn so that few are.
"""

from __future__ import annotations

import numpy as np
import pytest
from tilewright.compiler.passes.fold_constants import fold_constants
from tilewright.compiler.passes.lower_quantization import lower_quantization
from tilewright.compiler.passes.merge_products import merge_products
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.movement import Concat, Pad, Reshape, Transpose
from tilewright.ir.ops.norm import BatchNorm, Softmax
from tilewright.ir.ops.quantize import Dequantize, Lookup, Quantize, integer_range
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import DTYPES, TensorType
from tilewright.ir.verify import verify_graph

F32 = np.float32


class Model:
    """Builds small quantized graphs."""

    def __init__(self, seed: int = 0) -> None:
        self.b = Builder("quantized")
        self.rng = np.random.default_rng(seed)

    def input(self, *shape: int, dtype: str = "f32") -> Value:
        return self.b.input("x", TensorType(dtype, shape))

    def ints(self, dtype: str, *shape: int) -> Value:
        low, high = integer_range(dtype)
        return self.b.constant(self.rng.integers(low, high, shape, endpoint=True).astype(DTYPES[dtype].numpy))

    def number(self, value: float, dtype: str = "f32") -> Value:
        return self.b.constant(np.asarray(value).astype(DTYPES[dtype].numpy))

    def scales(self, *shape: int) -> Value:
        return self.b.constant(self.rng.uniform(0.005, 0.02, shape).astype(F32))

    def quantize(self, x: Value, scale: float, zero: int, dtype: str = "u8") -> Value:
        return self.b.add(Quantize(dtype, *integer_range(dtype)), x, self.number(scale), self.number(zero, dtype))

    def dequantize(self, q: Value, scale: float, zero: int) -> Value:
        return self.b.add(Dequantize(), q, self.number(scale), self.number(zero, q.type.dtype))

    def pair(self, x: Value, scale: float, zero: int, dtype: str = "u8") -> Value:
        return self.dequantize(self.quantize(x, scale, zero, dtype), scale, zero)

    def weights(self, *shape: int, axis: int | None = None, zero: bool = False, dtype: str = "i8") -> Value:
        q = self.ints(dtype, *shape)
        count = () if axis is None else (shape[axis],)
        zeros = (self.b.constant(np.full(count, 128 if dtype == "u8" else 0, DTYPES[dtype].numpy)),)
        return self.b.add(Dequantize(axis or 0), q, self.scales(*count), *(zeros if zero or dtype == "u8" else ()))


def lowered(g: Graph, *arrays: np.ndarray, most: float = 1, share: float = 0.01) -> Graph:
    """The graph after the pass, its meaning compared: at most `share` of the integers differ, by no more than `most`."""
    after = lower_quantization(g)
    verify_graph(after)
    for a, c in zip(run_graph(g, arrays), run_graph(after, arrays), strict=True):
        assert a.dtype == c.dtype
        difference = np.abs(a.astype(np.float64) - c.astype(np.float64))
        assert difference.max(initial=0) <= most
        assert (difference > 1e-5 * np.abs(a.astype(np.float64)).max(initial=1)).mean() <= share
    return after


def names(g: Graph) -> list[str]:
    return [n.op.name for n in g.nodes]


def draw(*shape: int, seed: int = 1, span: float = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-span, span, shape).astype(F32)


def integer_products(g: Graph) -> int:
    return sum(isinstance(n.op, (MatMul, Conv)) and n.op.to == "i32" for n in g.nodes)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("weights", ["i8", "u8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_a_product(dtype: str, weights: str, axis: int | None) -> None:
    m = Model()
    y = m.b.add(MatMul(), m.pair(m.input(5, 24), 0.02, 17, dtype), m.weights(24, 7, axis=axis, dtype=weights))
    y = m.b.add(Binary("add"), y, m.scales(7))
    y = m.quantize(m.b.add(Binary("max"), y, m.number(0)), 0.01, -3 if dtype == "i8" else 5, dtype)
    after = lowered(m.b.graph([y]), draw(5, 24), share=0.1)
    assert integer_products(after) == 1
    assert all(n.inputs[0].type.dtype == "u8" for n in after.nodes if isinstance(n.op, MatMul))
    assert names(after).count("Saturate") == 2


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_a_convolution_with_a_border_of_zero_points(groups: int) -> None:
    m = Model()
    q = m.ints("i32", 6)
    bias = m.b.add(Dequantize(), q, m.number(1e-9))
    x = m.pair(m.input(1, 7, 6, 6), 0.02, 200)
    y = m.b.add(Conv((2, 1), (1, 1, 1, 0), (1, 1), groups), x, m.weights(3, 3, 6 // groups, 6, axis=3), bias)
    after = lowered(m.b.graph([m.quantize(y, 0.05, 3)]), draw(1, 7, 6, 6), share=0.1)
    assert integer_products(after) == 1
    (pad,) = [n for n in after.nodes if isinstance(n.op, Pad)]
    assert after.constants[pad.inputs[1]] == 200
    assert pad.outputs[0].type.shape[-1] == (8 if groups == 1 else 6)


def test_a_bias_of_the_same_scale_is_added_to_the_sums() -> None:
    m = Model()
    w = m.weights(8, 4, axis=1)
    scale = m.b.constants[m.b.producers[w].inputs[1]]
    bias = m.b.add(Dequantize(0), m.ints("i16", 4), m.b.constant(scale * F32(0.02)))
    wide = m.b.add(Dequantize(0), m.b.add(Cast("i32"), m.ints("i16", 4)), m.b.constant(scale * F32(0.02)))
    for v in (bias, wide):
        y = m.b.add(Conv((1,), (0, 0), (1,), 1), m.pair(m.input(1, 5, 8), 0.02, 3), _as_kernel(m, w), v)
        lowered(m.b.graph([m.quantize(y, 0.5, 3)]), *[draw(1, 5, 8)] * len(m.b.inputs))


def _as_kernel(m: Model, w: Value) -> Value:
    """[C, O] as the weights [1, C, O] of a convolution."""
    node = m.b.producers[w]
    q = m.b.constants[node.inputs[0]]
    return m.b.add(Dequantize(2), m.b.constant(q[None]), node.inputs[1])


def test_what_moves_elements_stays_in_integers() -> None:
    m = Model()
    x = m.pair(m.input(1, 4, 6, 8), 0.03, 9)
    y = m.b.add(Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False), x)
    y = m.b.add(Transpose((0, 3, 1, 2)), m.b.add(Pad((0, 1, 1, 0), (0, 1, 0, 0), "constant"), y, m.number(0)))
    y = m.quantize(m.b.add(Reshape((8, 16)), y), 0.03, 9)
    after = lowered(m.b.graph([y]), draw(1, 4, 6, 8), most=0)
    assert names(after) == ["Binary", "Saturate", "Pool", "Pad", "Transpose", "Reshape"]


def test_parts_of_a_concat_are_quantized_one_by_one() -> None:
    m = Model()
    x = m.input(2, 8)
    parts = [m.pair(x, 0.02, 100), m.pair(x, 0.03, 90)]
    y = m.quantize(m.b.add(Concat(1), *parts), 0.03, 90)
    after = lowered(m.b.graph([y]), draw(2, 8), share=0.1)
    (concat,) = [n for n in after.nodes if isinstance(n.op, Concat)]
    assert concat.outputs[0].type.dtype == "u8"


def test_a_second_quantization_of_the_same_kind_disappears() -> None:
    m = Model()
    x = m.input(3, 4)
    y = m.quantize(m.pair(m.pair(x, 0.1, -4, "i8"), 0.1, -4, "i8"), 0.1, -4, "i8")
    assert names(lowered(m.b.graph([y]), draw(3, 4, span=20), most=0)) == ["Binary", "Saturate", "Binary", "Cast"]


def test_normalisation_and_clipping_are_part_of_the_scale() -> None:
    m = Model()
    y = m.b.add(MatMul(), m.pair(m.input(3, 8), 0.02, 128), m.weights(8, 4))
    y = m.b.add(BatchNorm(1e-3), y, *(m.b.constant(draw(4, seed=s) ** 2 + 1) for s in range(4)))
    y = m.b.add(Binary("min"), m.b.add(Binary("max"), y, m.number(0)), m.number(6))
    after = lowered(m.b.graph([m.quantize(y, 6 / 255, 0)]), draw(3, 8), share=0.1)
    product = names(after).index("MatMul")
    assert names(after)[product + 1 :] == ["Binary", "Cast", "Binary", "Binary", "Saturate"]


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_integer_products_with_zero_points_of_the_run(shape: tuple[int, ...]) -> None:
    m = Model()
    q, z = m.input(4, 12, dtype="u8"), m.b.input("z", TensorType("u8", ()))
    zero = m.b.add(Reshape(shape), m.b.add(Cast("i32"), z))
    centred = m.b.add(Binary("sub"), m.b.add(Cast("i32"), q), zero)
    y = m.b.add(MatMul(), centred, m.b.constant(np.random.default_rng(0).integers(-128, 127, (12, 5)).astype(np.int32)))
    array = np.random.default_rng(1).integers(0, 255, (4, 12)).astype(np.uint8)
    after = lowered(m.b.graph([y]), array, np.array(97, np.uint8), most=0)
    assert integer_products(after) == 1


def test_a_border_of_a_zero_point_of_the_run() -> None:
    m = Model()
    q, z = m.input(1, 5, 5, 4, dtype="u8"), m.b.input("z", TensorType("u8", ()))
    centred = m.b.add(Binary("sub"), m.b.add(Cast("i32"), q), m.b.add(Cast("i32"), z))
    w = m.b.constant(np.random.default_rng(0).integers(-128, 127, (3, 3, 4, 5)).astype(np.int32))
    y = m.b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), centred, w)
    array = np.random.default_rng(1).integers(0, 255, (1, 5, 5, 4)).astype(np.uint8)
    assert integer_products(lowered(m.b.graph([y]), array, np.array(97, np.uint8), most=0)) == 1


def test_products_that_stay_in_floats_are_named() -> None:
    m = Model()
    x = m.pair(m.input(6, 8), 0.02, 30000, "u16")
    a, c = m.pair(m.input(6, 8), 0.02, 3), m.pair(m.input(8, 6), 0.02, 3)
    wide = m.b.add(Dequantize(), m.b.constant(np.full((2, 8, 3), 255, np.uint8)), m.number(0.1), m.number(3, "u8"))
    row = m.b.add(Conv((1,), (0, 0), (1,), 1), m.b.add(Reshape((1, 6, 8)), a), wide)
    outputs = [m.b.add(MatMul(), x, m.weights(8, 3)), m.b.add(MatMul(), a, c), row]
    found: list[str] = []
    g = m.b.graph(outputs)
    after = lower_quantization(g, note=found.append)
    assert integer_products(after) == 0
    assert all(t.startswith("quantization: 1 products stay in floats") for t in found)
    assert {t.rpartition(": ")[2] for t in found} == {
        "activations are u16, not of 8 bits", "the right operand is no constant",
        "weights less their zero point do not fit 8 signed bits",
    }
    arrays = [draw(*v.type.static_shape, seed=i) for i, v in enumerate(g.inputs)]
    for before, now in zip(run_graph(g, arrays), run_graph(after, arrays), strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-4, atol=1e-4)


def test_a_mean_and_the_largest() -> None:
    m = Model()
    x = m.pair(m.input(1, 4, 4, 8), 0.03, 9)
    outputs = [m.quantize(m.b.add(Reduce(fn, (1, 2), True), x), 0.03, 9) for fn in ("mean", "max")]
    after = lowered(m.b.graph(outputs), draw(1, 4, 4, 8), share=0.1)
    assert {n.inputs[0].type.dtype for n in after.nodes if isinstance(n.op, Reduce)} == {"f32", "u8"}


def test_nothing_to_do() -> None:
    m = Model()
    g = m.b.graph([m.b.add(Binary("add"), m.input(3), m.number(1))])
    assert lower_quantization(g) is g


def test_constants_alone_are_folded_by_nobody_before() -> None:
    m = Model()
    g = m.b.graph([m.b.add(MatMul(), m.input(2, 4), m.weights(4, 3))])
    assert names(fold_constants(g)) == ["Dequantize", "MatMul"]
    assert names(lowered(g, draw(2, 4))) == ["MatMul"]


@pytest.mark.parametrize(("activations", "weights"), [("u8", "i8"), ("i8", "i8"), ("i16", "i16")])
def test_operands_are_stored_as_the_machine_multiplies_them(activations: str, weights: str) -> None:
    def native(op: object, types: tuple[TensorType, ...]) -> bool:
        return (types[0].dtype, types[1].dtype) == (activations, weights)

    for dtype in ("u8", "i8"):
        m = Model()
        x = m.b.add(Pool("max", (2, 2), (1, 1), (0, 0, 0, 0), (1, 1), False), m.pair(m.input(1, 5, 5, 4), 0.02, 3, dtype))
        y = m.b.add(Conv((1, 1), (1, 0, 1, 0), (1, 1), 1), x, m.weights(3, 3, 4, 6, axis=3))
        y = m.b.add(Concat(3), m.quantize(y, 0.1, -7 if dtype == "i8" else 9, dtype), m.quantize(y, 0.1, 3, dtype))
        g = m.b.graph([y])
        after = lower_quantization(g, native=native)
        (product,) = [n for n in after.nodes if isinstance(n.op, Conv)]
        assert tuple(v.type.dtype for v in product.inputs) == (activations, weights)
        for a, c in zip(run_graph(g, [draw(1, 5, 5, 4)]), run_graph(after, [draw(1, 5, 5, 4)]), strict=True):
            assert a.dtype == c.dtype and np.abs(a.astype(int) - c.astype(int)).max() <= 1


def test_without_an_instruction_products_stay_in_floats() -> None:
    m = Model()
    g = m.b.graph([m.b.add(MatMul(), m.pair(m.input(2, 4), 0.02, 3), m.weights(4, 3))])
    assert integer_products(lower_quantization(g, native=lambda op, types: False)) == 0


def test_a_function_of_bytes_becomes_a_table() -> None:
    m = Model()
    x = m.pair(m.b.add(MatMul(), m.pair(m.input(5, 8), 0.02, 128), m.weights(8, 6)), 0.03, 100)
    y = m.b.add(Binary("mul"), x, m.b.add(Unary("sigmoid"), m.b.add(Binary("mul"), x, m.number(1.7))))
    g = m.b.graph([m.quantize(y, 0.02, -110, "i8")])
    after = lower_quantization(g, native=lambda op, types: True)
    assert "Lookup" in names(after) and "Unary" not in names(after)
    for a, c in zip(run_graph(g, [draw(5, 8)]), run_graph(after, [draw(5, 8)]), strict=True):
        np.testing.assert_array_equal(a, c)
    assert "Lookup" not in names(lowered(g, draw(5, 8)))


def test_integer_products_of_one_operand_are_merged() -> None:
    b = Builder("merged")
    x = b.input("x", TensorType("u8", (4, 8)))
    rng = np.random.default_rng(0)
    products = [b.add(MatMul("i32"), x, b.constant(rng.integers(-9, 9, (8, n)).astype(np.int8))) for n in (4, 6)]
    g = b.graph([b.add(Reshape((2, 2, v.type.static_shape[1])), v) for v in products])
    after = merge_products(g)
    verify_graph(after)
    assert names(after).count("MatMul") == 1
    array = rng.integers(0, 255, (4, 8)).astype(np.uint8)
    for a, c in zip(run_graph(g, [array]), run_graph(after, [array]), strict=True):
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("zero", [7, 122, 250])
def test_weights_off_the_centre_are_moved_into_eight_bits(zero: int) -> None:
    m = Model()
    x = m.pair(m.input(4, 3, 8), 0.02, 90)
    q = m.b.constant(np.random.default_rng(2).integers(0, 255, (8, 6), endpoint=True).astype(np.uint8))
    w = m.b.add(Dequantize(), q, m.number(0.01), m.number(zero, "u8"))
    taps = m.b.constant(m.b.constants[q][None])
    kernel = m.b.add(Dequantize(), taps, m.number(0.01), m.number(zero, "u8"))
    outputs = [m.b.add(MatMul(), x, w), m.b.add(Conv((1,), (0, 0), (1,), 1), x, kernel)]
    after = lowered(m.b.graph([m.quantize(y, 0.1, 100) for y in outputs]), draw(4, 3, 8), share=0.1)
    assert integer_products(after) == 2
    assert all(n.inputs[1].type.dtype == "i8" for n in after.nodes if isinstance(n.op, (MatMul, Conv)))


def _attention(m: Model, pair_on_scores: bool, guarded: bool, factor: float, all_pairs: bool = False) -> Value:
    """As exporters and quantizers write it: heads split after the projections, keys transposed before they are rounded."""
    def heads(perm: tuple[int, ...], scale: float) -> Value:
        y = m.pair(m.b.add(MatMul(), x, m.weights(32, 32, axis=1)), 0.05, 120)
        y = m.b.add(Transpose(perm), m.b.add(Reshape((1, 6, 2, 16)), m.b.add(Binary("add"), y, m.scales(32))))
        return m.pair(m.b.add(Binary("mul"), y, m.number(scale)), 0.02, 130)

    x = m.pair(m.input(1, 6, 32), 0.02, 128)
    scores = m.b.add(MatMul(), heads((0, 2, 1, 3), 0.5), heads((0, 2, 3, 1), 0.5))
    scores = m.pair(scores, 0.05, 128) if pair_on_scores else scores
    if factor != 1:
        scores = m.b.add(Binary("div"), scores, m.number(1 / factor))
    hidden = np.where(np.arange(6) == 4, -np.inf, 0).astype(F32).reshape(1, 1, 1, 6)
    scores = m.b.add(Binary("add"), scores, m.b.constant(hidden))
    p = m.b.add(Softmax(3), m.pair(scores, 0.06, 200) if all_pairs else scores)
    p = m.pair(p, 1 / 200, 3) if all_pairs else p
    if guarded:
        p = m.b.add(Select(), m.b.add(Unary("isnan"), p), m.number(0), p)
    y = m.b.add(MatMul(), m.pair(p, 1 / 255, 0), heads((0, 2, 1, 3), 1.0))
    y = m.b.add(Reshape((1, 6, 32)), m.b.add(Transpose((0, 2, 1, 3)), y))
    return m.quantize(y, 0.02, 128)


@pytest.mark.parametrize("pair_on_scores, guarded, factor, all_pairs", [
    (True, True, 1, False), (False, False, 0.25, False), (True, False, 2, False),
    (True, True, 1, True), (False, False, 1, True),
])
def test_attention(pair_on_scores: bool, guarded: bool, factor: float, all_pairs: bool) -> None:
    """One operator on bytes; what stands above the split into heads is computed before it."""
    m = Model()
    graph = m.b.graph([_attention(m, pair_on_scores, guarded, factor, all_pairs)])
    notes: list[str] = []
    after = lower_quantization(graph, native=lambda op, types: not isinstance(op, Lookup), note=notes.append)
    verify_graph(after)
    assert names(after).count("QuantizedAttention") == 1 and integer_products(after) == 3 and not notes
    for n in after.nodes:
        if isinstance(n.op, (Reshape, Transpose)):
            assert n.inputs[0].type.dtype == "u8"
    x = draw(1, 6, 32)
    (a,), (c,) = run_graph(graph, [x]), run_graph(after, [x])
    difference = np.abs(a.astype(int) - c.astype(int))
    assert difference.max() <= 1 and difference.mean() < 0.05 and np.ptp(a.astype(int)) > 50


def test_attention_without_an_instruction_stays_products() -> None:
    m = Model()
    graph = m.b.graph([_attention(m, True, True, 1)])
    notes: list[str] = []
    after = lower_quantization(graph, native=lambda op, types: isinstance(op, MatMul), note=notes.append)
    assert "QuantizedAttention" not in names(after) and "2 products stay in floats" in notes[0]
