"""Large products with seven products of half the size for eight: one level of Strassen's scheme in Winograd's form.

    V[s] = the seven combinations of the quarters of the left operand
    P[s] = V[s] U[s], U: those of the constant right operand (`strassen_weights.py`)
    y    = sums of the P, finished

A block is twice as many neighbouring rows as it has pairs, the first half of them paired with the second; rows that the last
block lacks are read as the last one, and what they give is not stored.  P is scratch memory of a few panels of columns,
small enough for the cache: the panels of one combination follow each other, and read its V from the cache.  With many rows
each thread takes blocks of them through everything; with few, the threads share halves of the rows and groups of columns,
and each has a V of its own, of the halves that it meets: one that all write and read costs two cores on different dies more
than making it twice.  Two threads have a half of the rows each, from layer to layer; one takes a group of columns through
both halves, and reads weights once.

With an open number of rows (`schedule_open_halves`) the threads share the columns of one block after another, and the same
kernel has the direct product for few rows, which reads quarters of the constant among the parts.
Source: S. Winograd, "On multiplication of 2 x 2 matrices", 1971.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir.compute import Compute
from ...ir.dims import join_index, multiply_dims, normal_dim, split_index
from ...ir.expr import Expr, as_expr, binary, load
from ...ir.kernel import Alloc, Block, Buffer, For, If, Kernel, Store, axis
from ...ir.traverse import substitute
from ...ir.types import Dim
from ..machine import Machine
from ..math import legalize_math
from ..schedule import fma_contract, vectorize
from ..schedule.rewrite import has_loop, replace_accesses
from .axes import extents, size_of
from .choices import Choice
from .contract import schedule_product
from .open_axes import typical
from .product import Product, find_product
from .scheduled import Group, Scheduled
from .strassen_plan import (
    Plan,
    blocks_of,
    is_worth_halving,
    plan_halves,
    plan_open_halves,
    row_range,
    rows_of,
    rows_worth_halving,
    tiles_of_columns,
)
from .strassen_weights import BOTH, PRODUCTS, pack_parts
from .winograd import LINE, channel_loops, finished, on_buffers


def left_combinations(a11: Expr, a12: Expr, a21: Expr, a22: Expr) -> tuple[Expr, ...]:
    """In the order of `right_combinations`."""
    s1 = a21 + a22
    s2 = s1 - a11
    return a12 - s2, a11, a12, s1, s2, a22, a11 - a21


def quarters(p3: Expr, p1: Expr, p2: Expr, p5: Expr, p6: Expr, p4: Expr, p7: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """The quarters of the output: upper left, upper right, lower left, lower right."""
    u2 = p1 + p6
    u3 = u2 + p7
    return p1 + p2, u2 + p5 + p3, u3 - p4, u3 + p5


def schedule_large_product(group: Group, p: Product, machine: Machine) -> Scheduled | None:
    """The halved product where that is expected to pay; the direct one, if other programs have its weights in parts; None for
    a product that reads its weights as they are.  p: of `halved_product`."""
    choice, total = group.choice, rows_of(p)
    in_parts = choice.parts == BOTH and choice.panel is not None
    if isinstance(total, int):
        fits = total > 1 and choice.halved != 0
        if fits and (choice.halved or is_worth_halving(p, machine, choice=choice)):
            return schedule_halved(group, p, machine)
        return _finish(direct_from_parts(group, p, machine), machine) if in_parts else None
    least = rows_worth_halving(p, machine, choice) if choice.halved is None else 2 if choice.halved else None
    low, high, middle = row_range(p, group.symbols)
    if least is None or (high is not None and high < least) or (middle < least and not in_parts):
        return _finish(direct_from_parts(group, p, machine), machine) if in_parts else None
    return schedule_open_halves(group, p, machine, least if low < least else 0)


def schedule_halved(group: Group, p: Product, machine: Machine) -> Scheduled:
    """p: of `halved_product`, with a known number of rows, at least two."""
    plan = plan_halves(p, machine, group.choice, group.choice.parts or PRODUCTS)
    v, sums, weights = _left(plan), _sums(plan), _parts(plan)
    product = _products(group, plan, machine)
    gather = axis("t_in", plan.block)
    assert isinstance(plan.rows, int) and isinstance(plan.block, int)
    blocks = -(-plan.rows // plan.block)

    if not plan.shared:
        share, no = axis("share", blocks), axis("no", plan.groups)
        first = share * plan.block
        columns = _columns(plan, p, product, v, sums, weights, first, no)
        inner = (For(gather, _gather(plan, p, v, first, gather)), For(no, columns))
        body: Block = (For(share, (Alloc(v), Alloc(sums), *inner), "parallel"),)
    else:
        share = axis("share", blocks * plan.groups)
        half, no = share // plan.groups, share % plan.groups
        first = half * plan.block
        every, made = Buffer("v", "f32", (blocks, *v.shape), "stack"), Buffer("made", "i64", (blocks,), "stack")
        clear, missing = axis("clear", blocks), binary("eq", made[half], 0)
        inner = (
            If(missing, (For(gather, _gather(plan, p, v, first, gather)), Store(made, (half,), as_expr(1)))),
            Alloc(sums), *_columns(plan, p, product, v, sums, weights, first, no),
        )
        inner = replace_accesses(inner, v, every, lambda *at: (half, *at))
        shared = For(share, inner, "parallel", (("interleave", blocks),) if blocks > 1 else ())
        body = (Alloc(every), Alloc(made), For(clear, (Store(made, (clear,), as_expr(0)),)), shared)
    how = f"blocks of {plan.block} row pairs" + (", whose columns threads share" if plan.shared else "")
    note = f"seven products of half the size, {how}, {plan.group} panels at a time; {product.note}"
    packs = (("w0", pack_parts(p, plan.width, plan.parts)),)
    return _finish(Scheduled(Kernel("halved", (*group.params, weights), body), packs, note), machine)


def schedule_open_halves(group: Group, p: Product, machine: Machine, least: int) -> Scheduled:
    """p: of `halved_product`, with an open number of rows.  least: with fewer rows the product is direct; 0: never."""
    plan = plan_open_halves(p, machine, group.choice, group.choice.parts or (BOTH if least else PRODUCTS))
    product = _products(group, plan, machine)
    v, sums, weights = _left(plan), _sums(plan), _parts(plan)
    many: Dim = binary("min", as_expr(plan.total) / least, 1) if least else 1
    blocks = multiply_dims([many, blocks_of(plan.rows, plan.most)])
    gather, share, block = axis("t_in", plan.block), axis("share", plan.groups), axis("block", blocks)
    first = binary("min", block * as_expr(plan.block), as_expr(plan.rows) - plan.block)
    halved = For(block, (
        Alloc(v), For(gather, _gather(plan, p, v, first, gather)),
        For(share, (Alloc(sums), *_columns(plan, p, product, v, sums, weights, first, share)), "parallel"),
    ))
    body: Block = (halved,)
    note = f"seven products of half the size, in blocks that threads share, {plan.group} panels at a time; {product.note}"
    if least:
        direct = direct_from_parts(group, p, machine, plan)
        body = (halved, For(axis("few", normal_dim(1 - as_expr(many))), direct.kernel.body))
        note += f"; below {least} rows {direct.note}"
    packs = (("w0", pack_parts(p, plan.width, plan.parts)),)
    return _finish(Scheduled(Kernel("halved", (*group.params, weights), body), packs, note), machine)


def direct_from_parts(group: Group, p: Product, machine: Machine, plan: Plan | None = None) -> Scheduled:
    """The product itself, which reads the quarters among the parts of its constant (`BOTH`).  plan: of the halved product in
    the same kernel."""
    depth, columns, lanes = size_of(p.reduce[0]), size_of(p.columns), machine.lanes("f32")
    width = plan.width if plan is not None else group.choice.panel or 0
    rows = [typical(v.extent, group.symbols) for v in p.rows] or [1]
    tiles = tiles_of_columns(min(rows[-1], 4096), columns, depth, lanes, machine)
    tile = min(((cycles, t) for cycles, t in tiles if t.vectors * lanes == width), key=lambda cost: cost[0])[1]
    choice = Choice(rows=tile.rows, vectors=tile.vectors)
    made = schedule_product(replace(group, choice=choice), p, machine)
    packed = made.kernel.param("w0")
    half = columns // width // 2
    weights = Buffer("w0", "f32", (half, BOTH * depth // 2, width))

    def index(panel: Expr, k: Expr, n: Expr) -> tuple[Expr, ...]:
        return panel % half, k + (1 - panel // half) * depth, n

    kernel = replace(made.kernel, params=tuple(weights if b is packed else b for b in made.kernel.params),
                     body=replace_accesses(made.kernel.body, packed, weights, index))
    return Scheduled(kernel, (("w0", pack_parts(p, width, BOTH)),), made.note)


def _finish(made: Scheduled, machine: Machine) -> Scheduled:
    """With the loops of this file in vectors."""
    kernel = legalize_math(made.kernel, machine)
    for lane in ("cl", "ct", "ol"):
        kernel = vectorize(kernel, lane) if has_loop(kernel, lane) else kernel
    return replace(made, kernel=fma_contract(kernel) if machine.fma else kernel)


# ---- buffers -------------------------------------------------------------------------------------------------------


def _left(plan: Plan) -> Buffer:
    """V, each combination on lines of its own."""
    return Buffer("v", "f32", (PRODUCTS, normal_dim(multiply_dims([plan.block, plan.depth]) + LINE)), "stack")


def _sums(plan: Plan) -> Buffer:
    """P of one group of columns."""
    return Buffer("sums", "f32", (PRODUCTS, plan.most * plan.span + LINE), "stack")


def _parts(plan: Plan) -> Buffer:
    return Buffer("w0", "f32", (plan.groups * plan.group, plan.parts * plan.depth, plan.width))


# ---- the three phases ----------------------------------------------------------------------------------------------


def _products(group: Group, plan: Plan, machine: Machine) -> Scheduled:
    """P[s, t, n] = sum over k of V[s, t, k] U[s, k, n] for one group of columns."""
    v, out = (replace(b, space="global") for b in (_left(plan), _sums(plan)))
    u = Buffer("u", "f32", (PRODUCTS, plan.depth, plan.span))
    b, t, n, k = axis("b", PRODUCTS), axis("t", plan.block), axis("n", plan.span), axis("k", plan.depth)
    c = Compute(out, (b, t, n), v[b, t * plan.depth + k] * u[b, k, n], (k,), "add", index=(b, t * plan.span + n))
    p = find_product(c)
    assert p is not None
    choice = replace(group.choice, rows=plan.tile.rows, vectors=plan.tile.vectors, chunks=1, winograd=None, block=None)
    return schedule_product(Group("product", (c,), (out, v), constants=frozenset(["u"]), choice=choice), p, machine)


def _columns(
    plan: Plan, p: Product, product: Scheduled, v: Buffer, sums: Buffer, weights: Buffer, first: Expr, no: Expr
) -> Block:
    """The seven products and the outputs of one block and one group of columns."""
    shape = (plan.groups, PRODUCTS, plan.group)

    def index(b: Expr, panel: Expr, k: Expr, n: Expr) -> tuple[Expr, ...]:
        """Of the next panel, too, which is that of the next combination or group."""
        following = join_index(shape, (no, b, panel))
        group, part, panel = split_index(shape, following)
        return group * plan.group + panel, (part + (plan.parts - PRODUCTS)) * plan.depth + k, n

    body = on_buffers(product.kernel.body, {"v": v, "sums": sums})
    body = replace_accesses(body, product.kernel.param("w0"), weights, index)
    serial = tuple(replace(s, kind="serial") if isinstance(s, For) else s for s in body)
    combine = axis("t_out", plan.block)
    return (*serial, For(combine, _combine(plan, p, sums, first, combine, no)))


def _pair(plan: Plan, first: Expr, t: Expr) -> tuple[Expr, Expr]:
    """The rows of a pair of the block that begins with pair `first`."""
    upper = 2 * first + t
    return upper, upper + plan.block


def _is_whole(plan: Plan) -> bool:
    """Whether every row of every block exists."""
    return isinstance(plan.total, int) and isinstance(plan.block, int) and plan.total % (2 * plan.block) == 0


def _gather(plan: Plan, p: Product, v: Buffer, first: Expr, t: Expr) -> Block:
    """V[:, t, :] of one row and its partner in the other half."""
    upper, lower = _pair(plan, first, t)
    if not _is_whole(plan):
        lower = binary("min", lower, as_expr(plan.total) - 1)

    def read(row: Expr, k: Expr) -> Expr:
        mapping: dict[Expr, Expr] = {**dict(zip(p.rows, _place(p, row), strict=True)), p.reduce[0]: k}
        return load(p.left.buf, *(substitute(i, mapping) for i in p.left.idx))

    def body(k: Expr) -> Block:
        parts = [read(row, at) for row in (upper, lower) for at in (k, k + plan.depth)]
        made = left_combinations(*parts)
        return tuple(Store(v, (as_expr(s), t * plan.depth + k), value) for s, value in enumerate(made))

    return channel_loops(plan.depth, plan.lanes, ("cb", "cl", "ct"), body)


def _place(p: Product, row: Expr) -> list[Expr]:
    """The axes of rows at the row of this number."""
    return split_index(extents(p.rows), row)


def _combine(plan: Plan, p: Product, sums: Buffer, first: Expr, t: Expr, no: Expr) -> Block:
    """The outputs of one row and its partner, in two groups of columns."""
    upper, lower = _pair(plan, first, t)

    def part(rows: tuple[Expr, ...], names: tuple[str, str, str]) -> Block:
        def body(n: Expr) -> Block:
            made = quarters(*(sums[s, t * plan.span + n] for s in range(PRODUCTS)))
            column = no * plan.span + n
            at = [(row, col) for row in (upper, lower) for col in (column, column + plan.columns)]
            return tuple(
                finished(p.compute, y, (*_place(p, row), col))
                for y, (row, col) in zip(made, at, strict=True) if row in rows
            )

        return channel_loops(plan.span, plan.lanes, names, body)

    both = part((upper, lower), ("ob", "ol", "ot"))
    if _is_whole(plan):
        return both
    return (If(binary("lt", lower, as_expr(plan.total)), both, part((upper,), ("ob", "ol", "ot"))),)
