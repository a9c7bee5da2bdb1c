"""Versions of a program for sizes of its dimensions, in one library: `--specialize batch=1,8 seq=128`, `--dim batch=1,8`.

    specialize {batch: (1, 8), seq: (128,)}   the open program, and one for each combination of the sizes
    dims {batch: (1, 8)}                      one for each size; others are refused when the model runs

Each is imported, optimized and lowered on its own; what does not name a dimension leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod

from ..codegen.program import Program
from ..codegen.sizing import Symbol
from ..codegen.versions import merge_versions, without_other_sizes
from ..ir.dims import symbols
from ..ir.errors import OptionError
from ..ir.graph import Graph
from .options import Options

_MOST = 64  # versions in one library

Sizes = Mapping[str, int]
LowerOne = Callable[[Options], Program]


def is_specialized(options: Options) -> bool:
    return bool(options.buckets or options.specialize)


def lower_versions(options: Options, imported: Graph, lower_one: LowerOne) -> Program:
    """The program of all versions.  imported: the model with the dimensions of all versions open.

    Raises OptionError for sizes that are no dimensions of inputs, outside of their range, or too many."""
    every = version_sizes(options, imported)
    general = _refusing(options, imported, every) if options.buckets else lower_one(without_versions(options))
    largest_first = sorted(range(len(every)), key=lambda n: -prod(every[n].values()))  # layouts of weights are theirs
    made = {n: lower_one(bound_to(options, every[n])) for n in largest_first}
    return merge_versions(general, [(sizes, made[n]) for n, sizes in enumerate(every)])


def version_sizes(options: Options, imported: Graph) -> list[Sizes]:
    """The sizes of each version, in the order in which they are tried at run time.  Raises what `lower_versions` does."""
    known = {v.name for x in imported.inputs for v in symbols(x.type.shape)}
    for name, sizes in (*options.buckets, *options.specialize):
        _check(name, sizes, known, options)
    every = list(_combinations(options))
    if len(every) > _MOST:
        raise OptionError(f"specialize: {len(every)} combinations of sizes, at most {_MOST} are compiled into one library")
    return every


def without_versions(options: Options) -> Options:
    """The options of the code for any size."""
    return replace(options, buckets=(), specialize=())


def _combinations(options: Options) -> Iterator[Sizes]:
    """Those that name the most dimensions first: the first that fits is run."""
    groups = [options.specialize, ()] if options.buckets and options.specialize else [options.specialize]
    for group in groups:
        several = (*options.buckets, *group)
        for sizes in product(*(given for _, given in several)):
            yield dict(zip((name for name, _ in several), sizes, strict=True))


def bound_to(options: Options, sizes: Sizes) -> Options:
    """The options of one version."""
    dims = tuple(sorted({**dict(options.dims), **sizes}.items()))
    ranges = tuple((name, r) for name, r in options.ranges if name not in sizes)
    return replace(options, dims=dims, ranges=ranges, buckets=(), specialize=())


def _check(name: str, sizes: tuple[int, ...], known: set[str], options: Options) -> None:
    if name not in known:
        raise OptionError(
            f"specialize: the model has no open dimension {name!r}; open are {', '.join(sorted(known)) or 'none'}"
        )
    low, high = dict(options.ranges).get(name, (1, None))
    for size in sizes:
        if size < low or (high is not None and size > high):
            most = "" if high is None else str(high)
            raise OptionError(f"specialize: {name}={size} is outside of the range {low}..{most} of this dimension")


def _refusing(options: Options, imported: Graph, every: list[Sizes]) -> Program:
    """What runs at other sizes: a message."""
    found = symbols([d for v in imported.inputs for d in v.type.shape])
    outputs = tuple(zip(imported.output_names, (v.type for v in imported.outputs), strict=True))
    unknown = [d for d in symbols([d for _, t in outputs for d in t.shape]) if d not in found]
    if unknown:
        raise OptionError(
            f"dims: the outputs have the dimension {unknown[0]}, which the sizes of the inputs do not tell; compile the sizes "
            "one by one"
        )
    several, ranges = dict(options.buckets), dict(options.ranges)
    limits = {name: (min(given), max(given)) for name, given in several.items()}
    made = [Symbol(v, *limits.get(v.name, ranges.get(v.name, (1, None)))) for v in found]
    names = tuple(several)
    listed = dict.fromkeys(", ".join(f"{n}={sizes[n]}" for n in names) for sizes in every)
    text = f"the model was compiled for {' or '.join(listed)}; compile it for these sizes too"
    return without_other_sizes(imported.name, tuple((v.name, v.type) for v in imported.inputs), outputs, made, text)
