"""The numbers of a compilation, and how they are shown to people.

`Summary` has what follows from the model and the options alone (it is kept in the cache); the times of one run stand
beside it in `Compilation.seconds`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from ..codegen.program import Program, all_calls
from ..codegen.sizing import typical_of
from ..codegen.versions import VersionFacts, version_facts
from ..ir.graph import Graph, Node
from ..ir.ops.contract import Conv, MatMul
from ..targets.artifact import Artifact

if TYPE_CHECKING:  # `run` and `inspect` need these tables, and no onnx
    from ..frontend.onnx import OperatorUse


@dataclass(frozen=True)
class Summary:
    """operators: nodes of the model, those of subgraphs and called functions included; operator_counts: (name, how
    many), the most frequent first.  kernels: distinct ones; calls: how often the program runs one (loop bodies count once).
    macs: multiply-accumulates of one run without what loops repeat.  Sizes in bytes: weights as packed, arena (all
    intermediate tensors), scratch (per thread), code (machine code of the model).  operations: of a module that another
    compiler takes, which has no kernels of ours; estimate: what that compiler says about its result, by rows; of a program
    with versions, what each of them is; of a GPU's functions, what they use and who compiled them.  open: what a program with
    open dimensions takes, and for which sizes these figures are."""

    operators: int
    operator_counts: tuple[tuple[str, int], ...]
    kernels: int
    calls: int
    macs: int
    weight_bytes: int
    arena_bytes: int
    scratch_bytes: int
    code_bytes: int
    linker: str = ""
    operations: int = 0
    operation_kind: str = ""
    estimate: tuple[tuple[str, str], ...] = ()
    open: str = ""


def summarize(uses: Sequence[OperatorUse], program: Program, artifact: Artifact) -> Summary:
    calls = list(all_calls(program.shown_steps))
    versions = [(f"version {v.title}", _version_text(v)) for v in version_facts(program)]
    counts: Counter[str] = Counter()
    for use in uses:  # one row per version and domain: some names occur twice
        counts[use.operator] += use.count
    return Summary(
        operators=sum(counts.values()),
        operator_counts=tuple(counts.most_common()),
        kernels=len(program.kernels),
        calls=len(calls),
        macs=sum(c.cost.macs for c in calls),
        weight_bytes=program.constant_bytes,
        arena_bytes=program.largest_arena,
        scratch_bytes=program.largest_scratch,
        estimate=(*versions, *_gpu_rows(artifact.manifest)),
        code_bytes=int(artifact.manifest["sizes"]["code"]),
        linker=str(artifact.manifest["versions"].get("linker", "")), open=open_text(artifact.manifest),
    )


def _gpu_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who compiled the functions of a GPU, and what the largest ones use."""
    launches = {launch["function"]: launch for k in manifest.get("kernels", ()) for launch in k.get("launches", ())}
    used = [r for launch in launches.values() for r in launch["resources"].values()]
    if not used:
        return []
    spilled = sum(r["spill_stores"] + r["spill_loads"] for r in used)
    shared = max(launch["shared_bytes"] for launch in launches.values())
    registers = max(r["registers"] for r in used)
    text = (f"{len(launches)}, at most {registers} registers a thread and {bytes_text(shared)} of shared memory a block, "
            f"{f'{spilled} bytes spilled' if spilled else 'nothing spilled'}")
    return [("functions", text), ("compiled by", str(manifest["versions"].get("cuda", "")))]


def open_text(manifest: Mapping[str, Any]) -> str:
    """Which sizes a run may choose, and for which ones a table gives the figures; empty if every size is bound."""
    if not manifest.get("any_size", True):
        versions = [", ".join(f"{n}={size}" for n, size in v["dims"].items()) for v in manifest["specialized"]]
        return f"{' or '.join(versions)}; work is that of {versions[0]}, memory that of the largest"
    found = [(name, low, high) for name, (low, high) in manifest.get("dims", {}).items()]
    ranges = ", ".join(f"{name} ({low} or more)" if high is None else f"{name} ({low} to {high})" for name, low, high in found)
    typical = ", ".join(f"{name}={typical_of(low, high)}" for name, low, high in found)
    return f"{ranges}; work and memory are those of {typical}" if found else ""


def options_text(options: Mapping[str, Any]) -> str:
    """What a manifest records of the options, those that are not as by default."""
    ranges = {name: f"{low}..{'' if high is None else high}" for name, (low, high) in options.get("ranges", {}).items()}
    shown = {**options, **({"ranges": ranges} if ranges else {})}
    return ", ".join(f"{name} {_option_text(value)}" for name, value in sorted(shown.items()))


def _option_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_option_text(v)}" for name, v in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "on" if value is True else str(value)


