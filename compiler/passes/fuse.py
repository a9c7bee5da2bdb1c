"""Group nodes that become one kernel.

    a = Conv(x, w); b = Binary(add)(a, bias); c = Binary(max)(b, 0)   ->   c = Fused[contract](x, w, bias)
    m = Reduce(max)(x); d = x - m; e = exp(d); s = Reduce(sum)(e); y = e / s   ->   y = Fused[rows](x)

Four kinds of group, found in this order:
- "contract" and "window": a contraction or a window, followed by elementwise nodes on its result (its epilogue);
- "rows": reductions over trailing axes and elementwise nodes that share the leading axes; may have several outputs;
- "reduce": any other reduction, with its epilogue;
- "map": elementwise and movement nodes alone.
Every group is convex (no path leaves it and comes back, directly or through other groups), so the groups can be ordered.
Movement nodes that are views of memory (`codegen.views.is_view`) stay outside: they cost nothing.  Why: an epilogue runs on
registers, a row stays in the cache, and every fused edge saves one pass over memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...codegen.views import is_view
from ...ir.dims import multiply_dims, normal_dim
from ...ir.errors import InternalError
from ...ir.expr import as_expr
from ...ir.graph import Graph, Node, Value
from ...ir.ops.base import form_of
from ...ir.ops.contract import Conv, MatMul
from ...ir.ops.control import Fused
from ...ir.ops.elementwise import Binary, Bitcast, Cast, Select, Unary
from ...ir.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from ...ir.ops.norm import Attention
from ...ir.ops.quantize import Lookup, Saturate
from ...ir.ops.quantized_attention import QuantizedAttention
from ...ir.ops.reduce import Reduce
from ...ir.ops.window import Pool
from ...ir.products import at_least
from ...ir.types import Dim

ELEMENTWISE = (Unary, Binary, Select, Cast, Bitcast, Saturate, Lookup)
CHEAP = (Binary, Select, Cast, Bitcast, Saturate, Lookup)  # elementwise, without functions that take many instructions
MAX_ROW_ELEMENTS = 32768  # a row of a "rows" group has to stay in the second-level cache
TYPICAL_ROW = 128  # elements of an open dimension
MOST_PARTS = 4  # of a Concat that its readers select from
MAX_NODES = 100  # of a group: one pass over memory is little beside so much work, and code must not grow without bound


@dataclass(eq=False)
class _Group:
    kind: str
    nodes: set[int] = field(default_factory=set)


class _Fuser:
    """The state of one run: positions of nodes, users, descendants as bit sets, and the group of each node."""

    def __init__(self, graph: Graph, joins: bool = False) -> None:
        self.graph, self.joins = graph, joins
        self.nodes = graph.nodes
        self.position = {n: i for i, n in enumerate(graph.nodes)}
        self.users = {v: [self.position[n] for n in ns] for v, ns in graph.users().items()}
        self.kept = set(graph.outputs)
        self.group: dict[int, _Group] = {}
        self.descendants = [0] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            bits = 0
            for u in self._node_users(i):
                bits |= (1 << u) | self.descendants[u]
            self.descendants[i] = bits

    def _node_users(self, i: int) -> list[int]:
        return [u for v in self.nodes[i].outputs for u in self.users.get(v, ())]

    def _producer(self, v: Value) -> int | None:
        node = self.graph.producers.get(v)
        return None if node is None else self.position[node]

    def free(self, i: int, kinds: tuple[type, ...] = ELEMENTWISE) -> bool:
        return i not in self.group and isinstance(self.nodes[i].op, kinds)

    def shape(self, i: int) -> tuple[object, ...]:
        return self.nodes[i].outputs[0].type.shape

    # -- growing

    def _joins(self, i: int, members: set[int]) -> bool:
        """Node i reads a member, and nothing else that it reads depends on a member."""
        mask = sum(1 << m for m in members)
        reads = False
        for v in self.nodes[i].inputs:
            p = self._producer(v)
            if p is None:
                continue
            if p in members:
                reads = True
            elif any(self.descendants[m] >> p & 1 for m in members):
                return False
        return reads and not mask >> i & 1

    def grow(self, start: int) -> set[int]:
        """The start and the elementwise nodes of its shape that can follow it, cut back to a single output."""
        members = {start}
        shape = self.shape(start)
        frontier = list(self._node_users(start))
        seen: set[int] = set()
        heapq.heapify(frontier)
        while frontier and len(members) < MAX_NODES:
            i = heapq.heappop(frontier)
            if i in seen:
                continue
            seen.add(i)
            if self.free(i) and self.shape(i) == shape and self._joins(i, members):
                members.add(i)
                for u in self._node_users(i):
                    heapq.heappush(frontier, u)
        for last in sorted(members, reverse=True):
            part = {m for m in members if m == last or self.descendants[m] >> last & 1}
            if start in part and self.exits(part) == [self.nodes[last].outputs[0]]:
                return self._narrow(part, last)
        return {start}

    def _narrow(self, part: set[int], last: int) -> set[int]:
        """A group that ends in integers made floats again, for elementwise readers: without that end, which the readers'
        groups take over, so that the integers are stored."""
        (out,) = self.nodes[last].outputs
        if out in self.kept or not all(isinstance(self.nodes[u].op, ELEMENTWISE) for u in self.users.get(out, ())):
            return part
        for m in sorted(part, reverse=True):
            if not isinstance(self.nodes[m].op, Saturate):
                continue
            end = {n for n in part if self.descendants[m] >> n & 1}
            if end and all(self._follows(n, end | {m}) for n in end) and self.exits(part - end) == [self.nodes[m].outputs[0]]:
                return part - end
        return part

    def _follows(self, i: int, members: set[int]) -> bool:
        """Node i costs little and reads only members and constants."""
        if not isinstance(self.nodes[i].op, CHEAP):
            return False
        return all(v in self.graph.constants or self._producer(v) in members for v in self.nodes[i].inputs)

    def exits(self, members: set[int]) -> list[Value]:
        """The values made by members that something else reads."""
        return [
            v for m in sorted(members) for v in self.nodes[m].outputs
            if v in self.kept or any(u not in members for u in self.users.get(v, ()))
        ]

    def take(self, kind: str, members: set[int]) -> None:
        group = _Group(kind, set(members))
        for m in members:
            self.group[m] = group

    # -- the four kinds

    def anchors(self, kinds: tuple[type, ...], kind: str) -> None:
        for i, node in enumerate(self.nodes):
            if i not in self.group and isinstance(node.op, kinds):
                self.take(kind, self.grow(i))

    def rows(self) -> None:
        for i, node in enumerate(self.nodes):
            if i in self.group or not isinstance(node.op, Reduce):
                continue
            shape = node.inputs[0].type.shape
            first = min(node.op.axes, default=0)
            if not node.op.axes or set(node.op.axes) != set(range(first, len(shape))):
                continue
            size = 1
            for d in shape[first:]:
                size *= d if isinstance(d, int) else TYPICAL_ROW
            if size > MAX_ROW_ELEMENTS:
                continue
            members = self._grow_rows(i, shape[:first], shape[first:])
            members = {i} if self._on_a_cycle(members) else members
            self.take("rows", self._without_floats_of_bytes(members))

    def _on_a_cycle(self, members: set[int]) -> bool:
        """A path through other groups leads from the members back to them.  Two convex groups of several outputs can
        need each other; with a single output, which all their nodes lead to, they cannot."""
        frontier = [u for m in members for u in self._node_users(m) if u not in members]
        seen: set[int] = set()
        while frontier:
            i = frontier.pop()
            if i in members:
                return True
            if i not in seen:
                unit = self.group[i].nodes if i in self.group else {i}
                seen |= unit
                frontier += [u for m in unit for u in self._node_users(m) if u not in seen]
        return False

    def _in_row(self, i: int, lead: tuple[object, ...], row: tuple[object, ...]) -> bool:
        """Node i works on rows: full or reduced, elementwise or a reduction of the whole row."""
        node = self.nodes[i]
        full, reduced = (*lead, *row), (*lead, *(1 for _ in row))
        if self.free(i):
            return self.shape(i) in (full, reduced)
        if i in self.group or not isinstance(node.op, Reduce):
            return False
        axes = set(range(len(lead), len(full)))
        return node.inputs[0].type.shape == full and set(node.op.axes) == axes and self.shape(i) == reduced

    def _grow_rows(self, start: int, lead: tuple[object, ...], row: tuple[object, ...]) -> set[int]:
        members = {start}
        if self.shape(start) != (*lead, *(1 for _ in row)):
            return members  # the reduced axes are dropped: nothing of the row's rank follows
        changed = True
        while changed and len(members) < MAX_NODES:
            changed = False
            for m in sorted(members):
                for u in self._node_users(m):
                    if u not in members and self._in_row(u, lead, row) and self._joins(u, members):
                        members.add(u)
                        changed = True
                for v in self.nodes[m].inputs:
                    p = self._producer(v)
                    if p is None or p in members or not self._in_row(p, lead, row):
                        continue
                    if self.shape(p) == (*lead, *row) and self._leads_only_into(p, members):
                        members.add(p)
                        changed = True
        return members

    def _without_floats_of_bytes(self, members: set[int]) -> set[int]:
        """The group without what makes floats of integers that it stores too, if elementwise readers can do it: they read
        a quarter of the bytes then."""
        for m in sorted(members, reverse=True):
            if not isinstance(self.nodes[m].op, Saturate):
                continue
            end = {n for n in members if self.descendants[m] >> n & 1}
            ends = self.exits(end)
            readers = [u for v in ends for u in self.users.get(v, ()) if u not in end]
            plain = not self.kept.intersection(ends) and all(isinstance(self.nodes[u].op, ELEMENTWISE) for u in readers)
            if end and plain and all(self._follows(n, end | {m}) for n in end) and not members.intersection(readers):
                members = members - end
        return members

    def _leads_only_into(self, p: int, members: set[int]) -> bool:
        """No path from p through a node outside comes back into the members."""
        mask = sum(1 << m for m in members)
        outside = [u for u in self._node_users(p) if u not in members]
        if any(self.descendants[u] & mask for u in outside):
            return False
        return not any(self.descendants[m] >> p & 1 for m in members)

    def absorb_producers(self) -> None:
        """Movement and elementwise nodes whose only readers are in one map, rows or reduce group of no smaller size are
        computed there; elementwise nodes also in the epilogue of a contraction or window."""
        for i in reversed(range(len(self.nodes))):
            group = self.group.get(i)
            if group is None or group.kind == "attention":
                continue
            for v in self.nodes[i].inputs:
                p = self._producer(v)
                other = None if p is None else self.group.get(p)
                if p is None or other is None or other is group or other.kind != "map":
                    continue
                exits = self.exits(other.nodes)
                users = set(self.users.get(v, ()))
                if exits != [v] or v in self.kept or not users <= group.nodes:
                    continue
                epilogue = group.kind in ("contract", "window")
                if epilogue and not self._fits_epilogue(other.nodes, i, users):
                    continue
                if sum(self.nodes[m].op.weight for m in (*group.nodes, *other.nodes)) > MAX_NODES:
                    continue
                if not self._convex(group.nodes | other.nodes):
                    continue
                if group.kind == "rows" and self.shape(p) != self.shape(i):
                    continue
                repeated = any(self.shape(u) != self.shape(p) and not self._reads_once(u, v) for u in users)
                if repeated and not epilogue:
                    continue
                group.nodes |= other.nodes
                for m in other.nodes:
                    self.group[m] = group

    def _fits_epilogue(self, members: set[int], i: int, users: set[int]) -> bool:
        """Elementwise nodes that only elementwise nodes read; those of a smaller shape are computed for every element."""
        if not all(isinstance(self.nodes[u].op, ELEMENTWISE) for u in users):
            return False
        kinds = ELEMENTWISE if all(self.shape(m) == self.shape(i) for m in members) else CHEAP
        return all(isinstance(self.nodes[m].op, kinds) for m in members)

    def _reads_once(self, user: int, v: Value) -> bool:
        node = self.nodes[user]
        return isinstance(node.op, (Reduce, Pad, Concat)) or _is_no_larger(node.outputs[0].type.shape, v.type.shape)

    def _convex(self, members: set[int]) -> bool:
        mask = sum(1 << m for m in members)
        for m in members:
            for u in self._node_users(m):
                if u not in members and self.descendants[u] & mask:
                    return False
        return True

    def maps(self) -> None:
        for i, node in enumerate(self.nodes):
            if i in self.group:
                continue
            if isinstance(node.op, ELEMENTWISE):
                self.take("map", self.grow(i))
                continue
            joined = isinstance(node.op, Concat) and self.joins and (self._is_joined(i) or self._is_copied(i))
            if joined or (form_of(node.op) == "compute" and not is_view(self.graph, node, self.users_of)):
                self.take("map", {i})

    def _is_joined(self, i: int) -> bool:
        """Whether few parts, slices or elementwise, are joined for elementwise nodes of the same shape alone."""
        made = [self._producer(v) for v in self.nodes[i].inputs]
        parts = len(made) <= MOST_PARTS and all(
            p is not None and isinstance(self.nodes[p].op, (Slice, *ELEMENTWISE)) and self.users[v] == [i]
            for p, v in zip(made, self.nodes[i].inputs, strict=True))
        (out,) = self.nodes[i].outputs
        readers = self.users.get(out, ())
        return parts and bool(readers) and out not in self.kept and all(
            isinstance(self.nodes[u].op, ELEMENTWISE) and self.shape(u) == self.shape(i) for u in readers)

    def _is_copied(self, i: int) -> bool:
        """Whether all of few parts have to be copied, whole lines at a time."""
        node = self.nodes[i]
        made = [self._producer(v) for v in node.inputs]
        old = all(p is None or isinstance(self.nodes[p].op, (Slice, Reshape, Transpose)) for p in made)
        assert isinstance(node.op, Concat)
        return old and 2 <= len(made) <= MOST_PARTS and node.op.axis < len(self.shape(i)) - 1

    def users_of(self, v: Value) -> list[Node]:
        return [self.nodes[u] for u in self.users.get(v, ())]

    # -- the result

    def order(self) -> list[_Group | int]:
        """Groups and single nodes in an executable order, the earliest first."""
        unit = {i: self.group.get(i, i) for i in range(len(self.nodes))}
        members: dict[object, list[int]] = {}
        for i, u in unit.items():
            members.setdefault(u, []).append(i)
        needs: dict[object, set[object]] = {u: set() for u in members}
        feeds: dict[object, set[object]] = {u: set() for u in members}
        for i, u in unit.items():
            for v in self.nodes[i].inputs:
                p = self._producer(v)
                if p is not None and unit[p] is not u:
                    needs[u].add(unit[p])
                    feeds[unit[p]].add(u)
        ready = [(max(ms), u) for u, ms in members.items() if not needs[u]]
        heap = [(p, n, u) for n, (p, u) in enumerate(ready)]
        heapq.heapify(heap)
        count, done = len(heap), []
        while heap:
            _, _, u = heapq.heappop(heap)
            done.append(u)
            for f in feeds[u]:
                needs[f].discard(u)
                if not needs[f]:
                    heapq.heappush(heap, (max(members[f]), count, f))
                    count += 1
        if len(done) != len(members):
            raise InternalError("fuse: groups need each other", str(self.graph))
        return done


def _is_no_larger(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether a shape has no more elements than another one; False where that does not show."""
    return at_least(normal_dim(as_expr(multiply_dims(b)) - as_expr(multiply_dims(a))), 0)


