"""The files of a project: kernel, constants, test bench with golden data, tool configurations, host programs.

The keys of `hls_config.cfg` are those of the unified Vitis flow; `run_hls.tcl` says the same to older releases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...codegen.hls.design import Design
from ...codegen.hls.emit import kernel_header, kernel_source, weights_header
from ...codegen.hls.fetch import TiledDot
from ...codegen.hls.interface import arrays_source, ports, word
from ...codegen.hls.loaded import LoadedDot
from ...codegen.hls.ports import InPort, OutPort
from ...codegen.hls.tensor import Tensor
from .host import FpgaMachine

_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"
_XCLBIN = '    kernel = Kernel("{}.xclbin")     # XRT: Alveo cards, embedded boards with XRT\n'
RUNTIME_HEADER = "tw_hls.h"
Frames = Sequence[Sequence[np.ndarray]]


def project_files(design: Design, machine: FpgaMachine, inputs: Frames, outputs: Frames) -> dict[str, bytes]:
    """inputs, outputs: codes of golden frames.  Paths with / are folders of the project."""
    top = design.name
    texts = {
        f"src/{top}.cpp": kernel_source(design),
        f"src/{top}.h": kernel_header(design),
        f"src/{RUNTIME_HEADER}": (_HERE / "runtime" / RUNTIME_HEADER).read_text(),
        "weights/weights.h": weights_header(design),
        f"tb/{top}_tb.cpp": test_bench(design, len(inputs)),
        "hls_config.cfg": hls_config(design, machine),
        "run_hls.tcl": run_hls(design, machine),
        "Makefile": _filled("Makefile", TOP=top, LINK=_link_rule(design, machine)),
        "host/driver.py": _filled("driver.py.in", KERNEL=(_TEMPLATES / f"{design.interface}.py.in").read_text(), TOP=top,
                                  XCLBIN=_XCLBIN.format(top) * (design.interface == "m_axi"), INPUTS=_ports(design, True),
                                  OUTPUTS=_ports(design, False), MEMORIES=json.dumps(memory_facts(design))),
    }
    layers = layer_facts(design)
    if layers:
        rows = "".join(f"    {layer!r},\n" for layer in layers)
        texts["host/weights.py"] = _filled("weights.py.in", LAYERS=f"[\n{rows}]")
    if design.interface == "axis":
        texts[f"tb/{top}_arrays.cpp"] = arrays_source(design)
    else:
        texts["host/host.cpp"] = _filled("host.cpp", TOP=top, INPUTS=_sizes(design, True), OUTPUTS=_sizes(design, False),
                                         MEMORIES=_memory_rows(design))
    if machine.board.kind == "alveo":
        texts["link.cfg"] = link_config(design, machine)
    for n in range(len(design.inputs)):
        texts[f"tb/input{n}.dat"] = golden([frame[n] for frame in inputs])
    for n in range(len(design.outputs)):
        texts[f"tb/expected{n}.dat"] = golden([frame[n] for frame in outputs])
    binary = {f"weights/{n}.bin": p.contents.astype("<u8").tobytes() for n, p in design.memories.items()
              if p.contents is not None}
    return {name: text.encode() for name, text in texts.items()} | binary


def memory_facts(design: Design) -> list[dict[str, Any]]:
    """Ports to the board's memory: words of 64 bits, and whether `weights/PORT.bin` has to be in it."""
    return [{"port": n, "words": p.memory, "file": f"{n}.bin" if p.contents is not None else ""}
            for n, p in design.memories.items()]


def layer_facts(design: Design) -> list[dict[str, Any]]:
    """What `host/weights.py` needs to know of every product whose weights are in memory."""
    facts = []
    for p in design.processes:
        if isinstance(p, (LoadedDot, TiledDot)):
            (outputs, inputs), w, acc, x = p.weights.shape, p.weight_type, p.body.inputs[0], p.inputs[0].type
            facts.append({
                "port": f"mem_fetch_{p.name}", "layer": p.where.encode("ascii", "replace").decode(), "outputs": outputs,
                "inputs": inputs, "pe": p.pe, "simd": p.simd, "bits": w.bits, "frac": w.frac, "range": [w.low, w.high],
                "input_range": [x.low, x.high], "sum_frac": acc.frac, "sum_range": [acc.low, acc.high],
                "bias": None if len(p.inputs) > 2 else p.bias.tolist(),
            })
    return facts


