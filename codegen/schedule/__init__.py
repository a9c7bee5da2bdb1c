"""Schedules: functions Kernel -> Kernel that check their precondition and say what they rewrite to what.

A loop is named, and a name means every loop of that axis.  Strategies choose schedules and numbers; nothing here does.
"""

from .folding import expand, fold, forward
from .layout import fork_param, relayout, swap_axes, transpose_tile
from .loops import Tiles, cut, fuse, kind, parallel, reorder, split, split_evenly, split_ragged, unroll
from .memory import alias, localize, prefetch, stage
from .registers import merge, rfactor, sink
from .rewrite import extent, has_loop, loops
from .vectors import dot, fma_contract, invert_divisors, legalize, map_expressions, vectorize

__all__ = [
    "Tiles", "alias", "cut", "dot", "expand", "extent", "fma_contract", "fold", "fork_param", "forward",
    "fuse", "has_loop", "invert_divisors", "kind", "legalize", "localize", "loops", "map_expressions", "merge",
    "parallel", "prefetch", "relayout", "reorder", "rfactor", "sink", "split", "split_evenly", "split_ragged", "stage",
    "swap_axes", "transpose_tile", "unroll", "vectorize",
]
