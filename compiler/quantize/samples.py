"""Samples: what a model is calibrated and judged on, read one batch at a time, in the same order every time.

    samples = read_samples("samples/", inputs)     # a folder of .npz files, one .npz, one .npy, or anything below
    for batch in samples: module(batch.inputs)

A source is the path of an .npz, of an .npy (one input), or of a folder of them; a sequence, or a function that gives an
iterator, of samples; or an iterator, which is written to a temporary folder as it can be read only once.  A sample is a
mapping from input names to arrays, one array (for a model of one input), or a pair (sample, label).

An array may hold several samples: with one dimension more than the input, or with a first dimension that is a multiple of
the input's.  Labels are the array `labels` (or `label`, `y`) of an .npz that is no input of the model.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from ...ir.errors import OptionError
from ...ir.types import DTYPES, TensorType

LABELS = ("labels", "label", "y")
MANY = 16  # batches, of which fewer are enough to judge
BATCH = 8  # samples that are run at once where the model leaves their number open
Source = Union[str, "os.PathLike[str]", Iterable[Any], Callable[[], Iterator[Any]]]


@dataclass(frozen=True, eq=False)
class Batch:
    """What one run of the model takes.  labels: one per sample, or None."""

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None

    @property
    def signature(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, a.shape) for name, a in self.inputs.items())


@dataclass(frozen=True, eq=False)
class Samples:
    """Batches that can be read again and again.  parts: functions that read some of them."""

    parts: tuple[Callable[[], Sequence[Batch]], ...]
    keep: Any = None  # what must live as long as this: a temporary folder

    def __iter__(self) -> Iterator[Batch]:
        for part in self.parts:
            yield from part()

    def split(self, every: int) -> tuple[Samples, Samples]:
        """(most, the rest): every n-th batch goes to the rest, so that both see the whole of an ordered set; of fewer the
        last one.  With one batch only, both are all of it."""
        count = self.count()
        if count < 2:
            return self, self
        every = min(every, count)

        def chosen(rest: bool) -> Samples:
            return Samples((lambda: _Every(self, every, rest),), self)  # type: ignore[arg-type, return-value]

        return chosen(False), chosen(True)

    def divided(self) -> tuple[Samples, Samples]:
        """(what weights are fitted to, what judges): every fourth batch judges, of `MANY` and more every eighth."""
        return self.split(4 if self.count() < MANY else 8)

    def count(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, eq=False)
class _Every:
    samples: Samples
    every: int
    rest: bool

    def __iter__(self) -> Iterator[Batch]:
        last = self.every - 1
        for n, batch in enumerate(self.samples):
            if (n % self.every == last) == self.rest:
                yield batch


def as_samples(source: Samples | Source, inputs: Mapping[str, TensorType]) -> Samples:
    """Samples as they are, anything else as `read_samples` reads it."""
    return source if isinstance(source, Samples) else read_samples(source, inputs)


def read_samples(source: Source, inputs: Mapping[str, TensorType]) -> Samples:
    """inputs: the types of the model's inputs, in order.  Raises OptionError, naming the sample, for what does not fit."""
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), inputs)
    if callable(source):
        return Samples((lambda: _Stream(source, inputs),))  # type: ignore[arg-type, return-value]
    if isinstance(source, Sequence):
        return Samples(tuple(_reader(item, f"sample {n}", inputs) for n, item in enumerate(source)))
    return _spooled(source, inputs)


def _reader(item: Any, where: str, inputs: Mapping[str, TensorType]) -> Callable[[], Sequence[Batch]]:
    return lambda: _batches(*_as_sample(item, where, inputs), where, inputs)


@dataclass(frozen=True, eq=False)
class _Stream:
    source: Callable[[], Iterator[Any]]
    inputs: Mapping[str, TensorType]

    def __iter__(self) -> Iterator[Batch]:
        for n, item in enumerate(self.source()):
            yield from _reader(item, f"sample {n}", self.inputs)()


def _spooled(source: Iterable[Any], inputs: Mapping[str, TensorType]) -> Samples:
    folder = tempfile.TemporaryDirectory(prefix="tilewright-samples-")
    for n, item in enumerate(source):
        arrays, labels = _as_sample(item, f"sample {n}", inputs)
        extra = {} if labels is None else {"labels": labels}
        np.savez(Path(folder.name) / f"{n:08d}.npz", **arrays, **extra)  # type: ignore[arg-type]
    samples = _from_path(Path(folder.name), inputs)
    weakref.finalize(samples, folder.cleanup)
    return samples


