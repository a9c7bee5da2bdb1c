"""The model's inputs: element types, and dimensions bound by the caller or left symbolic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Union

from onnx import GraphProto, TensorShapeProto, ValueInfoProto, helper

from ...ir.bind import bind_dim
from ...ir.dims import as_dim, symbols
from ...ir.errors import ModelError, OptionError
from ...ir.expr import Expr, Var, as_expr, binary, bounds, is_const
from ...ir.types import Dim, TensorType
from .tensors import NARROW, dtype_name

Shapes = Mapping[str, Sequence[Union[int, str]]]
Ranges = Mapping[str, tuple[int, Union[int, None]]]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_TOKENS = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*|\d+|//|[-+*()])")


def tensors_of(v: ValueInfoProto) -> tuple[ValueInfoProto, ...]:
    """The tensors that an input is given as: a map is its keys and its values, of one size."""
    if v.type.WhichOneof("value") != "map_type":
        return (v,)
    parts = {"keys": v.type.map_type.key_type, "values": v.type.map_type.value_type.tensor_type.elem_type}
    return tuple(helper.make_tensor_value_info(f"{v.name}.{part}", code, [f"{v.name}_count"]) for part, code in parts.items())


def declared_shapes(graph: GraphProto) -> dict[str, tuple[int | None, ...]]:
    """What the model says of the shapes of its values; None for a dimension that is open."""
    tensors = ((v.name, v.type.tensor_type) for v in (*graph.value_info, *graph.output) if v.type.HasField("tensor_type"))
    return {n: tuple(d.dim_value if d.dim_value > 0 else None for d in t.shape.dim) for n, t in tensors if t.HasField("shape")}


def bind_inputs(
    inputs: Sequence[ValueInfoProto], shapes: Shapes | None = None, dims: Mapping[str, int] | None = None
) -> dict[str, TensorType]:
    """The type of each input.

    shapes: dimensions by input, ints or names; dims: sizes by the name of a symbolic dimension.  A dimension without a
    name is called `<input>_<axis>`.  Raises OptionError for unknown names and for contradictions, ModelError for inputs
    that are not tensors.
    """
    shapes, dims = dict(shapes or {}), dict(dims or {})
    declared = {v.name: _declared(v, shapes) for v in inputs}
    _expect_known("input", shapes, declared)
    bound: dict[Var, int] = {}
    for name, given in shapes.items():
        declared[name] = _given_shape(name, declared[name], given, bound)
    known = {v.name: v for t in declared.values() for v in symbols(t.shape)} | {v.name: v for v in bound}
    _expect_known("dimension", dims, known)
    for name, size in dims.items():
        _bind(bound, known[name], _size(size, f"dimension {name!r}"), f"dimension {name!r}")
    return {name: _bound_type(name, t, bound, shapes.get(name, ())) for name, t in declared.items()}


def _declared(v: ValueInfoProto, shapes: Shapes) -> TensorType:
    where = f"input {v.name!r}"
    kind = v.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"{where}: only tensors and maps are supported as inputs, got {kind or 'no type'}")
    code = v.type.tensor_type.elem_type
    dtype = NARROW[code][0] if code in NARROW else dtype_name(code, where)
    if not v.type.tensor_type.HasField("shape"):
        if v.name not in shapes:
            raise ModelError(f"{where}: the model does not say its shape; give it: --shape {v.name}=...")
        return TensorType(dtype, tuple(Var.of(f"{v.name}_{i}", None) for i in range(len(shapes[v.name]))))
    return TensorType(dtype, tuple(_dim(d, v.name, i) for i, d in enumerate(v.type.tensor_type.shape.dim)))


def _dim(d: TensorShapeProto.Dimension, name: str, axis: int) -> Dim:
    if d.HasField("dim_value"):
        if d.dim_value < -1:
            raise ModelError(f"input {name!r}: dimension {axis} is {d.dim_value}; sizes are 0 or more")
        if d.dim_value >= 0:
            return d.dim_value
    anonymous = Var.of(f"{name}_{axis}", None)  # -1, "?" and nothing: exporters write all three
    if not d.dim_param or d.dim_param == "?":
        return anonymous
    return parse_dim(d.dim_param)


def parse_dim(text: str) -> Dim:
    """A symbolic dimension: a name, or a sum or product of names as the torch exporter writes them ("past + 1").  Text
    that is neither is a name whose other characters become underscores."""
    if _NAME.fullmatch(text):
        return Var.of(text, None)
    tokens, at = [], 0
    while at < len(text.rstrip()):
        found = _TOKENS.match(text, at)
        if found is None:
            return Var.of(re.sub(r"[^A-Za-z0-9_.]", "_", text), None)
        tokens.append(found[1])
        at = found.end()
    value = _Sum(tokens).parse()
    return Var.of(re.sub(r"[^A-Za-z0-9_.]", "_", text), None) if value is None else as_dim(value)


class _Sum:
    """Recursive descent over sum := product (+|-) product...; product := atom (*|//) atom...; None where it is not one."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def parse(self) -> Expr | None:
        value = self._chain({"+": "add", "-": "sub"}, lambda: self._chain({"*": "mul", "//": "div"}, self._atom))
        return None if self.tokens else value

    def _chain(self, operators: Mapping[str, str], part) -> Expr | None:
        value = part()
        while value is not None and self.tokens and self.tokens[0] in operators:
            fn = operators[self.tokens.pop(0)]
            other = part()
            divides = fn != "div" or (other is not None and is_const(other) and bounds(other)[0] != 0)
            value = binary(fn, value, other) if other is not None and divides else None
        return value

    def _atom(self) -> Expr | None:
        if not self.tokens or not re.match(r"\w", self.tokens[0]):
            return None
        token = self.tokens.pop(0)
        return as_expr(int(token)) if token.isdecimal() else Var.of(token, None)


def _given_shape(name: str, declared: TensorType, given: Sequence[int | str], bound: dict[Var, int]) -> TensorType:
    what = f"shape of input {name!r}"
    if len(given) != declared.rank:
        raise OptionError(f"{what}: expected {declared.rank} dimensions as in {declared}, got {list(given)}")
    dims: list[Dim] = []
    for d, g in zip(declared.shape, given, strict=True):
        if isinstance(g, str):
            if isinstance(d, int) or not _NAME.fullmatch(g):
                raise OptionError(f"{what}: {g!r} cannot name a dimension that is {d}")
            dims.append(Var.of(g, None))
            continue
        size = _size(g, what)
        if isinstance(d, int) and d != size:
            raise OptionError(f"{what}: the model says {declared}, got {list(given)}")
        if isinstance(d, Var):
            _bind(bound, d, size, what)
        dims.append(d)
    return TensorType(declared.dtype, tuple(dims))


def _bind(bound: dict[Var, int], v: Var, size: int, what: str) -> None:
    if bound.setdefault(v, size) != size:
        raise OptionError(f"{what}: dimension {v.name!r} is {bound[v]} already, got {size}; give one size")


def _bound_type(name: str, t: TensorType, bound: Mapping[Var, int], given: Sequence[int | str]) -> TensorType:
    shape = [bind_dim(d, bound) for d in t.shape]
    for n, d in enumerate(t.shape):
        if isinstance(shape[n], int) and shape[n] < 0:  # type: ignore[operator]
            raise OptionError(f"input {name!r}: dimension {d} is {shape[n]} with the given sizes")
        if given and isinstance(given[n], int) and shape[n] != given[n]:
            if isinstance(shape[n], int):
                raise OptionError(f"input {name!r}: dimension {d} is {shape[n]} with the given sizes, got {given[n]}")
            shape[n] = given[n]  # type: ignore[call-overload]
    return TensorType(t.dtype, tuple(shape))


def _size(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(f"{what}: sizes are integers of 0 or more, got {value!r}")
    return value


def _expect_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    names = sorted(known)
    for name in given:
        if name not in names:
            raise OptionError(f"no {what} is called {name!r}; the model has: {', '.join(names) or 'none'}")
