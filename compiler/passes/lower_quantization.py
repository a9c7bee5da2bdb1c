"""Compute in integers what a model says between Dequantize and Quantize.

    Quantize(Conv(Dequantize(q), Dequantize(W), b) + ..)   ->   Saturate((Conv[i32](q, W) + c) * m + ..)
    Quantize(Reshape(Dequantize(q)))                       ->   Reshape(q)         where both have one scale
    Dequantize(q)  for a user that stays in floats         ->   (q - z) * s

One replay.  A value is kept as a record of what its integers mean (`quantized_values`): Dequantize only makes a record,
what moves elements or picks the largest works on the integers, a product of two records becomes sums of integers
(`integer_products`) whose scale, bias and clipping are collected and applied once, where the sums are quantized again.
Bytes are stored as the machine multiplies them with weights: mostly unsigned, signed ones moved by 128.

Accuracy: integers are those of the model's own arithmetic, except that scales are multiplied in another order (a quotient
is a product with the reciprocal); a result differs by at most one unit, where the value lies within rounding errors of f32
of the middle between two integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Union

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.elementwise import Binary, Cast
from ...ir.ops.image import Resize
from ...ir.ops.movement import Broadcast, Concat, Gather, GatherElements, GatherND, Pad, Reshape, Slice, Transpose
from ...ir.ops.norm import BatchNorm
from ...ir.ops.quantize import Dequantize, Quantize, Saturate, integer_range, spread_array
from ...ir.ops.reduce import Reduce
from ...ir.ops.window import Pool
from ...ir.types import TensorType
from .expand_composites import Native
from .integer_products import GROUP, Refused, check_product, integer_sums, product_of
from .quantized_values import (
    BYTES,
    STORAGES,
    Affine,
    Centred,
    Integers,
    Joined,
    Linear,
    Record,
    Storage,
    Sums,
    Weights,
    as_number,
    cast,
    clipped_record,
    materialize,
    moved,
    scalar,
    scaled,
    total,
)

SHOWN = 3  # names in a note
Note = Callable[[str], None]
Rule = Callable[..., "Record | None"]
Movable = Union[Integers, Centred, Affine]


def lower_quantization(graph: Graph, *, native: Native | None = None, note: Note | None = None) -> Graph:
    """native(op, operand types): whether the machine has an instruction for such products; None: for bytes.  note: is
    told which products of dequantized operands stay in floats, one sentence for each reason."""
    if not any(isinstance(n.op, (Quantize, Dequantize)) or _is_integer_product(n) for n in graph.nodes):
        return graph
    return _Lowering(graph, _storage(native), note or (lambda text: None)).run()


def _storage(native: Native | None) -> Storage | None:
    """The best of the types that the machine multiplies."""
    product, shape = MatMul("i32"), (GROUP, GROUP)
    for s in STORAGES:
        if native is None or native(product, (TensorType(s.activations, shape), TensorType(s.weights, shape))):
            return s
    return None


def _is_integer_product(n: Node) -> bool:
    return isinstance(n.op, (MatMul, Conv)) and n.outputs[0].type.dtype == "i32" and not n.op.to


class _Lowering:
    """The state of the replay.  ranges: bounds of stored integers that are narrower than their type.  has_products:
    whether floats of products are worth replacing."""

    def __init__(self, graph: Graph, storage: Storage | None, note: Note) -> None:
        self.graph, self.note = graph, note
        self.storage, self.has_products = storage or STORAGES[0], storage is not None
        self.b = Builder(graph.name)
        self.records: dict[Value, Record] = {}
        self.ranges: dict[Value, tuple[int, int]] = {}
        self.refused: dict[str, list[str]] = {}

    def run(self) -> Graph:
        g, b = self.graph, self.b
        self.records = {v: b.input(v.name, v.type) for v in g.inputs}
        for node in g.nodes:
            b.where = node.where
            rule = RULES.get(type(node.op))
            made = rule(self, node.op, node) if rule is not None else None
            if made is not None:
                self.records[node.outputs[0]] = made
                continue
            inputs = [self.value(v) for v in node.inputs]
            outputs = b.add_multi(node.op, *inputs, names=[v.name for v in node.outputs], where=node.where)
            self.records.update(zip(node.outputs, outputs, strict=True))
        for reason, names in self.refused.items():
            listed = ", ".join(map(repr, names[:SHOWN])) + (", .." if len(names) > SHOWN else "")
            self.note(f"quantization: {len(names)} products stay in floats ({listed}): {reason}")
        return b.graph([self.value(v) for v in g.outputs], g.output_names)

    def record(self, old: Value) -> Record:
        if old not in self.records:
            self.records[old] = self.b.constant(self.graph.constants[old], old.name)
        return self.records[old]

    def value(self, old: Value) -> Value:
        return materialize(self.b, self.record(old))

    def array(self, old: Value) -> np.ndarray | None:
        """The constant that a value is."""
        r = self.record(old)
        if isinstance(r, Weights):
            return r.integers.astype(np.float32) * r.scale
        return self.b.constants.get(r) if isinstance(r, Value) else None

    def moved(self, r: Movable, stored: Value, *sources: Movable) -> Record:
        """The record over integers that were moved; sources: where they come from, if not from r alone."""
        bounds = [self.range(x.stored) for x in sources or (r,)]
        self.ranges[stored] = (min(low for low, _ in bounds), max(high for _, high in bounds))
        return moved(r, stored)

    def range(self, stored: Value) -> tuple[int, int]:
        return self.ranges.get(stored, integer_range(stored.type.dtype))


def _one(array: np.ndarray | None) -> np.ndarray | None:
    """The number of an array of one element."""
    return array.reshape(()) if array is not None and array.size == 1 else None


# ---- into and out of floats ------------------------------------------------------------------------------------------


def _dequantize(s: _Lowering, op: Dequantize, node: Node) -> Record | None:
    x, scale, *zero = node.inputs
    if scale.type.dtype != "f32":
        return _expanded(s, op, node)
    whole, scales = s.array(x), s.array(scale)
    zeros = s.array(zero[0]) if zero else np.zeros((), np.int64)
    if whole is not None and scales is not None and zeros is not None:
        shape = whole.shape
        centred = whole.astype(np.int64) - spread_array(zeros, shape, op.axis, op.block).astype(np.int64)
        if np.abs(centred).max(initial=0) < 2**31:
            spread = spread_array(scales, shape, op.axis, op.block)
            return Weights(centred.astype(np.int32), spread.reshape((1,) * (whole.ndim - spread.ndim) + spread.shape))
    return _dequantized(s, node) or _expanded(s, op, node)


def _dequantized(s: _Lowering, node: Node) -> Affine | None:
    """One pair of parameters for a whole tensor of 8 or 16 bits."""
    x, scale, *zero = node.inputs
    if x.type.dtype not in ("u8", "i8", "u16", "i16") or any(v.type.shape not in ((), (1,)) for v in (scale, *zero)):
        return None
    r = s.record(x)
    stored, shift = (r.stored, r.shift) if isinstance(r, Integers) else (s.value(x), 0)
    known_scale, known_zero = _one(s.array(scale)), _one(s.array(zero[0])) if zero else np.zeros((), np.int64)
    run_scale = None if known_scale is not None else _as_scalar(s.b, s.value(scale))
    if known_zero is not None:
        offset: int | Value = int(known_zero) + shift
    else:
        offset = cast(s.b, _as_scalar(s.b, s.value(zero[0])), "i32")
        if shift:
            offset = s.b.add(Binary("add"), offset, scalar(s.b, shift, "i32"))
    return Affine(stored, offset, float(known_scale) if run_scale is None else run_scale)  # type: ignore[arg-type]


def _as_scalar(b: Builder, v: Value) -> Value:
    return v if v.type.rank == 0 else b.add(Reshape(()), v)


def _expanded(s: _Lowering, op: Op, node: Node) -> Value:
    (made,) = op.expand(s.b, *(s.value(v) for v in node.inputs))
    return made


def _quantize(s: _Lowering, op: Quantize, node: Node) -> Record:
    x, scale, *zero = node.inputs
    known = _one(s.array(scale))
    zeros = _one(s.array(zero[0])) if zero else np.zeros((), np.int64)
    plain = known is not None and zeros is not None and x.type.dtype == "f32" and 2.0**-120 < float(known) < 2.0**120
    if not plain:
        return Integers(_expanded(s, op, node), op.to)
    assert known is not None and zeros is not None
    return _quantized(s, s.record(x), op, float(known), int(zeros))


def _quantized(s: _Lowering, r: Record, op: Quantize, scale: float, zero: int) -> Integers:
    """The integers of a float, stored unsigned if they are bytes."""
    if isinstance(r, Joined):
        parts = [_quantized(s, p, op, scale, zero) for p in r.parts]
        return s.moved(parts[0], s.b.add(Concat(r.axis), *(p.stored for p in parts)), *parts)  # type: ignore[return-value]
    to, shift = (s.storage.activations, s.storage.shift(op.to)) if op.to in BYTES else (op.to, 0)
    low, high, zero = op.low + shift, op.high + shift, zero + shift
    if isinstance(r, Affine) and (r.stored.type.dtype, r.zero, r.scale) == (to, zero, scale):
        least, most = s.range(r.stored)
        if low <= least and most <= high:
            return Integers(r.stored, op.to, shift)
    if isinstance(r, Affine) and not isinstance(r.scale, Value):
        r = Linear((r,))
    if isinstance(r, (Sums, Linear)):
        if isinstance(r, Sums):
            floats = scaled(s.b, replace(r, factor=r.factor / scale, offset=r.offset / scale))
        else:
            floats = total(s.b, tuple(replace(t, scale=t.scale / scale) for t in r.terms))  # type: ignore[operator]
        low, high = (int(min(max(_rounded(c / scale) + zero, low), high)) for c in (r.low, r.high))
    else:
        floats = s.b.add(Binary("mul"), materialize(s.b, r), scalar(s.b, 1 / scale, "f32"))
    stored = s.b.add(Saturate(to, low, high, zero), floats)
    if (low, high) != integer_range(to):
        s.ranges[stored] = (low, high)
    return Integers(stored, op.to, shift)


def _rounded(x: float) -> float:
    return float(np.rint(x))


# ---- products --------------------------------------------------------------------------------------------------------


def _product(s: _Lowering, op: MatMul | Conv, node: Node) -> Record | None:
    x, w = s.record(node.inputs[0]), s.record(node.inputs[1])
    if op.to:
        return None
    if isinstance(x, Centred) and isinstance(w, Value) and w in s.b.constants and len(node.inputs) == 2:
        integers = s.b.constants[w]
        if check_product(op, x, integers, s.storage, s.range(x.stored)) is not None:
            return None
        sums, shift = integer_sums(s.b, op, x, integers, s.storage)
        if isinstance(shift, Value):
            return s.b.add(Binary("add"), sums, shift)
        return s.b.add(Binary("add"), sums, s.b.constant(shift.astype(np.int32))) if np.any(shift) else sums
    if not isinstance(x, Affine):
        return None
    if not s.has_products:
        made: Sums | Value | Refused = Refused("the machine has no instruction for products of bytes")
    elif isinstance(w, Weights):
        made = product_of(s.b, op, x, w, s.storage, s.range(x.stored))
    else:
        made = Refused("the right operand is no constant")
    if isinstance(made, Refused):
        s.refused.setdefault(made.reason, []).append(node.where)
        return None
    return made if len(node.inputs) == 2 else _with_bias(s, made, node.inputs[2])


def _with_bias(s: _Lowering, made: Sums | Value, bias: Value) -> Record:
    r = s.record(bias)
    if isinstance(made, Sums) and isinstance(r, Weights):
        scale = r.scale.reshape(-1) if r.scale.size > 1 else r.scale.reshape(())
        same = np.allclose(scale, np.broadcast_to(made.factor, np.broadcast_shapes(scale.shape, made.factor.shape)), 1e-6, 0)
        total = made.shift + r.integers
        if same and np.abs(total).max(initial=0) < 2**31:
            return replace(made, shift=total)
    floats = s.array(bias)
    if isinstance(made, Sums) and floats is not None:
        return replace(made, offset=made.offset + floats.astype(np.float64))
    return s.b.add(Binary("add"), materialize(s.b, made), s.value(bias))


def _binary(s: _Lowering, op: Binary, node: Node) -> Record | None:
    a, c = node.inputs
    first, second = s.record(a), s.record(c)
    if isinstance(first, Centred) and op.fn == "sub":
        return _recentred(s, first, c)
    if op.fn in ("add", "sub"):
        joined = _terms(first), _terms(second)
        if joined[0] and joined[1]:
            return Linear((*joined[0], *(replace(t, scale=-t.scale) if op.fn == "sub" else t for t in joined[1])))
    if isinstance(second, (Sums, Linear, Affine)) and op.fn in ("add", "mul", "max", "min"):
        a, c, first = c, a, second
    array = s.array(c)
    if op.fn in ("max", "min") and array is not None and array.size == 1:
        terms = _terms(first)
        clippable = first if isinstance(first, (Sums, Linear)) else Linear(terms) if terms else None
        return None if clippable is None else clipped_record(clippable, op.fn, float(array.reshape(())))
    if not isinstance(first, Sums) or array is None or not _along_last(array, first.sums.type.rank):
        return None
    if first.is_clipped or op.fn not in _ARITHMETIC:
        return None
    flat = array.astype(np.float64)
    flat = flat.reshape(flat.shape[-1:] if flat.size > 1 else ())
    factor, offset = _ARITHMETIC[op.fn](first.factor, first.offset, flat)
    sane = np.isfinite(factor).all() and np.isfinite(offset).all() and first.sums.type.shape == node.outputs[0].type.shape
    return replace(first, factor=factor, offset=offset) if sane else None


def _terms(r: Record) -> tuple[Affine, ...]:
    """What a record adds up, empty if it is something else."""
    if isinstance(r, Linear):
        return r.terms if (r.low, r.high) == (-np.inf, np.inf) else ()
    return (r,) if isinstance(r, Affine) and not isinstance(r.scale, Value) else ()


_ARITHMETIC: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "add": lambda m, o, c: (m, o + c),
    "sub": lambda m, o, c: (m, o - c),
    "mul": lambda m, o, c: (m * c, o * c),
    "div": lambda m, o, c: (m / c, o / c),
}


def _along_last(array: np.ndarray, rank: int) -> bool:
    """A number, or one per index of the last axis."""
    return array.size == 1 or (array.ndim <= rank and array.shape[-1] == array.size)


def _recentred(s: _Lowering, r: Centred, zero: Value) -> Centred | None:
    if zero.type.shape != () or isinstance(r.zero, Value):
        return None
    known = s.array(zero)
    if known is not None:
        return replace(r, zero=r.zero + int(known))
    offset = s.value(zero)
    return replace(r, zero=offset if r.zero == 0 else s.b.add(Binary("add"), offset, as_number(s.b, r.zero, "i32")))


def _cast(s: _Lowering, op: Cast, node: Node) -> Record | None:
    r, to = s.record(node.inputs[0]), op.to
    if to == "i32" and isinstance(r, Integers) and r.dtype in BYTES:
        return Centred(r.stored, r.shift)
    if to == "i32" and isinstance(r, Value) and r.type.dtype in BYTES and r not in s.b.constants:
        return Centred(r, 0)
    return None


def _batch_norm(s: _Lowering, op: BatchNorm, node: Node) -> Record | None:
    r = s.record(node.inputs[0])
    arrays = [s.array(v) for v in node.inputs[1:]]
    if not isinstance(r, Sums) or r.is_clipped or any(a is None for a in arrays):
        return None
    scale, bias, mean, var = (np.asarray(a, np.float64) for a in arrays)
    gain = scale / np.sqrt(var + op.epsilon)
    return replace(r, factor=r.factor * gain, offset=(r.offset - mean) * gain + bias)


# ---- what moves elements ---------------------------------------------------------------------------------------------

_MOVABLE = (Integers, Centred, Affine)


def _movement(s: _Lowering, op: Op, node: Node) -> Record | None:
    """Element by element the same, in other places."""
    r = s.record(node.inputs[0])
    if isinstance(r, Weights):
        return _moved_weights(r, op, node)
    if not isinstance(r, _MOVABLE):
        return None
    return s.moved(r, s.b.add(op, r.stored, *(s.value(v) for v in node.inputs[1:])))


def _resize(s: _Lowering, op: Resize, node: Node) -> Record | None:
    """The nearest element, if none lies outside."""
    return _movement(s, op, node) if op.mode == "nearest" and not op.roi else None


def _moved_weights(r: Weights, op: Op, node: Node) -> Weights | None:
    if isinstance(op, Transpose):
        return Weights(np.transpose(r.integers, op.perm), np.transpose(r.scale, op.perm))
    if isinstance(op, Reshape) and r.scale.size == 1:
        shape = node.outputs[0].type.static_shape
        return Weights(r.integers.reshape(shape), r.scale.reshape((1,) * len(shape)))
    return None


def _largest(s: _Lowering, op: Pool | Reduce, node: Node) -> Record | None:
    """The largest float has the largest integer, as scales are positive."""
    r = s.record(node.inputs[0])
    if op.fn != "max" or not isinstance(r, _MOVABLE):
        return None
    if isinstance(r, Affine) and not isinstance(r.scale, Value) and r.scale <= 0:
        return None
    return s.moved(r, s.b.add(op, r.stored))


def _concat(s: _Lowering, op: Concat, node: Node) -> Record | None:
    parts = [s.record(v) for v in node.inputs]
    first = parts[0]
    same = isinstance(first, _MOVABLE) and all(
        isinstance(p, _MOVABLE) and _meaning(p) == _meaning(first) for p in parts
    )
    if same:
        return s.moved(first, s.b.add(op, *(p.stored for p in parts)), *parts)  # type: ignore[arg-type, union-attr]
    quantized = any(isinstance(p, (Affine, Sums, Linear, Joined)) for p in parts)
    return Joined(op.axis, tuple(parts)) if quantized else None


def _meaning(r: Integers | Centred | Affine) -> tuple[object, ...]:
    parameters = {k: v for k, v in vars(r).items() if k != "stored"}
    return (type(r), r.stored.type.dtype, *parameters.values())


def _pad(s: _Lowering, op: Pad, node: Node) -> Record | None:
    r = s.record(node.inputs[0])
    if not isinstance(r, _MOVABLE):
        return None
    if op.mode != "constant":
        return s.moved(r, s.b.add(op, r.stored, as_number(s.b, 0, r.stored.type.dtype)))
    value = _one(s.array(node.inputs[1]))
    if value is None or (not isinstance(r, Integers) and value != 0):
        return None
    number = int(value) + r.shift if isinstance(r, Integers) else r.zero
    made = moved(r, s.b.add(op, r.stored, as_number(s.b, number, r.stored.type.dtype)))
    if not isinstance(number, Value) and isinstance(made, _MOVABLE):
        low, high = s.range(r.stored)
        s.ranges[made.stored] = (min(low, number), max(high, number))
    return made


RULES: dict[type[Op], Rule] = {
    Quantize: _quantize, Dequantize: _dequantize, MatMul: _product, Conv: _product, Binary: _binary, Cast: _cast,
    BatchNorm: _batch_norm, Resize: _resize, Pool: _largest, Reduce: _largest, Concat: _concat, Pad: _pad,
    **dict.fromkeys((Reshape, Transpose, Slice, Broadcast, Gather, GatherElements, GatherND), _movement),
}
