"""Fold multiplications and additions per channel into the constant weights and biases of contractions.

    Add(Mul(Conv(x, w), s), t)      ->  Conv(x, w * s, t)
    Mul(Add(MatMul(x, w), t), s)    ->  Add(MatMul(x, w * s), t * s)
    Conv(Mul(x, s), w)              ->  Conv(x, w * s)
    BatchNorm(x, scale, bias, mean, var: constant)  ->  Add(Mul(x, factor), offset), and then as above

A chain of such nodes is one affine map per channel, composed in f64 and rounded once.  It is folded if nothing else
reads what stands between, and if it has finite numbers.  An addition in front of a padded convolution stays: the border
would not be shifted.  Channels are the last axis everywhere, so this runs after `channels_last`.
"""

from __future__ import annotations

from typing import Union

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import Conv, ConvTranspose, MatMul
from ...ir.ops.elementwise import Binary
from ...ir.ops.norm import BatchNorm
from ...ir.types import DTYPES, is_float
from .affine import Affine, affine_of, chain_above
from .replay import Replay, replay

Contraction = Union[Conv, ConvTranspose, MatMul]
CONTRACTIONS = (Conv, ConvTranspose, MatMul)


def fold_scales(graph: Graph) -> Graph:
    """First what stands in front of contractions, then what follows them, then the BatchNorms that are left."""
    for rule in (_fold_before, _fold_after, _expand_batch_norm):
        graph = replay(graph, rule)
    return graph


def _fold_before(r: Replay, node: Node) -> Value | None:
    op = node.op
    if not isinstance(op, CONTRACTIONS) or not _has_own_weights(r, node):
        return None
    found = chain_above(r, node.inputs[0]) if r.uses[node.inputs[0]] == 1 else None
    if found is None or found[0].is_shift:
        return None
    chain, source = found
    x, *bias = r.new(source, *node.inputs[2:])
    weights = r.graph.constants[node.inputs[1]]
    shift = None
    if chain.shift.any():
        if isinstance(op, ConvTranspose) or any(getattr(op, "pads", ())):
            return None
        shift = (weights * _input_factor(op, weights, chain.shift)).reshape(-1, weights.shape[-1]).sum(0)
    scaled = _rounded(weights, _input_factor(op, weights, chain.scale))
    return None if scaled is None else _rebuilt(r, node, x, scaled, bias, shift)


def _fold_after(r: Replay, node: Node) -> Value | None:
    if affine_of(r.graph, node) is None or _continues(r, node):
        return None
    found = chain_above(r, node.outputs[0])
    contraction = r.graph.producers.get(found[1]) if found else None
    if found is None or contraction is None or not isinstance(contraction.op, CONTRACTIONS):
        return None
    chain, result = found
    product = isinstance(contraction.op, MatMul)
    if r.uses[result] != 1 or not _has_own_weights(r, contraction) or (product and chain.is_shift and chain.length == 1):
        return None
    weights = r.graph.constants[contraction.inputs[1]]
    scaled = _rounded(weights, _output_factor(contraction.op, weights, chain.scale))
    if scaled is None:
        return None
    x, *bias = r.new(contraction.inputs[0], *contraction.inputs[2:])
    if bias:
        shift = r.b.constants[bias[0]].astype(np.float64) * chain.scale + chain.shift
        return _rebuilt(r, contraction, x, scaled, [], shift)
    return _rebuilt(r, contraction, x, scaled, [], chain.shift if chain.shift.any() else None)


def _continues(r: Replay, node: Node) -> bool:
    """Whether the only user of the node is the next one of its chain."""
    (v,) = node.outputs
    users = r.users.get(v, [])
    return r.uses[v] == 1 and len(users) == 1 and users[0].inputs[0] is v and affine_of(r.graph, users[0]) is not None


def _has_own_weights(r: Replay, node: Node) -> bool:
    """Constant floating-point weights (a matrix, in a product) that nothing else reads, and a constant bias if any."""
    w = node.inputs[1]
    if isinstance(node.op, MatMul) and w.type.rank != 2:
        return False
    constant = all(v in r.graph.constants for v in node.inputs[1:])
    return constant and r.uses[w] == 1 and is_float(w.type.dtype)


def _rounded(weights: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
    """weights * factor in f64, in the type of the weights; None if the type does not hold the result."""
    if np.all(factor == 1):
        return weights
    with np.errstate(over="ignore"):
        scaled = np.multiply(weights, factor, dtype=np.float64).astype(weights.dtype)
    return scaled if np.isfinite(scaled).all() else None


def _rebuilt(
    r: Replay, node: Node, x: Value, weights: np.ndarray, bias: list[Value], shift: np.ndarray | None
) -> Value:
    """The contraction over new weights, plus the old bias and a shift per output channel."""
    w = r.b.constant(weights, node.inputs[1].name)
    total = shift
    if bias:
        total = r.b.constants[bias[0]].astype(np.float64) + (0 if shift is None else shift)
    if total is None:
        return r.b.add(node.op, x, w)
    channels = node.outputs[0].type.shape[-1]
    vector = np.broadcast_to(total, (channels,)).astype(DTYPES[x.type.dtype].numpy)  # type: ignore[arg-type]
    if isinstance(node.op, MatMul):
        return r.b.add(Binary("add"), r.b.add(node.op, x, w), r.b.constant(vector))
    return r.b.add(node.op, x, w, r.b.constant(vector))


# ---- where a channel stands in the weights -----------------------------------------------------------------------


def _output_factor(op: Contraction, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """One number per output channel, shaped to multiply the weights."""
    if not isinstance(op, ConvTranspose) or scale.size == 1:
        return scale
    per_group, channels = weights.shape[-2:]
    return np.repeat(scale.reshape(op.groups, per_group).T, channels // op.groups, axis=1)


def _input_factor(op: Contraction, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """One number per input channel, shaped to multiply the weights."""
    if isinstance(op, ConvTranspose) or scale.size == 1:
        return scale
    if isinstance(op, MatMul):
        return scale[:, None]
    per_group, outputs = weights.shape[-2:]
    return np.repeat(scale.reshape(op.groups, per_group).T, outputs // op.groups, axis=1)


# ---- batch normalisation -----------------------------------------------------------------------------------------


def _expand_batch_norm(r: Replay, node: Node) -> Value | None:
    """What could not be folded: two nodes per channel.  Half-precision floats would be rounded in between: they are
    left to the expansion of the operator."""
    if not isinstance(node.op, BatchNorm) or node.inputs[0].type.dtype not in ("f32", "f64"):
        return None
    found = affine_of(r.graph, node)
    if found is None:
        return None
    step: Affine = found[0]
    (x,) = r.new(node.inputs[0])
    dtype = DTYPES[x.type.dtype].numpy
    scaled = r.b.add(Binary("mul"), x, r.b.constant(step.scale.astype(dtype)))
    return r.b.add(Binary("add"), scaled, r.b.constant(step.shift.astype(dtype)))
