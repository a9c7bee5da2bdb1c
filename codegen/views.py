"""Which values share memory: every value has a layout (root value, element offset, strides) in some root's memory.

Movement nodes cost nothing where the output can be read in the memory of the input ("forward"), or where the input can be
written directly into the memory of the output ("backward": the parts of a Concat, the inside of a Pad, and what a
Transpose and Reshape of a product would copy):

    k = Slice(qkv); h = Reshape(k); t = Transpose(h)     -> three more layouts in the memory of qkv
    p = Pad(y); c = Concat(a, b)                         -> y is computed inside p, a and b inside c

A relation is kept only if every layout stays expressible; what remains is copied by a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..ir.dims import exact_quotient, normal_dim
from ..ir.errors import InternalError
from ..ir.graph import Builder, Graph, Node, Value
from ..ir.ops.contract import Conv, MatMul
from ..ir.ops.control import If, Loop, Scan
from ..ir.ops.movement import Broadcast, Concat, Pad, Reshape, Slice, Transpose
from ..ir.ops.norm import Attention
from ..ir.ops.quantize import Saturate
from ..ir.ops.refine import Refine
from ..ir.types import DTYPES, Dim, TensorType


@dataclass(frozen=True)
class Layout:
    """Element i of the value lies at root[offset + sum(i * strides)]; offset and strides are in elements."""

    root: Value
    offset: Dim
    strides: tuple[Dim, ...]


def dense_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * max(d, 1) if isinstance(d, int) and isinstance(step, int) else normal_dim(step * d)
    return tuple(reversed(strides))


def is_dense(shape: Sequence[Dim], strides: Sequence[Dim]) -> bool:
    """Row-major without gaps; the strides of unit dimensions do not matter."""
    return all(n == 1 or s == d for n, s, d in zip(shape, strides, dense_strides(shape), strict=True))


def reshape_strides(shape: Sequence[Dim], strides: Sequence[Dim], new: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The strides of the same memory seen in another shape, or None if that needs a copy."""
    if 0 in shape:
        return dense_strides(new)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    merged: list[list[Dim]] = []  # [elements, innermost stride] of runs that are contiguous in each other
    for n, s in old:
        if merged and merged[-1][1] == normal_dim(n * s):
            merged[-1] = [normal_dim(merged[-1][0] * n), s]
        else:
            merged.append([n, s])
    result: list[Dim] = []
    left, step = (merged.pop() if merged else [1, 1])
    for n in reversed(new):
        if n == 1:
            result.append(step)
            continue
        if left == 1 and merged:
            left, step = merged.pop()
        outer = exact_quotient(left, n)
        if outer is None:
            return None
        result.append(step)
        left, step = outer, normal_dim(step * n)
    return tuple(reversed(result)) if left == 1 and not merged else None


def _moved(at: Layout, steps: Sequence[Dim]) -> Dim:
    """The offset of the element at this index."""
    offset = at.offset
    for n, s in zip(steps, at.strides, strict=True):
        offset = offset + n * s
    return normal_dim(offset)


def _forward(node: Node, at: Layout) -> Layout | None:
    """The layout of a movement node's output in the memory of its first input."""
    op = node.op
    shape = node.inputs[0].type.shape
    if isinstance(op, Reshape):
        strides = reshape_strides(shape, at.strides, node.outputs[0].type.shape)
        return None if strides is None else Layout(at.root, at.offset, strides)
    if isinstance(op, Refine):
        return Layout(at.root, at.offset, at.strides)
    if isinstance(op, Transpose):
        return Layout(at.root, at.offset, tuple(at.strides[p] for p in op.perm))
    if isinstance(op, Slice):
        offset = _moved(at, op.starts)
        return Layout(at.root, offset, tuple(normal_dim(s * k) for s, k in zip(at.strides, op.steps, strict=True)))
    if isinstance(op, Broadcast):
        new = node.outputs[0].type.shape
        lead = len(new) - len(shape)
        strides = (0,) * lead + tuple(
            s if n == m or n != 1 else 0 for s, n, m in zip(at.strides, shape, new[lead:], strict=True)
        )
        return Layout(at.root, at.offset, strides)
    return None


