"""Values of the ONNX backend interface that are no tensors of the compiled model: types without arithmetic, sequences,
optionals.

A sequence is one input or output for each item, `name.0`, `name.1`, ...; an optional that is empty is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TypeProto, ValueInfoProto, helper

from ..frontend.onnx.inputs import tensors_of
from ..frontend.onnx.tensors import NARROW
from ..ir.types import DTYPES

_STORED = {name: DTYPES[dtype].numpy for dtype, name in NARROW.values()}


def stored(x: Any) -> np.ndarray:
    """An array as the compiled model takes it: types without arithmetic one element per byte, floats as their bits."""
    array = np.asarray(x)
    dtype = _STORED.get(array.dtype.name)
    if dtype is None:
        return array
    return array.view(np.uint8) if array.dtype.name.startswith("float") else array.astype(dtype)


def as_declared(array: np.ndarray, v: ValueInfoProto) -> np.ndarray:
    """An array in the type that the model declares, of those that `stored` stores."""
    code = _tensor(v.type).elem_type
    if code not in NARROW:
        return array
    dtype = np.dtype(getattr(ml_dtypes, NARROW[code][1]))
    return array.view(dtype) if NARROW[code][1].startswith("float") else array.astype(dtype)


def _inner(t: TypeProto) -> TypeProto:
    return t.optional_type.elem_type if t.HasField("optional_type") else t


def _tensor(t: TypeProto) -> TypeProto.Tensor:
    inner = _inner(t)
    return inner.sequence_type.elem_type.tensor_type if inner.HasField("sequence_type") else inner.tensor_type


def has_only_tensors(model: onnx.ModelProto) -> bool:
    """Whether every input is a tensor, or a map, which the importer makes of tensors."""
    return all(v.type.WhichOneof("value") in ("tensor_type", "map_type") for v in model.graph.input)


def without_maps(inputs: Sequence[ValueInfoProto], given: Sequence[Any]) -> list[Any]:
    """The values of inputs, those of a map as two arrays, its keys and its values."""
    values: list[Any] = []
    for v, x in zip(inputs, given, strict=True):
        if not isinstance(x, dict):
            values.append(x)
            continue
        for part, entries in zip(tensors_of(v), (x.keys(), x.values()), strict=True):
            values.append(np.array(list(entries), helper.tensor_dtype_to_np_dtype(part.type.tensor_type.elem_type)))
    return values


def flattened(model: onnx.ModelProto, given: Mapping[str, Any]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with tensors only as inputs, for values that are arrays, lists of arrays or None; and these tensors."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.input[:]
    arrays: dict[str, np.ndarray] = {}
    made = []
    for v in model.graph.input:
        if v.type.HasField("map_type"):
            result.graph.input.append(v)
            arrays |= {t.name: stored(given[t.name]) for t in tensors_of(v)}
            continue
        x = given.get(v.name)
        code = _tensor(v.type).elem_type
        if x is None and v.name in given:
            made.append(helper.make_node("Optional", [], [v.name], type=_inner(v.type)))
        elif isinstance(x, list):
            names = [f"{v.name}.{i}" for i in range(len(x))]
            for n, a in zip(names, x, strict=True):
                result.graph.input.append(helper.make_tensor_value_info(n, code, np.shape(a)))
                arrays[n] = stored(a)
            empty = helper.make_node("SequenceEmpty", [], [v.name], dtype=code)
            made.append(helper.make_node("SequenceConstruct", names, [v.name]) if x else empty)
        else:
            plain = v if v.type.HasField("tensor_type") else helper.make_tensor_value_info(v.name, code, np.shape(x))  # pyright: ignore
            result.graph.input.append(plain)
            if v.name in given:
                arrays[v.name] = stored(x)
    nodes = [*made, *model.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result, arrays


def gathered(outputs: Sequence[ValueInfoProto], made: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """The outputs as the model declares them, from those of the compiled model by name."""
    values: list[Any] = []
    for v in outputs:
        if v.name in made:
            values.append(as_declared(made[v.name], v))
        elif _inner(v.type).HasField("sequence_type"):
            count = next(i for i in range(len(made) + 1) if f"{v.name}.{i}" not in made)
            values.append([as_declared(made[f"{v.name}.{i}"], v) for i in range(count)])
        else:
            values.append(None)
    return tuple(values)
