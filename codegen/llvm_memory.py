"""Addresses, loads and stores in LLVM text.

An address is printed from the canonical linear form of the flat index: outer loops' terms first (they are shared and
move out of inner loops), the constant last (it becomes an immediate offset).  A load is numbered until its buffer is
stored to or a loop edge is crossed, and a stored value is forwarded; buffers that may alias are one buffer here.
Alignment follows from the linear form and the buffer's alignment.
"""

from __future__ import annotations

from ..ir.dims import as_dim, multiply_dims
from ..ir.expr import I64, Bin, Cast, Expr, Load, Splat, Type, Var, as_expr, binary, linear, splat
from ..ir.kernel import Buffer, Store
from ..ir.types import DTYPES, Dim
from .llvm_text import Cell, Held, Printer, constant, literal, llvm_type, memory_type, unsupported, zero

STACK_ALIGN = 64


def stack_extent(buf: Buffer, top: Dim) -> tuple[Dim, Dim]:
    """(byte offset of a stack buffer that is allocated at `top`, the new top); expressions where sizes are symbolic."""
    size = multiply_dims(buf.shape) if buf.strides is None else _span(buf)
    offset = as_dim((top + (STACK_ALIGN - 1)) // STACK_ALIGN * STACK_ALIGN)
    return offset, as_dim(offset + size * DTYPES[buf.dtype].size)


def _span(buf: Buffer) -> Dim:
    """Elements between the first and the last of a strided buffer, both included."""
    span: Dim = 1
    for n, s in zip(buf.shape, buf.strides or (), strict=True):
        span = span + (n - 1) * s
    return span


# ---- addresses ---------------------------------------------------------------------------------------------------


def _offset(p: Printer, buf: Buffer, idx: tuple[Expr, ...]) -> tuple[int, list[tuple[str, int]]]:
    """A flat index as a constant and (operand, coefficient) pairs, in elements; outer operands first."""
    total, atoms = p.flat(buf, idx)
    terms: list[tuple[str, int]] = []
    for atom, k in atoms.items():
        operand = p.env.get(atom) if isinstance(atom, Var) else p.value(atom)
        if operand is None:
            raise unsupported(f"the loop variable {atom} is used outside its loop")
        known = operand if isinstance(operand, int) else literal(operand)
        if known is not None:
            total += k * known
        else:
            terms.append((str(operand), k))
    return total, sorted(terms, key=lambda term: p.depth(term[0]))


def _base(p: Printer, buf: Buffer) -> str:
    found = p.pointers.get(buf)
    if found is not None:
        return found
    at = p.stack.get(buf)
    if isinstance(at, int):
        return p.pure(f"getelementptr inbounds i8, ptr %scratch, i64 {at}") if at else "%scratch"
    if at is not None:
        offset = p.value(at)
        return p.pure(f"getelementptr inbounds i8, ptr %scratch, i64 {offset}", offset)
    raise unsupported(f"buffer {buf.name} ({buf.space}) is neither a parameter nor allocated on the stack here")


def address(p: Printer, buf: Buffer, idx: tuple[Expr, ...], inbounds: bool = True) -> tuple[str, int]:
    """(pointer, alignment in bytes) of an element.  inbounds False: the address may lie outside the buffer."""
    size = DTYPES[buf.dtype].size
    total, terms = _offset(p, buf, idx)
    gep = "getelementptr inbounds i8" if inbounds else "getelementptr i8"
    pointer = _base(p, buf)
    align = buf.align if buf.space == "global" else min(buf.align, STACK_ALIGN)
    for operand, k in terms:
        scale = k * size
        byte = operand if scale == 1 else p.pure(f"mul nsw i64 {operand}, {scale}", operand)
        pointer = p.pure(f"{gep}, ptr {pointer}, i64 {byte}", pointer, byte)
        align = _dividing(align, scale)
    if total:
        pointer = p.pure(f"{gep}, ptr {pointer}, i64 {total * size}", pointer)
        align = _dividing(align, total * size)
    return pointer, max(1, align)


def _dividing(align: int, stride: int) -> int:
    """The largest power of two up to align that divides the stride."""
    return min(align, stride & -stride) if stride else align


def _access_align(align: int, t: Type) -> int:
    """An access needs no more than its own size."""
    size = t.lanes * DTYPES[t.dtype].size
    return min(align, 1 << (size.bit_length() - 1))


# ---- loads -------------------------------------------------------------------------------------------------------


def cell_of(p: Printer, buf: Buffer, idx: tuple[Expr, ...]) -> Cell:
    """The register cell of an index, which must be constant where it is printed."""
    total, terms = _offset(p, buf, idx)
    if terms:
        raise unsupported(f"register array {buf.name} is indexed by a loop that is not unrolled: {list(idx)}")
    return Cell(buf, total)


def print_load(p: Printer, e: Load) -> str:
    if e.buf.space == "register":
        return _read_cell(p, e)
    if any(i.type.lanes > 1 for i in e.idx):
        return _gather(p, e)
    pointer, align = address(p, e.buf, e.idx)
    text = f"load {memory_type(e.type)}, ptr {pointer}, align {_access_align(align, e.type)}"
    key = (e.buf, text)
    found = p.loads.get(key)
    if found is None:
        found = p.loads[key] = _from_memory(p, p.here(text), e.type)
    return found


def _read_cell(p: Printer, e: Load) -> str:
    cell = cell_of(p, e.buf, e.idx)
    held = p.cells.get(cell)
    if held is None:
        raise unsupported(f"register {e.buf.name}[{cell.offset}] is read before it is written")
    if held.type != e.type:
        raise unsupported(
            f"register {e.buf.name}[{cell.offset}] holds {held.type.dtype}x{held.type.lanes}, "
            f"read as {e.type.dtype}x{e.type.lanes}"
        )
    return held.value


def _from_memory(p: Printer, value: str, t: Type) -> str:
    """Booleans are bytes in memory."""
    if t.dtype != "bool":
        return value
    return p.pure(f"icmp ne {memory_type(t)} {value}, {zero(Type('u8', t.lanes))}", value)


def _to_memory(p: Printer, value: str, t: Type) -> str:
    return value if t.dtype != "bool" else p.pure(f"zext {llvm_type(t)} {value} to {memory_type(t)}", value)


def _vector_offsets(p: Printer, buf: Buffer, idx: tuple[Expr, ...], lanes: int) -> tuple[str, str]:
    """(pointer of the scalar part, vector of element offsets from it) of an index with vectors."""
    strides: list[Expr] = [as_expr(1)] * len(idx)
    for d in range(len(idx) - 1, 0, -1):
        strides[d - 1] = strides[d] * as_expr(buf.shape[d])
    if buf.strides is not None:
        strides = [as_expr(s) for s in buf.strides]
    zeros = as_expr(0)
    scalars = tuple(_uniform(i) or zeros for i in idx)
    offsets: Expr | None = None
    for i, s in zip(idx, strides, strict=True):
        if _uniform(i) is None:
            term = i if linear(s) == (1, {}) else binary("mul", i, splat(s, lanes))
            offsets = term if offsets is None else Bin.of("add", offsets, term, I64.with_lanes(lanes))
    pointer, _ = address(p, buf, scalars)
    return pointer, constant(0, I64.with_lanes(lanes)) if offsets is None else p.value(offsets)


def _uniform(i: Expr) -> Expr | None:
    """The scalar that all lanes of an index are equal to, where that shows."""
    if i.type.lanes == 1:
        return i
    return i.a if isinstance(i, Splat) else None


def _byte_index(p: Printer, e: Load) -> Expr | None:
    """The bytes that index a table of 256 bytes, where a permutation reads it."""
    if "vpermi2b" not in p.machine.calls or e.buf.shape != (256,) or DTYPES[e.buf.dtype].size != 1 or e.type.lanes > 64:
        return None
    (index,) = e.idx
    return index.a if isinstance(index, Cast) and index.a.type.dtype == "u8" else None


def _look_up(p: Printer, e: Load, index: Expr) -> str:
    """The table in four registers: seven bits of an index choose in each half, the eighth the half."""
    n, wide = index.type.lanes, "<64 x i8>"
    pointer, _ = address(p, e.buf, (as_expr(0),))
    bytes_ = p.value(index)
    if n < 64:
        mask = ", ".join(f"i32 {i}" if i < n else "i32 poison" for i in range(64))
        bytes_ = p.pure(f"shufflevector <{n} x i8> {bytes_}, <{n} x i8> poison, <64 x i32> <{mask}>", bytes_)
    parts = []
    for part in range(4):
        at = p.pure(f"getelementptr inbounds i8, ptr {pointer}, i64 {64 * part}", pointer)
        text = f"load {wide}, ptr {at}, align 1"
        parts.append(p.loads.get((e.buf, text)) or p.loads.setdefault((e.buf, text), p.here(text)))
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    p.declares[f"declare {wide} @{name}({wide}, {wide}, {wide})"] = None
    halves = [
        p.pure(f"call {wide} @{name}({wide} {a}, {wide} {bytes_}, {wide} {b})", a, bytes_, b)
        for a, b in (parts[:2], parts[2:])
    ]
    upper = p.pure(f"icmp slt {wide} {bytes_}, zeroinitializer", bytes_)
    found = p.pure(f"select <64 x i1> {upper}, {wide} {halves[1]}, {wide} {halves[0]}", upper, *halves)
    if n == 64:
        return found
    mask = ", ".join(f"i32 {i}" for i in range(n))
    return p.pure(f"shufflevector {wide} {found}, {wide} poison, <{n} x i32> <{mask}>", found)


def _gather(p: Printer, e: Load) -> str:
    index = _byte_index(p, e)
    if index is not None:
        return _look_up(p, e, index)
    n, kind = e.type.lanes, memory_type(e.type)
    scalar, size = memory_type(e.type.with_lanes(1)), DTYPES[e.type.dtype].size
    if size != DTYPES[e.buf.dtype].size:
        raise unsupported(f"a gather from {e.buf.name} reads {e.type.dtype}, the buffer holds {e.buf.dtype}")
    pointer, offsets = _vector_offsets(p, e.buf, e.idx, n)
    pointers = p.pure(f"getelementptr inbounds {scalar}, ptr {pointer}, <{n} x i64> {offsets}", pointer, offsets)
    name = f"llvm.masked.gather.v{n}{'f' if scalar in ('float', 'double') else 'i'}{8 * size}.v{n}p0"
    p.declares[f"declare {kind} @{name}(<{n} x ptr>, i32, <{n} x i1>, {kind})"] = None
    text = f"call {kind} @{name}(<{n} x ptr> {pointers}, i32 {size}, <{n} x i1> splat (i1 true), {kind} poison)"
    key = (e.buf, text)
    found = p.loads.get(key)
    if found is None:
        found = p.loads[key] = _from_memory(p, p.here(text), e.type)
    return found


# ---- stores ------------------------------------------------------------------------------------------------------


def forget(p: Printer, buf: Buffer) -> None:
    """A buffer changed: its known values, and those of everything it may alias, are void."""
    aliased = "may_alias" in buf.attrs
    for key in [k for k in p.loads if k[0] == buf or (aliased and "may_alias" in k[0].attrs)]:
        del p.loads[key]


def print_store(p: Printer, s: Store) -> None:
    if s.mode:
        raise unsupported(f"a store of mode {s.mode!r} to {s.buf.name}: no such memory on a CPU")
    t = s.value.type
    value = p.value(s.value)
    if s.buf.space == "register":
        p.cells[cell_of(p, s.buf, s.idx)] = Held(value, t)
        return
    if any(i.type.lanes > 1 for i in s.idx):
        _scatter(p, s, value)
        return
    pointer, align = address(p, s.buf, s.idx)
    align = _access_align(align, t)
    forget(p, s.buf)
    p.line(f"store {memory_type(t)} {_to_memory(p, value, t)}, ptr {pointer}, align {align}")
    p.loads[s.buf, f"load {memory_type(t)}, ptr {pointer}, align {align}"] = value


def _scatter(p: Printer, s: Store, value: str) -> None:
    """Lane by lane, in order: where two lanes meet, the last one stays."""
    t = s.value.type
    n = max(i.type.lanes for i in s.idx)
    if t.lanes != n:
        raise unsupported(f"a scatter of {t.lanes} lanes to {n} places of {s.buf.name}")
    pointer, offsets = _vector_offsets(p, s.buf, s.idx, n)
    value = _to_memory(p, value, t)
    kind, scalar = memory_type(t), memory_type(t.with_lanes(1))
    forget(p, s.buf)
    for lane in range(n):
        at = p.pure(f"extractelement <{n} x i64> {offsets}, i64 {lane}", offsets)
        item = p.pure(f"extractelement {kind} {value}, i64 {lane}", value)
        target = p.pure(f"getelementptr inbounds {scalar}, ptr {pointer}, i64 {at}", pointer, at)
        p.line(f"store {scalar} {item}, ptr {target}, align {DTYPES[t.dtype].size}")
