"""What a strategy is given and what it returns: a group of computations; a scheduled kernel and its packed operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...ir.compute import Compute
from ...ir.dims import add_dims, normal_dim
from ...ir.errors import InternalError
from ...ir.kernel import Buffer, Kernel
from ...ir.ops.base import Op
from ...ir.types import Dim
from ..sizing import Symbol
from .choices import BY_MODEL, Choice

if TYPE_CHECKING:
    from .sparse import SparsePlan


@dataclass(frozen=True)
class Group:
    """A fused group.  params: the buffers in memory that it may read or write.  For an operator with a strategy of its own
    (attention, recurrences): op and its operands instead of computations.  constants: names of the params that are
    weights.  choice: measured numbers for the strategy.  sparse: how to multiply by a constant without its zeros.
    paired: whether two of any four weights of a product are zero, for sparse tensor cores.
    symbols: what is known of the open dimensions."""

    kind: str
    computes: tuple[Compute, ...]
    params: tuple[Buffer, ...]
    op: Op | None = None
    operands: tuple[Buffer, ...] = ()
    constants: frozenset[str] = frozenset()
    choice: Choice = BY_MODEL
    sparse: SparsePlan | None = None
    paired: bool = False
    symbols: tuple[Symbol, ...] = ()


@dataclass(frozen=True)
class Pack:
    """A parameter that is another parameter's data in another layout: packed[p] = source[origin + sum(p[j] * steps[j])],
    where origin and each steps[j] are indices of the source.
    transform: what is done to the source first; only for constants.  word: neighbours of the source that are one element of
    the packed operand, which is of a wider type; origin and steps are multiples of it; only for operands of the run."""

    source: str
    shape: tuple[Dim, ...]
    origin: tuple[Dim, ...]
    steps: tuple[tuple[Dim, ...], ...]
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    word: int = 1

    def strides_over(self, strides: tuple[Dim, ...]) -> tuple[Dim, tuple[Dim, ...]]:
        """(offset, strides) of the packed elements in a source with these element strides."""

        def dot(index: tuple[Dim, ...]) -> Dim:
            return normal_dim(add_dims(i * s for i, s in zip(index, strides, strict=True)))

        return dot(self.origin), tuple(dot(step) for step in self.steps)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The packed constant."""
        if self.transform is not None:
            return replace(self, transform=None).apply(self.transform(array))
        item = array.itemsize
        strides = tuple(s // item for s in array.strides)
        offset, packed = self.strides_over(strides)
        if not (isinstance(offset, int) and all(isinstance(n, int) for n in (*packed, *self.shape))):
            raise InternalError(f"a constant is packed in a layout with open dimensions: {self}")
        base = array.reshape(-1)[offset:] if array.flags.c_contiguous else None
        if base is None:
            return self.apply(np.ascontiguousarray(array))
        view = np.lib.stride_tricks.as_strided(
            base, self.shape, tuple(s * item for s in packed), writeable=False  # type: ignore[arg-type]
        )
        return np.ascontiguousarray(view)


@dataclass(frozen=True)
class Scheduled:
    """kernel: its parameters are the group's buffers by name, and the packed ones.  packs: packed parameter -> where it
    comes from.  note: the schedule in words, for people.  temporaries: (parameter, bytes) of memory that the kernel needs
    only while it runs, shared by the threads.  key: what measured numbers for it are found by, if it takes any;
    choice: the numbers that it has.  views: parameter -> (the parameter whose memory it describes, from which element on)."""

    kernel: Kernel
    packs: tuple[tuple[str, Pack], ...] = ()
    note: str = ""
    temporaries: tuple[tuple[str, Dim], ...] = ()
    key: str = ""
    choice: Choice = BY_MODEL
    views: tuple[tuple[str, tuple[str, int]], ...] = ()
