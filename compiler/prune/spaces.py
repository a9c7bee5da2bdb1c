"""Which channels of an ONNX graph stand or fall together: the dependency groups of structured pruning.

A `Space` is a set of units (channels, hidden features, attention heads) that some layer produces.  Going through the graph,
every tensor is told along which axis it carries which units; where two tensors are added, multiplied element by element or
multiplied head by head, their spaces become one.  What cannot be followed locks the spaces of its operands, so that they stay.

    conv1 -> relu -> conv2 -+-> add      the outputs of conv2 and conv3 are one space: all their readers lose the
                   conv3 ---+            same channels; between conv1 and conv2 there is another space
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from onnx import NodeProto

from ...frontend.onnx.structure import outer_names
from ..onnx_edit import OnnxEdit, attributes


@dataclass(eq=False)
class Space:
    """parent, factor: unit i is unit i // factor of the parent, once two spaces have become one."""

    name: str
    size: int
    locked: str = ""
    parent: Space | None = None
    factor: int = 1


@dataclass(frozen=True, eq=False)
class Run:
    """All units of a space, `repeat` elements each, one unit after the other."""

    space: Space
    repeat: int = 1

    def resolved(self) -> Run:
        space, repeat = self.space, self.repeat
        while space.parent is not None:
            space, repeat = space.parent, repeat * space.factor
        return Run(space, repeat)

    @property
    def length(self) -> int:
        return self.space.size * self.repeat


@dataclass(frozen=True, eq=False)
class Carried:
    """A tensor's axis that carries units: runs that follow each other."""

    axis: int
    runs: tuple[Run, ...]

    @property
    def length(self) -> int:
        return sum(r.length for r in self.runs)


@dataclass(eq=False)
class Analysis:
    """cuts: (node, which of its operands, axis, what that carries), of constants.  readers: node name -> what its input
    carries.  shapes: (Reshape, place in its constant shape, what that dimension carries).  groups: depthwise convolutions,
    with what they carry."""

    spaces: list[Space] = field(default_factory=list)
    cuts: list[tuple[NodeProto, int, int, Carried]] = field(default_factory=list)
    readers: dict[str, Carried] = field(default_factory=dict)
    shapes: list[tuple[NodeProto, int, Carried]] = field(default_factory=list)
    groups: list[tuple[NodeProto, Carried]] = field(default_factory=list)


_SAME = frozenset((
    "Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "LeakyRelu", "Elu", "Selu", "Softplus",
    "Softsign", "Mish", "Identity", "Dropout", "Cast", "Neg", "Abs", "Exp", "Sqrt", "Floor", "Round", "Reciprocal", "IsNaN",
    "IsInf", "Not", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample",
))
_BINARY = frozenset(("Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Where", "Equal", "Greater", "Less", "And", "Or"))


def node_name(node: NodeProto) -> str:
    return node.name or node.output[0]


def _long(dims: tuple[Any, ...]) -> list[Any]:
    """Without dimensions of size 1."""
    return [d for d in dims if d != 1]


def _known(dims: tuple[Any, ...]) -> bool:
    return all(isinstance(d, int) for d in dims)