def fuse(graph: Graph, *, joins: bool = False) -> Graph:
    """Wrap every group in a `Fused` node; views, irregular operators and control flow stay as they are.  joins: elementwise
    readers of a Concat select its parts themselves, where these are slices or elementwise (the halves of a rotation)."""
    f = _Fuser(graph, joins)
    for i, node in enumerate(graph.nodes):
        if isinstance(node.op, (Attention, QuantizedAttention)):
            f.take("attention", {i})
    f.anchors((MatMul, Conv), "contract")
    f.anchors((Pool,), "window")
    f.rows()
    f.anchors((Reduce,), "reduce")
    f.maps()
    f.absorb_producers()
    nodes = [_wrap(f, unit) if isinstance(unit, _Group) else graph.nodes[unit] for unit in f.order()]
    return Graph(graph.name, graph.inputs, graph.outputs, tuple(nodes), graph.constants, graph.output_names)


def _wrap(f: _Fuser, group: _Group) -> Node:
    members = [f.nodes[i] for i in sorted(group.nodes)]
    made = {v for n in members for v in n.outputs}
    inputs: dict[Value, None] = {}
    constants = {}
    for n in members:
        for v in n.inputs:
            if v in made:
                continue
            if v in f.graph.constants and f.graph.constants[v].size == 1 and v.type.dtype != "str":
                constants[v] = f.graph.constants[v]
            else:
                inputs[v] = None
    outputs = tuple(f.exits(group.nodes))
    inner = {v: Value(v.name, v.type) for v in (*inputs, *outputs)}
    body_nodes = tuple(
        Node(n.op, tuple(inner.get(v, v) for v in n.inputs), tuple(inner.get(v, v) for v in n.outputs), n.where)
        for n in members
    )
    body = Graph(
        group.kind, tuple(inner[v] for v in inputs), tuple(inner[v] for v in outputs), body_nodes, constants
    )
    where = ", ".join(dict.fromkeys(n.where for n in members if n.where))
    return Node(Fused(body, group.kind), tuple(inputs), outputs, where)
