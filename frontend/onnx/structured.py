"""Inputs that are no tensors, as the tensors that they are given as.

    map        NAME.keys and NAME.values
    sequence   NAME.0, NAME.1, ...; how many is the dimension NAME_count, or told by the shapes that are given
    optional   what it holds; with the dimension NAME_present=0 nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnx import TypeProto, ValueInfoProto

from ...ir.errors import ModelError, OptionError
from .inputs import Shapes, tensors_of

_LONGEST = 4096  # items of a sequence: each is an input


@dataclass(frozen=True, eq=False)
class GivenInput:
    """kind: "tensor", "map", "sequence", or "absent"; tensors: in order; dims: the options that said it."""

    name: str
    kind: str
    tensors: tuple[ValueInfoProto, ...]
    dims: frozenset[str] = field(default_factory=frozenset)


def given_inputs(values: Iterable[ValueInfoProto], shapes: Shapes, dims: Mapping[str, int]) -> list[GivenInput]:
    """How each input is given.  Raises ModelError for a sequence of unknown length, or of what is no tensor."""
    return [_given(v, v.type, shapes, dims) for v in values]


def _given(v: ValueInfoProto, type: TypeProto, shapes: Shapes, dims: Mapping[str, int]) -> GivenInput:
    kind = type.WhichOneof("value")
    if kind == "optional_type":
        option = f"{v.name}_present"
        present = dims.get(option, 1)
        if present not in (0, 1):
            raise OptionError(f"dimension {option!r}: expected 0 or 1, whether there is a value, got {present}")
        if not present:
            return GivenInput(v.name, "absent", (), frozenset({option}))
        inner = _given(v, type.optional_type.elem_type, shapes, dims)
        return GivenInput(v.name, inner.kind, inner.tensors, inner.dims | ({option} & set(dims)))
    if kind == "sequence_type":
        return _sequence(v, type.sequence_type.elem_type, shapes, dims)
    if kind == "map_type":
        return GivenInput(v.name, "map", tensors_of(v))
    return GivenInput(v.name, "tensor", (_renamed(v.name, type),))


def _sequence(v: ValueInfoProto, item: TypeProto, shapes: Shapes, dims: Mapping[str, int]) -> GivenInput:
    if item.WhichOneof("value") != "tensor_type":
        raise ModelError(f"input {v.name!r}: only sequences of tensors are supported, got one of {item.WhichOneof('value')}")
    option = f"{v.name}_count"
    told = 0
    while f"{v.name}.{told}" in shapes:
        told += 1
    count = dims.get(option, told)
    if option not in dims and not told:
        raise ModelError(
            f"input {v.name!r} is a sequence, whose length must be known while compiling: give it, --dim {option}=2, or the "
            f"shapes of its items, --shape {v.name}.0=..."
        )
    if not 0 <= count <= _LONGEST:
        raise OptionError(f"dimension {option!r}: expected 0 to {_LONGEST} items, got {count}")
    tensors = tuple(_renamed(f"{v.name}.{n}", item) for n in range(count))
    return GivenInput(v.name, "sequence", tensors, frozenset({option} & set(dims)))


def _renamed(name: str, type: TypeProto) -> ValueInfoProto:
    v = ValueInfoProto(name=name)
    v.type.CopyFrom(type)
    return v