def _memory_rows(design: Design) -> str:
    return ", ".join(f'{{"{m["file"]}", {8 * m["words"]}}}' for m in memory_facts(design))


def golden(frames: Sequence[np.ndarray]) -> str:
    """One frame per line."""
    return "\n".join(" ".join(map(str, f.ravel().tolist())) for f in frames) + "\n"


def _filled(template: str, **values: str) -> str:
    text = (_TEMPLATES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


Row = tuple[Tensor, str, "InPort | OutPort"]


def _rows(design: Design, is_input: bool) -> list[Row]:
    if is_input:
        return list(zip(design.inputs, design.input_names, design.in_ports, strict=True))
    return list(zip(design.outputs, design.output_names, design.out_ports, strict=True))


def port_facts(design: Design, is_input: bool) -> list[dict[str, Any]]:
    """What a host needs to know about each port."""
    return [
        {"name": t.name.encode("ascii", "replace").decode(), "port": name, "beat": design.beats.get(t.stream, 1),
         "shape": list(port.shape), "kernel_shape": list(t.shape), "perm": list(port.perm), "frac": t.type.frac,
         "bits": t.type.bits, "dtype": word(t.type)[:-2], "range": [t.type.low, t.type.high], **_meaning(port)}
        for t, name, port in _rows(design, is_input)
    ]


def _meaning(port: InPort | OutPort) -> dict[str, Any]:
    """What stands for fixed point where a model has codes of its own."""
    if isinstance(port, OutPort):
        if port.affine is None:
            return {}
        return {"scale": port.affine[0].tolist(), "offset": port.affine[1].tolist(),
                "steps": [[op, np.ravel(numbers).tolist()] for op, numbers in port.steps]}
    if port.quantizer is None:
        return {}
    q = port.quantizer
    return {"steps": [list(s) for s in port.steps], "quantizer": [q.scale, q.zero, q.low, q.high]}


def _ports(design: Design, is_input: bool) -> str:
    rows = ",\n".join("    " + json.dumps(p) for p in port_facts(design, is_input))
    return f"[\n{rows},\n]"


def _sizes(design: Design, is_input: bool) -> str:
    rows = [f'{{"{name}", {prod(t.shape) * np.dtype(word(t.type)[:-2]).itemsize}}}' for t, name, _ in _rows(design, is_input)]
    return ", ".join(rows)


_CONTENTS = """static bool contents(uint64_t* to, size_t words, const char* folder, const char* name) {
  FILE* const file = opened(folder, name, "rb");
  const bool whole = file && fread(to, 8, words, file) == words;
  if (file) fclose(file);
  return whole;
}

"""


def test_bench(design: Design, frames: int) -> str:
    """Reads the golden frames, runs the kernel on each, compares every integer."""
    top = design.name
    declare, read, check = [], [], []
    made = ports(design)
    inward, outward = [p for p in made if p.is_input], [p for p in made if not p.is_input]
    for n, p in enumerate(inward):
        declare.append(f'  {p.declared()}\n  Data in{n}(folder, "input{n}.dat");')
        read.append(f"    {p.filled(f'in{n}')}")
    for n, p in enumerate(outward):
        declare.append(f'  {p.declared()}\n  Data out{n}(folder, "expected{n}.dat");')
        check.append(f"    {p.checked(f'out{n}')}")
    files = [f"in{n}" for n in range(len(inward))] + [f"out{n}" for n in range(len(outward))]
    for name, p in design.memories.items():
        declare.append(f"  static uint64_t {name}[{p.memory}];")
        if p.contents is not None:
            declare.append(f'  missing |= !contents({name}, {p.memory}, folder, "../weights/{name}.bin");')
    call = ", ".join((*design.input_names, *design.output_names, *design.memories))
    new = "\n"
    return f"""// Test bench: every output integer must be the one of the integer interpreter.
// usage: csim [folder of the .dat files]
#include "{top}.h"
#include <stdio.h>

static FILE* opened(const char* folder, const char* name, const char* mode) {{
  char path[4096];
  const int length = snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE* const file = length < (int)sizeof path ? fopen(path, mode) : nullptr;
  if (!file) fprintf(stderr, "cannot open %s/%s\\n", folder, name);
  return file;
}}

struct Data {{
  FILE* file;
  Data(const char* folder, const char* name) : file(opened(folder, name, "r")) {{}}
  long long next() {{
    long long x = 0;
    if (!file || fscanf(file, "%lld", &x) != 1) missing = true;
    return x;
  }}
  bool missing = false;
}};

{_CONTENTS if design.memories else ""}int main(int argc, char** argv) {{
  const char* const folder = argc > 1 ? argv[1] : "tb";
  bool missing = false;
{new.join(declare)}
  long wrong = 0;
  for (int frame = 0; frame < {frames}; ++frame) {{
{new.join(read)}
    {top}({call});
{new.join(check)}
  }}
  missing = missing || {" || ".join(f"{name}.missing" for name in files)};
  long faults = 0;
#ifndef TW_VITIS
  faults = tw::faults();
#endif
  printf("{{\\"frames\\": {frames}, \\"wrong\\": %ld, \\"faults\\": %ld, \\"missing\\": %d}}\\n",
              wrong, faults, (int)missing);
  return wrong || faults || missing;
}}
"""


def _flow(machine: FpgaMachine) -> str:
    return "vitis" if machine.board.kind == "alveo" else "vivado"


def hls_config(design: Design, machine: FpgaMachine) -> str:
    """For v++ -c --mode hls and vitis-run --mode hls (2023.2 and newer)."""
    top, output = design.name, "xo" if machine.board.kind == "alveo" else "ip_catalog"
    data = [f"input{n}.dat" for n in range(len(design.inputs))] + [f"expected{n}.dat" for n in range(len(design.outputs))]
    rows = [
        f"part={machine.board.part}", "", "[hls]", f"clock={1000 / machine.mhz:.3f}ns", "clock_uncertainty=15%",
        f"flow_target={_flow(machine)}", f"syn.top={top}", f"syn.file=src/{top}.cpp",
        "syn.cflags=-Isrc -Iweights -DTW_VITIS", f"tb.file=tb/{top}_tb.cpp", "tb.cflags=-Isrc -DTW_VITIS",
        *(f"tb.file=tb/{name}" for name in data), "csim.code_analyzer=0", f"syn.output.format={output}",
        f"package.output.format={output}",
    ]
    return "\n".join(rows) + "\n"


def run_hls(design: Design, machine: FpgaMachine) -> str:
    """For vitis_hls -f and vitis-run --tcl."""
    top, data = design.name, len(design.inputs)
    files = [f"tb/input{n}.dat" for n in range(data)] + [f"tb/expected{n}.dat" for n in range(len(design.outputs))]
    adds = "\n".join(f"add_files -tb {name}" for name in files)
    output = "xo" if machine.board.kind == "alveo" else "ip_catalog"
    return f"""open_project -reset build/{top}
set_top {top}
add_files src/{top}.cpp -cflags "-Isrc -Iweights -DTW_VITIS"
add_files -tb tb/{top}_tb.cpp -cflags "-Isrc -DTW_VITIS"
{adds}
open_solution -reset solution1 -flow_target {_flow(machine)}
set_part {machine.board.part}
create_clock -period {1000 / machine.mhz:.3f}
set_clock_uncertainty 15%
csim_design -argv "."
csynth_design
export_design -format {output}
exit
"""


def link_config(design: Design, machine: FpgaMachine) -> str:
    """Memory banks of the ports for v++ -l."""
    top, bank = design.name, "HBM" if "HBM" in machine.board.memory else "DDR"
    rows = ["[connectivity]", f"nk={top}:1:{top}_1"]
    for n, name in enumerate((*design.input_names, *design.output_names, *design.memories)):
        rows.append(f"sp={top}_1.m_axi_gmem{n}:{bank}[{n % 32 if bank == 'HBM' else 0}]" if name else "")
    return "\n".join(rows) + "\n"


def _link_rule(design: Design, machine: FpgaMachine) -> str:
    top = design.name
    if machine.board.kind != "alveo":
        return ("link:\n\t@echo the packaged IP in build/hls goes into a Vivado block design: connect its AXI masters to the\n"
                "\t@echo memory ports of the processing system and its control port to a general-purpose master\n")
    return f"""# PLATFORM: the .xpfm of the card
link: csynth
\tv++ -l -t hw --platform $(PLATFORM) --config link.cfg -o build/{top}.xclbin $(wildcard build/hls/*.xo) $(wildcard build/*.xo)
"""
