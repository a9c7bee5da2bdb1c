"""Two models side by side over samples, stage by stage: the original, and the one that is being compressed.

    walk = Walk(edit, layers, samples)
    for stage in walk:
        stage.moments       # by layer: of what it reads in both models, as `edit` is now
        ...                 # change weights and biases of `stage.layers` in `edit`

Every node runs once per sample and model (`pieces`); what later pieces read is kept until then, in memory up to
`activations.MEMORY` bytes and in a temporary folder beyond.  Use the layers of the stages: their residuals may be fewer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..onnx_edit import OnnxEdit
from ..quantize.activations import MEMORY, ActivationRunner
from ..quantize.samples import Samples
from .layers import Layer
from .moments import Moments, add_rows, empty_moments
from .pieces import Piece, cut, make_stages


@dataclass(frozen=True)
class Stage:
    layers: tuple[Layer, ...]
    moments: Mapping[str, Moments]


class Walk:
    """follow: False for moments of the original alone, which then may be asked for all at once (`everything`)."""

    def __init__(self, edit: OnnxEdit, layers: Sequence[Layer], samples: Samples, follow: bool = True) -> None:
        self._samples, self._follow = samples, follow
        self._teacher, self._student = _Side(edit.copy(), cache=True), _Side(edit, cache=False)
        self._pieces = cut(make_stages(layers, edit), edit)

    def __iter__(self) -> Iterator[Stage]:
        try:
            for number, piece in enumerate(self._pieces):
                yield Stage(piece.layers, self._moments(piece, number > 0 and self._follow))
        finally:
            self._teacher.kept.close()
            self._student.kept.close()

    def everything(self) -> dict[str, Moments]:
        """Moments of all layers."""
        return {name: m for stage in self for name, m in stage.moments.items()}

    def _moments(self, piece: Piece, parted: bool) -> dict[str, Moments]:
        """parted: the two models may differ by now."""
        found = empty_moments(piece.layers, self._teacher.edit)
        for n, batch in enumerate(self._samples):
            x = self._teacher.run(piece, n, batch.inputs)
            z = self._student.run(piece, n, batch.inputs) if parted else x
            if self._follow and not parted:
                self._student.keep(piece, n, x)
            add_rows(found, piece.layers, n, x, z)
        self._teacher.close()
        self._student.close()
        return found


class _Side:
    """One of the two models."""

    def __init__(self, edit: OnnxEdit, cache: bool) -> None:
        self.edit, self.kept = edit, Spill()
        self._cache = cache
        self._runner: ActivationRunner | None = None

    def run(self, piece: Piece, number: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the layers of the piece read, of one batch; what later pieces read is kept."""
        values = {n: inputs[n] if n in inputs else self.kept.get(number, n) for n in (*piece.inputs, *piece.carried)}
        if piece.nodes:
            if self._runner is None:
                proto = piece.model(self.edit, values)
                self._runner = ActivationRunner(proto, piece.outputs, cache=self._cache)
            values |= self._runner.run({n: values[n] for n in piece.inputs})
        self.keep(piece, number, values)
        return values

    def keep(self, piece: Piece, number: int, values: Mapping[str, np.ndarray]) -> None:
        for name in piece.outputs:
            if name not in piece.last:
                self.kept.put(number, name, values[name])
        for name in piece.last:
            self.kept.drop(number, name)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class Spill:
    """Arrays by (batch, name)."""

    def __init__(self, room: int = MEMORY // 2) -> None:
        self._arrays: dict[tuple[int, str], np.ndarray | Path] = {}
        self._room, self._count = room, 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, batch: int, name: str, array: np.ndarray) -> None:
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            self._arrays[batch, name] = array
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="tilewright-pieces-")
        path = Path(self._folder.name) / f"{self._count}.npy"
        self._count += 1
        np.save(path, array)
        self._arrays[batch, name] = path

    def get(self, batch: int, name: str) -> np.ndarray:
        found = self._arrays[batch, name]
        return np.load(found) if isinstance(found, Path) else found

    def drop(self, batch: int, name: str) -> None:
        found = self._arrays.pop((batch, name), None)
        if isinstance(found, Path):
            found.unlink()
        elif found is not None:
            self._room += found.nbytes

    def close(self) -> None:
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
