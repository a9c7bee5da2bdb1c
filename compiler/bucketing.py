"""Several sizes of a dimension in one artifact, for targets that compile for known sizes: `--dim batch=1,8,32`.

Each size is a compilation of its own; whether a request between two of them may be filled up is proven on the model as it
was imported (`codegen/row_axes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

from ..codegen.row_axes import NotProvenError, row_axes
from ..frontend.onnx.importer import import_graph
from ..frontend.onnx.reader import ModelFile
from ..ir.errors import ModelError, OptionError
from ..ir.graph import Graph
from ..targets.artifact import Artifact
from ..targets.buckets import Bucket, Dimension, merge_buckets
from .options import Options

_PROBES = (5, 7)  # numbers of rows that other sizes of a model are unlikely to have
_MOST = 64  # sizes in one artifact

CompileOne = Callable[[Options], "tuple[Graph, Artifact]"]


def compile_buckets(options: Options, source: ModelFile, compile_one: CompileOne) -> tuple[Graph, Artifact]:
    """The graph of the largest size, and the artifact of all.  Raises OptionError for too many sizes."""
    names = [name for name, _ in options.buckets]
    every = sorted(product(*(sizes for _, sizes in options.buckets)))
    if len(every) > _MOST:
        raise OptionError(f"dims: {len(every)} combinations of sizes, at most {_MOST} are compiled into one artifact")
    buckets: list[Bucket] = []
    graph: Graph | None = None
    several = [dict(zip(names, sizes, strict=True)) for sizes in every]
    for chosen in several:  # what one of them does not allow is said before the first is compiled
        import_graph(source, dict(options.shapes), {**dict(options.dims), **chosen})
    for chosen in several:
        one = replace(options, dims=tuple(sorted({**dict(options.dims), **chosen}.items())), buckets=())
        graph, artifact = compile_one(one)
        buckets.append(Bucket(chosen, artifact))
    assert graph is not None
    dimensions, notes = [], []
    for name in names:
        dimension, why = _dimension(name, options, source, buckets)
        dimensions.append(dimension)
        notes += [f"dim {name}: runs at the compiled sizes only, since rows may depend on each other: {why}"] if why else []
    merged = merge_buckets(dimensions, buckets)
    return graph, replace(merged, notes=(*merged.notes, *notes))


def _dimension(name: str, options: Options, source: ModelFile, buckets: list[Bucket]) -> tuple[Dimension, str]:
    """Where the dimension is; why it is not padded, or nothing."""
    others = {n: sizes[-1] for n, sizes in options.buckets if n != name} | dict(options.dims)
    try:
        few, many = (import_graph(source, dict(options.shapes), {**others, name: n}) for n in _PROBES)
        inputs, outputs = row_axes(few, many, _PROBES)
    except (NotProvenError, ModelError) as error:
        return Dimension(name, False, _axes(name, buckets), {}), str(error)
    return Dimension(
        name, True, {i: r.axis for i, r in inputs.items()}, {i: (r.axis, r.inner) for i, r in outputs.items()}
    ), ""


def _axes(name: str, buckets: list[Bucket]) -> Mapping[int, int]:
    """The dimensions of inputs that have this size in every bucket, and no single one."""
    found = {}
    shapes = [[entry["shape"] for entry in b.artifact.manifest["inputs"]] for b in buckets]
    sizes = [b.sizes[name] for b in buckets]
    for i, first in enumerate(shapes[0]):
        for axis in range(len(first)):
            column = [s[i][axis] for s in shapes]
            if column == sizes and len(set(sizes)) > 1:
                found[i] = axis
    return found
