"""Damaged model files: changes of the protobuf message that know its structure, and changes of its bytes that do not.

A mutation is a function of a random generator; the same seed makes the same file on every machine.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, helper

INTEGERS = (-(2**63), -(2**32), -(2**31), -100, -2, -1, 0, 1, 2, 3, 4, 7, 16, 17, 100, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "y", "\0", "../../etc/passwd", "/etc/passwd", "%s%n", "a" * 3000, "\x1b[2J", "SAME_UPPER", "-1", "é")
MOST_ITEMS = 300  # of a message that are looked at
_NUMBERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1), FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}  # fmt: skip


def mutate(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A damaged copy of one of the seeds, which may borrow from another."""
    data = rng.choice(seeds)
    if rng.random() < 0.2:
        return change_bytes(data, seeds, rng)
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        change = rng.choice(CHANGES)
        with contextlib.suppress(DecodeError):  # deeper than protobuf goes
            change(model, seeds, rng)
    data = model.SerializeToString()
    return change_bytes(data, seeds, rng) if rng.random() < 0.05 else data


# ---- bytes -------------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(made) + 1)
        end = min(len(made), at + rng.choice((1, 1, 2, 8, 64)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at:end] = rng.randbytes(end - at)
        elif kind == 2:
            del made[at:end]
        elif kind == 3:
            made[at:at] = made[at:end] * rng.choice((1, 2, 50))
        elif kind == 4:
            made[at:end] = b"\xff" * rng.choice((1, 4, 9, 10))  # long and endless varints
        elif kind == 5:
            del made[at:]
        else:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            made[at:end] = other[start : start + rng.choice((4, 40, 400))]
    return bytes(made)


# ---- any field of any message --------------------------------------------------------------------------------------


def _messages(message: Message) -> Iterator[Message]:
    """A message and all inside it."""
    stack = [message]
    for _ in range(MOST_ITEMS):
        if not stack:
            return
        m = stack.pop()
        yield m
        for field, value in m.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack += list(value)[:50] if field.is_repeated else [value]


def _scalar(field: FieldDescriptor, old: Any, model: onnx.ModelProto, rng: random.Random) -> Any:
    """Another value for a field that is no message."""
    if field.type in _NUMBERS:
        low, high = _NUMBERS[field.type]
        number = old + rng.choice((-1, 1, 8, -8)) if isinstance(old, int) and rng.random() < 0.3 else rng.choice(INTEGERS)
        return min(high, max(low, number))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(list(field.enum_type.values_by_number))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    text = rng.choice(_names(model)) if rng.random() < 0.7 else rng.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    kind = rng.randrange(3)
    if kind == 0 or not isinstance(old, bytes):
        return text.encode()
    return old[: len(old) // 2] if kind == 1 else old + rng.randbytes(rng.choice((1, 8)))


def _names(model: onnx.ModelProto) -> list[str]:
    g = model.graph
    names = [o for n in g.node for o in (*n.output, n.op_type)] + [v.name for v in (*g.input, *g.initializer, *g.output)]
    return names or ["x"]


def change_field(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """One field: another value, removed, doubled, its items exchanged."""
    m = rng.choice(list(_messages(model)))
    fields = [f for f, _ in m.ListFields()] if rng.random() < 0.9 else list(m.DESCRIPTOR.fields)
    if not fields:
        return
    field = rng.choice(fields)
    value = getattr(m, field.name)
    if field.is_repeated:
        _change_items(field, value, model, rng)
    elif rng.random() < 0.2:
        m.ClearField(field.name)
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(m, field.name, _scalar(field, value, model, rng))


def _change_items(field: FieldDescriptor, items: Any, model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(5)
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    if kind == 0 and items:
        del items[rng.randrange(len(items))]
    elif kind == 1 and items and len(items) < 1000:
        chosen = items[rng.randrange(len(items))]
        items.add().CopyFrom(chosen) if is_message else items.append(chosen)
    elif kind == 2 and len(items) > 1:
        i, j = rng.sample(range(len(items)), 2)
        if is_message:
            kept = type(items[i])()
            kept.CopyFrom(items[i])
            items[i].CopyFrom(items[j])
            items[j].CopyFrom(kept)
        else:
            items[i], items[j] = items[j], items[i]
    elif not is_message:
        new = _scalar(field, items[0] if items else None, model, rng)
        if items and kind == 3:
            items[rng.randrange(len(items))] = new
        elif len(items) < 1000:
            items.append(new)


# ---- what models are made of ----------------------------------------------------------------------------------------


def _graphs(graph: onnx.GraphProto, depth: int = 0) -> Iterator[onnx.GraphProto]:
    yield graph
    if depth < 4:
        for a in (a for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH):
            yield from _graphs(a.g, depth + 1)


def change_wiring(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """An operand becomes another value: cycles, later values, values of other graphs."""
    nodes = [n for g in _graphs(model.graph) for n in g.node if n.input]
    names = _names(model)
    if nodes:
        n = rng.choice(nodes)
        n.input[rng.randrange(len(n.input))] = rng.choice(names)


def change_operator(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """Another operator with these operands, or with this one's attributes."""
    nodes = [n for g in _graphs(model.graph) for n in g.node]
    donor = onnx.ModelProto.FromString(rng.choice(seeds))
    if not nodes or not donor.graph.node:
        return
    n, other = rng.choice(nodes), rng.choice(donor.graph.node)
    n.op_type, n.domain = other.op_type, other.domain
    if rng.random() < 0.7:
        del n.attribute[:]
        n.attribute.extend(other.attribute)


def change_attribute(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    attributes = [a for g in _graphs(model.graph) for n in g.node for a in n.attribute]
    if not attributes:
        return
    a = rng.choice(attributes)
    if a.type == AttributeProto.INT:
        a.i = rng.choice(INTEGERS)
    elif a.type == AttributeProto.INTS:
        if a.ints and rng.random() < 0.7:
            a.ints[rng.randrange(len(a.ints))] = rng.choice(INTEGERS)
        else:
            a.ints.extend(rng.choices(INTEGERS, k=rng.choice((1, 2, 40))))
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice(FLOATS)
    elif a.type == AttributeProto.FLOATS:
        a.floats.extend(rng.choices(FLOATS, k=rng.choice((1, 2, 40))))
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice(TEXTS).encode()
    else:
        a.type = rng.choice(list(AttributeProto.AttributeType.values()))


def change_shape(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """A dimension or type of an input, or the dimensions of a constant."""
    shapes = [v.type.tensor_type for v in model.graph.input]
    tensors = [t for g in _graphs(model.graph) for t in g.initializer]
    tensors += [a.t for g in _graphs(model.graph) for n in g.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    if tensors and rng.random() < 0.4:
        t = rng.choice(tensors)
        kind = rng.randrange(3)
        if kind == 0 and t.dims:
            t.dims[rng.randrange(len(t.dims))] = rng.choice(INTEGERS)
        elif kind == 1:
            t.dims.append(rng.choice((0, 1, 1, 2, 2**40)))
        else:
            t.data_type = rng.randrange(27)
    elif shapes:
        s = rng.choice(shapes)
        kind = rng.randrange(4)
        if kind == 0 and s.shape.dim:
            s.shape.dim[rng.randrange(len(s.shape.dim))].dim_value = rng.choice((-7, -1, 0, 1, 2, 5, 1000, 10**10, 2**62))
        elif kind == 1 and s.shape.dim:
            s.shape.dim[rng.randrange(len(s.shape.dim))].dim_param = rng.choice(("n", "m", "", "-1", "n+1"))
        elif kind == 2:
            s.shape.dim.add(dim_value=rng.choice((0, 1, 2, 1000)))
        else:
            s.elem_type = rng.randrange(27)


def change_numbers(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """One element of a constant."""
    tensors = [t for g in _graphs(model.graph) for t in g.initializer if t.raw_data]
    tensors += [a.t for g in _graphs(model.graph) for n in g.node for a in n.attribute if a.type == AttributeProto.TENSOR]
    tensors = [t for t in tensors if t.raw_data]
    if tensors:
        t = rng.choice(tensors)
        size = 8 if t.data_type in (7, 11, 13) else 4
        made = bytearray(t.raw_data)
        at = rng.randrange(0, max(1, len(made)), size)
        made[at : at + size] = (rng.choice(INTEGERS) % 2 ** (8 * size)).to_bytes(size, "little")
        t.raw_data = bytes(made[: len(t.raw_data)])


def input_as_constant(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """What was computed from data becomes known: sizes, axes and repeats of extreme values."""
    integers = [v for v in model.graph.input if v.type.tensor_type.elem_type in (6, 7)]
    if integers:
        v = rng.choice(integers)
        dims = [d.dim_value for d in v.type.tensor_type.shape.dim]
        count = 1
        for d in dims:
            count = max(0, min(64, count * d))
        values = [max(-(2**31), min(2**31 - 1, rng.choice(INTEGERS))) for _ in range(count)]
        t = onnx.TensorProto(name=v.name, data_type=v.type.tensor_type.elem_type, dims=[count] if len(dims) == 1 else dims)
        if v.type.tensor_type.elem_type == 7:
            t.int64_data.extend(values)
        else:
            t.int32_data.extend(values)
        model.graph.initializer.append(t)


def other_opset(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    for entry in model.opset_import:
        entry.version = rng.choice((1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 21, 23, 25, 28, 99, -1))


def splice(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """The nodes and constants of another model follow, reading this one's values."""
    donor = onnx.ModelProto.FromString(rng.choice(seeds))
    names = _names(model)
    for n in donor.graph.node:
        for i in range(len(n.input)):
            if rng.random() < 0.3:
                n.input[i] = rng.choice(names)
        for i, name in enumerate(n.output):
            n.output[i] = name and f"{name}_2"
        model.graph.node.append(n)
    model.graph.initializer.extend(t for t in donor.graph.initializer if t.name not in names)
    if donor.graph.output and donor.graph.node:
        model.graph.output.add(name=f"{donor.graph.output[0].name}_2")


def nest(model: onnx.ModelProto, seeds: Sequence[bytes], rng: random.Random) -> None:
    """The graph inside of branches inside of branches."""
    inner = onnx.GraphProto()
    inner.CopyFrom(model.graph)
    outputs = [v.name for v in inner.output]
    del inner.input[:]
    condition = helper.make_tensor("nested_condition", onnx.TensorProto.BOOL, [], [True])
    for depth in range(rng.choice((1, 2, 10, 25))):
        other = inner if depth < 6 and inner.ByteSize() < 100_000 else helper.make_graph([], "e", [], [])
        branch = helper.make_node("If", ["nested_condition"], [f"{o}_{depth}" for o in outputs], then_branch=inner,
                                  else_branch=other)  # fmt: skip
        outer = onnx.GraphProto(name="nest")
        outer.node.append(branch)
        for o in outputs:
            outer.output.add(name=f"{o}_{depth}")
        outputs = [f"{o}_{depth}" for o in outputs]
        inner = outer
    inner.input.extend(model.graph.input)
    inner.initializer.append(condition)
    model.graph.CopyFrom(inner)


CHANGES: tuple[Callable[[onnx.ModelProto, Sequence[bytes], random.Random], None], ...] = (
    change_field, change_field, change_field, change_field, change_wiring, change_wiring, change_operator, change_attribute,
    change_attribute, change_shape, change_shape, change_numbers, input_as_constant, other_opset, splice, nest,
)  # fmt: skip
