"""Several programs of one model in one: versions for sizes of its open dimensions, chosen when it runs.

    sizes --tw_plan--> the first version whose sizes these are, or the program's own steps --tw_main--> its steps

A version is lowered on its own, with the sizes as numbers: it has the kernels, the memory plan and the packed weights of a
program without these dimensions.  Kernels and constants that are the same in two of them are kept once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir.bind import bind_type
from ..ir.errors import InternalError
from ..ir.expr import as_expr
from ..ir.kernel import Kernel
from ..ir.types import TensorType
from .arena import ALIGNMENT
from .program import Address, Branch, Call, Program, Repeat, Step, Version, all_calls
from .sizing import Check, Sizing, Symbol

_NUMBER = re.compile(r"^k\d+_")
Tensors = tuple[tuple[str, TensorType], ...]


def merge_versions(program: Program, versions: Sequence[tuple[Mapping[str, int], Program]]) -> Program:
    """The program with versions: (sizes of some of its open dimensions, the program for these).

    Raises InternalError if a version has other inputs or outputs."""
    assert program.sizing is not None
    symbols = {s.var.name: s.var for s in program.sizing.symbols}
    shared = _Shared(program)
    made = []
    for sizes, one in versions:
        bound = {symbols[name]: size for name, size in sizes.items()}
        for (name, general), (_, special) in zip(
            (*program.inputs, *program.outputs), (*one.inputs, *one.outputs), strict=True
        ):
            if bind_type(general, bound) != special:
                raise InternalError(f"{name} is {special} with the sizes {dict(sizes)}, and {general} without")
        if one.prepare or [(s.output, s.told) for s in one.sized] != [(s.output, s.told) for s in program.sized]:
            raise InternalError(f"the program for {dict(sizes)} prepares constants, or tells other sizes")
        sizing = None if one.sizing is None else replace(one.sizing, symbols=program.sizing.symbols)
        made.append(Version(tuple(bound.items()), shared.steps(one), one.arena_bytes, one.scratch_bytes, sizing))
    return replace(
        program, kernels=shared.kernels, constants=tuple(shared.constants), constant_bytes=shared.constant_bytes,
        versions=tuple(made),
    )


def without_other_sizes(name: str, inputs: Tensors, outputs: Tensors, symbols: Iterable[Symbol], text: str) -> Program:
    """A program that runs at the sizes of its versions alone.  text: what is said to others."""
    never = Check(as_expr(-1), text)
    return Program(name, {}, (), inputs, outputs, (), 0, 0, sizing=Sizing(tuple(symbols), (never,)))


class _Shared:
    """The kernels and constants of several programs."""

    def __init__(self, first: Program) -> None:
        self.kernels = dict(first.kernels)
        self.constants = list(first.constants)
        self.constant_bytes = first.constant_bytes
        self._names = {replace(k, name=""): name for name, k in first.kernels.items()}
        self._offsets = {_digest(array): offset for offset, array in first.constants}

    def steps(self, program: Program) -> tuple[Step, ...]:
        """The steps of a program, on the shared kernels and constants."""
        names = {name: self._kernel(k) for name, k in program.kernels.items()}
        places = [(offset, array.nbytes, self._constant(array)) for offset, array in program.constants]

        def address(a: Address) -> Address:
            if a.space != "constants" or not isinstance(a.offset, int):
                return a
            begin, _, now = next(p for p in reversed(places) if p[0] <= a.offset)
            return replace(a, offset=now + a.offset - begin)

        return _renamed(program.steps, names, address)

    def _kernel(self, kernel: Kernel) -> str:
        bare = replace(kernel, name="")
        if bare not in self._names:
            name = self._names[bare] = f"k{len(self.kernels)}_{_NUMBER.sub('', kernel.name)}"
            self.kernels[name] = replace(kernel, name=name)
        return self._names[bare]

    def _constant(self, array: np.ndarray) -> int:
        digest = _digest(array)
        if digest not in self._offsets:
            offset = self._offsets[digest] = -(-self.constant_bytes // ALIGNMENT) * ALIGNMENT
            self.constants.append((offset, array))
            self.constant_bytes = offset + array.nbytes
        return self._offsets[digest]


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data).digest()


def _renamed(steps: Sequence[Step], names: Mapping[str, str], address) -> tuple[Step, ...]:
    made: list[Step] = []
    for s in steps:
        match s:
            case Call():
                made.append(replace(s, kernel=names[s.kernel], args=tuple(map(address, s.args))))
            case Branch():
                then, other = (_renamed(b, names, address) for b in (s.then, s.other))
                made.append(replace(s, condition=address(s.condition), then=then, other=other))
            case Repeat():
                trips, goes = (None if a is None else address(a) for a in (s.trip_count, s.condition))
                body = _renamed(s.body, names, address)
                made.append(replace(s, body=body, counter=address(s.counter), trip_count=trips, condition=goes))
    return tuple(made)


@dataclass(frozen=True)
class VersionFacts:
    """For reports.  dims: its sizes.  weights: bytes of the constants that it reads; own: of those that nothing else reads."""

    dims: Mapping[str, int]
    calls: int
    arena: int
    scratch: int
    weights: int
    own: int

    @property
    def title(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.dims.items())


def version_facts(program: Program) -> list[VersionFacts]:
    used = [_constants_of(program, steps) for steps in (program.steps, *(v.steps for v in program.versions))]
    facts = []
    for n, v in enumerate(program.versions, 1):
        elsewhere = set[int]().union(*(u for m, u in enumerate(used) if m != n))
        nbytes = {offset: array.nbytes for offset, array in program.constants}
        weights, own = (sum(nbytes[at] for at in some) for some in (used[n], used[n] - elsewhere))
        dims = {var.name: size for var, size in v.sizes}
        facts.append(VersionFacts(dims, len(list(all_calls(v.steps))), v.arena_bytes, v.scratch_bytes, weights, own))
    return facts


def _constants_of(program: Program, steps: Sequence[Step]) -> set[int]:
    """Where the constants begin that these steps read."""
    starts = np.array([offset for offset, _ in program.constants], np.int64)
    places = [a.offset for c in all_calls(steps) for a in c.args if a.space == "constants" and isinstance(a.offset, int)]
    return {int(starts[np.searchsorted(starts, at, side="right") - 1]) for at in places}