def backward_layout_or_none(node: Node, operand: int, at: Layout) -> Layout | None:
    """The layout of a movement node's input in the memory of its output."""
    op = node.op
    if isinstance(op, Reshape):
        strides = reshape_strides(node.outputs[0].type.shape, at.strides, node.inputs[0].type.shape)
        return None if strides is None else Layout(at.root, at.offset, strides)
    if isinstance(op, Refine):
        return Layout(at.root, at.offset, at.strides)
    if isinstance(op, Transpose):
        return Layout(at.root, at.offset, tuple(at.strides[op.perm.index(d)] for d in range(len(op.perm))))
    if isinstance(op, Concat):
        start: Dim = 0
        for v in node.inputs[:operand]:
            start = start + v.type.shape[op.axis]
        return Layout(at.root, normal_dim(at.offset + start * at.strides[op.axis]), at.strides)
    if isinstance(op, Pad):
        return Layout(at.root, _moved(at, op.before), at.strides)
    return None


def backward_layout(node: Node, operand: int, at: Layout) -> Layout:
    """Where an operand of a Concat or Pad lies in the memory of the output."""
    found = backward_layout_or_none(node, operand, at)
    if found is None:
        raise InternalError(f"{node.op.name} has no layout for operand {operand}")
    return found


WORD = 4  # bytes that products of bytes add at once
FEW_CHANNELS = 4  # of an image that may stay in planes: of more, a transposition pays by longer runs
_INVERTIBLE = (Reshape, Transpose, Refine)
_CONTRACTIONS = (MatMul, Attention)


def is_view(graph: Graph, node: Node, users_of: Callable[[Value], Iterable[Node]]) -> bool:
    """Whether the node is left to the memory layout rather than computed: it is then free or a plain copy."""
    op = node.op
    if isinstance(op, (Reshape, Broadcast, Concat, Refine)):
        return True
    if isinstance(op, Pad):
        return op.mode == "constant" and node.inputs[1] in graph.constants and not fills_words(graph, op, node.inputs)
    if isinstance(op, Slice):
        return all(k > 0 for k in op.steps) and (op.steps[-1] == 1 or op.sizes[-1] == 1)
    if isinstance(op, Transpose):
        if _keeps_last(op, node.inputs[0]) or _feeds_products(node.outputs[0], users_of):
            return True
        maker, users = graph.producers.get(node.inputs[0]), list(users_of(node.outputs[0]))
        bordered = maker is not None and isinstance(maker.op, Pad)
        return bordered and bool(users) and all(
            isinstance(u.op, Conv) and u.inputs[0] is node.outputs[0] and u.inputs[1] in graph.constants
            and reads_planes(u.op, u.inputs[0].type) for u in users
        )
    return False


def reads_planes(op: Conv, image: TensorType) -> bool:
    """Whether a convolution may read its image where the channels are not the last axis in memory: it is computed directly,
    as a product over f32, whose left operand is read by broadcast."""
    channels = image.shape[-1]
    return op.groups == 1 and image.dtype == "f32" and isinstance(channels, int) and channels <= FEW_CHANNELS


def fills_words(g: Graph | Builder, op: Pad, inputs: Sequence[Value]) -> bool:
    """Whether a Pad fills the channels of bytes that are computed element by element up to words of four."""
    x = inputs[0]
    channels = x.type.shape[-1] if x.type.rank else 0
    maker = g.producers.get(x)
    if DTYPES[x.type.dtype].size != 1 or x.type.rank < 2 or maker is None or inputs[1] not in g.constants:
        return False
    fills = isinstance(channels, int) and 1 < channels < WORD and op.after[-1] == WORD - channels
    return fills and not any((*op.before, *op.after[:-1])) and isinstance(maker.op, (Transpose, Saturate))


def _keeps_last(op: Transpose, x: Value) -> bool:
    """Elements that are neighbours before are neighbours after."""
    moved = [p for p in op.perm if x.type.shape[p] != 1]
    return not moved or moved[-1] == max(moved)


