"""The seven combinations of a constant operand made when an instance is created, written into the packed layout in f32.

The default is to make them at compile time, in f64; the artifact then holds 1.75 times the constant.
"""

from __future__ import annotations

from ...ir.expr import Expr, as_expr, cast, load
from ...ir.kernel import Block, Buffer, For, Kernel, Store, axis
from ...ir.types import TensorType
from ..machine import Machine
from ..math import legalize_math
from ..schedule import has_loop, vectorize
from .scheduled import Pack
from .strassen import HalvedWeights, right_combinations
from .winograd import channel_loops


def halved_weights_kernel(pack: Pack, made: HalvedWeights, source: Buffer, target: Buffer, machine: Machine) -> Kernel:
    """source -> target[groups, 7, panels, reduction / 2, columns of a panel]; `made` says where the elements lie."""
    groups, _, each, depth, width = TensorType("i64", pack.shape).static_shape
    panels, columns = groups * each, groups * each * width
    share = axis("p", panels * depth)
    panel, k = share // depth, share % depth

    def body(column: Expr) -> Block:
        n = panel * width + column
        parts = [cast(load(source, *made.at(row, col)), "f32") for row in (k, k + depth) for col in (n, n + columns)]
        at = lambda s: (panel // each, as_expr(s), panel % each, k, column)  # noqa: E731
        return tuple(Store(target, at(s), value) for s, value in enumerate(right_combinations(*parts)))

    loops = channel_loops(width, machine.lanes("f32"), ("ob", "ol", "ot"), body)
    kernel = legalize_math(Kernel("weights", (target, source), (For(share, loops, "parallel"),)), machine)
    for lane in ("ol", "ot"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    return kernel
