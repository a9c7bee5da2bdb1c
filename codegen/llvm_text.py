"""LLVM IR as text: types, constants, and the state of a function while it is printed.

A `Printer` numbers values by the text of their instruction and appends a pure instruction to the open loop level of
its deepest operand.  Because the text of a loop is joined to its parent only when the loop closes, this moves
loop-invariant code out of loops for free.  Registers (cells of `register` buffers) are SSA values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..ir.errors import InternalError
from ..ir.expr import Expr, Type, Var, linear
from ..ir.kernel import Buffer, flat_index
from ..ir.types import DTYPES, Dim
from .machine import Machine

# Half-precision values stay in integer registers: arithmetic on them is done in f32, and no run-time library is needed.
SCALARS = {
    "f64": "double", "f32": "float", "f16": "i16", "bf16": "i16", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8",
    "u64": "i64", "u32": "i32", "u16": "i16", "u8": "i8", "bool": "i1",
}


def symbol(kernel_name: str) -> str:
    """The linker's name of a kernel; the prefix keeps it apart from libc's names."""
    return f"kernel_{kernel_name}"


def llvm_type(t: Type) -> str:
    """The type of a value in registers; booleans are i1."""
    scalar = SCALARS[t.dtype]
    return scalar if t.lanes == 1 else f"<{t.lanes} x {scalar}>"


def memory_type(t: Type) -> str:
    """The type of a value in memory; a boolean is a byte."""
    return llvm_type(Type("u8", t.lanes)) if t.dtype == "bool" else llvm_type(t)


def suffix(t: Type) -> str:
    """The part of an intrinsic's name that says its type: v16f32."""
    scalar = t.dtype if t.dtype in ("f32", "f64") else SCALARS[t.dtype]
    return scalar if t.lanes == 1 else f"v{t.lanes}{scalar}"


def number(value: Any, dtype: str) -> str:
    """A scalar constant."""
    if dtype == "bool":
        return "true" if value else "false"
    if DTYPES[dtype].kind != "f":
        return str(int(value))
    with np.errstate(over="ignore"):
        exact = DTYPES[dtype].numpy.type(value)
    if dtype in ("f16", "bf16"):
        return str(int(exact.view(np.uint16)))
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(exact)))[0]:016X}"


def constant(value: Any, t: Type) -> str:
    """A constant of any type; all lanes equal."""
    scalar = number(value, t.dtype)
    return scalar if t.lanes == 1 else f"splat ({SCALARS[t.dtype]} {scalar})"


def zero(t: Type) -> str:
    return constant(0, t) if t.lanes == 1 else "zeroinitializer"


def literal(operand: str) -> int | None:
    """The value of an operand that is an integer constant."""
    return int(operand) if operand.lstrip("-").isdigit() else None


class Cell(NamedTuple):
    """One place in a register array."""

    buf: Buffer
    offset: int


class Held(NamedTuple):
    """What a register cell holds: an SSA value and its type."""

    value: str
    type: Type


@dataclass
class Scope:
    """An open loop level or branch: its text so far, and the values numbered in it."""

    lines: list[str] = field(default_factory=list)
    numbered: dict[str, str] = field(default_factory=dict)
    branch: bool = False


class Printer:
    """The state while one function is printed.

    env: what loop variables stand for, an SSA value or (unrolled) an int.  cells: contents of the register arrays.
    loads: values of memory that are known, by buffer and load instruction.  stack: byte offsets of `stack` buffers in
    the scratch memory.  label: the block being written.
    """

    def __init__(self, machine: Machine, evaluate: Callable[[Printer, Expr], str]) -> None:
        self.machine = machine
        self.scopes: list[Scope] = [Scope()]
        self.declares: dict[str, None] = {}
        self.env: dict[Var, str | int] = {}
        self.cells: dict[Cell, Held] = {}
        self.loads: dict[tuple[Buffer, str], str] = {}
        self.pointers: dict[Buffer, str] = {}
        self.stack: dict[Buffer, Dim] = {}
        self.stack_top: Dim = 0
        self.label = "entry"
        self._evaluate = evaluate
        self._depth: dict[str, int] = {}
        self._memo: dict[Expr, str] = {}
        self._flat: dict[tuple[int, tuple[Expr, ...]], tuple[int, dict[Expr, int]]] = {}
        self._count = 0

    def value(self, e: Expr) -> str:
        """The operand that an expression stands for, printing what it needs."""
        found = self._memo.get(e)
        if found is None:
            found = self._memo[e] = self._evaluate(self, e)
        return found

    def flat(self, buf: Buffer, idx: tuple[Expr, ...]) -> tuple[int, dict[Expr, int]]:
        """The linear form of a flat index: unrolled loops ask for the same ones many times."""
        key = (id(buf), idx)
        found = self._flat.get(key)
        if found is None:
            found = self._flat[key] = linear(flat_index(buf, idx))
        return found

    def new_statement(self) -> None:
        """Forget the values of expressions: a store or a step of a loop may have changed them."""
        self._memo = {}

    def number(self) -> int:
        self._count += 1
        return self._count

    def depth(self, operand: str) -> int:
        """The loop level that an operand is defined in; constants and parameters are at level 0."""
        return self._depth.get(operand, 0)

    def define(self, operand: str, depth: int) -> None:
        self._depth[operand] = depth

    def line(self, text: str) -> None:
        """An instruction without a result, here."""
        self.scopes[-1].lines.append("  " + text)

    def here(self, text: str) -> str:
        """An instruction that must stay where it is."""
        result = f"%v{self.number()}"
        self.line(f"{result} = {text}")
        self._depth[result] = len(self.scopes) - 1
        return result

    def pure(self, text: str, *operands: str, costly: bool = False) -> str:
        """An instruction without side effects, at the level of its deepest operand; the same text gives the same value.
        A costly one does not leave the branch it is in."""
        depth = 0
        for o in operands:
            depth = max(depth, self._depth.get(o, 0))
        if costly:
            depth = max([depth, *(i for i, s in enumerate(self.scopes) if s.branch)])
        for scope in self.scopes[: depth + 1]:
            found = scope.numbered.get(text)
            if found is not None:
                return found
        result = f"%v{self.number()}"
        scope = self.scopes[depth]
        scope.lines.append(f"  {result} = {text}")
        scope.numbered[text] = result
        self._depth[result] = depth
        return result

    def intrinsic(self, name: str, out: Type, args: list[tuple[str, str]], flags: str = "") -> str:
        """A call of a pure LLVM intrinsic with (type, operand) arguments."""
        self.declares[f"declare {llvm_type(out)} @{name}({', '.join(t for t, _ in args)})"] = None
        listed = ", ".join(f"{t} {v}" for t, v in args)
        return self.pure(f"call {flags}{llvm_type(out)} @{name}({listed})", *(v for _, v in args))


def unsupported(what: str) -> InternalError:
    """The error for something that no printer of LLVM text knows."""
    return InternalError(f"LLVM emitter: {what}")
