"""What happens to one element: a straight line of exact integer instructions, rounded only where it says `round`.

    v1 = max(acc, 0); v2 = round(v1, u16.12)            the rectifier behind a convolution
    v1 = x * c0[channel]; v2 = lt(x, 0); v3 = select(v2, v1, x); v4 = round(v3, s16.11)

Every register knows the smallest and the largest integer that it can hold, so its width is proven, not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ir.errors import InternalError, ModelError
from .fixed import Fixed, exact_constant, holding, round_shift
from .table import Table


@dataclass(frozen=True)
class Reg:
    """A register: its number and the range of its integers, which are in units of 2^-frac."""

    number: int
    low: int
    high: int
    frac: int

    @property
    def type(self) -> Fixed:
        return holding(self.low, self.high, self.frac)


@dataclass(frozen=True, eq=False)
class Instr:
    """One operation.  value: of a "const"; shift: of "round", "floor", "even", "scale".
    vector, repeat: a "vector" is vector[i // repeat % len] for the i-th element."""

    op: str
    args: tuple[int, ...]
    out: Reg
    shift: int = 0
    value: int = 0
    vector: np.ndarray | None = None
    repeat: int = 1
    table: Table | None = None


COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "gt": ">", "ge": ">="}
LOGIC = {"and": "&", "or": "|", "xor": "^"}
_NUMPY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}
_CPP = {"add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "neg": "-{0}", "not": "1 - {0}",
        "max": "({0} > {1} ? {T}({0}) : {T}({1}))", "min": "({0} < {1} ? {T}({0}) : {T}({1}))",
        "abs": "({0} < 0 ? {T}(-{0}) : {T}({0}))", "select": "({0} ? {T}({1}) : {T}({2}))", "div": "tw::divide<{T}>({0}, {1})",
        **{op: f"({{0}} {sign} {{1}} ? 1 : 0)" for op, sign in COMPARE.items()},
        **{op: f"{{0}} {sign} {{1}}" for op, sign in LOGIC.items()}}


@dataclass(frozen=True, eq=False)
class Body:
    """inputs: their types.  The result is the last instruction's register."""

    inputs: tuple[Fixed, ...]
    instrs: tuple[Instr, ...]

    @property
    def result(self) -> Reg:
        return self.instrs[-1].out

    @property
    def vectors(self) -> tuple[Instr, ...]:
        return tuple(i for i in self.instrs if i.op == "vector")

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(i.table for i in self.instrs if i.table is not None)

    @property
    def period(self) -> int:
        """After how many elements all vectors begin again."""
        return int(np.lcm.reduce([1, *(len(i.vector) * i.repeat for i in self.vectors if i.vector is not None)]))

    @property
    def products(self) -> int:
        """Multiplications per element, those of tables included."""
        return sum(i.op == "mul" or i.op == "table" for i in self.instrs)

    @property
    def adder_bits(self) -> int:
        """Bits of the adders, comparators and selectors per element."""
        return sum(i.out.type.bits for i in self.instrs if i.op not in ("input", "const", "vector", "table", "mul"))

    def run(self, *arrays: np.ndarray) -> np.ndarray:
        """Flat int64 arrays of equal length, whole periods each, to the flat result."""
        regs: dict[int, np.ndarray] = {}
        for i in self.instrs:
            a = [regs[n] for n in i.args]
            if i.op == "input":
                value = arrays[i.value]
            elif i.op == "vector":
                assert i.vector is not None
                value = np.resize(np.repeat(i.vector, i.repeat), len(arrays[0])) if len(arrays[0]) else arrays[0]
            elif i.op == "table":
                assert i.table is not None
                value = i.table.run(a[0])
            else:
                value = _execute(i, a, len(arrays[0]))
            regs[i.out.number] = value
        return regs[self.result.number]

    def code(self, name: str) -> str:
        """A C++ function of the inputs, then one value per vector."""
        params = [f"{t.cpp} v{n}" for n, t in enumerate(self.inputs)]
        params += [f"{i.out.type.cpp} v{i.out.number}" for i in self.vectors]
        lines = [f"static {self.result.type.cpp} {name}({', '.join(params)}) {{", "#pragma HLS INLINE"]
        for i in self.instrs:
            if i.op not in ("input", "vector"):
                lines.append(f"  const {i.out.type.cpp} v{i.out.number} = {_expression(i)};")
        lines.append(f"  return v{self.result.number};")
        return "\n".join([*lines, "}"]) + "\n"


