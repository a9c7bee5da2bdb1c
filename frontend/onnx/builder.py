"""The builder that the importer uses: it computes what is constant already, and follows shape arithmetic symbolically.

Op functions always hold `Value`s; the builder knows which of them are constants (`constants`) and which are integers
computed from symbolic dimensions (`symbolic`).  `ints`, `dims` and `array` ask for such knowledge and say what to do when
it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from onnx import GraphProto

from ...ir.dims import as_dim
from ...ir.errors import ModelError
from ...ir.expr import Expr
from ...ir.graph import Builder, Graph, Value
from ...ir.ops.base import Op
from ...ir.ops.dim_tensor import DimTensor
from ...ir.ops.elementwise import Binary, Cast, Select, Unary
from ...ir.ops.movement import Broadcast, Concat, Gather, Reshape, Slice, Transpose
from ...ir.ops.refine import Refine
from ...ir.ops.text import TextFormat, TextParse
from ...ir.types import DTYPES, Dim, TensorType
from .meeting import meeting_shapes
from .symbolic import MOST_ELEMENTS, product, propagate

FOLD_LIMIT = 64 * 2**20  # bytes of a result that is computed while importing
GROWTH_LIMIT = 2**20  # bytes; a larger result must not be larger than its operands, else the artifact grows for nothing
MOST_DIMENSIONS = 32
TENSOR_LIMIT = 2**38  # bytes of one tensor; a model that asks for more is wrong or hostile

class NotConstantError(ModelError):
    """An operand is needed while compiling, but is computed at run time.  inputs: the model's inputs it depends on."""

    def __init__(self, message: str, inputs: tuple[str, ...]) -> None:
        super().__init__(message)
        self.inputs = inputs


@dataclass(frozen=True, eq=False)
class TensorSequence:
    """A sequence of tensors; it exists while importing only."""

    items: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class TensorMap:
    """A map from integers or strings to numbers or strings: keys[n], each once, and values[n]."""

    keys: Value
    values: Value


@dataclass(frozen=True, eq=False)
class NarrowTensor:
    """A tensor of a type in `NARROW`, by its ONNX code; value holds one element per byte."""

    value: Value
    code: int


