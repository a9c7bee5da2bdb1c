"""A lowered model: kernels, the steps that call them, one arena, packed constants.

Every thread runs all steps (single program, multiple data): a parallel loop inside a kernel takes its share of the
iterations from the thread's number, and threads meet at a barrier after those steps
that a later one has to wait for (`barriers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from ..ir.expr import Var
from ..ir.kernel import Do, Kernel
from ..ir.types import Dim, TensorType
from .sizing import Sizing
from .strategies.choices import BY_MODEL, Choice


@dataclass(frozen=True)
class Address:
    """A place in memory: space "arena", "constants", "input" or "output"; index of the input or output; byte offset.
    With open dimensions: "slot" (index: its number in the arena) instead of "arena"; offsets may be symbolic."""

    space: str
    offset: Dim = 0
    index: int = 0


@dataclass(frozen=True)
class Cost:
    """What one call does, for reports: multiply-accumulates, bytes read and written, the schedule in words; for tuning, the
    key of measured numbers and those that the schedule has.  by_size: the first three where they depend on open dimensions;
    they themselves are those of typical sizes."""

    macs: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    schedule: str = ""
    key: str = ""
    choice: Choice = BY_MODEL
    by_size: tuple[Dim, Dim, Dim] | None = None


@dataclass(frozen=True)
class Call:
    """Run a kernel on buffers at these addresses, in the order of the kernel's parameters.  where: model nodes it comes
    from; ops: names of the operators it implements.  meet: whether the threads wait for each other after it."""

    kernel: str
    args: tuple[Address, ...]
    where: str = ""
    ops: tuple[str, ...] = ()
    cost: Cost = Cost()
    meet: bool = True


@dataclass(frozen=True)
class Branch:
    """Run one of two sequences by the bool at `condition`."""

    condition: Address
    then: tuple[Step, ...]
    other: tuple[Step, ...]
    where: str = ""


@dataclass(frozen=True)
class Repeat:
    """Run the body while a counter is below the i64 at `trip_count` (None: unbounded) and the bool at `condition` (None:
    always true) holds; the counter is written as i64 to `counter` before each iteration."""

    body: tuple[Step, ...]
    counter: Address
    trip_count: Address | None
    condition: Address | None
    where: str = ""


Step = Union[Call, Branch, Repeat]


@dataclass(frozen=True)
class Placement:
    """One allocation in the arena, for the report: bytes [offset, offset + size) are in use from step first to last."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class SizedOutput:
    """An output whose size only its data tells.  Its type in the program has the largest size, of which the first elements
    are those of the result, dense; its shape is written as i64[rank] to space "output" at the index `told`, which is
    not one of the program's outputs.  dims: what the sizes are called, numbers where they are known.  kept: on a GPU the byte
    of the arena where the shape lies instead (`kept_sizes.py`)."""

    output: int
    told: int
    dims: tuple[Dim, ...]
    kept: int = -1


@dataclass(frozen=True)
class Site:
    """An access to memory: kernel and buffer by name, "load" or "store"; `what` describes the buffer."""

    kernel: str
    buffer: str
    access: str
    what: str


@dataclass(frozen=True)
class Version:
    """What a program with open dimensions runs instead of its steps where some of them have these sizes (`versions.py`).
    sizing: where others stay open, on the symbols of the program."""

    sizes: tuple[tuple[Var, int], ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    scratch_bytes: int
    sizing: Sizing | None = None


@dataclass(frozen=True)
class Program:
    """constants: (offset, array) pairs in increasing order; arrays are C-contiguous, offsets are multiples of 64.
    inputs and outputs: names and types in the model's order.  scratch_bytes: memory each thread needs for the `stack`
    buffers of the kernels.  profile: threads record the times of every call (`tw_profile.c`).  prepare: calls that every
    instance makes once, when it is created, on arena memory that no step reuses.  sized: see SizedOutput.  sites: what the
    checks of checked kernels name by number (`bounds.py`); empty: the kernels check nothing.  sizing: of a program with open
    dimensions, whose arena_bytes and scratch_bytes are those of typical sizes.  versions: the first that fits the sizes is
    run."""

    name: str
    kernels: Mapping[str, Kernel]
    steps: tuple[Step, ...]
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    constants: tuple[tuple[int, np.ndarray], ...]
    constant_bytes: int
    arena_bytes: int
    scratch_bytes: int = 0
    placements: tuple[Placement, ...] = ()
    profile: bool = False
    prepare: tuple[Step, ...] = ()
    sized: tuple[SizedOutput, ...] = ()
    sites: tuple[Site, ...] = ()
    sizing: Sizing | None = None
    versions: tuple[Version, ...] = ()

    @property
    def shown_steps(self) -> tuple[Step, ...]:
        """What stands for the program in reports: of versions alone, the first."""
        return self.steps or next((v.steps for v in self.versions), ())

    @property
    def largest_arena(self) -> int:
        """Bytes of arena for typical sizes and for those of any version."""
        return max(self.arena_bytes, *(v.arena_bytes for v in self.versions), 0)

    @property
    def largest_scratch(self) -> int:
        """The same for the scratch memory of a thread."""
        return max(self.scratch_bytes, *(v.scratch_bytes for v in self.versions), 0)

    @property
    def every_steps(self) -> tuple[Step, ...]:
        """Its own, then those of each version."""
        return (*self.steps, *(s for v in self.versions for s in v.steps))

    @property
    def support_parts(self) -> tuple[str, ...]:
        """The parts of the support code that it needs, "text" and "image": it calls functions of them, or takes or gives
        strings."""
        calls = [s.fn for k in self.kernels.values() for s in k.body if isinstance(s, Do)]
        used = {part for part in ("image", "text") if any(name.startswith(f"tw_{part}_") for name in calls)}
        used |= {"text" for _, t in (*self.inputs, *self.outputs) if t.dtype == "str"}
        return tuple(sorted(used))


def all_calls(steps: Iterable[Step]) -> Iterator[Call]:
    """Every call, in order; both arms of a branch, and a loop's body once."""
    for step in steps:
        match step:
            case Call():
                yield step
            case Branch():
                yield from all_calls(step.then)
                yield from all_calls(step.other)
            case Repeat():
                yield from all_calls(step.body)


def map_calls(steps: Iterable[Step], rule: Callable[[Call], Call]) -> tuple[Step, ...]:
    """The steps with a rule applied to every call."""
    done: list[Step] = []
    for step in steps:
        match step:
            case Call():
                done.append(rule(step))
            case Branch():
                done.append(replace(step, then=map_calls(step.then, rule), other=map_calls(step.other, rule)))
            case Repeat():
                done.append(replace(step, body=map_calls(step.body, rule)))
    return tuple(done)
