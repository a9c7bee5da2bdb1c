"""Object files for every machine: they need nothing but libm and the barrier, whatever the compile jobs."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tilewright.codegen.llvm import emit_kernel, emit_module
from tilewright.codegen.llvm_calls import LIBM
from tilewright.codegen.machine import LEVELS, PROCESSORS, Machine, machine_names, parse_machine
from tilewright.codegen.math import legalize_math
from tilewright.ir.errors import InternalError, OptionError
from tilewright.ir.expr import Call, Expr, HReduce, Load, Ramp, Type, binary, call, cast, fma, splat, unary
from tilewright.ir.kernel import Barrier, Buffer, For, Kernel, Store, axis
from tilewright.ir.types import DTYPES, NUMBERS
from tilewright.targets.cpu import objects
from tilewright.targets.cpu.objects import compile_asm, compile_objects

ALLOWED = {"tw_barrier", *LIBM, *(f + "f" for f in LIBM)}


def undefined_symbols(elf: bytes) -> set[str]:
    """Names that a 64-bit little-endian ELF object needs from elsewhere."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQII", elf, table + n * size) for n in range(count)]
    symbols = next(s for s in sections if s[1] == 2)
    strings = sections[symbols[6]]
    names: set[str] = set()
    for at in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, section = struct.unpack_from("<IBBH", elf, at)
        if section == 0 and name:
            start = strings[4] + name
            names.add(elf[start : elf.index(b"\0", start)].decode())
    return names


def everything(lanes: int) -> Kernel:
    """One store per element type and kind of operation, and a barrier."""
    params: list[Buffer] = []
    body: list[Store] = []
    i = axis("i", 4)

    def put(name: str, e: Expr) -> None:
        out = Buffer(name, e.type.dtype, (4 * e.type.lanes,))
        params.append(out)
        body.append(Store(out, (i * e.type.lanes,), e))

    for dtype, info in ((d, DTYPES[d]) for d in NUMBERS):
        x = Buffer(f"x_{dtype}", dtype, (4 * lanes,))
        params.append(x)
        a = Load.of(x, (i * lanes,), Type(dtype, lanes))
        for to in NUMBERS:
            put(f"{dtype}_to_{to}", cast(a, to))
        ops = {"f": ("add", "div", "mod", "max"), "i": ("div", "mod", "mul", "shl"), "u": ("div", "max", "shr"), "b": ("or",)}
        for op in ops[info.kind]:
            put(f"{dtype}_{op}", binary(op, a, a))
        if info.kind == "f":
            for op in ("rint", "floor", "ceil", "trunc", "sqrt", "abs"):
                put(f"{dtype}_{op}", unary(op, a))
            for fn in ("exp", "log", "tanh", "erf", "sigmoid", "sin"):
                put(f"{dtype}_{fn}", call(fn, a))
            put(f"{dtype}_fma", fma(a, a, a))
        if lanes > 1 and dtype != "bool":
            put(f"{dtype}_sum", HReduce.of("add", a, Type(dtype)))
            places = Ramp.of(Type("i64", lanes)) + splat(i, lanes)
            put(f"{dtype}_gather", Load.of(x, (places,), Type(dtype, lanes)))
    return Kernel("everything", tuple(params), (For(i, tuple(body), "parallel"), Barrier("pool")))


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("name", list(LEVELS))
def test_every_level_compiles_without_a_run_time_library(name: str, lanes: int) -> None:
    machine = parse_machine("cpu:" + name)
    text = emit_kernel(legalize_math(everything(lanes), machine), machine)
    (elf,) = compile_objects([text], machine)
    assert elf[:4] == b"\x7fELF"
    needed = undefined_symbols(elf)
    assert "tw_barrier" in needed
    assert needed <= ALLOWED, needed - ALLOWED


@pytest.mark.parametrize("call_name, dtype", [("vpdpbusd", "i32"), ("vdpbf16ps", "f32"), ("pmaddwd", "i32"), ("sdot", "i32"),
                                              ("udot", "i32"), ("usdot", "i32"), ("scalef", "f32"), ("scalef", "f64")])