def _feeds_products(v: Value, users_of: Callable[[Value], Iterable[Node]]) -> bool:
    """Only products read it, which take any strides: they pack or broadcast their operands."""
    users = list(users_of(v))
    for u in users:
        if isinstance(u.op, (Reshape, Broadcast, Transpose)):
            if not _feeds_products(u.outputs[0], users_of):
                return False
        elif not isinstance(u.op, _CONTRACTIONS):
            return False
    return bool(users)


class Views:
    """The memory relations of a graph.  `layout(v)` is the layout of a value; `copied` are the movement nodes that need a
    kernel: a node of one input as a whole, the operands (by number) of a Concat or Pad."""

    def __init__(self, graph: Graph, is_free: Callable[[Node], bool]) -> None:
        """is_free tells whether a movement node is left to the layout (a node of a fused graph that stands alone)."""
        self.graph = graph
        self._relation: dict[Value, tuple[str, Node, int]] = {}
        self._fixed = set(graph.inputs) | set(graph.outputs) | set(graph.constants)
        self._fixed |= {v for n in graph.nodes if isinstance(n.op, (If, Loop, Scan)) for v in n.outputs}  # written densely
        self._made = {v for n in graph.nodes for v in n.outputs}
        self.copied: dict[Node, tuple[int, ...]] = {}
        self._memo: dict[Value, Layout | None] = {}
        for node in graph.nodes:
            if is_free(node):
                self._place(node)

    def layout(self, v: Value) -> Layout:
        found = self._layout(v)
        assert found is not None, v
        return found

    def _layout(self, v: Value) -> Layout | None:
        if v in self._memo:
            return self._memo[v]
        relation = self._relation.get(v)
        if relation is None:
            found: Layout | None = Layout(v, 0, dense_strides(v.type.shape))
        else:
            kind, node, operand = relation
            at = self._layout(node.inputs[0] if kind == "forward" else node.outputs[0])
            if at is None:
                found = None
            else:
                found = _forward(node, at) if kind == "forward" else backward_layout_or_none(node, operand, at)
        self._memo[v] = found
        return found

    def _place(self, node: Node) -> None:
        if isinstance(node.op, (Concat, Pad)):
            parts = range(len(node.inputs) if isinstance(node.op, Concat) else 1)
            seen: set[Value] = set()
            left = []
            for n in parts:
                if node.inputs[n] in seen or not self._claim(node, n):
                    left.append(n)
                seen.add(node.inputs[n])
            self.copied[node] = tuple(left)
        elif node.outputs[0] in self._fixed:
            if not (isinstance(node.op, _INVERTIBLE) and self._claim(node, 0)):
                self.copied[node] = (0,)
        elif not self._try({node.outputs[0]: ("forward", node, 0)}) and not (
            isinstance(node.op, _INVERTIBLE) and self._claim(node, 0)
        ):
            self.copied[node] = (0,)

    def _claim(self, node: Node, operand: int) -> bool:
        """Compute the operand's root directly in the memory of the node's output, turning the views between round."""
        changes: dict[Value, tuple[str, Node, int] | None] = {}
        v = node.inputs[operand]
        changes[v] = ("backward", node, operand)
        while v in self._relation:
            kind, maker, _ = self._relation[v]
            if kind != "forward" or not isinstance(maker.op, _INVERTIBLE):
                return False
            v = maker.inputs[0]
            changes[v] = ("backward", maker, 0)
        if v in self._fixed or v not in self._made:
            return False
        return self._try(changes)

    def _try(self, changes: dict[Value, tuple[str, Node, int]] | dict[Value, tuple[str, Node, int] | None]) -> bool:
        before = {v: self._relation.get(v) for v in changes}
        for v, r in changes.items():
            assert r is not None
            self._relation[v] = r
        if all(r is not None and r[0] == "forward" for r in changes.values()):
            (v,) = changes
            self._memo.pop(v, None)
            if self._layout(v) is not None:
                return True
        else:
            self._memo = {}
            if all(self._layout(v) is not None for v in self._relation):
                return True
        for v, r in before.items():
            if r is None:
                del self._relation[v]
            else:
                self._relation[v] = r
        self._memo = {}
        return False