def _version_text(v: VersionFacts) -> str:
    own = f"{bytes_text(v.own)} of weights of its own" if v.own else "all weights shared"
    return f"{v.calls} calls, arena {bytes_text(v.arena)}, {own}"


def summarize_graph(uses: Sequence[OperatorUse], graph: Graph, artifact: Artifact) -> Summary:
    """For targets that take the graph: nothing is known about memory but what their compiler tells."""
    counts: Counter[str] = Counter()
    for use in uses:
        counts[use.operator] += use.count
    manifest = artifact.manifest
    return Summary(
        operators=sum(counts.values()), operator_counts=tuple(counts.most_common()), kernels=0, calls=0,
        macs=sum(map(_macs, graph.nodes)), weight_bytes=int(manifest["sizes"]["weights"]), arena_bytes=0,
        scratch_bytes=0, code_bytes=int(manifest["sizes"]["code"]), operations=int(manifest["operations"]),
        operation_kind=str(manifest.get("operation_kind", " of StableHLO")),
        estimate=tuple((str(k), str(v)) for k, v in manifest["estimate"].get("rows", ())),
    )


def _macs(node: Node) -> int:
    """Multiply-accumulates of a product or convolution of known size."""
    if not isinstance(node.op, (MatMul, Conv)) or not all(v.type.is_static for v in (*node.inputs, *node.outputs)):
        return 0
    inner = node.inputs[0].type.shape[-1:] if isinstance(node.op, MatMul) else node.inputs[1].type.shape[:-1]
    return node.outputs[0].type.size * prod(int(d) for d in inner)  # type: ignore[call-overload]


def bytes_text(size: float) -> str:
    """A size for people, in powers of 1000."""
    return _scaled(size, "B", ("kB", "MB", "GB", "TB"))


def count_text(count: float) -> str:
    """A large number for people."""
    return _scaled(count, "", ("k", "M", "G", "T")).strip()


def _scaled(value: float, unit: str, larger: Sequence[str]) -> str:
    if abs(value) < 1000:
        return f"{value:g} {unit}"
    for name in larger:
        value /= 1000
        if abs(value) < 999.5 or name == larger[-1]:
            break
    return f"{value:.3g} {name}"


def seconds_text(seconds: float) -> str:
    """A duration for people."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def printable(text: str) -> str:
    """Text of any origin for a terminal: control characters, which could move the cursor or hide text, are escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def table(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """Left-aligned columns, two spaces apart, with an underlined heading if there is one."""
    lines = [[printable(cell) for cell in line] for line in ((heading, *rows) if heading else rows)]
    if not lines:
        return ""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    if heading:
        lines.insert(1, ["-" * w for w in widths])
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def summary_rows(summary: Summary, seconds: dict[str, float], cached: bool) -> list[tuple[str, str]]:
    """The table at the end of a compilation."""
    kinds = ", ".join(f"{n} {name}" for name, n in summary.operator_counts[:4])
    more = ", ..." if len(summary.operator_counts) > 4 else ""
    rows = [
        *([("open", summary.open)] if summary.open else []),
        ("operators", f"{summary.operators} ({kinds}{more})" if summary.operators else "0"),
        ("operations", f"{summary.operations}{summary.operation_kind}") if summary.operations else
        ("kernels", f"{summary.kernels} after fusion, in {summary.calls} calls"),
        ("work", f"{count_text(summary.macs)} multiply-accumulates a run"),
        ("weights", bytes_text(summary.weight_bytes)),
    ]
    if not summary.operations:
        rows.append(("arena", f"{bytes_text(summary.arena_bytes)}, and {bytes_text(summary.scratch_bytes)} per thread"))
    rows += [("code", bytes_text(summary.code_bytes)), *summary.estimate]
    if summary.linker:
        rows.append(("linked by", summary.linker))
    slowest = sorted(seconds.items(), key=lambda s: -s[1])[:6]
    times = ", ".join(f"{name} {seconds_text(t)}" for name, t in slowest if t >= 1e-3)
    rows.append(("time", seconds_text(sum(seconds.values())) + (f" ({times})" if times else "")))
    if cached:
        rows.append(("from", "the cache (--no-cache compiles again)"))
    return rows


def summary_json(summary: Summary) -> dict[str, Any]:
    return asdict(summary) | {"operator_counts": dict(summary.operator_counts)}


def summary_from_json(data: dict[str, Any]) -> Summary:
    """The inverse of `summary_json`."""
    pairs = {"operator_counts": tuple(data["operator_counts"].items()), "estimate": tuple(map(tuple, data["estimate"]))}
    return Summary(**{**data, **pairs})
