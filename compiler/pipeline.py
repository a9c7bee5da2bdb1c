"""What runs in which order on the graph, and what is done around every pass: verify, time, print, compare.

A pass is a function Graph -> Graph in a file of its own.  `GRAPH_PASSES` is the whole order; `ORDER` says which pairs
must keep it and why, and a test holds the table to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..ir.errors import InternalError
from ..ir.graph import Graph
from ..ir.verify import verify_graph
from .differential import Differential
from .faults import guarded
from .options import Options
from .passes.block_products import block_products
from .passes.bodies import in_bodies
from .passes.bound_sizes import bound_sizes
from .passes.channel_words import channel_words
from .passes.channels_last import channels_last
from .passes.expand_composites import Native, expand_composites, nothing_native
from .passes.explicit_padding import explicit_padding
from .passes.fold_constants import fold_constants
from .passes.fold_permutations import fold_permutations
from .passes.fold_scales import fold_scales
from .passes.fuse import fuse
from .passes.lower_quantization import lower_quantization
from .passes.merge_products import merge_products
from .passes.narrow_storage import narrow_storage
from .passes.narrow_values import narrow_values
from .passes.recognise import recognise
from .passes.row_means import row_means
from .passes.scale_weights import scale_weights
from .passes.simplify import simplify
from .progress import Stages

PassFunction = Callable[..., Graph]
Passes = Sequence[tuple[str, PassFunction]]
Print = Callable[[str, str], None]

GRAPH_PASSES: tuple[tuple[str, PassFunction], ...] = (
    ("bound_sizes", bound_sizes),
    ("fold_constants", fold_constants),
    ("simplify", simplify),
    ("channels_last", channels_last),
    ("block_products", block_products),
    ("lower_quantization", lower_quantization),
    ("fold_permutations", fold_permutations),
    ("recognise", recognise),
    ("fold_scales", fold_scales),
    ("merge_products", merge_products),
    ("explicit_padding", explicit_padding),
    ("expand_composites", expand_composites),
    ("fold_expanded", fold_constants),
    ("simplify_expanded", simplify),
    ("channel_words", channel_words),
    ("scale_weights", scale_weights),
    ("fuse", fuse),
    ("narrow_storage", narrow_storage),
    ("row_means", row_means),
)

# (earlier, later, why)
ORDER: tuple[tuple[str, str, str], ...] = (
    ("bound_sizes", "fold_constants", "what is masked by a size that turns out to be known is folded"),
    ("fold_constants", "simplify", "rules of simplify look for constants, which shape arithmetic only is once folded"),
    ("simplify", "channels_last", "transposes and reshapes are in normal form, which is what sinking matches"),
    ("channels_last", "fold_scales", "channels are the last axis, next to the convolution that takes their scales"),
    ("recognise", "fold_scales", "the scales of a pattern would be gone into weights in front of it"),
    ("channels_last", "fold_permutations", "the transposes that are left are those that weights can absorb"),
    ("channels_last", "lower_quantization", "channels are the last axis, in which scales and biases of products run"),
    ("block_products", "lower_quantization", "weights of products that it leaves in floats are floats afterwards"),
    ("lower_quantization", "fold_permutations", "weights that stay in floats are constants only then"),
    ("lower_quantization", "explicit_padding", "a border of quantized values is their zero point"),
    ("lower_quantization", "expand_composites", "what it does not lower is expanded"),
    ("recognise", "merge_products", "heads are found as attention before their projections become slices of one product"),
    ("recognise", "expand_composites", "what is recognised as a composite may stay whole"),
    ("explicit_padding", "fuse", "a window without padding reads its operand without conditions"),
    ("expand_composites", "fold_expanded", "definitions compute on weights"),
    ("simplify_expanded", "channel_words", "one Pad of two with the same constant is a normal form"),
    ("channel_words", "fuse", "a Pad that is computed joins the group that makes its operand"),
    ("fold_scales", "scale_weights", "scales that are constants are gone into the weights"),
    ("scale_weights", "fuse", "the multiplication would be part of another kernel"),
    ("fuse", "narrow_storage", "only what crosses the borders of groups is stored"),
    ("narrow_storage", "row_means", "means of rows stay in f32"),
    ("expand_composites", "fuse", "only operators with loops can be fused"),
    ("channels_last", "fuse", "a transpose between two nodes would keep them out of one kernel"),
)

_FOR_LOOPS = ("bound_sizes", "explicit_padding", "channel_words", "scale_weights", "fuse", "narrow_storage", "row_means")


def _whole_graph_passes() -> Passes:
    passes = [step for step in GRAPH_PASSES if step[0] not in _FOR_LOOPS]
    passes.insert(passes.index(("expand_composites", expand_composites)), ("narrow_values", narrow_values))
    return tuple(passes)


WHOLE_GRAPH_PASSES = _whole_graph_passes()
"""For targets whose own compiler takes whole graphs: it fuses, and it has convolutions with borders."""

GPU_PASSES: Passes = tuple((name, partial(fuse, joins=True) if name == "fuse" else function)
                           for name, function in GRAPH_PASSES
                           if name not in ("explicit_padding", "channel_words", "scale_weights", "row_means"))
"""For kernels whose copies to shared memory fill in zeros: a border costs a condition, not a launch.  They read
constant weights in rows, and no row of pixels stays in a cache.  A launch costs more than to decide which part of a Concat
an element is of."""

STREAM_PASSES: Passes = tuple(step for step in GRAPH_PASSES
                              if step[0] not in (*_FOR_LOOPS, "merge_products", "lower_quantization"))
"""For streams of pixels: windows have borders, each product reads a copy of the stream, and integers have any width."""

STAGE_NAMES = ("import", *dict.fromkeys(name for name, _ in (*GRAPH_PASSES, *WHOLE_GRAPH_PASSES)), "lower")
"""What `print_after` may name."""


def run_passes(
    graph: Graph,
    options: Options,
    stages: Stages,
    show: Print,
    passes: Passes = GRAPH_PASSES,
    native: Native = nothing_native,
) -> Graph:
    """The graph after all passes.  show(pass, text) receives what `print_after` asks for.  native: the composites that
    the target implements itself.

    Raises InternalError that names the pass, with the graph before it in `ir`, when a pass fails, leaves an invalid
    graph, or (with `check_passes`) changes the numbers.  A ModelError that a pass finds is passed on.
    """
    if options.verify:
        with stages.timed("verify"):
            verify_graph(graph, after="import")
    differential = None
    if options.check_passes:
        with stages.stage("check-passes"):
            differential = Differential(graph)
    for done, (name, function) in enumerate(passes):
        with stages.stage(name, done, len(passes)), guarded(f"pass {name}", graph):
            apply = _with_options(function, options, native, stages)
            after = apply(in_bodies(graph, apply))
        if options.verify:
            with stages.timed("verify"):
                _verify(name, after, graph)
        if differential is not None:
            with stages.stage("check-passes", done, len(passes)):
                differential.compare(name, graph, after)
        if wanted(options, name):
            show(name, str(after))
        graph = after
    return graph


def _with_options(function: PassFunction, options: Options, native: Native, stages: Stages) -> PassFunction:
    """The passes that depend on the target or on an option are given it."""
    if function is expand_composites:
        return partial(function, native=native)
    if function in (block_products, lower_quantization):
        return partial(function, native=native, note=stages.notes.append)
    if function is scale_weights:
        return partial(function, accuracy=options.accuracy)
    if function in (narrow_storage, narrow_values):
        return partial(function, precision=options.precision)
    return function


def wanted(options: Options, stage: str) -> bool:
    """Whether the result of a stage is to be printed."""
    return stage in options.print_after or "all" in options.print_after


def _verify(name: str, after: Graph, before: Graph) -> None:
    try:
        verify_graph(after, after=name)
    except InternalError as error:
        raise InternalError(str(error), ir=f"before {name}:\n{before}\n\nafter {name}:\n{after}") from error
