"""Positions for the pictures of a report: a graph in layers, and memory over time.  Markup is in the template.

Layers: a node stands one below its lowest producer.  Within a layer nodes are ordered by the mean position of their
producers, so that chains run straight down; long layers are broken into several rows, so that a picture of any graph is
bounded in width and grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..codegen.program import Placement
from ..ir.graph import Graph, Node

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 168, 26, 14, 26
ROW_BOXES = 8
MEMORY_HEIGHT, MEMORY_WIDTH = 320, 960
LABEL_LETTERS = 23


@dataclass(frozen=True)
class Box:
    """One node: top left corner in pixels, what is written in it, what a pointer shows, and a class for its colour."""

    x: float
    y: float
    label: str
    title: str
    kind: str


@dataclass(frozen=True)
class Line:
    """From the bottom of one box to the top of another; a long one is drawn faintly."""

    x1: float
    y1: float
    x2: float
    y2: float
    long: bool


@dataclass(frozen=True)
class Picture:
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def draw_graph(graph: Graph) -> Picture:
    """The nodes of a graph in layers."""
    rows = _rows(graph)
    width = max((len(r) for r in rows), default=1) * (BOX_WIDTH + GAP_X) + GAP_X
    place: dict[Node, tuple[float, float]] = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for x, node in enumerate(row):
            place[node] = (left + x * (BOX_WIDTH + GAP_X), GAP_Y + y * (BOX_HEIGHT + GAP_Y))
    boxes = tuple(Box(x, y, _label(n), node_title(n), n.op.name) for n, (x, y) in place.items())
    return Picture(width, GAP_Y + len(rows) * (BOX_HEIGHT + GAP_Y), boxes, tuple(_lines(graph, place)))


def _rows(graph: Graph) -> list[list[Node]]:
    layer: dict[Node, int] = {}
    for node in graph.nodes:
        above = [layer[graph.producers[v]] for v in node.inputs if v in graph.producers]
        layer[node] = 1 + max(above, default=-1)
    layers: list[list[Node]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for node, n in layer.items():
        layers[n].append(node)
    column: dict[Node, float] = {}
    rows: list[list[Node]] = []
    for nodes in layers:
        nodes.sort(key=lambda n: _mean([column[graph.producers[v]] for v in n.inputs if v in graph.producers]))
        for i, node in enumerate(nodes):
            column[node] = i - len(nodes) / 2
        rows += [nodes[i : i + ROW_BOXES] for i in range(0, len(nodes), ROW_BOXES)]
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _lines(graph: Graph, place: dict[Node, tuple[float, float]]) -> list[Line]:
    middle = BOX_WIDTH / 2
    lines = []
    for node, (x, y) in place.items():
        for producer in dict.fromkeys(graph.producers[v] for v in node.inputs if v in graph.producers):
            px, py = place[producer]
            long = y - py > 6 * (BOX_HEIGHT + GAP_Y)
            lines.append(Line(px + middle, py + BOX_HEIGHT, x + middle, y, long))
    return lines


def _label(node: Node) -> str:
    shape = "x".join(map(str, node.outputs[0].type.shape)) if node.outputs else ""
    text = f"{short_name(node)} {shape}".strip()
    return text if len(text) <= LABEL_LETTERS else text[: LABEL_LETTERS - 1] + "\u2026"


def short_name(node: Node) -> str:
    """The operator in one or two words: a family by its member, a fused group by its kind."""
    for field in ("fn", "kind"):
        word = getattr(node.op, field, None)
        if isinstance(word, str):
            return f"{node.op.name} {word}"
    return node.op.name


def node_title(node: Node) -> str:
    ins, outs = (", ".join(str(v.type) for v in vs) for vs in (node.inputs, node.outputs))
    return f"{short_name(node)}: {ins} -> {outs}" + (f"  ({node.where})" if node.where else "")


@dataclass(frozen=True)
class Slab:
    """One allocation: steps from left to right, addresses from bottom to top."""

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


def draw_memory(placements: Sequence[Placement], arena: int, steps: int, colours: int = 8) -> tuple[Slab, ...]:
    """Every allocation as a rectangle of MEMORY_WIDTH x MEMORY_HEIGHT in all."""
    per_step, per_byte = MEMORY_WIDTH / max(steps, 1), MEMORY_HEIGHT / max(arena, 1)
    return tuple(
        Slab(
            p.first * per_step, MEMORY_HEIGHT - (p.offset + p.size) * per_byte, (p.last - p.first + 1) * per_step,
            p.size * per_byte, i % colours, f"{p.name}: {p.size} bytes at {p.offset}, steps {p.first} to {p.last}",
        )
        for i, p in enumerate(placements)
    )
