"""Which of several compiled sizes runs a request.  NumPy alone: this file lies in artifacts, beside run.py, too.

`described` is manifest["buckets"]: `dims` has, for every dimension, its name, whether it may be `padded` (rows along it were
proven to be independent), and where it is in inputs and outputs; `sizes` has the folder and the sizes of every bucket.

    5 rows, compiled for 1, 8, 32    run by 8, three rows of zeros cut off again
    40 rows                          run by 32 and by 8
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Run = Callable[[int, "list[Any]"], "list[Any]"]


def run_in_buckets(described: Mapping[str, Any], arrays: Sequence[Any], run: Run) -> list[Any]:
    """The outputs for inputs of any size that the buckets can make up.  run(number of the bucket, inputs) -> outputs.

    Raises ValueError for sizes that do not fit.
    """
    shapes = [tuple(a.shape) for a in arrays]
    buckets = described["sizes"]
    for number, bucket in enumerate(buckets):
        if [tuple(s) for s in bucket["inputs"]] == shapes:
            return run(number, list(arrays))
    wanted = {d["name"]: _size(d, shapes) for d in described["dims"]}
    number = _choice(described, wanted)
    if number is None:
        return _in_parts(described, arrays, wanted, run)
    sizes = buckets[number]["dims"]
    padded, cuts = list(arrays), []
    for d in described["dims"]:
        more = sizes[d["name"]] - wanted[d["name"]]
        if more:
            for i, axis in d["inputs"].items():
                padded[int(i)] = _filled(padded[int(i)], axis, more)
            cuts += [(int(i), axis, inner * wanted[d["name"]]) for i, (axis, inner) in d["outputs"].items()]
    if [tuple(s) for s in buckets[number]["inputs"]] != [tuple(a.shape) for a in padded]:
        raise _unfit(described, shapes)
    outputs = run(number, padded)
    for i, axis, count in cuts:
        outputs[i] = outputs[i][(slice(None),) * axis + (slice(0, count),)]
    return outputs


def _size(d: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> int:
    """The size of a dimension in a request, -1 if its inputs disagree or have too few dimensions."""
    found = {shapes[int(i)][axis] if axis < len(shapes[int(i)]) else -1 for i, axis in d["inputs"].items()}
    return found.pop() if len(found) == 1 else -1


def _choice(described: Mapping[str, Any], wanted: Mapping[str, int]) -> int | None:
    """The smallest bucket that holds the request."""
    padded = {d["name"] for d in described["dims"] if d["padded"]}

    def holds(sizes: Mapping[str, int]) -> bool:
        return all(0 < wanted[n] <= size if n in padded else wanted[n] == size for n, size in sizes.items())

    fitting = [(int(np.prod(list(b["dims"].values()))), i) for i, b in enumerate(described["sizes"]) if holds(b["dims"])]
    return min(fitting)[1] if fitting else None


def _in_parts(described: Mapping[str, Any], arrays: Sequence[Any], wanted: Mapping[str, int], run: Run) -> list[Any]:
    """The request in parts of the largest bucket."""
    largest = {n: max(b["dims"][n] for b in described["sizes"]) for n in wanted}
    over = [d for d in described["dims"] if d["padded"] and wanted[d["name"]] > largest[d["name"]]]
    if len(over) != 1:
        raise _unfit(described, [tuple(a.shape) for a in arrays])
    (d,) = over
    step, total = largest[d["name"]], wanted[d["name"]]
    parts = []
    for start in range(0, total, step):
        part = list(arrays)
        for i, axis in d["inputs"].items():
            part[int(i)] = part[int(i)][(slice(None),) * axis + (slice(start, start + step),)]
        parts.append(run_in_buckets(described, part, run))
    outputs = list(parts[0])
    for i, (axis, _) in d["outputs"].items():
        outputs[int(i)] = np.concatenate([np.asarray(p[int(i)]) for p in parts], axis)
    return outputs


def _filled(array: Any, axis: int, more: int) -> np.ndarray:
    array = np.asarray(array)
    return np.concatenate([array, np.zeros((*array.shape[:axis], more, *array.shape[axis + 1 :]), array.dtype)], axis)


def _unfit(described: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> ValueError:
    known = "; ".join(", ".join(f"{n} {size}" for n, size in b["dims"].items()) for b in described["sizes"])
    fixed = [d["name"] for d in described["dims"] if not d["padded"]]
    note = f" ({', '.join(fixed)}: exactly, because results along it depend on each other)" if fixed else ""
    return ValueError(f"inputs of shapes {', '.join(map(str, shapes))}: compiled for {known}{note}")
