"""Open dimensions of a loaded library: the shapes of its inputs go in, those of its outputs come out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]


class OpenShapes:
    """The shapes that are set for one instance.

    resize: calls the function `resize` of the library and raises what its status means.  output_shapes: reads what it made
    of them."""

    def __init__(self, resize: Callable[[object], None], output_shapes: Callable[[], tuple[Shape, ...]]) -> None:
        self._resize, self._output_shapes = resize, output_shapes
        self._inputs: tuple[Shape, ...] | None = None
        self._shapes: tuple[Shape, ...] = ()

    @property
    def inputs(self) -> tuple[Shape, ...]:
        """The shapes of the inputs as they are set; none before the first run."""
        return self._inputs or ()

    def set(self, arrays: Sequence[np.ndarray]) -> tuple[Shape, ...]:
        """Takes the shapes of the inputs; those of the outputs."""
        given = tuple(a.shape for a in arrays)
        if given != self._inputs:
            self._inputs = None
            shapes = [(ctypes.c_int64 * max(1, len(s)))(*s) for s in given]
            self._resize((ctypes.c_void_p * max(1, len(shapes)))(*map(ctypes.addressof, shapes)))
            self._shapes = self._output_shapes()
            self._inputs = given
        return self._shapes
