"""Random graphs: chains of operators that fit, drawn from a table of generators by a seeded generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tilewright.ir.graph import Builder, Graph, Value
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.elementwise import Binary, Cast, Select, Unary
from tilewright.ir.ops.movement import Broadcast, Concat, Gather, Pad, Reshape, Slice, Transpose
from tilewright.ir.ops.norm import Attention, LayerNorm, LogSoftmax, RmsNorm, Softmax
from tilewright.ir.ops.reduce import ArgReduce, CumSum, Reduce
from tilewright.ir.ops.scatter import ScatterElements
from tilewright.ir.ops.sort import TopK
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import TensorType, dtype_of

Step = Callable[["Draw"], "Value | None"]
ROUNDS = (MatMul, Conv, LayerNorm, RmsNorm, Softmax, LogSoftmax, Attention, CumSum)
ROUNDING_FUNCTIONS = ("sigmoid", "tanh", "erf", "sin", "mul", "sum", "mean")


class Draw:
    """A graph that grows by one random node at a time."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder("random")
        self.values: list[Value] = []
        self.arrays: list[np.ndarray] = []
        self._exact: dict[Value, bool] = {}

    def int(self, low: int, high: int) -> int:
        """low <= n <= high"""
        return int(self.rng.integers(low, high + 1))

    def pick(self, items: Sequence):  # type: ignore[no-untyped-def]
        return items[self.int(0, len(items) - 1)]

    def value(self, wanted: Callable[[Value], bool] = lambda v: True) -> Value | None:
        """One of the values so far, the later ones more often."""
        found = [v for v in self.values if wanted(v)]
        return found[max(self.int(0, len(found) - 1), self.int(0, len(found) - 1))] if found else None

    def input(self, array: np.ndarray) -> Value:
        v = self.b.input(f"x{len(self.arrays)}", TensorType(dtype_of(array), array.shape))
        self.arrays.append(array)
        self.values.append(v)
        return v

    def floats(self, *shape: int) -> np.ndarray:
        """Multiples of 1/8 of few bits: sums and products are exact, in any order."""
        return (self.rng.integers(-16, 17, shape) / 8).astype(np.float32)

    def is_exact(self, v: Value) -> bool:
        """No rounding on the way to v, so that it may be compared, rounded and sorted."""
        if v not in self._exact:
            node = self.b.producers.get(v)
            ok = node is None or (not isinstance(node.op, ROUNDS) and getattr(node.op, "fn", "") not in ROUNDING_FUNCTIONS)
            self._exact[v] = ok and (node is None or all(map(self.is_exact, node.inputs)))
        return self._exact[v]

    def grow(self, steps: Sequence[Step], count: int) -> None:
        """Adds about `count` nodes; a step that finds no operand adds none."""
        for _ in range(3 * count):
            if len(self.b.nodes) >= count:
                break
            made = self.pick(steps)(self)
            if made is not None:
                self.values.append(made)

    def graph(self) -> tuple[Graph, list[np.ndarray]]:
        """Outputs: what nothing reads, and sometimes another value; and arrays for the inputs."""
        read = {v for n in self.b.nodes for v in n.inputs}
        made = [v for n in self.b.nodes for v in n.outputs]
        outputs = [v for v in made if v not in read]
        others = [v for v in made if v in read]
        if others and self.int(0, 2) == 0:
            outputs.append(self.pick(others))
        return self.b.graph(outputs), self.arrays


# ---- movement

MAX_SIZE = 20_000  # elements of a value


def divisor(d: Draw, n: int) -> int:
    return d.pick([k for k in range(1, n + 1) if n % k == 0])


def reshape(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.size > 0)
    if x is None:
        return None
    left, shape = x.type.size, []
    for _ in range(d.int(0, 3)):
        shape.append(divisor(d, left))
        left //= shape[-1]
    return d.b.add(Reshape((*shape, left)), x)


def transpose(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.rank > 1)
    return None if x is None else d.b.add(Transpose(tuple(int(p) for p in d.rng.permutation(x.type.rank))), x)