class Follower:
    """Goes through the graph once."""

    def __init__(self, edit: OnnxEdit) -> None:
        self.edit, self.found = edit, Analysis()
        self.carried: dict[str, Carried] = {}
        inferred = onnx.shape_inference.infer_shapes(edit.finish(), strict_mode=False, data_prop=True)
        self.dims: dict[str, tuple[Any, ...]] = {}
        for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
            if v.type.tensor_type.HasField("shape"):
                self.dims[v.name] = tuple(
                    d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in v.type.tensor_type.shape.dim)

    def run(self) -> Analysis:
        for node in self.edit.nodes:
            _rule(node)(self, node)
            for name in set(outer_names([node])) - set(node.input):
                self.lock(name, f"a subgraph of {node.op_type} reads it")
        for name in self.edit.outputs:
            self.lock(name, "an output of the model")
        return self.found

    # -- what rules do

    def lock(self, tensor: str, why: str) -> None:
        for run in self.carried[tensor].runs if tensor in self.carried else ():
            space = run.resolved().space
            space.locked = space.locked or why

    def lock_all(self, node: NodeProto, why: str) -> None:
        for name in node.input:
            self.lock(name, why)

    def rank(self, tensor: str) -> int | None:
        return len(self.dims[tensor]) if tensor in self.dims else None

    def new(self, node: NodeProto, size: int, axis: int) -> Carried:
        space = Space(node_name(node), size)
        self.found.spaces.append(space)
        self.carried[node.output[0]] = Carried(axis, (Run(space),))
        return self.carried[node.output[0]]

    def cut(self, node: NodeProto, operand: int, axis: int, what: Carried) -> None:
        self.found.cuts.append((node, operand, axis, what))

    def join(self, a: Carried, b: Carried) -> bool:
        """Make the units of two tensors one; whether that could be done."""
        x, y = [r.resolved() for r in a.runs], [r.resolved() for r in b.runs]
        if len(x) != len(y) or any(p.length != q.length for p, q in zip(x, y, strict=True)):
            return False
        for p, q in zip(x, y, strict=True):
            p, q = p.resolved(), q.resolved()
            if p.space is q.space:
                if p.repeat != q.repeat:
                    return False
                continue
            fine, coarse = (p, q) if p.space.size >= q.space.size else (q, p)
            if fine.space.size % coarse.space.size:
                return False
            fine.space.parent, fine.space.factor = coarse.space, fine.space.size // coarse.space.size
            coarse.space.locked = coarse.space.locked or fine.space.locked
        return True

    # -- rules

    def _unknown(self, node: NodeProto) -> None:
        self.lock_all(node, f"{node.op_type} reads it")

    def _same(self, node: NodeProto) -> None:
        if node.input[0] in self.carried:
            self.carried[node.output[0]] = self.carried[node.input[0]]

    def _conv(self, node: NodeProto) -> None:
        w = self.edit.constants.get(node.input[1])
        x = self.carried.get(node.input[0])
        if w is None:
            self._unknown(node)
            return
        group = attributes(node).get("group", 1)
        if group == 1:
            if x is not None:
                self.found.readers[node_name(node)] = x
                self.cut(node, 1, 1, x)
            made = self.new(node, w.shape[0], 1)
        elif x is not None and group == w.shape[0] == x.length and w.shape[1] == 1:
            made = self.carried[node.output[0]] = x
            self.found.groups.append((node, x))
        else:
            self._unknown(node)
            return
        for n, name in enumerate(node.input):
            if n and name:
                self.cut(node, n, 0, made)

    def _conv_transpose(self, node: NodeProto) -> None:
        """Its outputs are units; what it reads stays whole."""
        self.lock_all(node, "ConvTranspose reads it")
        w = self.edit.constants.get(node.input[1])
        if w is not None and attributes(node).get("group", 1) == 1:
            made = self.new(node, w.shape[1], 1)
            self.cut(node, 1, 1, made)
            if len(node.input) > 2:
                self.cut(node, 2, 0, made)

    def _product(self, node: NodeProto) -> None:
        a = attributes(node)
        w = self.edit.constants.get(node.input[1])
        x = self.carried.get(node.input[0])
        rank = self.rank(node.input[0])
        if w is None or node.input[0] in self.edit.constants:
            self._heads(node)
            return
        if w.ndim != 2 or a.get("transA") or (x is not None and (rank is None or x.axis != rank - 1)):
            self._unknown(node)
            return
        deep, wide = (1, 0) if a.get("transB") else (0, 1)
        if x is not None:
            self.found.readers[node_name(node)] = x
            self.cut(node, 1, deep, x)
        if rank is not None:
            made = self.new(node, w.shape[wide], rank - 1)
            self.cut(node, 1, wide, made)
            bias = self.edit.constants.get(node.input[2]) if len(node.input) > 2 else None
            if bias is not None and bias.ndim and bias.shape[-1] == w.shape[wide]:
                self.cut(node, 2, bias.ndim - 1, made)
            elif len(node.input) > 2 and bias is None:
                self.lock(node.output[0], "a computed bias")

    def _heads(self, node: NodeProto) -> None:
        """A product of two computed operands: units may be in leading dimensions."""
        x, y = (self.carried.get(n) for n in node.input[:2])
        rank = self.rank(node.input[0])
        if x is None and y is None:
            return
        fits = x is not None and y is not None and rank is not None and rank == self.rank(node.input[1])
        if not fits or x.axis != y.axis or x.axis >= rank - 2 or not self.join(x, y):  # type: ignore[union-attr, operator]
            self._unknown(node)
            return
        self.carried[node.output[0]] = x  # type: ignore[assignment]

    def _binary(self, node: NodeProto) -> None:
        tensors = [n for n in node.input if n not in self.edit.constants]
        with_units = [n for n in tensors if n in self.carried]
        if not with_units:
            return
        first = self.carried[with_units[0]]
        rank = max((r for r in (self.rank(n) for n in tensors) if r is not None), default=None)
        if rank is None or any(self.rank(n) is None for n in tensors):
            self._unknown(node)
            return
        back = first.axis - len(self.dims[with_units[0]])
        if any(self.carried[n].axis - len(self.dims[n]) != back for n in with_units):
            self._unknown(node)
            return
        for place, n in enumerate(node.input):
            if n in self.carried:
                if not self.join(first, self.carried[n]):
                    self._unknown(node)
                    return
                continue
            constant = self.edit.constants.get(n)
            shape = self.dims[n] if constant is None else constant.shape
            size = shape[back] if -back <= len(shape) else 1
            if size == 1:
                continue
            if constant is None or size != first.length:
                self._unknown(node)
                return
            self.cut(node, place, len(shape) + back, first)
        self.carried[node.output[0]] = Carried(rank + back, first.runs)

    def _norm(self, node: NodeProto) -> None:
        x = self.carried.get(node.input[0])
        if x is not None and x.axis == 1:
            for n in range(1, len(node.input)):
                self.cut(node, n, 0, x)
            self.carried[node.output[0]] = x
        else:
            self._unknown(node)

    def _softmax(self, node: NodeProto) -> None:
        x, rank = self.carried.get(node.input[0]), self.rank(node.input[0])
        if x is not None and rank is not None and attributes(node).get("axis", -1) % rank != x.axis:
            self.carried[node.output[0]] = x
        else:
            self._unknown(node)

    def _transpose(self, node: NodeProto) -> None:
        x = self.carried.get(node.input[0])
        perm = attributes(node).get("perm")
        if x is not None and perm:
            self.carried[node.output[0]] = Carried(list(perm).index(x.axis), x.runs)
        else:
            self._unknown(node)

    def _concat(self, node: NodeProto) -> None:
        axis, rank = attributes(node)["axis"], self.rank(node.input[0])
        found = [self.carried.get(n) for n in node.input]
        if rank is None or any(f is None or f.axis != axis % rank for f in found):
            self._unknown(node)
            return
        self.carried[node.output[0]] = Carried(axis % rank, tuple(r for f in found for r in f.runs))  # type: ignore[union-attr]

    def _mean(self, node: NodeProto) -> None:
        x, rank = self.carried.get(node.input[0]), self.rank(node.input[0])
        a = attributes(node)
        axes = a.get("axes") or (self.edit.constants[node.input[1]].tolist()
                                 if len(node.input) > 1 and node.input[1] in self.edit.constants else None)
        if x is None or rank is None or axes is None or x.axis in [d % rank for d in axes]:
            self._unknown(node)
            return
        gone = 0 if a.get("keepdims", 1) else sum(d % rank < x.axis for d in axes)
        self.carried[node.output[0]] = Carried(x.axis - gone, x.runs)

    def _reshape(self, node: NodeProto) -> None:
        x = self.carried.get(node.input[0])
        before, after = self.dims.get(node.input[0]), self.dims.get(node.output[0])
        if x is None:
            return
        made = None if before is None or after is None else self._regrouped(x, before, after)
        shape = self.edit.constants.get(node.input[1]) if len(node.input) > 1 else None
        if made is None or (node.op_type == "Reshape" and shape is None):
            self._unknown(node)
            return
        self.carried[node.output[0]] = made
        if shape is not None and node.op_type == "Reshape" and shape[made.axis] > 0:
            self.found.shapes.append((node, made.axis, made))

    def _regrouped(self, x: Carried, before: tuple[Any, ...], after: tuple[Any, ...]) -> Carried | None:
        """The axis joined with those behind it, or split in two: [.., H * D] -> [.., H, D]."""
        a = x.axis
        for b, size in enumerate(after):
            if not isinstance(size, int) or _long(before[:a]) != _long(after[:b]) or size == 1 != x.length:
                continue
            for end in range(a + 1, len(before) + 1):
                inner = before[a + 1 : end]
                if _long(after[b + 1 :]) == _long(before[end:]) and _known(inner) and size == x.length * prod(inner):
                    return Carried(b, tuple(Run(r.space, r.repeat * prod(inner)) for r in x.runs))
            for end in range(b + 2, len(after) + 1):
                inner = after[b + 1 : end]
                if _long(after[end:]) == _long(before[a + 1 :]) and _known(inner) and size * prod(inner) == x.length:
                    coarse = self._coarser(x, size)
                    return None if coarse is None else Carried(b, coarse.runs)
        return None

    def _coarser(self, x: Carried, units: int) -> Carried | None:
        if len(x.runs) != 1:
            return None
        run = x.runs[0].resolved()
        if run.space.size % units:
            return None
        if run.space.size != units:
            whole = Space(run.space.name, units, run.space.locked)
            self.found.spaces.append(whole)
            run.space.parent, run.space.factor = whole, run.space.size // units
            return Carried(x.axis, (Run(whole),))
        return Carried(x.axis, (Run(run.space),)) if run.repeat >= 1 else None


def _rule(node: NodeProto) -> Callable[[Follower, NodeProto], None]:
    if node.domain:
        return Follower._unknown
    fallback = Follower._same if node.op_type in _SAME else Follower._binary if node.op_type in _BINARY else Follower._unknown
    return _RULES.get(node.op_type, fallback)


_RULES: dict[str, Callable[[Follower, NodeProto], None]] = {
    "Conv": Follower._conv, "MatMul": Follower._product, "Gemm": Follower._product, "BatchNormalization": Follower._norm,
    "Softmax": Follower._softmax, "Transpose": Follower._transpose, "Concat": Follower._concat, "ReduceMean": Follower._mean,
    "Reshape": Follower._reshape, "Flatten": Follower._reshape, "Squeeze": Follower._reshape,
    "Unsqueeze": Follower._reshape, "ConvTranspose": Follower._conv_transpose,
}
