"""The records of a lowering in progress: pieces of memory, places of values, the scope of one graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.dims import normal_dim
from ..ir.graph import Graph, Value
from ..ir.types import Dim
from .program import Address, Step
from .views import Views


def memory_dtype(dtype: str) -> str:
    """The element type that loops see: strings are addresses."""
    return "u64" if dtype == "str" else dtype


@dataclass(eq=False)
class Root:
    """A piece of memory.  Arena roots are used from step first to last; those of a program with open dimensions have a
    slot, whose offset is known when it runs."""

    name: str
    space: str
    nbytes: Dim
    index: int = 0
    offset: int = 0
    first: int = -1
    last: int = -1
    slot: int = -1


@dataclass(frozen=True)
class Place:
    """A value's memory: a root, a byte offset in it, element strides."""

    root: Root
    offset: Dim
    strides: tuple[Dim, ...]


@dataclass
class Scope:
    """One graph being lowered: the main one, or a branch or body of control flow.  memory: root value -> where it lies,
    as a root and a byte offset in it."""

    graph: Graph
    views: Views
    memory: dict[Value, tuple[Root, Dim]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """An address before the arena is planned."""

    root: Root
    offset: Dim

    def resolve(self) -> Address:
        if self.root.slot >= 0:
            return Address("slot", self.offset, self.root.slot)
        return Address(self.root.space, normal_dim(self.root.offset + self.offset), self.root.index)
