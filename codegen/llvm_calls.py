"""Calls in LLVM text: single machine instructions, and functions of the C mathematical library.

An instruction call acts on lanes in groups that fill a vector register; other numbers of lanes are cut and padded.
Operands that hold packed short numbers (four i8 or two bf16) are i32 lanes in the loop IR.

    scalef(a, n)            a * 2**floor(n)
    vpdpbusd(acc, u, s)     acc + four products of the u8 in u and the i8 in s
    vdpbf16ps(acc, a, b)    acc + two products of the bf16 in a and b
    pmaddwd(a, b)           two products of the i16 in a and b, added
    sdot, udot(acc, a, b)   acc + four products of the bytes in a and b, both signed or both unsigned
    usdot(acc, u, s)        the same, u unsigned and s signed
    bitcast(a)              the same bits as another type of the same size, lanes together
    copysign(a, b)          a with the sign of b
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.expr import Call
from .llvm_text import SCALARS, Printer, llvm_type, suffix, unsupported


@dataclass(frozen=True)
class Instruction:
    """names: the LLVM intrinsic for each number of lanes.  operands: scalar type and how many of them are in one lane.
    tail: further arguments, (type, constant), for each number of lanes."""

    names: dict[int, str]
    operands: tuple[tuple[str, int], ...]
    tail: dict[int, tuple[tuple[str, str], ...]] | None = None


def _scalef(kind: str, name: str, lanes: tuple[int, int, int]) -> Instruction:
    def tail(n: int, bits: int) -> tuple[tuple[str, str], ...]:
        zeros = (f"<{n} x {kind}>", "zeroinitializer")
        mask = (f"i{max(8, n)}", "-1")
        return (zeros, mask, ("i32", "4")) if bits == 512 else (zeros, mask)

    widths = dict(zip(lanes, (128, 256, 512), strict=True))
    return Instruction(
        {n: f"llvm.x86.avx512.mask.scalef.{name}.{w}" for n, w in widths.items()}, ((kind, 1), (kind, 1)),
        {n: tail(n, w) for n, w in widths.items()},
    )


def _neon(name: str) -> Instruction:
    names = {2: f"llvm.aarch64.neon.{name}.v2i32.v8i8", 4: f"llvm.aarch64.neon.{name}.v4i32.v16i8"}
    return Instruction(names, (("i32", 1), ("i8", 4), ("i8", 4)))


_WIDTHS = {4: 128, 8: 256, 16: 512}
INSTRUCTIONS: dict[tuple[str, str], Instruction] = {
    ("scalef", "f32"): _scalef("float", "ps", (4, 8, 16)),
    ("scalef", "f64"): _scalef("double", "pd", (2, 4, 8)),
    ("vpdpbusd", "i32"): Instruction(
        {n: f"llvm.x86.avx512.vpdpbusd.{w}" for n, w in _WIDTHS.items()}, (("i32", 1), ("i32", 1), ("i32", 1))
    ),
    ("vdpbf16ps", "f32"): Instruction(
        {n: f"llvm.x86.avx512bf16.dpbf16ps.{w}" for n, w in _WIDTHS.items()},
        (("float", 1), ("bfloat", 2), ("bfloat", 2)),
    ),
    ("pmaddwd", "i32"): Instruction(
        {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"},
        (("i16", 2), ("i16", 2)),
    ),
    ("sdot", "i32"): _neon("sdot"),
    ("udot", "i32"): _neon("udot"),
    ("usdot", "i32"): _neon("usdot"),
}

# Functions of libm by number of arguments; the f32 symbol has an f at its end.
LIBM: dict[str, int] = {
    **dict.fromkeys(("exp", "exp2", "expm1", "log", "log2", "log1p", "erf", "sin", "cos", "tan", "asin", "acos", "atan",
                     "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"), 1),
    **dict.fromkeys(("pow", "fmod", "atan2"), 2),
}


def print_call(p: Printer, e: Call) -> str:
    """The operand that a call gives.  InternalError for a function that neither the machine nor libm has."""
    args = [p.value(a) for a in e.args]
    if e.fn == "bitcast":
        source = e.args[0].type
        return p.pure(f"bitcast {llvm_type(source)} {args[0]} to {llvm_type(e.type)}", *args)
    if e.fn == "copysign":
        return p.intrinsic(f"llvm.copysign.{suffix(e.type)}", e.type, [(llvm_type(e.type), a) for a in args])
    if (e.fn, e.type.dtype) in INSTRUCTIONS:
        if e.fn not in p.machine.calls:
            raise unsupported(f"the machine {p.machine.name} has no instruction {e.fn}: legalize the kernel first")
        return _print_instruction(p, e, args)
    if e.fn in LIBM and e.type.dtype in ("f32", "f64"):
        return _print_library_call(p, e, args)
    raise unsupported(f"no function {e.fn} on {e.type.dtype} in libm or in this machine: legalize the kernel first")


def _print_instruction(p: Printer, e: Call, args: list[str]) -> str:
    row = INSTRUCTIONS[e.fn, e.type.dtype]
    limit = p.machine.lanes(e.type.dtype)
    sizes = [n for n in row.names if n <= limit]
    n, kind = e.type.lanes, SCALARS[e.type.dtype]
    types = [SCALARS[a.type.dtype] for a in e.args]
    pieces: list[str] = []
    for start in range(0, n, max(sizes)):
        count = min(max(sizes), n - start)
        width = next(size for size in sizes if size >= count)
        parts = [_lanes(p, a, t, n, start, count, width) for a, t in zip(args, types, strict=True)]
        pieces.append(_one_instruction(p, row, width, kind, types, parts))
        if n == 1:
            return p.pure(f"extractelement <{width} x {kind}> {pieces[0]}, i64 0", pieces[0])
    if len(pieces) == 1:
        return _lanes(p, pieces[0], kind, next(size for size in sizes if size >= n), 0, n, n)
    return _concatenate(p, pieces, kind, n, max(sizes), sizes)


def _one_instruction(
    p: Printer, row: Instruction, width: int, kind: str, types: list[str], parts: list[str]
) -> str:
    out = f"<{width} x {kind}>"
    operands: list[tuple[str, str]] = []
    for value, own, (scalar, factor) in zip(parts, types, row.operands, strict=True):
        wanted = f"<{width * factor} x {scalar}>"
        if (scalar, factor) != (own, 1):
            value = p.pure(f"bitcast <{width} x {own}> {value} to {wanted}", value)
        operands.append((wanted, value))
    operands += (row.tail or {}).get(width, ())
    p.declares[f"declare {out} @{row.names[width]}({', '.join(t for t, _ in operands)})"] = None
    listed = ", ".join(f"{t} {v}" for t, v in operands)
    return p.pure(f"call {out} @{row.names[width]}({listed})", *(v for _, v in operands))


def _lanes(p: Printer, a: str, kind: str, have: int, start: int, count: int, width: int) -> str:
    """Lanes [start, start + count) of `have`, padded with poison to `width`; a scalar is lane 0."""
    if have == 1:
        return p.pure(f"insertelement <{width} x {kind}> poison, {kind} {a}, i64 0", a)
    if (start, width) == (0, have):
        return a
    mask = ", ".join(f"i32 {start + i}" if i < count else "i32 poison" for i in range(width))
    return p.pure(f"shufflevector <{have} x {kind}> {a}, <{have} x {kind}> poison, <{width} x i32> <{mask}>", a)


def _concatenate(p: Printer, pieces: list[str], kind: str, n: int, full: int, sizes: list[int]) -> str:
    """Join pieces of `full` lanes (the last one perhaps shorter) to n lanes."""
    joined = pieces[0]
    have = full
    for index, piece in enumerate(pieces[1:], 1):
        count = min(full, n - index * full)
        width = next(size for size in sizes if size >= count)
        total = have + count
        wide = _lanes(p, piece, kind, width, 0, count, have)
        mask = ", ".join(f"i32 {i}" for i in (*range(have), *range(have, have + count)))
        vector = f"<{have} x {kind}>"
        joined = p.pure(f"shufflevector {vector} {joined}, {vector} {wide}, <{total} x i32> <{mask}>", joined, wide)
        have = total
    return joined


def _print_library_call(p: Printer, e: Call, args: list[str]) -> str:
    """One call of the scalar function per lane."""
    if len(args) != LIBM[e.fn]:
        raise unsupported(f"{e.fn} takes {LIBM[e.fn]} arguments, got {len(args)}")
    kind, n = SCALARS[e.type.dtype], e.type.lanes
    symbol = e.fn + ("f" if e.type.dtype == "f32" else "")
    p.declares[f"declare {kind} @{symbol}({', '.join([kind] * len(args))}) nounwind"] = None
    result = "poison"
    for lane in range(n):
        scalars = args if n == 1 else [p.pure(f"extractelement {llvm_type(e.type)} {a}, i64 {lane}", a) for a in args]
        text = f"call {kind} @{symbol}({', '.join(f'{kind} {s}' for s in scalars)})"
        one = p.pure(text, *scalars, costly=True)
        if n == 1:
            return one
        result = p.pure(f"insertelement {llvm_type(e.type)} {result}, {kind} {one}, i64 {lane}", result, one)
    return result