class OnnxBuilder(Builder):
    """declared: the shapes that the model declares for results, None where a dimension is open. sizes: ranges that the user
    gives dimensions that inputs do not have. node: what is being imported, for messages. wanted: which outputs of it the model
    uses. hint: the name for its results. subgraph: imports a graph attribute as a graph of its own, given the types of its
    inputs. inline: imports one in place, given its inputs; gives its outputs. standard: an operator as the
    standard defines it: its name, operands, number of outputs, attributes. named: what a name stands for where the node is."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.declared: Mapping[str, tuple[int | None, ...]] = {}
        self.sizes: Mapping[str, tuple[int, int | None]] = {}
        self.node = ""
        self.hint = ""
        self.wanted: tuple[bool, ...] = (True,)
        self.symbolic: dict[Value, np.ndarray] = {}
        self.subgraph: Callable[[GraphProto, Sequence[TensorType]], Subgraph] = _no_subgraphs
        self.inline: Callable[[GraphProto, Sequence[Any]], tuple[Any, ...]] = _no_subgraphs
        self.standard: Callable[..., Any] = _no_subgraphs
        self.named: Callable[[str], Any] = _no_subgraphs

    # ---- adding ----

    def add_multi(self, op: Op, *inputs: Value, names: Sequence[str] = (), where: str = "") -> tuple[Value, ...]:
        inputs = self._refined(op, inputs)
        types = self._infer(op, inputs)
        for t in types:
            check_size(t, self.hint or op.name)
        folded = self._fold(op, inputs, types)
        if folded is not None:
            return folded
        names = names or [self.hint or op.name.lower()] * len(types)
        elements = self._propagate(op, inputs, types)
        if elements is not None and not any(isinstance(e, Expr) for e in elements.flat):
            return (self.constant(elements.astype(DTYPES[types[0].dtype].numpy), names[0]),)
        outputs = super().add_multi(op, *inputs, names=names, where=where)
        if elements is not None:
            self.symbolic[outputs[0]] = elements
        return outputs

    def _refined(self, op: Op, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The operands of an elementwise operator or Concat, with symbolic dimensions that meet others taken to be equal to
        them: that is the only size with which the model is valid, but for 1."""
        shapes = meeting_shapes(op, [v.type.shape for v in inputs])
        if shapes is None:
            return inputs
        return tuple(
            v if v.type.shape == s else super(OnnxBuilder, self).add(Refine(s), v, where=self.node)
            for v, s in zip(inputs, shapes, strict=True)
        )

    def _infer(self, op: Op, inputs: Sequence[Value]) -> tuple[TensorType, ...]:
        try:
            return op.infer(*(v.type for v in inputs))
        except ModelError as e:
            if all(v.type.is_static for v in inputs):
                raise
            raise ModelError(f"{e}. If symbolic dimensions make them fit, bind these (--shape, --dim)") from None

    def _fold(self, op: Op, inputs: Sequence[Value], types: Sequence[TensorType]) -> tuple[Value, ...] | None:
        arrays = [self.constants.get(v) for v in inputs]
        known = [a for a in arrays if a is not None]
        if len(known) < len(arrays) or not (op.pure and op.folds) or not all(t.is_static for t in types) or _has_symbols(op):
            return None
        if isinstance(op, Transpose):  # a view: the weights of a large model are not copied
            return (self.constant(np.transpose(known[0], op.perm), self.hint),)
        if isinstance(op, Reshape):
            return (self.constant(known[0].reshape(types[0].static_shape), self.hint),)
        size = sum(t.nbytes for t in types)
        if size > FOLD_LIMIT or size > max(GROWTH_LIMIT, sum(a.nbytes for a in known)):
            return None
        return tuple(self.constant(a, self.hint) for a in op.evaluate(*known))

    def _propagate(self, op: Op, inputs: Sequence[Value], types: Sequence[TensorType]) -> np.ndarray | None:
        if len(types) != 1 or not any(v in self.symbolic for v in inputs):
            return None
        if not types[0].is_static or types[0].size > MOST_ELEMENTS:
            return None
        operands = [self.elements(v) for v in inputs]
        known = [e for e in operands if e is not None]
        return propagate(op, known) if len(known) == len(operands) else None

    def elements(self, v: Value) -> np.ndarray | None:
        """The elements of a small integer tensor as an object array of ints and expressions, None if not known."""
        if v in self.symbolic:
            return self.symbolic[v]
        array = self.constants.get(v)
        if array is None or array.size > MOST_ELEMENTS or array.dtype.kind not in "iub":
            return None
        return array.astype(object)

    # ---- knowledge ----

    def array(self, v: Value, what: str) -> np.ndarray:
        """The constant value of an operand.  Raises NotConstantError if it is computed at run time."""
        if v in self.constants:
            return self.constants[v]
        raise self._not_constant(v, what)

    def ints(self, v: Value, what: str) -> tuple[int, ...]:
        """An operand (rank 0 or 1) as integers; floats must be whole numbers."""
        array = self.array(v, what)
        if array.dtype.kind not in "iub" and not np.all(np.isfinite(array) & (array == np.trunc(array))):
            raise ModelError(f"operand {what} must be whole numbers, got {array.reshape(-1)[:8].tolist()}")
        return tuple(int(x) for x in array.reshape(-1))

    def integer(self, v: Value, what: str) -> int:
        """An operand with one element as an integer."""
        if v.type.is_static and v.type.size != 1:
            raise ModelError(f"operand {what} must be one number, got {v.type}")
        return self.ints(v, what)[0]

    def dims(self, v: Value, what: str) -> tuple[Dim, ...]:
        """An operand (rank 0 or 1) as dimensions, symbolic ones included."""
        if v in self.constants:
            return self.ints(v, what)
        found = self.elements(v)
        if found is None:
            raise self._not_constant(v, what)
        return tuple(x if isinstance(x, Expr) else int(x) for x in found.reshape(-1))

    def _not_constant(self, v: Value, what: str) -> NotConstantError:
        if v in self.symbolic:
            return NotConstantError(
                f"operand {what} must be known when the model is compiled, but it is {self.symbolic[v].tolist()}; bind these "
                "dimensions (--shape, --dim)", ()
            )  # fmt: skip
        names = tuple(x.name for x in self._origins(v))
        return NotConstantError(
            f"operand {what} must be known when the model is compiled, but it is computed from the data of "
            f"{', '.join(names)}; make it a constant of the model", names
        )  # fmt: skip

    def _origins(self, v: Value) -> list[Value]:
        """The inputs that a value is computed from."""
        found: dict[Value, None] = {}
        stack = [v]
        while stack:
            x = stack.pop()
            if x not in found:
                found[x] = None
                stack += self.producers[x].inputs if x in self.producers else ()
        return [x for x in self.inputs if x in found]

    # ---- the core operators, by short names ----

    def scalar(self, value: Any, dtype: str) -> Value:
        return self.constant(np.array(value).astype(DTYPES[dtype].numpy))

    def unary(self, fn: str, x: Value) -> Value:
        return self.add(Unary(fn), x)

    def binary(self, fn: str, x: Value, y: Value | float) -> Value:
        """y may be a Python number: a scalar of x's type."""
        return self.add(Binary(fn), x, y if isinstance(y, Value) else self.scalar(y, x.type.dtype))

    def select(self, cond: Value, x: Value, y: Value) -> Value:
        return self.add(Select(), cond, x, y)

    def cast(self, x: Value, dtype: str) -> Value:
        """Strings are read and written as numbers."""
        if x.type.dtype == dtype:
            return x
        op = TextParse(dtype) if x.type.dtype == "str" else TextFormat() if dtype == "str" else Cast(dtype)
        return self.add(op, x)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        return x if x.type.shape == tuple(shape) else self.add(Reshape(tuple(shape)), x)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        return x if tuple(perm) == tuple(range(x.type.rank)) else self.add(Transpose(tuple(perm)), x)

    def broadcast(self, x: Value, shape: Sequence[Dim]) -> Value:
        return x if x.type.shape == tuple(shape) else self.add(Broadcast(tuple(shape)), x)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self.add(Concat(axis), *values)

    def slice(self, x: Value, axis: int, start: Dim, size: Dim, step: int = 1) -> Value:
        """A slice of one axis."""
        if (start, size, step) == (0, x.type.shape[axis], 1):
            return x
        starts, sizes, steps = [0] * x.type.rank, list(x.type.shape), [1] * x.type.rank
        starts[axis], sizes[axis], steps[axis] = start, size, step  # type: ignore[call-overload]
        return self.add(Slice(tuple(starts), tuple(sizes), tuple(steps)), x)

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        return self.add(Gather(axis), x, indices)

    def flatten(self, x: Value, axis: int) -> Value:
        """As a matrix: the dimensions before the axis, and those from it on."""
        return self.reshape(x, (product(x.type.shape[:axis]), product(x.type.shape[axis:])))

    def dim_tensor(self, dims: Sequence[Dim], rank: int = 1) -> Value:
        """Dimensions as an i64 tensor: a vector, or a scalar for rank 0."""
        dims = tuple(as_dim(d) for d in dims)
        elements = np.empty(len(dims), object)
        elements[:] = dims
        elements = elements.reshape((-1,) if rank else ())
        if all(isinstance(d, int) for d in dims):
            return self.constant(elements.astype(np.int64))
        v = self.add(DimTensor(dims, elements.shape))
        self.symbolic[v] = elements
        return v


