"""A design as C++ text: one header of constants, one source with a function per process and the top function.

Two processes more for each port (`interface.py`) move codes between it and the first and the last streams.
"""

from __future__ import annotations

import re

from .design import Design, Process, Rom
from .interface import parameters, port_pragmas, ports
from .storage import fifo_store
from .table import Table
from .tensor import Tensor

_WIDTH = 120


def identifier(text: str, taken: set[str]) -> str:
    """A C identifier for a name of the model; only letters, digits and _ of it are kept."""
    base = re.sub(r"[^0-9A-Za-z]+", "_", text.encode("ascii", "ignore").decode()).strip("_").lower()[:40] or "v"
    base = f"t_{base}" if base[0].isdigit() else base
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}_{n}"
    taken.add(name)
    return name


def tables_of(design: Design) -> list[Table]:
    """Every table, once, in the order of use."""
    found: dict[str, Table] = {}
    for p in design.processes:
        for value in vars(p).values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Table):
                    found.setdefault(item.name, item)
                for t in getattr(item, "tables", ()):
                    found.setdefault(t.name, t)
    return list(found.values())


def table_roms(table: Table) -> list[Rom]:
    roms = [Rom(f"{table.name}_start", table.start, table.start_type)]
    return [*roms, Rom(f"{table.name}_slope", table.slope, table.slope_type)] if table.rest else roms


def rom_code(rom: Rom) -> str:
    """A constant array; rows in braces, broken to lines."""
    dims = "".join(f"[{n}]" for n in rom.values.shape)
    lines, line = [], " "
    for row in rom.values:
        text = "{" + ", ".join(map(str, row.tolist())) + "}" if rom.values.ndim == 2 else str(int(row))
        while len(text) > _WIDTH - 4:
            cut = text.rfind(" ", 0, _WIDTH - 4)
            lines += [line] * bool(line.strip()) + ["  " + text[:cut]]
            line, text = " ", text[cut + 1:]
        if len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = " "
        line += f" {text},"
    return "\n".join([f"static const {rom.type.rom} {rom.name}{dims} = {{", *lines, line, "};"]) + "\n"


def weights_header(design: Design) -> str:
    """Every constant of the design."""
    parts = ["// The constants of the design: weights, biases, tables.", "#ifndef WEIGHTS_H", "#define WEIGHTS_H", ""]
    for p in design.processes:
        roms = p.roms()
        if roms:
            parts.append(f"// {p.name}: {comment(p.about())}")
            parts += [rom_code(r) for r in roms]
    for t in tables_of(design):
        parts += [rom_code(r) for r in table_roms(t)]
    return "\n".join([*parts, "#endif\n"])


def comment(text: str) -> str:
    """Text of any origin for a // comment: printable ASCII, one line, no continuation."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:400]


def kernel_header(design: Design) -> str:
    """The declaration of the top function, with the meaning of its arrays."""
    lines = [f"// {t.name}: {list(t.shape)} of {t.type}: integers, value = integer / 2^{t.type.frac}"
             for t in (*design.inputs, *design.outputs)]
    lines += [f"// {n}: {p.memory} words of memory, {comment(p.about())}" for n, p in design.memories.items()]
    lines = [comment(x)[0:2] + comment(x)[2:] for x in lines]
    guard = f"{design.name.upper()}_H"
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", '#include "tw_hls.h"', "", *lines,
                      f'extern "C" void {design.name}({parameters(design)});', "#endif", ""])


def kernel_source(design: Design) -> str:
    """The whole kernel."""
    parts = [f'#include "{design.name}.h"\n#include "tw_hls.h"\n#include "weights.h"\n']
    parts += [t.code() for t in tables_of(design)]
    for p in design.processes:
        origin = f"  From {comment(p.where)[:90]}" if p.where else ""
        parts.append(f"// {comment(p.about())}.{origin}\n{_placed(p, design)}")
    parts += [p.mover() for p in ports(design)]
    return "\n".join(parts) + "\n" + _top(design)


def _placed(p: Process, design: Design) -> str:
    """The code of a process, its working array bound to UltraRAM where the design says so."""
    if p.name not in design.ultra:
        return p.code()
    line = f"#pragma HLS BIND_STORAGE variable={p.buffer} type=ram_s2p impl=uram"
    return re.sub(rf"^(  static .* {p.buffer}\[.*;)$", rf"\1\n{line}", p.code(), count=1, flags=re.MULTILINE)


def _packet(t: Tensor, lanes: int) -> str:
    return f"tw::vec<{t.type.cpp}, {lanes}>"


def stream_names(design: Design) -> dict[Tensor, str]:
    """A C++ name per stream."""
    taken = {*design.input_names, *design.output_names}
    streams = [*design.inputs, *(t for p in design.processes for t in p.outputs)]
    return {t: identifier("s_" + t.name, taken) for t in streams}


def _top(design: Design) -> str:
    lanes, names = design.lanes, stream_names(design)
    lines = [f'extern "C" void {design.name}({parameters(design)}) {{']
    lines += [*port_pragmas(design), "#pragma HLS DATAFLOW"]
    for t, name in names.items():
        depth = design.depths.get(t, 2)
        lines.append(f"  static tw::stream<{_packet(t, lanes[t.stream])}> {name};")
        lines.append(f"#pragma HLS STREAM variable={name} depth={depth}")
        store = "uram" if name in design.ultra else fifo_store(depth, lanes[t.stream] * t.type.bits)
        if store:
            lines.append(f"#pragma HLS BIND_STORAGE variable={name} type=fifo impl={store}")
    for t, name in zip(design.inputs, design.input_names, strict=True):
        lines.append(f"  load_{name}({name}, {names[t.stream]});")
    for p in design.processes:
        ends = [names[t.stream] for t in (*p.inputs, *p.outputs)] + [f"mem_{p.name}"] * bool(p.memory)
        lines.append(f"  {p.name}({', '.join(ends)});")
    for t, name in zip(design.outputs, design.output_names, strict=True):
        lines.append(f"  store_{name}({names[t.stream]}, {name});")
    return "\n".join([*lines, "}", ""])

