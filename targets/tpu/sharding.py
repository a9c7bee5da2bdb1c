"""Which dimension of which tensor is split over the chips; XLA's partitioner works out the rest.

"data": the first dimension of every input and output that has the batch there.  "model": the weights of large products,
alternately by columns and by rows, so that one sum over the chips (all-reduce) follows every second product.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...ir.errors import OptionError
from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import MatMul
from ...ir.ops.elementwise import Binary

Split = tuple["str | None", ...]
_LEAST_WEIGHT = 1 << 16  # elements; splitting less costs more than it saves


def parse_shard(shard: str) -> tuple[str, int]:
    """("data", 4) of "data=4"; ("", 1) of nothing."""
    axis, _, count = shard.partition("=")
    return (axis, int(count)) if shard else ("", 1)


def shardings(graph: Graph, shard: str) -> dict[Value, Split]:
    """The split tensors among inputs, outputs and constants.  Raises OptionError if nothing can be split."""
    axis, count = parse_shard(shard)
    if not axis or count == 1:
        return {}
    found = _batches(graph, count) if axis == "data" else _weights(graph, count)
    if not found:
        what = "first dimension of the inputs" if axis == "data" else "weights of the large products"
        raise OptionError(f"shard {shard!r}: the {what} cannot be split over {count} chips; choose a number that divides it")
    return found


def _batches(graph: Graph, count: int) -> dict[Value, Split]:
    """The batch is the first dimension of the first input that has one."""
    sizes = [v.type.shape[0] for v in graph.inputs if v.type.rank > 0]
    batch = sizes[0] if sizes else 0
    if not isinstance(batch, int) or batch == 0 or batch % count:
        return {}
    return _leading((*graph.inputs, *graph.outputs), batch)


def _leading(values: Iterable[Value], batch: int) -> dict[Value, Split]:
    return {v: ("data", *[None] * (v.type.rank - 1)) for v in values if v.type.rank > 0 and v.type.shape[0] == batch}


def _weights(graph: Graph, count: int) -> dict[Value, Split]:
    """A product whose operand depends on a product split by columns is split by rows, if the sizes allow it; a bias is
    split with the columns that it is added to."""
    found: dict[Value, Split] = {}
    split: set[Value] = set()
    columns: set[Value] = set()
    for node in graph.nodes:
        if isinstance(node.op, Binary) and any(v in columns for v in node.inputs):
            found.update((v, ("model",)) for v in node.inputs if v in graph.constants and _is_bias(v, node))
        depends = any(v in split for v in node.inputs)
        if isinstance(node.op, MatMul) and node.inputs[1] in graph.constants and node.inputs[1].type.rank == 2:
            w = node.inputs[1]
            way = _way(w.type.static_shape, depends, count) if w.type.size >= _LEAST_WEIGHT else None
            if way is not None and w not in found:
                found[w] = way
            depends = way == (None, "model")
            columns.update(node.outputs if depends else ())
        if depends:
            split.update(node.outputs)
    return found


def _is_bias(v: Value, node: Node) -> bool:
    return v.type.rank == 1 and v.type.shape[0] == node.outputs[0].type.shape[-1]


def _way(shape: tuple[int, ...], depends: bool, count: int) -> Split | None:
    rows, columns = shape
    if depends:
        return ("model", None) if rows % count == 0 else None
    return (None, "model") if columns % count == 0 else None
