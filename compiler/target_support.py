"""Which targets have what for the operators of a model, told from the imported graph: nothing is compiled.

A target has an operator if it has a rule or loops for it, or for everything that it is made of.  The streams of an FPGA are
told from the graph after its passes, as the hardware is made from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ..codegen.stablehlo.emit import RULES
from ..ir.bind import bind_graph
from ..ir.dims import symbols
from ..ir.errors import TilewrightError
from ..ir.graph import Builder, Graph, Node
from ..ir.ops.base import Op, form_of, form_of_class
from ..ir.ops.control import Loop
from ..ir.ops.data_sized import DataSized
from ..ir.ops.image_file import DecodeImage
from ..ir.types import TensorType
from ..ir.verify import subgraphs
from ..targets.fpga.build import is_native, require_ports
from ..targets.fpga.elementwise import ELEMENTWISE, NoHardwareError
from ..targets.fpga.handlers import HANDLERS
from ..targets.fpga.host import resolve_machine
from ..targets.fpga.lower import lower_graph
from ..targets.fpga.ranges import Ranges
from .options import Options
from .passes.bound_sizes import bound_sizes
from .pipeline import STREAM_PASSES, run_passes
from .progress import Stages

_SIZED = "a result of a size that only data tells"
_STRINGS = "strings are for processors' libraries"
_IMAGES = "image files are decoded by processors' libraries"
_SOME_BITS = 8
_LOOP = "how often the loop runs sizes a result, and is only known when it runs"
Lack = Callable[[Op, tuple[TensorType, ...]], str]
"""Why a target does not have an operator for operands of these types, or ""."""


def _lacks_loops(op: Op, types: tuple[TensorType, ...]) -> str:
    """For targets with kernels of their own."""
    if isinstance(op, Loop) and op.scanned and not isinstance(op.length, int):
        return _LOOP
    return ""


def _lacks_rule(op: Op, types: tuple[TensorType, ...]) -> str:
    """For XLA."""
    if type(op) in RULES or form_of(op) == "compute":
        return _lacks_loops(op, types)
    return "no translation to StableHLO"


_LACKS: dict[str, Lack] = {
    "cpu": _lacks_loops, "cuda": _lacks_loops, "xla": _lacks_rule, "tpu": _lacks_rule, "tvm": _lacks_loops,
}
_TRIED = (1, 2, 8, 64, 224, 512)  # for all open sizes
_REFUSING = ("cuda", "xla", "tpu", "tvm", "fpga")  # strings and images
_FIXED = ("xla", "tpu", "tvm", "fpga")  # of results whose size only data tells, too


def target_reasons(graph: Graph) -> dict[str, dict[str, str]]:
    """Target -> where -> why it cannot compile what comes from there.  The key "" is for what no node is named for.  Processors
    are judged with open sizes, the others at the first of `_TRIED` at which the model fits together."""
    as_given, graph = graph, _with_sizes(graph)
    found: dict[str, dict[str, str]] = {target: {} for target in (*_LACKS, "fpga")}
    for node in _all_nodes(graph):
        types = tuple(v.type for v in (*node.inputs, *node.outputs))
        for target in found:
            reason = _general(node.op, types, target)
            if not reason and target in _LACKS:
                reason = _reason(node.op, tuple(v.type for v in node.inputs), _LACKS[target])
            if reason:
                found[target].setdefault(node.where, reason)
    for target, given in (("cpu", as_given), ("cuda", graph)):
        try:
            bound_sizes(given)
        except TilewrightError as error:
            found[target].setdefault("", str(error))
    if found["fpga"]:  # it has no design as a whole: what each operator lacks
        lacking = (n for n in _all_nodes(graph) if lacks_class("fpga", type(n.op)))
        found["fpga"] = {**{n.where: f"no hardware process for {n.op.name}" for n in lacking}, **found["fpga"]}
    else:
        found["fpga"] = _streams(graph)
    return found


def _general(op: Op, types: tuple[TensorType, ...], target: str) -> str:
    """What a target takes of no operator, if it is that."""
    if target in _REFUSING and any(t.dtype == "str" for t in types):
        return _STRINGS
    if target in _REFUSING and isinstance(op, DecodeImage):
        return _IMAGES
    return _SIZED if target in _FIXED and isinstance(op, DataSized) else ""


def open_sizes(graph: Graph) -> tuple[str, ...]:
    """The names of the dimensions of the inputs that are open, which all targets but the processor need to know."""
    return tuple(sorted({v.name for v in symbols(d for x in graph.inputs for d in x.type.shape)}))


def _with_sizes(graph: Graph) -> Graph:
    unknown = symbols(d for v in graph.inputs for d in v.type.shape)
    for size in _TRIED if unknown else ():
        try:
            return bind_graph(graph, dict.fromkeys(unknown, size))
        except TilewrightError:  # they do not fit each other
            continue
    return graph


def lacks_class(target: str, op: type[Op]) -> bool:
    """Whether a target has nothing for a core operator, whatever its operands are."""
    form = form_of_class(op)
    if form == "support" or issubclass(op, DecodeImage):
        return target != "cpu"
    if issubclass(op, DataSized):
        return target not in ("cpu", "cuda")
    if target in ("xla", "tpu"):
        return op not in RULES and form not in ("compute", "expand")
    if target == "fpga":
        return op not in HANDLERS and op not in ELEMENTWISE and form != "expand"
    return False


def _all_nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for inner in subgraphs(node.op):
            yield from _all_nodes(inner)


def _reason(op: Op, types: tuple[TensorType, ...], lack: Lack) -> str:
    """Of the operator, or of one that it is made of."""
    if isinstance(op, DataSized) or form_of(op) == "support":
        return ""
    if form_of(op) != "expand" or (lack is _lacks_rule and type(op) in RULES):
        return lack(op, types)
    if not all(t.is_static for t in types):  # what it is made of depends on them
        return ""
    b = Builder(op.name)
    made = op.expand(b, *(b.input(f"x{n}", t) for n, t in enumerate(types)))
    parts = b.graph(made).nodes
    return next((r for n in parts if (r := _reason(n.op, tuple(v.type for v in n.inputs), lack))), "")


def _streams(graph: Graph) -> dict[str, str]:
    """What no hardware process is made for, with ranges that are assumed: what a run finds (how many bits are needed, whether
    the board is large enough) is not among it."""
    try:
        native = partial(is_native, resolve_machine("fpga:u250"))
        after = run_passes(graph, Options(target="fpga"), Stages(), lambda *_: None, STREAM_PASSES, native)
        require_ports(after)
        lower_graph(after, Ranges.assumed(after), _SOME_BITS)
    except NoHardwareError as error:
        return {n.where: f"no hardware process for {n.op.name}" for n in error.nodes}
    except TilewrightError as error:
        return {"": str(error).removeprefix("fpga: ")}
    return {}


def by_operator(reasons: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Operator of the model -> the first reason.  names: node -> operator."""
    found: dict[str, str] = {}
    for where, reason in reasons.items():
        operator = next((names[n] for n in _names_in(where) if n in names), "")
        found.setdefault(operator, reason)
    return found


def _names_in(where: str) -> Iterator[str]:
    """What a node's origin may name, the longest first: nodes within nodes are joined by "/", several nodes by ", "."""
    for part in (where, *where.split(", ")):
        steps = part.split("/")
        yield from ("/".join(steps[:n]) for n in range(len(steps), 0, -1))