def test_instruction_calls_are_one_instruction(call_name: str, dtype: str) -> None:
    machine = parse_machine("cpu:neoverse-v1" if call_name.endswith("dot") else "cpu:znver5")
    lanes = machine.lanes(dtype)
    types = {"vdpbf16ps": ("f32", "i32", "i32"), "pmaddwd": ("i32", "i32"), "scalef": (dtype, dtype)}
    operands = types.get(call_name, ("i32", "i32", "i32"))
    bufs = [Buffer(f"a{n}", t, (lanes,)) for n, t in enumerate(operands)]
    y, i = Buffer("y", dtype, (lanes,)), axis("i", 1)
    value = Call.of(call_name, tuple(Load.of(b, (i * 0,), Type(b.dtype, lanes)) for b in bufs), Type(dtype, lanes))
    asm = compile_asm(emit_kernel(Kernel("k", (*bufs, y), (Store(y, (i * 0,), value),)), machine), machine)
    assert asm.count(f"\t{call_name}") == 1 or asm.count(f"\tv{call_name}") == 1


def test_bytes_do_not_depend_on_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = parse_machine("cpu:x86-64-v3")
    modules = [_small(n, machine) for n in range(3)]
    seen: list[tuple[int, int]] = []
    alone = compile_objects(modules, machine, jobs=1, progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setattr(objects, "_WORTH_A_PROCESS", 1)
    assert compile_objects(modules, machine, jobs=2) == alone
    assert seen == [(1, 3), (2, 3), (3, 3)]


def _small(n: int, machine: Machine) -> str:
    y = Buffer("y", "f32", (4,))
    return emit_kernel(Kernel(f"k{n}", (y,), (Store(y, (axis("i", 1) * 0 + n % 4,), y[0] + float(n)),)), machine)


@pytest.mark.parametrize("jobs", [1, 2])
def test_rejected_text_is_kept(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_WORTH_A_PROCESS", 1)
    with pytest.raises(InternalError, match="LLVM does not accept the generated code") as caught:
        compile_objects(["define void @f() { no }", "define void @g() { ret void }"], parse_machine("cpu:x86-64-v3"), jobs)
    assert caught.value.ir == "define void @f() { no }"


def test_modules_refuse_equal_names() -> None:
    y = Buffer("y", "f32", (4,))
    kernel = Kernel("k", (y,), ())
    with pytest.raises(InternalError, match="share a name"):
        emit_module([kernel, kernel], parse_machine("cpu:x86-64-v3"))


def test_machine_specifications() -> None:
    machine = parse_machine("cpu:x86-64-v3+avxvnni")
    assert (machine.vector_bits, machine.vector_registers, machine.lanes("f32")) == (256, 16, 8)
    assert "vpdpbusd" in machine.calls and "scalef" not in machine.calls and "avxvnni" in machine.required
    assert parse_machine("cpu:znver5").calls >= {"vpdpbusd", "vdpbf16ps", "scalef"}
    assert parse_machine("cpu:x86-64-v4").lanes("u8") == 64
    assert parse_machine("cpu+avxvnni", lambda: parse_machine("cpu:haswell")).name == "haswell+avxvnni"
    assert set(machine_names()) == {*LEVELS, *PROCESSORS}
    for spec, message in {"cpu:pentium": "unknown machine 'pentium'; known are x86-64-v2", "gpu": "expected cpu or cpu:NAME",
                          "cpu:x86-64-v3+magic": "unknown feature 'magic'", "cpu": "name the machine"}.items():
        with pytest.raises(OptionError, match=message):
            parse_machine(spec)


def test_wide_vectors_of_a_cross_compiled_kernel_are_deterministic() -> None:
    machine = parse_machine("cpu:aarch64")
    text = emit_kernel(legalize_math(everything(8), machine), machine)
    assert np.array_equal(compile_objects([text], machine), compile_objects([text], machine))
