"""Chains of nodes that multiply by and add constants per channel (the last axis), as one affine map in f64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.ops.elementwise import Binary
from ...ir.ops.norm import BatchNorm
from ...ir.types import is_float
from .replay import Replay


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x * scale + shift; both f64, of shape () or (channels,).  length: of how many nodes."""

    scale: np.ndarray
    shift: np.ndarray
    length: int = 1

    @property
    def is_shift(self) -> bool:
        return bool(np.all(self.scale == 1))

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    def then(self, outer: Affine) -> Affine:
        return Affine(
            self.scale * outer.scale, self.shift * outer.scale + outer.shift, self.length + outer.length
        )


_ONE, _ZERO = np.ones(()), np.zeros(())
_RIGHT: dict[str, Callable[[np.ndarray], Affine]] = {  # x fn c
    "add": lambda c: Affine(_ONE, c),
    "sub": lambda c: Affine(_ONE, -c),
    "mul": lambda c: Affine(c, _ZERO),
    "div": lambda c: Affine(1 / c, _ZERO),
}
_LEFT: dict[str, Callable[[np.ndarray], Affine]] = {  # c fn x
    "add": _RIGHT["add"],
    "sub": lambda c: Affine(-_ONE, c),
    "mul": _RIGHT["mul"],
}


def affine_of(graph: Graph, node: Node) -> tuple[Affine, Value] | None:
    """The map of one node and the value that it maps, if it is affine with finite constants per channel."""
    out = node.outputs[0].type
    if not is_float(out.dtype):
        return None
    found: tuple[Affine, Value] | None = None
    with np.errstate(all="ignore"):
        if isinstance(node.op, BatchNorm):
            found = _batch_norm(graph, node, node.op)
        elif isinstance(node.op, Binary):
            found = _binary(graph, node, node.op)
    fits = found is not None and found[1].type == out and found[0].is_finite
    return found if fits else None


def _binary(graph: Graph, node: Node, op: Binary) -> tuple[Affine, Value] | None:
    for x, other, table in ((0, 1, _RIGHT), (1, 0, _LEFT)):
        constant = graph.constants.get(node.inputs[other])
        vector = None if constant is None or op.fn not in table else _per_channel(constant)
        if vector is not None:
            return table[op.fn](vector), node.inputs[x]
    return None


def _per_channel(constant: np.ndarray) -> np.ndarray | None:
    """The numbers of a constant that has one per channel, or one in all."""
    if constant.size == 1:
        return constant.reshape(()).astype(np.float64)
    if constant.size != constant.shape[-1]:
        return None
    return constant.reshape(-1).astype(np.float64)


def _batch_norm(graph: Graph, node: Node, op: BatchNorm) -> tuple[Affine, Value] | None:
    constants = [graph.constants.get(v) for v in node.inputs[1:]]
    if any(c is None for c in constants):
        return None
    scale, bias, mean, variance = (c.astype(np.float64) for c in constants if c is not None)
    factor = scale / np.sqrt(variance + op.epsilon)
    return Affine(factor, bias - mean * factor), node.inputs[0]


def chain_above(r: Replay, v: Value) -> tuple[Affine, Value] | None:
    """The longest chain that ends in v, and what it starts from; None if v is not made by an affine node that only the
    chain reads."""
    chain: Affine | None = None
    while True:
        node = r.graph.producers.get(v)
        found = affine_of(r.graph, node) if node is not None and (chain is None or r.uses[v] == 1) else None
        if found is None:
            break
        chain = found[0] if chain is None else found[0].then(chain)
        v = found[1]
    return None if chain is None or not chain.is_finite else (chain, v)
