"""The parts of a constant right operand: its seven combinations for halved products, and what a direct product needs besides.

    parts [b12] b22 b11 b21 t1 t2 t2-b21 b22-b12        of the quarters b11 b12 / b21 b22;  t1 = b12 - b11, t2 = b22 - t1

Seven of them are 1.75 times the constant.  With b12 in front all quarters are there, and those of one half of the columns
follow each other: a panel of the direct product is one run of memory, and code with both products keeps twice the constant.

They are made at compile time, in f64, or when an instance is created, in f32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.expr import Expr, as_expr, cast, load
from ...ir.kernel import Block, Buffer, For, Kernel, Store, axis
from ...ir.traverse import substitute
from ...ir.types import TensorType
from ..machine import Machine
from ..math import legalize_math
from ..schedule import has_loop, vectorize
from .axes import size_of
from .product import Product
from .scheduled import Pack
from .winograd import channel_loops

PRODUCTS = 7
BOTH = 8
"""Parts that serve direct products, too."""


def right_combinations(b11: Expr, b12: Expr, b21: Expr, b22: Expr) -> tuple[Expr, ...]:
    t1 = b12 - b11
    t2 = b22 - t1
    return b22, b11, b21, t1, t2, t2 - b21, b22 - b12


@dataclass(frozen=True)
class HalvedWeights:
    """matrix: where the [reduction, columns] of a constant lie in the source.  parts: PRODUCTS, or BOTH."""

    matrix: Pack
    parts: int = PRODUCTS

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """[parts * reduction / 2, columns / 2] in f32; computed in f64, rounded once."""
        w = self.matrix.apply(array).astype(np.float64)
        k, n = w.shape[0] // 2, w.shape[1] // 2
        made = self.of(w[:k, :n], w[:k, n:], w[k:, :n], w[k:, n:])  # type: ignore[arg-type]  # arrays add, too
        return np.concatenate([np.asarray(m) for m in made]).astype(np.float32)

    def of(self, b11: Expr, b12: Expr, b21: Expr, b22: Expr) -> tuple[Expr, ...]:
        made = right_combinations(b11, b12, b21, b22)
        return (b12, *made) if self.parts == BOTH else made

    def at(self, k: Expr, n: Expr) -> tuple[Expr, ...]:
        """The index of an element of the matrix in the source."""
        down, right = self.matrix.steps
        return tuple(o + k * i + n * j for o, i, j in zip(self.matrix.origin, down, right, strict=True))


def pack_parts(p: Product, width: int, parts: int) -> Pack:
    """[panel][part * reduction][columns of the panel]."""
    depth, columns = size_of(p.reduce[0]) // 2, size_of(p.columns) // 2

    def at(values: dict[Expr, int]) -> tuple[int, ...]:
        mapping: dict[Expr, Expr] = {x: as_expr(values.get(x, 0)) for x in (*p.compute.axes, *p.compute.reduce)}
        return tuple(substitute(i, mapping).value for i in p.right.idx)  # type: ignore[attr-defined]

    origin = at({})
    steps = tuple(
        tuple(b - a for a, b in zip(origin, at({x: 1}), strict=True)) for x in (p.reduce[0], p.columns)
    )
    matrix = Pack(p.right.buf.name, (2 * depth, 2 * columns), origin, steps)
    shape = (columns // width, parts * depth, width)
    return Pack(p.right.buf.name, shape, (0, 0), ((0, width), (1, 0), (0, 1)), HalvedWeights(matrix, parts))


def halved_weights_kernel(pack: Pack, made: HalvedWeights, source: Buffer, target: Buffer, machine: Machine) -> Kernel:
    """source -> target[panels, parts * reduction / 2, columns of a panel]; `made` says where the elements lie."""
    panels, rows, width = TensorType("i64", pack.shape).static_shape
    depth, columns = rows // made.parts, panels * width
    share = axis("p", panels * depth)
    panel, k = share // depth, share % depth

    def body(column: Expr) -> Block:
        n = panel * width + column
        parts = [cast(load(source, *made.at(row, col)), "f32") for row in (k, k + depth) for col in (n, n + columns)]
        return tuple(Store(target, (panel, k + s * depth, column), value) for s, value in enumerate(made.of(*parts)))

    loops = channel_loops(width, machine.lanes("f32"), ("ob", "ol", "ot"), body)
    kernel = legalize_math(Kernel("weights", (target, source), (For(share, loops, "parallel"),)), machine)
    for lane in ("ol", "ot"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    return kernel
