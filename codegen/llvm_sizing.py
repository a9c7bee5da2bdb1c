"""The functions of a program with open dimensions that work on sizes alone, in LLVM text.

    i64 tw_plan(ptr sizes, ptr plan, ptr needs)

checks the sizes, and plans for them.  sizes: one i64 per symbol.  plan: receives the offset of every slot.  needs: receives
the bytes of the arena and of one thread's scratch memory.  Gives 0; n for check number n that fails, counted from 1; -1 for
sizes beyond any memory, and then has written nothing.

The plan of a program with versions begins with the number of the one that runs, see `llvm_main.py`.

    void tw_shapes(ptr sizes, ptr shapes)

writes the dimensions of all inputs and outputs, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.errors import InternalError
from ..ir.expr import Bin, Const, Expr, Load, Var, as_expr
from ..ir.traverse import walk
from ..ir.types import Dim
from .arena import ALIGNMENT
from .llvm_expr import evaluate
from .llvm_text import Printer
from .machine import Machine
from .program import Program, Version
from .sizing import Sizing, products_in

_PLAN = "ptr %sizes, ptr %plan, ptr %needs"
LARGEST = float(2**47)  # bytes or elements: beyond what a process can address


class _Sizes:
    """A function body that computes with the table `sizes`."""

    def __init__(self, sizing: Sizing, machine: Machine, declares: dict[str, None], mark: str = "") -> None:
        self.sizing, self.mark = sizing, mark
        self.p = Printer(machine, evaluate)
        self.p.declares = declares
        self.doubles: dict[Expr, str] = {}

    @property
    def lines(self) -> list[str]:
        printed = self.p.scopes[0].lines
        return [line.replace("%v", f"%{self.mark}v") for line in printed] if self.mark else printed

    def value(self, d: Dim) -> str:
        e = as_expr(d)
        for x in walk(e):
            if isinstance(x, Load):
                raise InternalError(f"the size {e} is read from data")
            if isinstance(x, Var) and x not in self.p.env:
                self.p.env[x] = self.loaded(self.sizing.number(x))
        found = self.p.value(e)
        return found.replace("%v", f"%{self.mark}v") if self.mark else found

    def loaded(self, number: int) -> str:
        at = self.p.here(f"getelementptr inbounds i64, ptr %sizes, i64 {number}")
        return self.p.here(f"load i64, ptr {at}, align 8")

    def put(self, table: str, number: int, value: str) -> None:
        at = self.p.here(f"getelementptr inbounds i64, ptr %{table}, i64 {number}")
        self.p.line(f"store i64 {value}, ptr {at}, align 8")

    def double(self, e: Expr) -> str:
        """An upper estimate of the magnitude of a size, which cannot overflow."""
        found = self.doubles.get(e)
        if found is None:
            found = self.doubles[e] = self._double(e)
        return found

    def _double(self, e: Expr) -> str:
        if isinstance(e, Const):
            return f"{float(abs(e.value)):.17e}"
        if isinstance(e, Bin) and e.op in ("add", "sub", "mul"):
            op = "fmul" if e.op == "mul" else "fadd"
            return self.p.here(f"{op} double {self.double(e.a)}, {self.double(e.b)}")
        if isinstance(e, Bin) and e.op in ("div", "tdiv"):
            return self.double(e.a)
        operand = self.value(e)
        whole = self.p.here(f"sitofp i64 {operand} to double")
        self.p.declares["declare double @llvm.fabs.f64(double)"] = None
        return self.p.here(f"call double @llvm.fabs.f64(double {whole})")


def print_size(
    e: Expr, sizing: Sizing, machine: Machine, declares: dict[str, None], mark: str
) -> tuple[list[str], str]:
    """Lines that compute an expression of symbols from `%sizes`, and its operand; mark: makes their names distinct."""
    s = _Sizes(sizing, machine, declares, mark)
    operand = s.value(e)
    return s.lines, operand


def print_sizing(program: Program, machine: Machine, declares: dict[str, None]) -> list[str]:
    """`tw_plan` and `tw_shapes`."""
    sizing = program.sizing
    assert sizing is not None
    shapes = _print_shapes(program, sizing, machine, declares)
    if not program.versions:
        return [_print_plan("hidden i64 @tw_plan", sizing, machine, declares), shapes]
    texts = [_print_plan("internal i64 @tw_plan_0", sizing, machine, declares)]
    for n, v in enumerate(program.versions, 1):
        head = f"internal i64 @tw_plan_{n}"
        known = _print_known_plan(head, v) if v.sizing is None else _print_plan(head, v.sizing, machine, declares)
        texts.append(known)
    return [*texts, _print_choice(program, sizing), shapes]


def _print_known_plan(head: str, v: Version) -> str:
    """The plan of a version whose sizes are all known."""
    return "\n".join([
        f"define {head}({_PLAN}) nounwind {{", "entry:", f"  store i64 {v.arena_bytes}, ptr %needs, align 8",
        "  %second = getelementptr inbounds i64, ptr %needs, i64 1",
        f"  store i64 {v.scratch_bytes}, ptr %second, align 8", "  ret i64 0", "}", "",
    ])


def _print_choice(program: Program, sizing: Sizing) -> str:
    """`tw_plan` of a program with versions: the first that fits, its number to plan[0].  Checks of all are counted through."""
    lines = ["%own = getelementptr inbounds i64, ptr %plan, i64 1"]
    for n in range(len(sizing.symbols)):
        lines += [f"%at{n} = getelementptr inbounds i64, ptr %sizes, i64 {n}", f"%size{n} = load i64, ptr %at{n}, align 8"]
    lines = [f"  {line}" for line in lines]
    passed = len(sizing.checks)
    for n, v in enumerate(program.versions, 1):
        holds = "true"
        for m, (var, size) in enumerate(v.sizes):
            lines.append(f"  %is{n}_{m} = icmp eq i64 %size{sizing.number(var)}, {size}")
            lines.append(f"  %all{n}_{m} = and i1 {holds}, %is{n}_{m}")
            holds = f"%all{n}_{m}"
        lines += [f"  br i1 {holds}, label %take{n}, label %other{n}", f"take{n}:", *_planned(n, passed), f"other{n}:"]
        passed += len(v.sizing.checks) if v.sizing is not None else 0
    return "\n".join([f"define hidden i64 @tw_plan({_PLAN}) nounwind {{", "entry:", *lines, *_planned(0, 0), "}", ""])


def _planned(n: int, passed: int) -> list[str]:
    """Take the plan number n, whose checks are counted on from `passed`."""
    return [
        f"  store i64 {n}, ptr %plan, align 8", f"  %failed{n} = call i64 @tw_plan_{n}(ptr %sizes, ptr %own, ptr %needs)",
        f"  %is_check{n} = icmp sgt i64 %failed{n}, 0", f"  %count{n} = add i64 %failed{n}, {passed}",
        f"  %told{n} = select i1 %is_check{n}, i64 %count{n}, i64 %failed{n}", f"  ret i64 %told{n}",
    ]


def _print_plan(head: str, sizing: Sizing, machine: Machine, declares: dict[str, None]) -> str:
    s = _Sizes(sizing, machine, declares)
    checked = products_in([*sizing.volumes, *sizing.scratch, *(c.value for c in sizing.checks)])
    for n, e in enumerate(checked):
        small = s.p.here(f"fcmp ole double {s.double(e)}, {LARGEST:.17e}")
        s.p.line(f"br i1 {small}, label %small{n}, label %large")
        s.p.scopes[0].lines.append(f"small{n}:")
    for n, check in enumerate(sizing.checks, 1):
        predicate = "eq" if check.equal else "sge"
        holds = s.p.here(f"icmp {predicate} i64 {s.value(check.value)}, 0")
        s.p.line(f"br i1 {holds}, label %holds{n}, label %fails{n}")
        s.p.scopes[0].lines += [f"fails{n}:", f"  ret i64 {n}", f"holds{n}:"]
    _place(s, sizing)
    text = [f"define {head}({_PLAN}) nounwind {{", "entry:", *s.lines, "  ret i64 0"]
    if checked:
        text += ["large:", "  ret i64 -1"]
    return "\n".join([*text, "}", ""])


def _place(s: _Sizes, sizing: Sizing) -> None:
    ends: list[str] = []
    rounded: dict[str, str] = {}
    total = "0"
    for n, slot in enumerate(sizing.slots):
        start = _most(s, [ends[m] for m in slot.after])
        size = s.value(slot.size)
        if size not in rounded:
            up = s.p.here(f"add i64 {size}, {ALIGNMENT - 1}")
            rounded[size] = s.p.here(f"and i64 {up}, {-ALIGNMENT}")
        ends.append(s.p.here(f"add i64 {start}, {rounded[size]}"))
        s.put("plan", n, start)
        total = _most(s, [total, ends[-1]])
    s.put("needs", 0, total)
    s.put("needs", 1, _most(s, [s.value(d) for d in sizing.scratch]))


def _most(s: _Sizes, values: Sequence[str]) -> str:
    most = values[0] if values else "0"
    for v in values[1:]:
        s.p.declares["declare i64 @llvm.smax.i64(i64, i64)"] = None
        most = s.p.here(f"call i64 @llvm.smax.i64(i64 {most}, i64 {v})")
    return most


def _print_shapes(program: Program, sizing: Sizing, machine: Machine, declares: dict[str, None]) -> str:
    s = _Sizes(sizing, machine, declares)
    for n, d in enumerate(d for _, t in (*program.inputs, *program.outputs) for d in t.shape):
        s.put("shapes", n, s.value(d))
    return "\n".join([
        "define hidden void @tw_shapes(ptr %sizes, ptr %shapes) nounwind {", "entry:", *s.lines, "  ret void", "}", ""
    ])