def _execute(i: Instr, a: list[np.ndarray], count: int) -> np.ndarray:
    if i.op == "const":
        return np.full(count, i.value, np.int64)
    if i.op == "scale":
        return a[0] << i.shift
    if i.op == "round":
        return np.clip(round_shift(a[0], i.shift), i.out.low, i.out.high)
    if i.op == "floor":
        return np.clip(a[0] >> i.shift, i.out.low, i.out.high)
    if i.op == "even":
        return np.clip(round_even(a[0], i.shift) + i.value, i.out.low, i.out.high)
    if i.op == "neg":
        return -a[0]
    if i.op == "abs":
        return np.abs(a[0])
    if i.op == "not":
        return 1 - a[0]
    if i.op == "select":
        return np.where(a[0] != 0, a[1], a[2])
    if i.op == "div":
        return divide(a[0], a[1])
    return np.asarray(_NUMPY[i.op](a[0], a[1])).astype(np.int64)


def round_even(x: np.ndarray, shift: int) -> np.ndarray:
    """x / 2^shift to the nearest integer, halves to even."""
    if shift <= 0:
        return x << -shift
    down = x >> shift
    rest, half = x - (down << shift), 1 << (shift - 1)
    return down + ((rest > half) | ((rest == half) & (down & 1 == 1)))


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Truncated towards zero; 0 where the divisor is 0."""
    safe = np.where(b == 0, 1, b)
    return np.where(b == 0, 0, np.sign(a) * np.sign(safe) * (np.abs(a) // np.abs(safe)))


def _expression(i: Instr) -> str:
    a = [f"v{n}" for n in i.args]
    if i.op == "const":
        return f"{i.value}LL" if abs(i.value) >= 2**31 else str(i.value)
    if i.op == "scale":
        return f"{i.out.type.cpp}({a[0]}) * {1 << i.shift}LL"
    if i.op == "table":
        assert i.table is not None
        return f"{i.table.name}({a[0]})"
    if i.op == "round":
        return round_code(a[0], i.shift, i.out)
    if i.op == "floor":
        return f"tw::saturate<{i.out.type.cpp}>({a[0]} >> {i.shift}, {i.out.low}LL, {i.out.high}LL)"
    if i.op == "even":
        return f"tw::round_even<{i.out.type.cpp}, {i.shift}>({a[0]}, {i.value}, {i.out.low}LL, {i.out.high}LL)"
    return _CPP[i.op].format(*a, T=i.out.type.cpp)


def round_code(value: str, shift: int, out: Reg) -> str:
    """The C++ of `round`; the helper does the saturation on the operand's own width."""
    return f"tw::round<{out.type.cpp}, {shift}>({value}, {out.low}LL, {out.high}LL)"


