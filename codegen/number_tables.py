"""Kernels that differ in numbers alone become one, which reads the numbers from a table that each call gives.

    k3: y[i] = rint(x[i] * 0.35) * 0.021; k7: y[i] = rint(x[i] * 0.41) * 0.018, called once each
    ->  k3: y[i] = rint(x[i] * numbers_f32[0]) * numbers_f32[1], called with two tables

Scales and zero points of quantized models are such numbers: every layer has its own, and without this a function of its own.
Only numbers that differ between the kernels are read from tables; what one model uses once stays in its text.  Indices,
extents and conditions of statements are never taken for numbers, nor are zeros and infinities, which have meanings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite

import numpy as np

from ..ir.expr import Bin, Const, Expr, Load, Type, as_expr, const, splat
from ..ir.kernel import Block, Buffer, Kernel, Stmt, Store, map_block
from ..ir.traverse import children, rebuild
from ..ir.types import DTYPES
from .arena import ALIGNMENT
from .program import Address, Call, Program, map_calls

TABLES = ("f32", "i32")  # element types of numbers
_STRUCTURAL = ("div", "mod", "tdiv", "tmod", "shl", "shr", "and", "or", "xor")  # their second operand stays where it is
_MOST = 1 << 16
_SLOTS = {t: Buffer(f"numbers_{t}", t, (_MOST,)) for t in TABLES}
Key = tuple[str, object]  # element type and number


def share_numbers(program: Program) -> Program:
    """The program with one kernel for all that differ in numbers alone."""
    classes: dict[object, list[tuple[str, tuple[Key, ...]]]] = {}
    skeletons: dict[object, Kernel] = {}
    for name, kernel in program.kernels.items():
        skeleton, numbers = _skeleton(kernel)
        key = skeleton.name, skeleton.params, _form(skeleton.body)
        skeletons.setdefault(key, skeleton)
        classes.setdefault(key, []).append((name, numbers))
    kernels: dict[str, Kernel] = dict(program.kernels)
    taken: dict[str, tuple[str, tuple[np.ndarray, ...]]] = {}  # kernel -> the one that stands for it, and its tables
    for key, members in classes.items():
        if len(members) < 2:
            continue
        name = members[0][0]
        differ = [n for n, column in enumerate(zip(*(numbers for _, numbers in members), strict=True)) if len(set(column)) > 1]
        kernels[name] = _with_tables(replace(skeletons[key], name=name), members[0][1], differ)
        for member, numbers in members:
            taken[member] = name, _tables([numbers[n] for n in differ])
            if member != name:
                del kernels[member]
    if not taken:
        return program
    constants = _Constants(program)
    steps = map_calls(program.steps, lambda call: _shared(call, taken, constants))
    return replace(program, kernels=kernels, steps=steps, constants=tuple(constants.rows), constant_bytes=constants.nbytes)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def _skeleton(kernel: Kernel) -> tuple[Kernel, tuple[Key, ...]]:
    """(the kernel with every number as a place in a table, the numbers), equal for kernels that differ in numbers alone."""
    found: dict[Key, int] = {}

    def number(e: Const) -> Expr:
        key = (e.type.dtype, e.value)
        return Load.of(_SLOTS[e.type.dtype], (as_expr(found.setdefault(key, len(found))),), Type(e.type.dtype))

    body = _on_numbers(kernel.body, number)
    name = kernel.name.partition("_")[2]
    return Kernel(name, kernel.params, body), tuple(found)


def _form(block: Block) -> tuple[object, ...]:
    """The fields of the statements: these are equal to themselves alone."""

    def of(x: object) -> object:
        return _form(x) if isinstance(x, tuple) and x and isinstance(x[0], Stmt) else x

    return tuple((type(s), *map(of, vars(s).values())) for s in block)


def _on_numbers(block: Block, rule: Callable[[Const], Expr]) -> Block:
    """The block with a rule applied to the numbers in the values that it stores."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        done = memo.get(e)
        if done is None:
            done = memo[e] = rule_for(e)
        return done

    def rule_for(e: Expr) -> Expr:
        if isinstance(e, Const):
            if not _is_number(e):
                return e
            made = rule(e)
            return made if e.type.lanes == 1 else splat(made, e.type.lanes)
        if isinstance(e, Load):
            return e
        kids = children(e)
        fixed = isinstance(e, Bin) and e.op in _STRUCTURAL and isinstance(e.b, Const)
        return rebuild(e, tuple(k if fixed and n else visit(k) for n, k in enumerate(kids)))

    def on_statement(s: Stmt) -> Stmt:
        return Store(s.buf, s.idx, visit(s.value), s.mode) if isinstance(s, Store) and not s.mode else s

    return map_block(block, on_statement)


def _is_number(e: Const) -> bool:
    return e.type.dtype in TABLES and e.value != 0 and isfinite(e.value)


def _with_tables(skeleton: Kernel, numbers: Sequence[Key], differ: Sequence[int]) -> Kernel:
    """The kernel with the numbers that differ in tables, and the others in its text."""
    place = {n: sum(numbers[m][0] == numbers[n][0] for m in differ if m < n) for n in differ}
    counts = {t: sum(numbers[n][0] == t for n in differ) for t in TABLES}
    tables = {t: Buffer(f"numbers_{t}", t, (n,), align=ALIGNMENT) for t, n in counts.items() if n}

    def on_load(e: Load) -> Expr:
        n = int(e.idx[0].value)  # type: ignore[attr-defined]
        dtype, value = numbers[n]
        if n in place:
            return Load.of(tables[dtype], (as_expr(place[n]),), e.type)
        return const(value, e.type)

    return Kernel(skeleton.name, (*skeleton.params, *tables.values()), _on_slots(skeleton.body, on_load))


def _on_slots(block: Block, rule: Callable[[Load], Expr]) -> Block:
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        done = memo.get(e)
        if done is None:
            if isinstance(e, Load):
                done = rule(e) if e.buf in _SLOTS.values() else e
            else:
                done = rebuild(e, tuple(map(visit, children(e))))
            memo[e] = done
        return done

    return map_block(block, lambda s: Store(s.buf, s.idx, visit(s.value), s.mode) if isinstance(s, Store) and not s.mode else s)


def _tables(numbers: Sequence[Key]) -> tuple[np.ndarray, ...]:
    made = (np.array([v for t, v in numbers if t == dtype], DTYPES[dtype].numpy) for dtype in TABLES)
    return tuple(a for a in made if a.size)


# ---- calls -----------------------------------------------------------------------------------------------------------


class _Constants:
    """The constants of a program, to which tables are added; equal ones are stored once."""

    def __init__(self, program: Program) -> None:
        self.rows, self.nbytes = list(program.constants), program.constant_bytes
        self.known: dict[bytes, Address] = {}

    def add(self, table: np.ndarray) -> Address:
        key = table.tobytes() + table.dtype.str.encode()
        if key not in self.known:
            self.known[key] = Address("constants", self.nbytes)
            self.rows.append((self.nbytes, table))
            self.nbytes += -(-table.nbytes // ALIGNMENT) * ALIGNMENT
        return self.known[key]


def _shared(call: Call, taken: Mapping[str, tuple[str, tuple[np.ndarray, ...]]], constants: _Constants) -> Call:
    if call.kernel not in taken:
        return call
    name, tables = taken[call.kernel]
    return replace(call, kernel=name, args=(*call.args, *map(constants.add, tables)))
