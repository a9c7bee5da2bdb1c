"""`--report`: one self-contained page about a compilation.

What is on it; how it becomes a page that loads nothing is in `page.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..codegen.program import Call, Program, all_calls
from ..codegen.roofline import Limit, assumptions, limit_of
from ..ir.errors import InternalError
from ..ir.graph import Graph, Node
from ..ir.kernel import Buffer, Kernel
from .drawing import BOX_HEIGHT, BOX_WIDTH, MEMORY_HEIGHT, MEMORY_WIDTH, draw_graph, draw_memory, short_name
from .driver import Compilation
from .page import render_page
from .summary import options_text, summary_rows
from .writing import write_whole

MAX_DRAWN_NODES = 3000  # beyond that a browser is slow and a reader lost: the table remains


@dataclass(frozen=True)
class KernelRow:
    """One call as the report shows it; share: of the estimated time of all calls, 0..1."""

    step: int
    kernel: str
    ops: str
    where: str
    shapes: str
    schedule: str
    macs: int
    read: int
    written: int
    limit: Limit
    share: float


@dataclass(frozen=True)
class LaunchRow:
    """One function of a GPU and what it uses on one architecture: registers of a thread, bytes of stack and of spills of a
    thread, bytes of shared memory of a block."""

    function: str
    grid: str
    block: str
    arch: str
    registers: int
    stack: int
    spills: int
    shared: int


def write_report(compilation: Compilation, path: Path) -> None:
    """Write the page.  Raises OSError if it cannot be written; a file that is there is then unchanged."""
    write_whole(path, render_report(compilation).encode())


def render_report(compilation: Compilation) -> str:
    """The page as text.  The compilation must not come from the cache: an artifact does not hold its graphs."""
    imported, fused, program = compilation.imported, compilation.fused, compilation.program
    if imported is None or fused is None:
        raise InternalError("a report was asked for an artifact from the cache, which has no graphs")
    name = fused.name if program is None else program.name
    return render_page(
        "report.html.j2",
        title=f"Tilewright report: {name}", name=name, version=__version__,
        target=compilation.artifact.manifest["target"], options=options_text(compilation.artifact.manifest["options"]),
        summary=summary_rows(compilation.summary, compilation.seconds, False), seconds=compilation.seconds,
        graphs=[
            _graph_section("Imported graph", imported),
            _graph_section("Optimized graph" if program is None else "Fused graph", fused),
        ],
        inputs=[(v.name, v.type) for v in fused.inputs],
        outputs=[(n, v.type) for n, v in zip(fused.output_names, fused.outputs, strict=True)],
        box_width=BOX_WIDTH, box_height=BOX_HEIGHT, memory_width=MEMORY_WIDTH, memory_height=MEMORY_HEIGHT,
        **(_program_section(program, compilation) if program is not None else _estimate_section(compilation)),
    )


def _program_section(program: Program, compilation: Compilation) -> dict[str, object]:
    steps = _steps(program)
    return {
        "program": program, "kernels": kernel_rows(program, compilation), "assumptions": assumptions(compilation.machine),
        "slabs": draw_memory(program.placements, program.arena_bytes, steps), "steps": steps, "fusions": (),
        "launches": launch_rows(compilation.artifact.manifest.get("kernels", ())),
    }


def _estimate_section(compilation: Compilation) -> dict[str, object]:
    """For a target whose own compiler takes the graph: what that compiler says, if it says anything."""
    return {"program": None, "fusions": compilation.artifact.manifest["estimate"].get("fusions", ())}


def kernel_rows(program: Program, compilation: Compilation) -> list[KernelRow]:
    """One row per call, in the order of the program."""
    calls = list(all_calls(program.shown_steps))
    limits = [limit_of(c.cost, compilation.machine) for c in calls]
    total = sum(limit.seconds for limit in limits) or 1.0
    return [
        KernelRow(
            i, call.kernel, ", ".join(_counted(call.ops)), call.where, _shapes(program.kernels[call.kernel], call),
            call.cost.schedule, call.cost.macs, call.cost.bytes_read, call.cost.bytes_written, limit,
            limit.seconds / total,
        )
        for i, (call, limit) in enumerate(zip(calls, limits, strict=True))
    ]


def launch_rows(kernels: Iterable[Mapping[str, Any]]) -> list[LaunchRow]:
    """A row for each function and architecture in a manifest's kernels; none for a processor's."""
    launches = {launch["function"]: launch for k in kernels for launch in k.get("launches", ())}
    size = lambda numbers: " x ".join(str(n) for n in numbers if n > 1) or "1"  # noqa: E731
    return [
        LaunchRow(name, size(launch["grid"]), size(launch["block"]), arch, r["registers"], r["stack"],
                  r["spill_stores"] + r["spill_loads"], launch["shared_bytes"])
        for name, launch in launches.items() for arch, r in sorted(launch["resources"].items())
    ]


def _counted(names: Iterable[str]) -> list[str]:
    return [name if n == 1 else f"{n} {name}" for name, n in Counter(names).items()]


def _shapes(kernel: Kernel, call: Call) -> str:
    """Outputs and inputs as the kernel sees them; an argument in the constants is a weight."""
    params = [p for p in kernel.params if isinstance(p, Buffer)]
    words = []
    for buffer, address in zip(params, call.args, strict=False):
        mark = "*" if address.space == "constants" else ""
        words.append(f"{buffer.name}{mark} {buffer.dtype}[{', '.join(map(str, buffer.shape))}]")
    return "; ".join(words)


def _steps(program: Program) -> int:
    return 1 + max([p.last for p in program.placements], default=len(program.steps) - 1)


def _graph_section(heading: str, graph: Graph) -> dict[str, object]:
    drawn = draw_graph(graph) if len(graph.nodes) <= MAX_DRAWN_NODES else None
    kinds = Counter(short_name(n) for n in graph.nodes)
    nodes = [_node_row(n) for n in graph.nodes]
    return {"heading": heading, "picture": drawn, "kinds": kinds.most_common(), "nodes": nodes}


def _node_row(node: Node) -> tuple[str, str, str, str]:
    ins, outs = (", ".join(f"{v.name}: {v.type}" for v in values) for values in (node.inputs, node.outputs))
    return short_name(node), node.where, ins, outs
