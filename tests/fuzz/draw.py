"""An ONNX model that grows by one random node at a time, with the values that all its nodes have.

Every node is evaluated when it is drawn (imported alone and interpreted), so that the next one can be chosen by shapes, types
and values.  Beside its value, a tensor has a `twin`: the value that other roundings could have given.  Where the two are the
same bits the value is exact, and only exact values are rounded, compared or sorted; how far they differ says what difference
between two targets is to be expected.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import InternalError, TilewrightError
from tilewright.ir.interpreter import run_graph

F32, F64, F16, BF16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
I8, I16, I32, I64 = (np.dtype(f"i{n}") for n in (1, 2, 4, 8))
U8, U16, U32, U64 = (np.dtype(f"u{n}") for n in (1, 2, 4, 8))
BOOL = np.dtype(bool)
FLOATS, INTS, UINTS = (F32, F64, F16, BF16), (I8, I16, I32, I64), (U8, U16, U32, U64)
ALL = (*FLOATS, *INTS, *UINTS, BOOL)
CODES: dict[np.dtype, int] = {
    F32: TensorProto.FLOAT, F64: TensorProto.DOUBLE, F16: TensorProto.FLOAT16, BF16: TensorProto.BFLOAT16, I8: TensorProto.INT8,
    I16: TensorProto.INT16, I32: TensorProto.INT32, I64: TensorProto.INT64, U8: TensorProto.UINT8, U16: TensorProto.UINT16,
    U32: TensorProto.UINT32, U64: TensorProto.UINT64, BOOL: TensorProto.BOOL,
}  # fmt: skip
_SCHEMA_TYPES = {
    "tensor(float)": F32, "tensor(double)": F64, "tensor(float16)": F16, "tensor(bfloat16)": BF16, "tensor(int8)": I8,
    "tensor(int16)": I16, "tensor(int32)": I32, "tensor(int64)": I64, "tensor(uint8)": U8, "tensor(uint16)": U16,
    "tensor(uint32)": U32, "tensor(uint64)": U64, "tensor(bool)": BOOL,
}  # fmt: skip
_ROUNDING = {F32: 2e-6, F64: 2e-6, F16: 4e-3, BF16: 3e-2}  # f64: functions may be computed in f32 tables, rows in any order
# Floats are exact while they are multiples of 1/steps below most: any sum and product of a few of them has no rounding.
_EXACT = {F32: (64, 2**11), F64: (64, 2**11), F16: (8, 2**6), BF16: (4, 2**4)}
LARGEST = 6000  # elements of a value
_FARTHEST = 1e6  # a larger float is not used
_SPREAD = 2e-3  # of value and twin, beyond which a value says nothing


class Refused(Exception):
    """The node cannot be added: the compiler refuses it, or its values are of no use."""


@dataclass(eq=False)
class Tensor:
    name: str
    value: np.ndarray
    twin: np.ndarray
    constant: bool = False
    known: bool = False  # while importing: computed from constants and shapes

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def rank(self) -> int:
        return self.value.ndim

    @property
    def exact(self) -> bool:
        return self.value is self.twin


Wanted = Callable[[Tensor], bool]
Operand = Tensor | None


class Draw:
    """rng: everything random.  opset: of the model.  values: what may be read."""

    def __init__(self, seed: int, opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.values: list[Tensor] = []
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.domains: dict[str, int] = {}
        self.refusals: list[str] = []
        self._count = 0

    # ---- choices ----

    def int(self, low: int, high: int) -> int:
        """low <= n <= high"""
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.int(0, len(items) - 1)]

    def shape(self, low: int = 0, high: int = 4) -> tuple[int, ...]:
        """Small dimensions, at times one that is not small, seldom none at all."""
        rank = self.int(low, high)
        dims = [self.pick((1, 2, 3, 4, 5, 7, 8)) for _ in range(rank)]
        if rank and self.chance(0.25):
            dims[self.int(0, rank - 1)] = self.pick((16, 17, 31, 33, 64))
        if rank and self.chance(0.02):
            dims[self.int(0, rank - 1)] = 0
        return tuple(dims)

    def array(self, shape: Sequence[int], dtype: np.dtype, low: int = -16, high: int = 16) -> np.ndarray:
        """Random elements that are exact: floats are eighths or quarters, integers lie in low..high."""
        if dtype == BOOL:
            return np.asarray(self.rng.integers(0, 2, shape)).astype(bool)
        low = 0 if dtype in UINTS else low
        drawn = np.asarray(self.rng.integers(low, high + 1, shape))
        return np.asarray(drawn / (8 if dtype != BF16 else 4) if dtype in FLOATS else drawn).astype(dtype)

    # ---- tensors ----

    def _add(self, value: np.ndarray, twin: np.ndarray | None = None, constant: bool = False, usable: bool = True) -> Tensor:
        self._count += 1
        t = Tensor(f"{'c' if constant else 'v'}{self._count}", value, value if twin is None else twin, constant, constant)
        self.tensors[t.name] = t
        if usable:
            self.values.append(t)
        return t

    def input(self, array: np.ndarray) -> Tensor:
        return self._add(np.asarray(array))

    def const(self, array: Any, dtype: np.dtype | None = None) -> Tensor:
        """An initializer."""
        return self._add(np.asarray(array, dtype), constant=True, usable=False)

    def ints(self, values: Sequence[int]) -> Tensor:
        return self.const(list(values), I64)

    def operand(self, array: np.ndarray) -> Tensor:
        """A constant, or an input."""
        return self.const(array) if self.chance(0.6) else self.input(array)

    def value(self, dtypes: Sequence[np.dtype] = ALL, wanted: Wanted = lambda t: True, exact: bool = False) -> Tensor:
        """A value so far, the later ones more often; a new input where none is as wanted."""
        found = [
            t for t in self.values
            if t.dtype in dtypes and (t.exact or not exact) and t.value.size <= LARGEST and wanted(t)
        ]  # fmt: skip
        if found and not self.chance(0.03):
            return found[max(self.int(0, len(found) - 1), self.int(0, len(found) - 1))]
        for _ in range(20):
            dtype = F32 if F32 in dtypes and self.chance(0.6) else self.pick(list(dtypes))
            t = Tensor("", array := self.array(self.shape(), dtype), array)
            if wanted(t):
                return self.input(array)
        raise Refused("no operand")

    def like(self, x: Tensor) -> Tensor:
        """A value of the same type and shape, or a shape that broadcasts with it."""
        same = [t for t in self.values if t.dtype == x.dtype and t.shape == x.shape]
        if same and self.chance(0.5):
            return self.pick(same)
        shape = tuple(1 if self.chance(0.3) else n for n in x.shape)[self.int(0, x.rank) if self.chance(0.4) else 0 :]
        return self.operand(self.array(shape, x.dtype))

    def types(self, op: str, place: int = 0, domain: str = "") -> tuple[np.dtype, ...]:
        """The types that the standard lets an operand have."""
        formals = onnx.defs.get_schema(op, self.opset if not domain else self.domains.get(domain, 1), domain).inputs
        formal = formals[min(place, len(formals) - 1)]
        return tuple(_SCHEMA_TYPES[t] for t in formal.types if t in _SCHEMA_TYPES)

    # ---- nodes ----

    def node(
        self, op: str, *operands: Operand, outputs: int = 1, domain: str = "", exact: bool = False, keep: bool = True,
        steady: bool = False, **attributes: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Adds a node and gives its outputs.  exact: whether it rounds nothing (whether that holds is seen in its values).
        steady: whether its integers must not change with the last bits of its operands.
        Raises Refused, with the reason noted, if the importer refuses it, or its values are too large or not finite."""
        names = [t.name if t is not None else "" for t in operands]
        made = [f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, names, made, domain=domain, **attributes)
        if domain:
            self.domains.setdefault(domain, 1)
        given = {t.name: t for t in operands if t is not None}
        for name in captured(node):
            if name in self.tensors:
                given[name] = self.tensors[name]
        values = self._evaluate(node, made, {n: t.value for n, t in given.items()}, given)
        if exact and all(t.exact for t in given.values()):
            twins = list(values)
        else:
            twins = values
            if not all(t.exact for t in given.values()):
                twins = self._evaluate(node, made, {n: t.twin for n, t in given.items()}, given)
        if steady:
            near = {n: t.value * (1 + t.dtype.type(1e-5)) if t.dtype in FLOATS else t.value for n, t in given.items()}
            far = {n: t.value * (1 - t.dtype.type(1e-5)) if t.dtype in FLOATS else t.value for n, t in given.items()}
            for other in (self._evaluate(node, made, near, given), self._evaluate(node, made, far, given)):
                if any(v.dtype not in FLOATS and not np.array_equal(v, w) for v, w in zip(values, other, strict=True)):
                    raise Refused("rounding decides an integer")
        results = [self._result(v, w, exact) for v, w in zip(values, twins, strict=True)]
        self.nodes.append(node)
        tensors = []
        for name, (value, twin) in zip(made, results, strict=True):
            t = Tensor(name, value, twin, known=op in ("Shape", "Size") or all(x.known for x in given.values()))
            self.tensors[name] = t
            if keep:
                self.values.append(t)
            tensors.append(t)
        return tuple(tensors)

    def _result(self, value: np.ndarray, twin: np.ndarray, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Value and twin of a result, which are one object if it is exact."""
        if value.size > 4 * LARGEST:
            raise Refused("too large")
        if value.dtype not in FLOATS:
            if value is not twin and not np.array_equal(value, twin):
                raise Refused("rounding decides an integer")
            return value, value
        wide, other = value.astype(np.float64), twin.astype(np.float64)
        if not np.all(np.isfinite(wide)) or (wide.size and np.abs(wide).max() > _FARTHEST):
            raise Refused("values are not finite, or large")
        steps, most = _EXACT[value.dtype]
        if exact and value is twin and not (wide.size and (np.abs(wide).max() >= most or np.any(wide * steps % 1))):
            return value, value
        if not exact or value is twin:
            noise = self.rng.choice((-1.0, 1.0), wide.shape) * _ROUNDING[value.dtype]
            other = other * (1 + noise) + noise * 0.1 * (np.abs(wide).max() if wide.size else 0)
        if np.any(np.abs(wide - other) > _SPREAD * (1 + np.abs(wide)) * (1 if value.dtype in (F32, F64) else 40)):
            raise Refused("ill-conditioned")
        return value, other.astype(value.dtype)

    def _evaluate(
        self, node: onnx.NodeProto, made: Sequence[str], arrays: dict[str, np.ndarray], given: dict[str, Tensor]
    ) -> list[np.ndarray]:  # fmt: skip
        inputs = [n for n, t in given.items() if not t.known]
        model = self.make_model([node], inputs, made, {n: arrays[n] for n, t in given.items() if t.known})
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = import_model(model, shapes={n: arrays[n].shape for n in inputs})
                return [np.asarray(a) for a in run_graph(graph, [arrays[n] for n in inputs])]
        except InternalError:
            raise
        except TilewrightError as error:
            self.refusals.append(f"{node.op_type}: {str(error).splitlines()[0][:160]}")
            raise Refused(str(error)) from None

    def make_model(
        self, nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str],
        constants: dict[str, np.ndarray], symbolic: bool = False,
    ) -> onnx.ModelProto:  # fmt: skip
        """symbolic: the dimensions of inputs have names instead of sizes."""
        declared = []
        for name in inputs:
            array = self.tensors[name].value
            dims: list[Any] = [f"{name}_{i}" for i in range(array.ndim)] if symbolic else list(array.shape)
            declared.append(helper.make_tensor_value_info(name, CODES[array.dtype], dims))
        results = []
        for name in outputs:
            t = self.tensors.get(name)
            results.append(helper.make_tensor_value_info(name, CODES[t.dtype] if t else 0, None))
        initializers = [numpy_helper.from_array(a, n) for n, a in constants.items()]
        graph = helper.make_graph(list(nodes), "random", declared, results, initializers)
        imports = [helper.make_opsetid(d, v) for d, v in {"": self.opset, **self.domains}.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that subgraphs of a node read."""
    names: list[str] = []
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.type == onnx.AttributeProto.GRAPH else ():
            names += [*inner.input, *captured(inner)]
    return names
