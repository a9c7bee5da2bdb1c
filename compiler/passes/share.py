"""Compute equal things once and nothing in vain.

    a = exp(x); b = exp(x); c = neg(x); y = a + b   ->   a = exp(x); y = a + a

This is what every replay does; the pass exists for graphs that no other pass has replayed yet.
"""

from __future__ import annotations

from ...ir.graph import Graph, rewrite_graph


def share(graph: Graph) -> Graph:
    """The graph with equal nodes merged, and without nodes and constants that no output needs."""
    return rewrite_graph(graph, lambda b, node, inputs: None)