@dataclass(frozen=True, eq=False)
class Subgraph:
    """An imported graph attribute.  captured: outer value -> its input, in the order of the inputs, which follow those of
    the attribute."""

    b: OnnxBuilder
    outputs: tuple[Value, ...]
    captured: Mapping[Value, Value]

    def graph(self, captured: Sequence[Value], outputs: Sequence[Value] | None = None) -> Graph:
        """The graph, its inputs ending with those for `captured`, a superset of the values that it captures."""
        own = self.b.inputs[: len(self.b.inputs) - len(self.captured)]
        inner = [self.captured.get(v) or self.b.input(v.name, v.type) for v in captured]
        self.b.inputs = [*own, *inner]
        given = self.outputs if outputs is None else outputs
        return self.b.graph(given, [f"output_{i}" for i in range(len(given))])  # one value may be several outputs


def check_size(t: TensorType, name: str) -> None:
    """Raises ModelError for a tensor that no machine holds."""
    if t.rank > MOST_DIMENSIONS:
        raise ModelError(f"value {name!r} would have {t.rank} dimensions; the limit is {MOST_DIMENSIONS}")
    if any(isinstance(d, int) and d < 0 for d in t.shape):
        raise ModelError(f"value {name!r} would have the shape {t}, with a negative dimension")
    known = [d for d in t.shape if isinstance(d, int)]  # a symbolic dimension is 1 or more
    strides = [d for d in known if d]  # also of a tensor without elements
    if math.prod(strides) * DTYPES[t.dtype].size >= 2**62:
        raise ModelError(f"value {name!r} would have the shape {t}, whose strides are beyond any memory")
    least = math.prod(known) * DTYPES[t.dtype].size
    if least > TENSOR_LIMIT:
        amount = f"{least} bytes" if t.is_static else f"{least} bytes or more"
        raise ModelError(f"value {name!r} would be {t}: {amount}; the limit is {TENSOR_LIMIT} bytes")


def _has_symbols(op: Op) -> bool:
    """Whether an attribute has a symbolic dimension in it."""
    values = (getattr(op, f.name) for f in fields(op))  # type: ignore[arg-type]
    return any(isinstance(x, Expr) for v in values for x in (v if isinstance(v, tuple) else (v,)))


def normal_axis(axis: int, rank: int, what: str = "axis") -> int:
    """A possibly negative axis as a non-negative one.  Raises ModelError outside of [-rank, rank)."""
    if not -rank <= axis < rank:
        raise ModelError(f"{what} {axis} is outside of [{-rank}, {rank - 1}] for {rank} dimensions")
    return axis % rank if rank else axis


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    result = tuple(sorted(normal_axis(a, rank) for a in axes))
    if len(set(result)) < len(result):
        raise ModelError(f"axes {list(axes)} name a dimension twice")
    return result


def _no_subgraphs(*args: Any) -> Any:
    raise ModelError("subgraphs cannot be imported here")


