"""What runs in which order on the graph, and what is done around every pass: verify, time, print, compare.

A pass is a function Graph -> Graph in a file of its own.  `GRAPH_PASSES` is the whole order; `ORDER` says which pairs
must keep it and why, and a test holds the table to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.errors import InternalError
from ..ir.graph import Graph
from ..ir.verify import verify_graph
from .differential import Differential
from .faults import guarded
from .options import Options
from .passes.channels_last import channels_last
from .passes.fold_constants import fold_constants
from .passes.fuse import fuse
from .passes.simplify import simplify
from .progress import Stages

PassFunction = Callable[[Graph], Graph]
Print = Callable[[str, str], None]

GRAPH_PASSES: tuple[tuple[str, PassFunction], ...] = (
    ("fold_constants", fold_constants),
    ("simplify", simplify),
    ("channels_last", channels_last),
    ("fuse", fuse),
)

# (earlier, later, why)
ORDER: tuple[tuple[str, str, str], ...] = (
    ("fold_constants", "simplify", "rules of simplify look for constants, which shape arithmetic only is once folded"),
    ("simplify", "channels_last", "transposes and reshapes are in normal form, which is what sinking matches"),
    ("channels_last", "fuse", "a transpose between two nodes would keep them out of one kernel"),
)

STAGE_NAMES = ("import", *(name for name, _ in GRAPH_PASSES), "lower")
"""What `print_after` may name."""


def run_passes(
    graph: Graph,
    options: Options,
    stages: Stages,
    show: Print,
    passes: Sequence[tuple[str, PassFunction]] = GRAPH_PASSES,
) -> Graph:
    """The graph after all passes.  show(pass, text) receives what `print_after` asks for.

    Raises InternalError that names the pass, with the graph before it in `ir`, when a pass fails, leaves an invalid
    graph, or (with `check_passes`) changes the numbers.  A ModelError that a pass finds is passed on.
    """
    if options.verify:
        with stages.stage("verify"):
            verify_graph(graph, after="import")
    differential = None
    if options.check_passes:
        with stages.stage("check-passes"):
            differential = Differential(graph)
    for done, (name, function) in enumerate(passes):
        with stages.stage(name, done, len(passes)), guarded(f"pass {name}", graph):
            after = function(graph)
        if options.verify:
            with stages.stage("verify", done, len(passes)):
                _verify(name, after, graph)
        if differential is not None:
            with stages.stage("check-passes", done, len(passes)):
                differential.compare(name, graph, after)
        if wanted(options, name):
            show(name, str(after))
        graph = after
    return graph


def wanted(options: Options, stage: str) -> bool:
    """Whether the result of a stage is to be printed."""
    return stage in options.print_after or "all" in options.print_after


def _verify(name: str, after: Graph, before: Graph) -> None:
    try:
        verify_graph(after, after=name)
    except InternalError as error:
        raise InternalError(str(error), ir=f"before {name}:\n{before}\n\nafter {name}:\n{after}") from error
