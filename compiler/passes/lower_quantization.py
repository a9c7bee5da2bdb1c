"""Compute in integers what a model says between Dequantize and Quantize.

    Quantize(Conv(Dequantize(q), Dequantize(W), b) + ..)   ->   Saturate((Conv[i32](q, W) + c) * m + ..)
    Quantize(Reshape(Dequantize(q)))                       ->   Reshape(q)         where both have one scale
    Dequantize(q)  for a user that stays in floats         ->   (q - z) * s

One replay (`quantized_replay`).  A value is kept as a record of what its integers mean (`quantized_values`): Dequantize
only makes a record, what moves elements works on the integers (`quantized_movement`), functions of one tensor of bytes
become tables, a product of two records becomes sums of integers (`integer_products`) whose scale, bias and clipping are
collected and applied once, where the sums are quantized again.
Bytes are stored as the machine multiplies them with weights: mostly unsigned, signed ones moved by 128.

Accuracy: integers are those of the model's own arithmetic, except that scales are multiplied in another order (a quotient
is a product with the reciprocal); a result differs by at most one unit, where the value lies within rounding errors of f32
of the middle between two integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ...ir.graph import Builder, Graph, Node, Value
from ...ir.ops.base import Op
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.elementwise import Binary, Cast
from ...ir.ops.movement import Concat, Reshape
from ...ir.ops.norm import BatchNorm
from ...ir.ops.quantize import Dequantize, Lookup, Quantize, Saturate, integer_range, spread_array
from ...ir.types import TensorType
from .expand_composites import Native
from .integer_products import GROUP, Refused, check_product, integer_sums, product_of
from .quantized_attention import quantized_attention
from .quantized_movement import MOVEMENT_RULES
from .quantized_replay import Note, Replay, Rule, one
from .quantized_values import (
    BYTES,
    STORAGES,
    Affine,
    Attended,
    Centred,
    Function,
    Integers,
    Joined,
    Linear,
    Record,
    Storage,
    Sums,
    Weights,
    as_number,
    attended,
    cast,
    clipped_record,
    materialize,
    scalar,
    scaled,
    total,
)


def lower_quantization(graph: Graph, *, native: Native | None = None, note: Note | None = None) -> Graph:
    """native(op, operand types): whether the machine has an instruction for such products; None: for bytes.  It is asked
    for each product again, as MatMul("i32") of the operands that a MatMul or Conv has.  note: is
    told which products of dequantized operands stay in floats, one sentence for each reason."""
    if not any(isinstance(n.op, (Quantize, Dequantize)) or _is_integer_product(n) for n in graph.nodes):
        return graph
    has_tables = native is not None and native(Lookup(), (TensorType("u8", (GROUP,)), TensorType("u8", (256,))))
    return Replay(graph, RULES, _storage(native), has_tables, note or (lambda text: None), native).run()


def _storage(native: Native | None) -> Storage | None:
    """The best of the types that the machine multiplies."""
    product, shape = MatMul("i32"), (GROUP, GROUP)
    for s in STORAGES:
        if native is None or native(product, (TensorType(s.activations, shape), TensorType(s.weights, shape))):
            return s
    return None


def _is_integer_product(n: Node) -> bool:
    return isinstance(n.op, (MatMul, Conv)) and n.outputs[0].type.dtype == "i32" and not n.op.to


# ---- into and out of floats ------------------------------------------------------------------------------------------


def _dequantize(s: Replay, op: Dequantize, node: Node) -> Record | None:
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


def _dequantized(s: Replay, node: Node) -> Affine | None:
    """One pair of parameters for a whole tensor of 8 or 16 bits."""
    x, scale, *zero = node.inputs
    if x.type.dtype not in ("u8", "i8", "u16", "i16") or any(v.type.shape not in ((), (1,)) for v in (scale, *zero)):
        return None
    r = s.record(x)
    stored, shift = (r.stored, r.shift) if isinstance(r, Integers) else (s.value(x), 0)
    known_scale, known_zero = one(s.array(scale)), one(s.array(zero[0])) if zero else np.zeros((), np.int64)
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


def _expanded(s: Replay, op: Op, node: Node) -> Value:
    (made,) = op.expand(s.b, *(s.value(v) for v in node.inputs))
    return made


def _quantize(s: Replay, op: Quantize, node: Node) -> Record:
    x, scale, *zero = node.inputs
    known = one(s.array(scale))
    zeros = one(s.array(zero[0])) if zero else np.zeros((), np.int64)
    plain = known is not None and zeros is not None and x.type.dtype == "f32" and 2.0**-120 < float(known) < 2.0**120
    if not plain:
        return Integers(_expanded(s, op, node), op.to)
    assert known is not None and zeros is not None
    return _quantized(s, s.record(x), op, float(known), int(zeros))


def _quantized(s: Replay, r: Record, op: Quantize, scale: float, zero: int) -> Integers:
    """The integers of a float, stored unsigned if they are bytes."""
    if isinstance(r, Joined):
        parts = [_quantized(s, p, op, scale, zero) for p in r.parts]
        return s.moved(parts[0], s.b.add(Concat(r.axis), *(p.stored for p in parts)), *parts)  # type: ignore[return-value]
    to, shift = (s.storage.activations, s.storage.shift(op.to)) if op.to in BYTES else (op.to, 0)
    if isinstance(r, Function) and r.costly and s.has_tables and to == "u8" and r.table.dtype == np.float32:
        whole = Quantize("i16", op.low, op.high).evaluate(r.table, np.asarray(scale, np.float32), np.asarray(zero, np.int16))[0]
        return Integers(s.b.add(Lookup(), r.stored, s.b.constant((whole + shift).astype(np.uint8))), op.to, shift)
    low, high, zero = op.low + shift, op.high + shift, zero + shift
    if isinstance(r, Affine) and (r.stored.type.dtype, r.zero, r.scale) == (to, zero, scale):
        least, most = s.range(r.stored)
        if low <= least and most <= high:
            return Integers(r.stored, op.to, shift)
    if isinstance(r, Attended) and to == "u8":
        stored = attended(s.b, r, 1 / scale, (zero, low, high))
        if (low, high) != integer_range(to):
            s.ranges[stored] = (low, high)
        return Integers(stored, op.to, shift)
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


def _product(s: Replay, op: MatMul | Conv, node: Node) -> Record | None:
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
    attention = quantized_attention(s, node) if isinstance(op, MatMul) else None
    if attention is not None:
        return attention
    if not isinstance(x, Affine):
        return None
    if not s.has_products:
        made: Sums | Value | Refused = Refused("the machine has no instruction for products of bytes")
    elif not s.is_worth(node.inputs[0], node.inputs[1]):
        made = Refused("the machine is faster in floats at this size")
    elif isinstance(w, Weights):
        made = product_of(s.b, op, x, w, s.storage, s.range(x.stored))
    else:
        made = Refused("the right operand is no constant")
    if isinstance(made, Refused):
        s.refused.setdefault(made.reason, []).append(node.where)
        return None
    return made if len(node.inputs) == 2 else _with_bias(s, made, node.inputs[2])


def _with_bias(s: Replay, made: Sums | Value, bias: Value) -> Record:
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


def _binary(s: Replay, op: Binary, node: Node) -> Record | None:
    a, c = node.inputs
    first, second = s.record(a), s.record(c)
    if isinstance(first, Centred) and op.fn == "sub":
        return _recentred(s, first, c)
    if op.fn in ("add", "sub"):
        joined = _terms(first), _terms(second)
        if joined[0] and joined[1]:
            return Linear((*joined[0], *(replace(t, scale=-t.scale) if op.fn == "sub" else t for t in joined[1])))  # pyright: ignore
    if isinstance(second, (Sums, Linear, Affine)) and op.fn in ("add", "mul", "max", "min"):
        a, c, first = c, a, second
    array = s.array(c)
    if op.fn == "add" and array is not None and not np.any(array) and a.type == node.outputs[0].type:
        return first
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


def _recentred(s: Replay, r: Centred, zero: Value) -> Centred | None:
    if any(d != 1 for d in zero.type.shape) or zero.type.rank > r.stored.type.rank or isinstance(r.zero, Value):
        return None
    known = one(s.array(zero))
    if known is not None:
        return replace(r, zero=r.zero + int(known))
    offset = _as_scalar(s.b, s.value(zero))
    return replace(r, zero=offset if r.zero == 0 else s.b.add(Binary("add"), offset, as_number(s.b, r.zero, "i32")))


def _cast(s: Replay, op: Cast, node: Node) -> Record | None:
    r, to = s.record(node.inputs[0]), op.to
    if to == "i32" and isinstance(r, Integers) and r.dtype in BYTES:
        return Centred(r.stored, r.shift)
    if to == "i32" and isinstance(r, Value) and r.type.dtype in BYTES and r not in s.b.constants:
        return Centred(r, 0)
    return None


def _batch_norm(s: Replay, op: BatchNorm, node: Node) -> Record | None:
    r = s.record(node.inputs[0])
    arrays = [s.array(v) for v in node.inputs[1:]]
    if not isinstance(r, Sums) or r.is_clipped or any(a is None for a in arrays):
        return None
    scale, bias, mean, var = (np.asarray(a, np.float64) for a in arrays)
    gain = scale / np.sqrt(var + op.epsilon)
    return replace(r, factor=r.factor * gain, offset=(r.offset - mean) * gain + bias)


RULES: Mapping[type[Op], Rule] = {
    Quantize: _quantize, Dequantize: _dequantize, MatMul: _product, Conv: _product, Binary: _binary, Cast: _cast,
    BatchNorm: _batch_norm, **MOVEMENT_RULES,
}