def _from_path(path: Path, inputs: Mapping[str, TensorType]) -> Samples:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            raise OptionError(f"data: {path} holds no .npz or .npy file; write one per sample or batch, named by the inputs")
    elif path.is_file() and path.suffix in (".npz", ".npy"):
        files = [path]
    else:
        raise OptionError(f"data: expected a folder, an .npz or an .npy file, got {path}")
    return Samples(tuple(_file_reader(p, inputs) for p in files))


def _file_reader(path: Path, inputs: Mapping[str, TensorType]) -> Callable[[], Sequence[Batch]]:
    def read() -> Sequence[Batch]:
        try:
            loaded = np.load(path, allow_pickle=False)
            item = {k: loaded[k] for k in loaded.files} if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
        except (OSError, ValueError) as error:
            raise OptionError(f"data: {path} cannot be read: {error}") from error
        return _batches(*_as_sample(item, str(path), inputs), str(path), inputs)

    return read


def _as_sample(
    item: Any, where: str, inputs: Mapping[str, TensorType]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    labels = None
    if isinstance(item, tuple) and len(item) == 2:
        item, labels = item
    if isinstance(item, Batch):
        item, labels = item.inputs, item.labels
    if not isinstance(item, Mapping):
        if len(inputs) != 1:
            raise OptionError(f"data: {where}: one array, but the model has the inputs {', '.join(inputs)}; give a mapping")
        item = {next(iter(inputs)): item}
    arrays = {str(k): np.asarray(v) for k, v in item.items()}
    for word in LABELS:
        if labels is None and word in arrays and word not in inputs:
            labels = arrays.pop(word)
    missing = [n for n in inputs if n not in arrays]
    if missing:
        raise OptionError(f"data: {where}: no array {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
    return {n: arrays[n] for n in inputs}, None if labels is None else np.atleast_1d(np.asarray(labels))


def _batches(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str, inputs: Mapping[str, TensorType]
) -> list[Batch]:
    """The runs that the arrays are good for: one, or one for each `rows` of their first dimension."""
    typed = {n: _typed(a, n, where, inputs[n]) for n, a in arrays.items()}
    if all(a.ndim == inputs[n].rank + 1 for n, a in typed.items()):  # stacked single samples
        counts = {a.shape[0] for a in typed.values()}
        if len(counts) != 1:
            raise OptionError(f"data: {where}: stacked arrays of different lengths {sorted(counts)}")
        return [
            _checked({n: a[i] for n, a in typed.items()}, _part(labels, i, i + 1, counts), where, inputs)
            for i in range(counts.pop())
        ]
    return _cut(typed, labels, where, inputs)


def _cut(
    typed: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str, inputs: Mapping[str, TensorType]
) -> list[Batch]:
    """Along the first dimension, if it is that of every input and longer than one run."""
    firsts = {a.shape[0] if a.ndim else 0 for a in typed.values()}
    rows = {inputs[n].shape[0] if inputs[n].rank else 0 for n in typed}
    if len(firsts) != 1 or len(rows) != 1:
        return [_checked(typed, labels, where, inputs)]
    count, declared = firsts.pop(), rows.pop()
    step = declared if isinstance(declared, int) else _rows_per_run(count)
    if not step or count <= step:
        return [_checked(typed, labels, where, inputs)]
    if count % step:
        raise OptionError(f"data: {where}: {count} samples are no multiple of the {step} that one run of the model takes")
    return [
        _checked({n: a[i : i + step] for n, a in typed.items()}, _part(labels, i, i + step, {count}), where, inputs)
        for i in range(0, count, step)
    ]


def _rows_per_run(count: int) -> int:
    """A divisor, so that all runs have one shape, near BATCH."""
    return max(d for d in range(1, 2 * BATCH + 1) if count % d == 0)


def _part(labels: np.ndarray | None, start: int, stop: int, counts: set[int]) -> np.ndarray | None:
    return None if labels is None else labels[start:stop] if labels.shape[0] in counts else labels


def _typed(a: np.ndarray, name: str, where: str, t: TensorType) -> np.ndarray:
    want = np.dtype(DTYPES[t.dtype].numpy)
    if a.dtype != want and not (a.dtype.kind in "fiub" and want.kind in "fiub"):
        raise OptionError(f"data: {where}: {name} is {a.dtype}, the model takes {t}")
    return np.asarray(a, want, order="C")


def _checked(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str, inputs: Mapping[str, TensorType]
) -> Batch:
    for n, a in arrays.items():
        t = inputs[n]
        fits = a.ndim == t.rank and all(not isinstance(d, int) or d == s for d, s in zip(t.shape, a.shape, strict=True))
        if not fits:
            raise OptionError(f"data: {where}: {n} has the shape {list(a.shape)}, the model takes {t}")
    return Batch(arrays, labels)
