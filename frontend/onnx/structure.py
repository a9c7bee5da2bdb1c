"""The order of nodes, and names: what the protobuf does not guarantee about a graph."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from onnx import GraphProto, NodeProto

from ...ir.errors import ModelError
from .attributes import describe


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured_names(graph: GraphProto) -> list[str]:
    """The outer values that a subgraph reads, in order of first use."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {t.values.name for t in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    names = [name for name in outer_names(graph.node) if name not in own]
    return [*names, *(v.name for v in graph.output if v.name not in own and v.name not in names)]


def outer_names(nodes: Sequence[NodeProto]) -> list[str]:
    """The values that nodes read and none of them makes, in order of first use."""
    made = {name for node in nodes for name in node.output}
    return list(dict.fromkeys(name for node in nodes for name in read_names(node) if name not in made))


def read_names(node: NodeProto) -> list[str]:
    """Every value that a node reads, those that its subgraphs capture included."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        names += captured_names(graph)
    return names


def sorted_nodes(nodes: Sequence[NodeProto], defined: Iterable[str], where: str) -> list[NodeProto]:
    """The nodes in an order of execution, the given one as far as possible.

    defined: names that exist before the nodes run.  Raises ModelError for a value that two nodes make, one that nothing
    makes, and a cycle.
    """
    known = set(defined)
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in known:
                first = describe(nodes[producer[name]]) if name in producer else "an input or initializer"
                raise ModelError(f"{where}: value {name!r} is made twice, by {first} and by {describe(node)}")
            producer[name] = i
    waits, users = _dependencies(nodes, known, producer, where)
    ready = [i for i, needs in enumerate(waits) if not needs]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users[i]:
            waits[user].discard(i)
            if not waits[user]:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        raise ModelError(f"{where}: the nodes form a cycle: {_cycle(nodes, waits)}")
    return [nodes[i] for i in order]


def _dependencies(
    nodes: Sequence[NodeProto], known: set[str], producer: dict[str, int], where: str
) -> tuple[list[set[int]], list[list[int]]]:
    waits: list[set[int]] = []
    users: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        needs: set[int] = set()
        for name in read_names(node):
            if name in producer:
                needs.add(producer[name])
            elif name not in known:
                raise ModelError(
                    f"{where}: {describe(node)} reads {name!r}, which is neither an input, an initializer, nor made by a "
                    "node; the model is incomplete"
                )
        waits.append(needs)
        for n in needs:
            users[n].append(i)
    return waits, users


def _cycle(nodes: Sequence[NodeProto], waits: Sequence[set[int]]) -> str:
    """One cycle among the nodes that still wait, as text."""
    path: list[int] = []
    i = next(n for n, needs in enumerate(waits) if needs)
    while i not in path:
        path.append(i)
        i = min(waits[i])
    names = [describe(nodes[n]) for n in path[path.index(i) :][::-1]]
    shown = names if len(names) <= 8 else [*names[:4], f"... {len(names) - 7} more ...", *names[-3:]]
    return " -> ".join([*shown, names[0]])
