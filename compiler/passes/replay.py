"""A replay for rules that match patterns in the old graph.

`rewrite_graph` shows a rule one node over its new operands.  A pattern that spans several nodes needs the old graph, in
which users are known and nothing has been replaced yet, and the new values of whatever the pattern reads.  These have
all been operands of nodes seen before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.graph import Builder, Graph, Node, Result, Value, rewrite_graph


@dataclass(eq=False)
class Replay:
    """graph: the old one.  users: the nodes that read each old value; uses: how often it is read, by nodes and as an
    output.  b: the new graph."""

    graph: Graph
    users: dict[Value, list[Node]] = field(init=False)
    uses: Counter[Value] = field(init=False)
    b: Builder = field(init=False)
    _new: dict[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users = self.graph.users()
        self.uses = Counter({v: len(nodes) for v, nodes in self.users.items()})
        self.uses.update(self.graph.outputs)

    def new(self, *old: Value) -> tuple[Value, ...]:
        """The new values of old ones that some node up to the present one reads."""
        return tuple(self._new[v] for v in old)

    def learn(self, node: Node, inputs: tuple[Value, ...]) -> None:
        self._new.update(zip(node.inputs, inputs, strict=True))


def replay(graph: Graph, rule: Callable[[Replay, Node], Result]) -> Graph:
    """The graph rewritten by a rule that is given each old node in order, and returns its replacement or None."""
    state = Replay(graph)

    def step(b: Builder, node: Node, inputs: tuple[Value, ...]) -> Result:
        state.b = b
        state.learn(node, inputs)
        return rule(state, node)

    return rewrite_graph(graph, step)
