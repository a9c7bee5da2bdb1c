"""Products and convolutions on a graphics processor: tiles in shared memory, filled asynchronously, multiplied by a core.

    for tile block.x: for warp thread.y: for lane thread.x:
      acc = 0
      { fill stages 0 .. S-2
        for ko: wait for stage ko; barrier; fill stage ko + S-1; acc += left[ko] * right[ko] }
      barrier
      { sums = acc; barrier; for each piece of 16 bytes: out = finish(sums) }

A convolution reads its window where it lies (no im2col): the numbers of row and k give the address, and what lies in the
border is filled in as zero.  The sums go through shared memory, in the place of the operands' tiles, so that the epilogue
(bias, activation, residual) reads and writes whole pieces of rows.  With splits, blocks store their sums as they are, and a
second launch adds them in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Union

from ....ir.compute import acc_var
from ....ir.dims import split_index
from ....ir.errors import OptionError
from ....ir.expr import Call, Expr, Load, Var, all_of, as_expr, binary, cast, load
from ....ir.kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Store, axis, coefficient, nest, noted
from ....ir.traverse import substitute, walk
from ....ir.types import DTYPES
from ...machine_gpu import GpuMachine
from ...schedule.vectors import vector_store
from ..choices import Choice
from ..scheduled import Group, Pack, Scheduled
from .bulk import TILE_ALIGN, TensorView, tensor_view
from .cores import INSTRUCTIONS, MatrixCore, PlainCore
from .legalize import legalize
from .library import schedule_library_product
from .library_conv import schedule_library_convolution
from .operand import ACCESS, MatrixProduct, Operand, piece_width
from .paired import INSTRUCTIONS as SPARSE
from .paired import PairedCore, paired_operands
from .persistent import PIECES, staying_product
from .staging import fill, in_parts, stage_operand
from .tiles import PADDING, GpuTile, choose_tile, resident_blocks, tile_candidates, tile_numbers
from .warpgroup import WarpgroupCore

Core = Union[MatrixCore, PlainCore, WarpgroupCore, PairedCore]
EPILOGUE_THREADS = 256
CLUSTER = 2  # blocks that share the right operand's stages
PLAIN_RESIDENT = 2  # blocks of a multiprocessor that registers are limited for, in plain arithmetic


def schedule_matrix_product(group: Group, p: MatrixProduct, machine: GpuMachine) -> Scheduled:
    """The kernel of a product, with weights in the layout that it reads."""
    if group.choice.library:
        made = schedule_library_product(group, p, machine) or schedule_library_convolution(group, machine)
        if made is not None:
            return made
    types = _types(p, machine)
    matrix = types is not None
    tile_types = types or (p.left.dtype, p.right.dtype)
    acc = p.compute.acc
    widest = max(tile_types, key=lambda t: DTYPES[t].size)
    left, right, packs = _operands(p, tile_types, matrix)
    warpgroup = not group.paired and _takes_warpgroup(left, right, tile_types, machine)
    tile, reason = _chosen(group, widest, acc, matrix, machine, warpgroup) or choose_tile(
        p.sizes, widest, acc, matrix, machine, warpgroup, group.choice.rank or 0, group.paired)
    words: Operand | None = None
    if group.paired:
        right, words, packs = paired_operands(p, tile)
    p = replace(p, left=left, right=right)
    numbers = Choice(tile_rows=tile.rows, tile_columns=tile.columns, stages=tile.stages, splits=tile.splits)
    views, tile = _views(p, tile_types, tile, machine)
    if not tile.bulk:  # as many stages as there is work for, one of them in use, that of the matrix unit too
        tile = replace(tile, stages=min(tile.stages, max(tile.steps(p.sizes[3]), 3 if tile.warpgroup else 2)))
    plan = ProductPlan(group, p, tile, matrix, tile_types, machine, views, words)
    kernel, temporaries = plan.kernel(tuple(packs))
    instruction = (f"wgmma_m64n{tile.columns}k16_{widest}" if warpgroup else SPARSE[widest] if group.paired
                   else INSTRUCTIONS.get(tile_types))
    unit = f"tensor cores ({instruction})" if matrix else "f32 arithmetic" if acc == "f32" else f"{acc} arithmetic"
    b, m, n, k = p.sizes
    shape = f"{f'{b} x ' if b > 1 else ''}{m} x {n} x {k}"
    note = f"product of {shape} by {unit}: {plan.tile}; {reason}"
    sources = tuple((v.map.name, (v.source, v.offset)) for v in views)
    return Scheduled(kernel, tuple((buf.name, pack) for buf, pack in packs.items()), note, temporaries, choice=numbers,
                     views=sources)


def _types(p: MatrixProduct, machine: GpuMachine) -> tuple[str, str] | None:
    """The element types that tensor cores multiply here, None for plain arithmetic."""
    a, b, acc = p.left.dtype, p.right.dtype, p.compute.acc
    if acc == "f32":
        halves = {t for t in (a, b) if t in ("f16", "bf16")}
        if len(halves) == 1 and {a, b} <= halves | {"f32"} and machine.has(f"mma_{min(halves)}"):
            return (min(halves),) * 2  # type: ignore[return-value]
        if (a, b) == ("f32", "f32") and machine.precision == "tf32" and machine.has("mma_tf32"):
            return a, b
        return None
    return (a, b) if acc == "i32" and (a, b) in (("i8", "i8"), ("u8", "i8")) and machine.has("mma_s8") else None


def _operands(
    p: MatrixProduct, types: tuple[str, str], matrix: bool
) -> tuple[Operand, Operand, dict[Buffer, Pack]]:
    """The operands, the right one packed if it is a weight."""
    packs: dict[Buffer, Pack] = {}
    right = p.right
    if p.right_pack is not None:
        right, pack = p.right_pack("w", ACCESS // DTYPES[p.right.dtype].size, matrix)
        packs[right.buffer] = pack
    return p.left, right, packs


def _chosen(
    group: Group, dtype: str, acc: str, matrix: bool, machine: GpuMachine, warpgroup: bool
) -> tuple[GpuTile, str] | None:
    """The tile of a measured choice, if there is one.  Raises OptionError for one that the machine does not have."""
    choice = group.choice
    if choice.tile_rows is None:
        return None
    for tile in tile_candidates(dtype, acc, matrix, machine, warpgroup, group.paired):
        if (tile.rows, tile.columns) == (choice.tile_rows, choice.tile_columns) and choice.stages in (None, tile.stages):
            return replace(tile, splits=choice.splits or 1), "from the tuning file"
    raise OptionError(f"tuning: no tile of {choice.tile_rows} x {choice.tile_columns} in {choice.stages} stages for {dtype} on "
                      f"{machine.name}; remove the entry, or tune again for this machine")


def _takes_warpgroup(left: Operand, right: Operand, types: tuple[str, str], machine: GpuMachine) -> bool:
    """Whether the unit of sm_90a multiplies these operands: 16 bits, both in rows of k."""
    halves = types[0] == types[1] and types[0] in ("f16", "bf16")
    return machine.has("wgmma") and halves and all(is_k_major(x, True, types[0]) for x in (left, right))


def _views(
    p: MatrixProduct, types: tuple[str, str], tile: GpuTile, machine: GpuMachine
) -> tuple[tuple[TensorView, ...], GpuTile]:
    """(tensor maps of both operands, the tile that they are brought for), no maps where bulk copies cannot bring one of them:
    they do not convert."""
    if not (tile.warpgroup and machine.has("tma") and (p.left.dtype, p.right.dtype) == types):
        return (), tile
    cluster = CLUSTER if -(-p.sizes[1] // tile.rows) % CLUSTER == 0 and tile.columns >= 128 else 1
    left = tensor_view("left", p.left, p.sizes[0], tile.rows, tile.depth)
    right = tensor_view("right", p.right, p.sizes[0], tile.columns // cluster, tile.depth)
    size = DTYPES[p.left.dtype].size
    pieces = (replace(tile, bulk=True, piece=n, cluster=cluster) for n in PIECES if tile.columns % n == 0)
    fitting = next((t for t in pieces if t.shared_bytes(size, 4) <= machine.shared_bytes), None)
    return (((left, right), fitting) if left is not None and right is not None and fitting is not None else ((), tile))


def is_k_major(x: Operand, matrix: bool, dtype: str) -> bool:
    """Whether a tile lies in rows of k: as the operand does, and always where matrix loads cannot transpose."""
    if matrix and DTYPES[dtype].size != 2:
        return True
    return x.width_k >= x.width_own


@dataclass(frozen=True)
class ProductPlan:
    """One product with its tile."""

    group: Group
    p: MatrixProduct
    tile: GpuTile
    matrix: bool
    types: tuple[str, str]
    machine: GpuMachine
    views: tuple[TensorView, ...] = ()
    words: Operand | None = None

    def kernel(self, packed: tuple[Buffer, ...]) -> tuple[Kernel, tuple[tuple[str, int], ...]]:
        """The kernel, and its temporaries in memory."""
        p, tile = self.p, self.tile
        batches, rows, columns, _ = p.sizes
        partial = Buffer("partial", p.compute.acc, (tile.splits, batches, rows, columns))
        split = tile.splits > 1
        body = self.product(partial if split else None)
        params = (*self.group.params, *packed, *(v.map for v in self.views), *((partial,) if split else ()))
        if split:
            body += (Barrier("pool"), *self.add_parts(partial))
        kernel = legalize(Kernel("product", params, body))
        return kernel, ((partial.name, partial.size * DTYPES[partial.dtype].size),) if split else ()

    # ---- the first launch

    def counts(self) -> tuple[int, int, int, int]:
        """Batches, parts of k, rows and columns of tiles."""
        batches, rows, columns, _ = self.p.sizes
        return batches, self.tile.splits, -(-rows // self.tile.rows), -(-columns // self.tile.columns)

    def product(self, partial: Buffer | None) -> Block:
        if self.tile.bulk:
            return staying_product(self, partial)
        p, tile = self.p, self.tile
        block = axis("tile", prod(self.counts()))
        batch, split, tile_row, tile_column = tile_numbers(block, self.counts())
        lane, warp = axis("lane", 32), axis("warp", tile.threads // 32)
        row, column = tile_row * tile.rows, tile_column * tile.columns
        warp_rows, warp_columns = tile.warp_tile
        at_row, at_column = warp / tile.warp_columns * warp_rows, warp % tile.warp_columns * warp_columns
        core = self.core()
        steps = tile.steps(p.sizes[3])
        k_start, start, at = split * (steps * tile.depth), (row, column), (at_row, at_column)
        loop = self.pipeline(core, batch, start, k_start, steps, at, lane, warp)
        acc_size = DTYPES[p.compute.acc].size
        pitch = tile.columns + PADDING // acc_size
        sums = Buffer("sums", p.compute.acc, (tile.rows, tile.columns), "shared", strides=(pitch, 1))
        own = core.drain(sums, at_row, at_column, lane)
        finish = self.epilogue(sums, partial, (batch, split, row, column), warp * 32 + lane)
        drain = (Alloc(sums), *own, Barrier("block"), *finish)
        end = "the sums go through shared memory, so that whole pieces of rows are finished and stored"
        body = (*core.start(), *_scope("loop", loop), Barrier("block"), *_scope("end", drain, end))
        resident = PLAIN_RESIDENT if not self.matrix and acc_size == 4 else resident_blocks(tile, acc_size, self.machine)
        inside = nest((warp,), nest((lane,), body, "thread.x"), "thread.y")
        return nest((block,), inside, "block.x", (("resident", resident),))

    def core(self) -> Core:
        tile, p = self.tile, self.p
        if self.words is not None:
            return self.paired_core(self.words)
        left, right = (
            stage_operand(name, x, own, tile.depth, tile.stages, dtype, k_major=is_k_major(x, self.matrix, dtype),
                          swizzled=self.matrix or is_k_major(x, self.matrix, dtype))
            for name, x, own, dtype in zip(("left", "right"), (p.left, p.right), (tile.rows, tile.columns), self.types,
                                           strict=True)
        )
        if tile.warpgroup:
            left, right = (replace(x, buffer=replace(x.buffer, align=TILE_ALIGN)) for x in (left, right))
        made = WarpgroupCore if tile.warpgroup else MatrixCore if self.matrix else PlainCore
        return made(tile, left, right, p.compute.acc)

    def paired_core(self, words: Operand) -> PairedCore:
        tile, p, half = self.tile, self.p, self.tile.depth // 2
        left = stage_operand("left", p.left, tile.rows, tile.depth, tile.stages, self.types[0], k_major=True, swizzled=True)
        right = stage_operand("right", p.right, tile.columns, half, tile.stages, self.types[1], k_major=True, swizzled=True)
        places = stage_operand("where_tile", words, tile.columns // 16, half, tile.stages, "u32", k_major=True, swizzled=False)
        return PairedCore(tile, left, right, places)

    def pipeline(
        self, core: Core, batch: Expr, start: tuple[Expr, Expr], k_start: Expr, steps: int,
        at: tuple[Expr, Expr], lane: Var, warp: Var,
    ) -> Block:
        tile = self.tile
        is_async = self.machine.has("cp_async")
        thread = warp * 32 + lane

        deepest = tile.splits * steps * tile.depth

        def stage_in(step: Expr, stage: Expr) -> Block:
            k = k_start + step * tile.depth
            if isinstance(core, PairedCore):
                brought = [(core.left, start[0], k, deepest), (core.right, start[1], k / 2, deepest // 2),
                           (core.words, start[1] / 16, k / 2, deepest // 2)]
            else:
                brought = [(core.left, start[0], k, deepest), (core.right, start[1], k, deepest)]
            return tuple(s for x, own, at_k, last in brought
                         for s in fill(x, stage, batch, (own, at_k), last, tile.threads, thread, is_async))

        commit: Block = (Do("cp_async_commit"),) if is_async else ()
        early = tile.stages - 1 - core.in_flight  # stages that are filled before they are used
        ahead = min(early, steps)
        body: Block = (Alloc(core.left.buffer), Alloc(core.right.buffer))
        body += (Alloc(core.words.buffer),) if isinstance(core, PairedCore) else ()
        ko, first = axis("ko", steps), axis("stage", early)
        following = ko + early
        filled = stage_in(first, first)
        if ahead < early:
            filled = (If(binary("lt", first, ahead), filled),) if ahead else ()
        body += (For(first, (*filled, *commit), "unroll", (noted("the first stages are brought"),)),)
        more = stage_in(following, following % tile.stages)
        use: Block = (
            *((Do("cp_async_wait", (as_expr(early - 1),)),) if is_async else ()), *core.before_barrier(), Barrier("block"),
            *((If(binary("lt", following, steps), more),) if steps > ahead else ()), *commit,
            *core.multiply(ko % tile.stages, *at, lane),
        )
        overlap = is_async and steps > 1
        note = f"stage ko is multiplied while up to {early} after it are on their way" if overlap else "the products"
        # Straight-line code of several stages would need more registers than two blocks of plain arithmetic leave a thread.
        rolled = ("rolled",) if isinstance(core, PlainCore) and steps > 1 else ()
        return (*body, For(ko, use, "serial", ("reduce", noted(note), *rolled)), *core.after_loop())

    # ---- the sums

    def epilogue(
        self, sums: Buffer, partial: Buffer | None, place: tuple[Expr, Expr, Expr, Expr], thread: Expr
    ) -> Block:
        """Pieces of rows of the sums, finished and stored."""
        tile, p = self.tile, self.p
        _, rows, columns, _ = p.sizes
        batch, split, first_row, first_column = place
        width = self.width(partial)
        per_row = tile.columns // width
        count = tile.rows * per_row // tile.threads
        q, v = axis("q", count), axis("v", width)
        piece = q * tile.threads + thread
        at_row, at_column = piece / per_row, piece % per_row * width + v
        row, column = first_row + at_row, first_column + at_column
        acc = load(sums, at_row, at_column)
        if partial is None:
            made = self.finished(acc, batch, row, column)
        else:
            made = Store(partial, (split, batch, row, column), acc)
        body = vector_store(v, made)
        conditions = [binary("lt", e, n) for e, n, t in ((row, rows, tile.rows), (column, columns, tile.columns)) if n % t]
        conditions = [substitute(c, {v: as_expr(0)}) for c in conditions]
        if conditions:
            body = (If(all_of(conditions), body),)
        return in_parts(q, body, self.unrolled())

    def unrolled(self) -> int:
        """Pieces that are in flight at once: few where the finish is long."""
        finish = self.p.compute.finish
        return 1 if finish is not None and any(isinstance(e, Call) for e in walk(finish)) else 4

    def add_parts(self, partial: Buffer) -> Block:
        """The second launch: the parts of every sum in order."""
        batches, rows, columns, _ = self.p.sizes
        width = self.width(partial)
        count = batches * rows * (columns // width)
        block, thread, v = axis("part_block", -(-count // EPILOGUE_THREADS)), axis("part", EPILOGUE_THREADS), axis("v", width)
        piece = block * EPILOGUE_THREADS + thread
        batch, row, at = split_index([batches, rows, columns // width], piece)
        column = at * width + v
        total: Expr = load(partial, 0, batch, row, column)
        for s in range(1, self.tile.splits):
            total = total + load(partial, s, batch, row, column)
        body = vector_store(v, self.finished(total, batch, row, column))
        if count % EPILOGUE_THREADS:
            body = (If(binary("lt", piece, count), body),)
        return nest((block,), nest((thread,), body, "thread.x"), "block.x")

    def finished(self, acc: Expr, batch: Expr, row: Expr, column: Expr) -> Store:
        """The store of one element."""
        p, c = self.p, self.p.compute
        values: dict[Expr, Expr] = {
            v: e for axes, f in ((p.batch, batch), (p.rows, row), (p.columns, column))
            for v, e in zip(axes, split_index([int(a.extent) for a in axes], f), strict=True)  # type: ignore[arg-type]
        }
        if isinstance(c.init, Expr):
            acc = acc + substitute(c.init, values)
        value = c.finish if c.finish is not None else acc_var(c.acc)
        value = substitute(value, {**values, acc_var(c.acc): acc})
        return Store(c.out, tuple(substitute(i, values) for i in c.out_index), cast(value, c.out.dtype))

    def width(self, partial: Buffer | None) -> int:
        """Elements of a row that one thread finishes together: whole pieces of everything it reads and writes."""
        p, c = self.p, self.p.compute
        columns = p.sizes[2]
        width = ACCESS // DTYPES[c.acc].size
        while columns % width:
            width //= 2
        last = p.columns[-1] if p.columns else None
        reads = [r for e in (c.finish, c.init) if isinstance(e, Expr) for r in walk(e) if isinstance(r, Load)]
        if last is None or coefficient(c.out, c.out_index, last) != 1:
            return 1
        return piece_width([(c.out, c.out_index), *((r.buf, r.idx) for r in reads)], last, width)


def _scope(name: str, body: Block, note: str = "") -> Block:
    """A block of its own, whose shared arrays end with it."""
    return (For(axis(name, 1), body, "unroll", (noted(note),) if note else ()),)
