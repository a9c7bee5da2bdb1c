"""Transformed weights made when an instance is created: U = G w G^T in f32, written into the packed layout.

The artifact then holds the weights as the model has them; the transformed ones (4 or 1.8 times as large) exist in memory
only.  The default is to make them at compile time, in f64.
"""

from __future__ import annotations

from ...ir.expr import Expr, as_expr, cast, load
from ...ir.kernel import Block, Buffer, For, Kernel, Store, axis
from ...ir.types import TensorType
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, has_loop, vectorize
from .scheduled import Pack
from .winograd import channel_loops
from .winograd_transforms import Taps, WinogradWeights


def weights_kernel(pack: Pack, made: WinogradWeights, source: Buffer, target: Buffer, machine: Machine) -> Kernel:
    """source[3, 3, C, O] -> target[products, panels, slots * C, columns of a panel]; pack says which columns."""
    _, panels, depth, width = TensorType("i64", pack.shape).static_shape
    start = pack.origin[-1]
    taps = made.taps()
    channels = depth // len(taps[0])
    share = axis("p", panels * channels)
    panel, k = share // channels, share % channels

    def body(column: Expr) -> Block:
        w = [[cast(load(source, i, j, k, panel * width + column + start), "f32") for j in range(3)] for i in range(3)]
        half = {row: [_combine(row, [w[i][j] for i in range(3)]) for j in range(3)] for plane in taps for row, _ in plane}
        return tuple(
            Store(target, (as_expr(b), panel, k + slot * channels, column), _combine(factors, half[row]))
            for b, plane in enumerate(taps) for slot, (row, factors) in enumerate(plane)
        )

    loops = channel_loops(width, machine.lanes("f32"), ("ob", "ol", "ot"), body)
    kernel = legalize_math(Kernel("weights", (target, source), (For(share, loops, "parallel"),)), machine)
    for lane in ("ol", "ot"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    return fma_contract(kernel) if machine.fma else kernel


def _combine(coefficients: Taps, values: list[Expr]) -> Expr:
    terms = [v if c == 1.0 else v * c for c, v in zip(coefficients, values, strict=True) if c != 0.0]
    total = terms[0]
    for t in terms[1:]:
        total = total + t
    return total
