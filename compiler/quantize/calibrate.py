"""Statistics of a model over samples, from compiled runs; found again for the same model and samples.

They are kept in the user's cache beside the artifacts.  What they depend on is the model with its weights, the layers, every
array of every sample, and how statistics are taken: the key is a hash of all that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from ..cache import hash_of, open_cache
from ..onnx_edit import OnnxEdit
from .activations import MEMORY, ActivationRunner
from .layers import Layer
from .samples import Samples
from .statistics import BINS, ROW_BYTES, ROWS, Histogram, Statistics, TensorStatistics, collect

FORMAT = 1  # raised when statistics are taken otherwise


def calibrated(
    edit: OnnxEdit, layers: Sequence[Layer], samples: Samples, memory: int = MEMORY, threads: int | None = None
) -> Statistics:
    """Of what the layers read.  A cache that cannot be used costs time only."""
    cache = open_cache()
    usable = not cache.problem()
    key = _key(edit, layers, samples) if usable else ""
    held = cache.get(key) if usable else None
    if held is not None:
        return _read(held.folder)
    runner = ActivationRunner(edit.finish(), list(dict.fromkeys(layer.x for layer in layers)), memory=memory, threads=threads)
    try:
        found = collect(layers, runner.stream(samples))
    finally:
        runner.close()
    if usable:
        cache.put(key, lambda folder: _write(found, folder))
    return found


def _key(edit: OnnxEdit, layers: Sequence[Layer], samples: Samples) -> str:
    def parts():
        yield f"statistics {FORMAT} {BINS} {ROWS} {ROW_BYTES}"
        yield from (repr(astuple(layer)) for layer in layers)
        yield edit.proto.SerializeToString(deterministic=True)
        for name in sorted(edit.constants):
            yield from _array_parts(name, edit.constants[name])
        for batch in samples:
            yield "batch"
            for name in sorted(batch.inputs):
                yield from _array_parts(name, batch.inputs[name])

    return hash_of(parts())


def _array_parts(name: str, a: np.ndarray):
    yield f"{name} {a.dtype} {a.shape}"
    yield repr(a.tolist()) if a.dtype.kind in "OUS" else np.ascontiguousarray(a).reshape(-1).view(np.uint8).data


def _write(found: Statistics, folder: Path) -> None:
    """Scalars as JSON, arrays by number; rows that layers share once."""
    arrays: dict[str, np.ndarray] = {}
    tensors = {}
    for n, (name, t) in enumerate(found.tensors.items()):
        h = t.histogram
        assert t.low is not None and t.high is not None
        arrays.update({f"t{n}.low": t.low, f"t{n}.high": t.high, f"t{n}.counts": h.counts})
        tensors[name] = [h.low, h.width, h.min, h.max, h.strange, t.rank, t.values]
    numbers: dict[int, str] = {}
    rows = {}
    for name, a in found.rows.items():
        rows[name] = numbers.setdefault(id(a), f"r{len(numbers)}")
        arrays[rows[name]] = a
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    (folder / "statistics.json").write_text(json.dumps({"tensors": tensors, "rows": rows, "runs": found.runs}))


def _read(folder: Path) -> Statistics:
    described = json.loads((folder / "statistics.json").read_text())
    tensors = {}
    with np.load(folder / "arrays.npz") as arrays:
        for n, (name, (low, width, least, most, strange, rank, values)) in enumerate(described["tensors"].items()):
            h = Histogram()
            h.low, h.width, h.min, h.max, h.strange = low, width, least, most, strange
            h.counts = arrays[f"t{n}.counts"]
            tensors[name] = TensorStatistics(h, arrays[f"t{n}.low"], arrays[f"t{n}.high"], rank, values)
        kept = {number: arrays[number] for number in set(described["rows"].values())}
    return Statistics(tensors, {name: kept[number] for name, number in described["rows"].items()}, described["runs"])
