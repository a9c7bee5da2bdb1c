"""Products with few rows (one token, one image): every output is a sum along a line of the weights, which lie in rows of k.

    y[n] = sum_k x[k] * w[k, n]   ->   y[n] = sum_k x[k] * w'[n, k], a warp or more for each n

What limits them is reading the weights once; a tile of 16 rows or more would be mostly empty.
"""

from __future__ import annotations

from ....ir.compute import Compute
from ....ir.dims import split_index
from ....ir.expr import Expr, cast
from ....ir.kernel import Buffer, axis
from ....ir.traverse import substitute
from ....ir.types import DTYPES
from ..scheduled import Pack
from .operand import ACCESS, MatrixProduct

LEAST_DEPTH = 64  # of k that is worth a warp


def skinny_product(p: MatrixProduct) -> tuple[Compute, Buffer, Pack] | None:
    """The product as a reduction along rows of its packed weights, or None where it has none, or a border."""
    batches, rows, columns, k = p.sizes
    if p.right_pack is None or p.left.inside is not None or k < LEAST_DEPTH or p.left.width_k == 1:
        return None
    right, pack = p.right_pack("w", ACCESS // DTYPES[p.right.dtype].size, True)
    c = p.compute
    b, r, n, depth = axis("b", batches), axis("r", rows), axis("n", columns), axis("k", k)
    values: dict[Expr, Expr] = {
        v: e for axes, flat in ((p.batch, b), (p.rows, r), (p.columns, n))
        for v, e in zip(axes, split_index([int(a.extent) for a in axes], flat), strict=True)  # type: ignore[arg-type]
    }
    made = Compute(
        c.out, (b, r, n), cast(p.left.at(b, r, depth), c.acc) * cast(right.at(b, n, depth), c.acc), (depth,), "add",
        None if c.finish is None else substitute(c.finish, values), tuple(substitute(i, values) for i in c.out_index),
        substitute(c.init, values) if isinstance(c.init, Expr) else c.init,
    )
    return made, right.buffer, pack
