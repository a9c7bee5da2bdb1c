"""Multiply the weights of a 1 x 1 convolution by the scales of its input channels, where these are fewer numbers.

    Conv(Mul(x, s), w)  ->  Conv(x, Mul(w, s'))      x[1, ..., C], s[1, ..., 1, C] computed, w[1, ..., 1, C, N] constant

What squeeze-and-excitation does to an image: the scales are known only after the whole image, so that the multiplication is
a pass over memory of its own, and on two threads moves what each has in its cache.  The products change in their last bits,
like those of any other order of the same factors, so `--accuracy strict` leaves them.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Graph, Node, Value
from ...ir.ops.contract import Conv
from ...ir.ops.elementwise import Binary
from ...ir.ops.movement import Reshape
from .replay import Replay, replay

FEWER = 4  # times as many numbers in x as in w: the weights are packed once more
DENSE = 0.75  # of the weights are not zero: kernels that skip zeros need constants


def scale_weights(graph: Graph, accuracy: str = "default") -> Graph:
    return graph if accuracy == "strict" else replay(graph, _rule)


def _rule(r: Replay, node: Node) -> Value | None:
    if not isinstance(node.op, Conv) or node.op.groups > 1 or any(node.op.pads):
        return None
    x, w = node.inputs[:2]
    if w not in r.graph.constants or w.type.dtype != "f32" or any(n != 1 for n in w.type.shape[:-2]):
        return None
    if np.count_nonzero(r.graph.constants[w]) < DENSE * r.graph.constants[w].size:
        return None
    made = r.graph.producers.get(x)
    if made is None or r.uses[x] != 1 or made.op != Binary("mul"):
        return None
    shape, weights = x.type.shape, w.type.shape
    pixels = 1
    for n in shape[:-1]:
        pixels *= n if isinstance(n, int) else 0
    if shape[0] != 1 or not isinstance(weights[-1], int) or pixels < FEWER * weights[-1]:
        return None
    for image, scales in (made.inputs, made.inputs[::-1]):
        if image.type.shape == shape and scales.type.shape == (*(1 for _ in shape[:-1]), shape[-1]):
            left, right, factors = r.new(image, w, scales)
            factors = r.b.add(Reshape((*weights[:-1], 1)), factors)
            return r.b.add(node.op, left, r.b.add(Binary("mul"), right, factors), *r.new(*node.inputs[2:]))
    return None