@dataclass
class BodyBuilder:
    """Adds instructions; every method returns the new register."""

    inputs: list[Fixed] = field(default_factory=list)
    instrs: list[Instr] = field(default_factory=list)

    def _add(self, op: str, args: Sequence[Reg], low: int, high: int, frac: int, **extra: object) -> Reg:
        out = Reg(len(self.instrs), low, high, frac)
        if max(-low, high) >= 2**61:
            types = ", ".join(str(a.type) for a in args)
            raise ModelError(f"fpga: a {op} of {types} needs more than 62 bits; its values are too far apart")
        self.instrs.append(Instr(op, tuple(a.number for a in args), out, **extra))  # type: ignore[arg-type]
        return out

    def input(self, type: Fixed, low: int | None = None, high: int | None = None) -> Reg:
        """Operands come first: an input after another instruction is an error."""
        if any(i.op != "input" for i in self.instrs):
            raise InternalError("inputs must be the first registers of a body")
        self.inputs.append(type)
        reach = (type.low if low is None else low, type.high if high is None else high)
        return self._add("input", (), *reach, type.frac, value=len(self.inputs) - 1)

    def constant(self, values: np.ndarray, bits: int, repeat: int = 1) -> Reg:
        """A scalar, or a vector along the elements, each value `repeat` times; floats, kept in at most so many bits."""
        q, type = exact_constant(np.asarray(values).ravel(), bits)
        if q.size == 1:
            return self._add("const", (), int(q[0]), int(q[0]), type.frac, value=int(q[0]))
        return self._add("vector", (), int(q.min()), int(q.max()), type.frac, vector=q, repeat=repeat)

    def integers(self, values: np.ndarray) -> Reg:
        """Whole numbers: a scalar, or one per channel."""
        q = np.asarray(values, np.int64).ravel()
        if np.all(q == q[0]):
            return self._add("const", (), int(q[0]), int(q[0]), 0, value=int(q[0]))
        return self._add("vector", (), int(q.min()), int(q.max()), 0, vector=q)

    def floor(self, a: Reg, low: int, high: int) -> Reg:
        """The greatest integer below, within low and high."""
        ends = a.low >> a.frac, a.high >> a.frac
        least, most = (int(min(max(e, low), high)) for e in ends)
        return self._add("floor", (a,), least, most, 0, shift=a.frac)

    def round(self, a: Reg, to: Fixed) -> Reg:
        """To the type's units, saturated to its range (as far as the operand reaches)."""
        shift = a.frac - to.frac
        ends = round_shift(np.array([a.low, a.high], object), shift)
        low, high = (int(min(max(e, to.low), to.high)) for e in ends)
        if shift == 0 and (low, high) == (a.low, a.high):
            return a
        return self._add("round", (a,), low, high, to.frac, shift=shift)

    def whole(self, a: Reg, low: int, high: int, zero: int) -> Reg:
        """The nearest integer, halves to even, plus zero, within low and high."""
        ends = round_even(np.array([a.low, a.high], np.int64), a.frac) + zero
        least, most = (int(min(max(e, low), high)) for e in ends)
        return self._add("even", (a,), least, most, 0, shift=a.frac, value=zero)

    def fitted(self, a: Reg, to: Fixed) -> Reg:
        """As it is, exactly, if that takes no more bits than the type; else rounded to it."""
        return a if a.type.bits <= to.bits else self.round(a, to)

    def scaled(self, a: Reg, frac: int) -> Reg:
        """The same value in finer units."""
        shift = frac - a.frac
        return a if shift == 0 else self._add("scale", (a,), a.low << shift, a.high << shift, frac, shift=shift)

    def _aligned(self, *regs: Reg) -> list[Reg]:
        frac = max(r.frac for r in regs if (r.low, r.high) != (0, 0)) if any(r.high or r.low for r in regs) else 0
        return [self._zero(r, frac) if (r.low, r.high) == (0, 0) else self.scaled(r, frac) for r in regs]

    def _zero(self, a: Reg, frac: int) -> Reg:
        return Reg(a.number, 0, 0, frac)

    def binary(self, op: str, a: Reg, b: Reg) -> Reg:
        """add sub mul max min, comparisons and logic; exact."""
        if op == "mul":
            ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
            return self._add(op, (a, b), min(ends), max(ends), a.frac + b.frac)
        if op in LOGIC:
            return self._add(op, (a, b), 0, 1, 0)
        a, b = self._aligned(a, b)
        if op in COMPARE:
            return self._add(op, (a, b), 0, 1, 0)
        ends = {
            "add": (a.low + b.low, a.high + b.high), "sub": (a.low - b.high, a.high - b.low),
            "max": (max(a.low, b.low), max(a.high, b.high)), "min": (min(a.low, b.low), min(a.high, b.high)),
        }[op]
        return self._add(op, (a, b), *ends, a.frac)

    def unary(self, op: str, a: Reg) -> Reg:
        """neg, abs, not; exact."""
        low = {"neg": -a.high, "abs": 0, "not": 0}[op]
        high = {"neg": -a.low, "abs": max(-a.low, a.high), "not": 1}[op]
        return self._add(op, (a,), low, high, a.frac)

    def divide(self, a: Reg, b: Reg, to: Fixed) -> Reg:
        """a / b, truncated, with one more fractional bit than the type, then rounded to it."""
        frac = to.frac + 1
        lifted = self.scaled(a, max(a.frac, frac + b.frac))
        reach = max(-lifted.low, lifted.high)
        quotient = self._add("div", (lifted, b), -reach, reach, lifted.frac - b.frac)
        return self.round(quotient, to)

    def select(self, c: Reg, a: Reg, b: Reg) -> Reg:
        a, b = self._aligned(a, b)
        return self._add("select", (c, a, b), min(a.low, b.low), max(a.high, b.high), a.frac)

    def table(self, a: Reg, table: Table) -> Reg:
        """Requires that a is of the table's operand type."""
        y = table.result
        return self._add("table", (a,), y.low, y.high, y.frac, table=table)

    def body(self, result: Reg) -> Body:
        """The finished body; instructions that the result does not need are dropped, inputs stay."""
        needed, kept = {result.number}, []
        for i in reversed(self.instrs):
            if i.op == "input" or i.out.number in needed:
                needed.update(i.args)
                kept.append(i)
        instrs = sorted(kept, key=lambda i: i.out.number)
        last = next(i for i in instrs if i.out.number == result.number)
        if last is not instrs[-1]:
            instrs = [i for i in instrs if i.out.number <= result.number]
        return Body(tuple(self.inputs), tuple(instrs))