def slice_(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.rank > 0 and v.type.size > 0)
    if x is None:
        return None
    starts, sizes, steps = [], [], []
    for n in x.type.static_shape:
        start = d.int(0, n - 1) if d.int(0, 1) else 0
        step = d.pick((1, 1, 1, 2, 3, -1))
        room = (start // -step if step < 0 else (n - 1 - start) // step) + 1
        starts.append(start)
        sizes.append(room if d.int(0, 1) else d.int(1, room))
        steps.append(step)
    return d.b.add(Slice(tuple(starts), tuple(sizes), tuple(steps)), x)


def broadcast(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.size < 2000)
    if x is None or x.type.rank > 4:
        return None
    shape = tuple(d.int(2, 4) if n == 1 and d.int(0, 1) else n for n in x.type.static_shape)
    return d.b.add(Broadcast((d.int(1, 3),) * d.int(0, 1) + shape), x)


def concat(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.rank > 0 and v.type.size < MAX_SIZE // 3)
    if x is None:
        return None
    axis, shape = d.int(0, x.type.rank - 1), x.type.shape

    def fits(v: Value) -> bool:
        same = v.type.dtype == x.type.dtype and v.type.rank == x.type.rank
        return same and v.type.shape[:axis] == shape[:axis] and v.type.shape[axis + 1 :] == shape[axis + 1 :]

    parts = [x] + [d.value(fits) or x for _ in range(d.int(1, 2))]
    return d.b.add(Concat(axis), *(parts[int(i)] for i in d.rng.permutation(len(parts))))


def pad(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.rank > 0 and v.type.size < 2000 and v.type.dtype == "f32")
    if x is None:
        return None
    before = tuple(d.int(0, 2) * d.int(0, 1) for _ in x.type.shape)
    after = tuple(d.int(0, 2) * d.int(0, 1) for _ in x.type.shape)
    return d.b.add(Pad(before, after, "constant"), x, d.b.constant(np.float32(d.pick((0.0, 1.0, -2.5)))))


def exact_unary(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32")
    return None if x is None else d.b.add(Unary(d.pick(("neg", "abs", "floor") if d.is_exact(x) else ("neg", "abs"))), x)


def exact_binary(d: Draw) -> Value | None:
    """Two values of one shape."""
    x = d.value(lambda v: v.type.dtype == "f32")
    y = None if x is None else d.value(lambda v: v.type == x.type)
    return None if x is None or y is None else d.b.add(Binary(d.pick(("max", "min", "add"))), x, y)


MOVEMENT: tuple[Step, ...] = (reshape, transpose, slice_, broadcast, concat, pad)
EXACT: tuple[Step, ...] = (exact_unary, exact_unary, exact_binary)


def random_movement_graph(seed: int) -> tuple[Graph, list[np.ndarray]]:
    """Movement of f32 with a few elementwise nodes, whose results are exact; every Slice goes forward."""
    d = Draw(seed)
    shape = tuple(d.int(1, 4) for _ in range(d.int(1, 4)))
    d.input(d.floats(*shape))
    d.input(d.floats(*(shape if d.int(0, 1) else shape[::-1])))
    if d.int(0, 2) == 0:
        d.values.append(d.b.constant(d.floats(*shape)))
    d.grow((*MOVEMENT, *MOVEMENT, *EXACT), d.int(3, 12))
    return d.graph()


# ---- everything that computes


def shaped(d: Draw, dtype: str = "f32") -> Value | None:
    return d.value(lambda v: v.type.dtype == dtype and 0 < v.type.size <= MAX_SIZE)


def weights(d: Draw, *shape: int) -> Value:
    """A constant, or now and then an input of this shape."""
    array = d.floats(*shape) / np.float32(2)
    return d.b.constant(array) if d.int(0, 3) else d.input(array)


def unary(d: Draw) -> Value | None:
    x = shaped(d)
    if x is None:
        return None
    x = d.b.add(Unary("neg"), d.b.add(Unary("abs"), x)) if d.int(0, 3) == 0 else x
    return d.b.add(Unary(d.pick(("sigmoid", "tanh", "abs", "neg", "erf", "sin"))), x)


def silu(d: Draw) -> Value | None:
    x = shaped(d)
    return None if x is None else d.b.add(Binary("mul"), x, d.b.add(Unary("sigmoid"), x))


def binary(d: Draw) -> Value | None:
    """Two values that broadcast: of one shape, a row, a scalar, or a reduced value."""
    x = shaped(d)
    if x is None:
        return None
    y = d.value(lambda v: v.type.dtype == "f32" and _broadcasts(v, x) and v is not x)
    if y is None or d.int(0, 3) == 0:
        shape = [n if d.int(0, 1) else 1 for n in x.type.static_shape[d.int(0, x.type.rank) :]]
        y = weights(d, *shape)
    pair = (x, y) if d.int(0, 1) else (y, x)
    return d.b.add(Binary(d.pick(("add", "sub", "mul", "max", "min"))), *pair)


def _broadcasts(y: Value, x: Value) -> bool:
    pairs = zip(y.type.static_shape[::-1], x.type.static_shape[::-1], strict=False)
    return y.type.rank <= x.type.rank and all(a in (1, b) for a, b in pairs)


def select(d: Draw) -> Value | None:
    x = shaped(d)
    y = None if x is None else d.value(lambda v: v.type == x.type and d.is_exact(v))
    if x is None or y is None:
        return None
    c = d.b.add(Binary(d.pick(("lt", "ge"))), y, d.b.constant(np.float32(0.25)))
    return d.b.add(Select(), c, x, y)


def integers(d: Draw) -> Value | None:
    """Arithmetic on small integers, and back."""
    x = shaped(d)
    if x is None or not d.is_exact(x):
        return None
    dtype = d.pick(("i64", "i32", "u8", "f16"))
    bounded = d.b.add(Binary("min"), d.b.add(Unary("abs"), x), d.b.constant(np.float32(6)))
    i = d.b.add(Cast(dtype), d.b.add(Unary("floor"), bounded))
    i = d.b.add(Binary(d.pick(("add", "mul", "max"))), i, i)
    if d.int(0, 1) and x.type.rank:
        i = d.b.add(Reduce(d.pick(("sum", "max")), (x.type.rank - 1,), True), i)
    return d.b.add(Cast("f32"), i)


def reduce(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank > 0 and 0 < v.type.size <= MAX_SIZE)
    if x is None:
        return None
    rank = x.type.rank
    first = d.int(0, rank - 1)
    axes = tuple(range(first, rank)) if d.int(0, 2) else tuple(sorted({d.int(0, rank - 1) for _ in range(2)}))
    return d.b.add(Reduce(d.pick(("sum", "mean", "max", "min")), axes, bool(d.int(0, 2))), x)


def norm(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank > 0 and 0 < v.type.size <= MAX_SIZE)
    if x is None:
        return None
    axis = d.int(0, x.type.rank - 1) if d.int(0, 2) == 0 else x.type.rank - 1
    kind = d.int(0, 3)
    if kind == 0:
        shape = x.type.static_shape[axis:]
        return d.b.add(LayerNorm(axis, 1e-2), x, weights(d, *shape), weights(d, *shape))
    if kind == 1:
        return d.b.add(RmsNorm(axis, 1e-2), x, weights(d, *x.type.static_shape[axis:]))
    return d.b.add((Softmax if kind == 2 else LogSoftmax)(axis), x)


def matmul(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank >= 2 and 0 < v.type.size <= MAX_SIZE)
    if x is None:
        return None
    *batch, rows, depth = x.type.static_shape
    other = d.value(lambda v: v.type.dtype == "f32" and v.type.shape == (*batch, depth, rows))
    if other is not None and d.int(0, 1):
        return d.b.add(MatMul(), x, other)
    lead = batch if d.int(0, 2) == 0 else []
    product = d.b.add(MatMul(), x, weights(d, *lead, depth, d.pick((1, 3, 4, 8, 17, 33))))
    return d.b.add(Binary("mul"), product, d.b.constant(np.float32(0.25)))


def convolution(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank == 4 and 0 < v.type.size <= MAX_SIZE)
    if x is None:
        return None
    _, height, width, channels = x.type.static_shape
    kernel = (d.int(1, min(3, height)), d.int(1, min(3, width)))
    pads = tuple(d.int(0, k - 1) for k in (*kernel, *kernel))
    strides = (d.int(1, 2), d.int(1, 2))
    kind = d.int(0, 3)
    if kind == 0:
        return d.b.add(Pool(d.pick(("max", "avg")), kernel, strides, pads, (1, 1), bool(d.int(0, 1))), x)
    groups = channels if kind == 1 else 1
    outputs = channels * d.int(1, 2) if kind == 1 else d.pick((1, 4, 5, 16, 18))
    w = weights(d, *kernel, channels // groups, outputs)
    bias = (weights(d, outputs),) if d.int(0, 1) else ()
    made = d.b.add(Conv(strides, pads, (1, 1), groups), x, w, *bias)
    return d.b.add(Binary("mul"), made, d.b.constant(np.float32(0.25)))


def gather(d: Draw) -> Value | None:
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank > 0 and 0 < v.type.size <= MAX_SIZE)
    if x is None:
        return None
    axis = d.int(0, x.type.rank - 1)
    n = x.type.static_shape[axis]
    count = d.int(1, 5)
    indices = d.rng.integers(-n, n, (count,))
    return d.b.add(Gather(axis), x, d.b.constant(indices) if d.int(0, 1) else d.input(indices))


def attention(d: Draw) -> Value | None:
    """Heads that are views of one matrix [B, M, H*D]."""
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank == 3 and v.type.shape[2] % 16 == 0 and v.type.size > 0)
    if x is None:
        return None
    batch, rows, width = x.type.static_shape
    count = d.pick([n for n in (1, 2, 4) if width % (16 * n) == 0])
    y = d.b.add(Transpose((0, 2, 1, 3)), d.b.add(Reshape((batch, rows, count, width // count)), x))
    z = d.b.add(Attention(0.25, bool(d.int(0, 1))), y, y, d.b.add(Unary("neg"), y) if d.int(0, 1) else y)
    return d.b.add(Reshape((batch, rows, width)), d.b.add(Transpose((0, 2, 1, 3)), z)) if d.int(0, 2) else z


def irregular(d: Draw) -> Value | None:
    """Operators with loops of their own."""
    x = d.value(lambda v: v.type.dtype == "f32" and v.type.rank > 0 and 0 < v.type.size <= 2000)
    if x is None:
        return None
    axis = d.int(0, x.type.rank - 1)
    kind = d.pick((0, 1, 2, 3) if d.is_exact(x) else (0, 3))
    if kind == 0:
        return d.b.add(CumSum(axis, bool(d.int(0, 1)), bool(d.int(0, 1))), x)
    if kind == 1:
        return d.b.add(Cast("f32"), d.b.add(ArgReduce(d.pick(("max", "min")), axis, True, bool(d.int(0, 1))), x))
    if kind == 2:
        values, places = d.b.add_multi(TopK(axis, d.int(1, x.type.static_shape[axis]), bool(d.int(0, 1))), x)
        return values if d.int(0, 2) else d.b.add(Cast("f32"), places)
    n = x.type.static_shape[axis]
    at = d.b.constant(np.stack([d.rng.permutation(n) for _ in range(x.type.size // n)]).reshape(
        [m for a, m in enumerate(x.type.static_shape) if a != axis] + [n]).astype(np.int64))
    moved = np.ascontiguousarray(np.moveaxis(d.b.constants[at], -1, axis))
    y = d.value(lambda v: v.type == x.type)
    return d.b.add(ScatterElements(axis, d.pick(("none", "add"))), x, d.b.constant(moved), x if y is None else y)


COMPUTE: tuple[Step, ...] = (
    unary, silu, binary, binary, binary, select, integers, reduce, reduce, norm, norm, matmul, matmul, convolution,
    convolution, convolution, gather, attention, irregular, exact_unary, exact_binary,
)


SHAPES = (
    (2, 5, 6, 3), (1, 7, 7, 4), (3, 5, 8), (2, 9), (4, 17), (6, 6), (1, 33), (2, 3, 16), (5,), (2, 1, 6), (1, 9, 9, 16),
    (2, 20, 40), (2, 12, 64), (3, 70), (1, 6, 5, 35), (40, 3), (1, 1, 1, 20),
)


def random_graph(seed: int) -> tuple[Graph, list[np.ndarray]]:
    """Everything together; composite operators included."""
    d = Draw(seed)
    for _ in range(d.int(1, 2)):
        d.input(d.floats(*d.pick(SHAPES)))
    d.grow((*MOVEMENT, *COMPUTE), d.int(4, 15))
    return d.graph()
