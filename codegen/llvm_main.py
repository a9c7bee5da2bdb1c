"""The entry point of a program in LLVM text.

    void tw_main(ptr runtime, ptr arena, ptr scratch, ptr constants, ptr inputs, ptr outputs, i64 tid, i64 nt,
                 ptr sizes, ptr plan)

Every thread runs it.  Threads meet after the calls that say so, and after they have read a condition and before
anything can change it; with one thread the barriers are jumped over.  Called without inputs (null), it makes the calls that
prepare an instance instead.  A program that is to be profiled
notes the time around each call; versions count their calls on from those of the programs before them.

sizes, plan: of a program with open dimensions; others do not have these parameters.  sizes[n] is the symbol number n of its
`Sizing`, plan[n] the offset of slot n in the arena.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..ir.errors import InternalError
from ..ir.expr import Expr, Var
from .llvm_sizing import print_size
from .llvm_text import symbol
from .machine import Machine
from .program import Address, Branch, Call, Program, Repeat, Step, all_calls

_PARAMETERS = (
    "ptr %runtime, ptr %arena, ptr %scratch, ptr %constants, ptr %inputs, ptr %outputs, "
    "i64 %tid, i64 %nt"
)
_OPEN = ", ptr %sizes, ptr %plan"
_TRAILING = ("ptr %scratch", "ptr %runtime", "i64 %tid", "i64 %nt")


class _Main:
    def __init__(self, program: Program, declares: dict[str, None], machine: Machine, calls: int = 0) -> None:
        self.program, self.machine = program, machine
        self.declares = declares
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.bases: dict[tuple[str, int], str] = {}
        self.count, self.calls = 0, calls
        self.label = "start"

    def number(self) -> int:
        self.count += 1
        return self.count

    def value(self, text: str) -> str:
        name = f"%v{self.number()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def open(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def base(self, a: Address) -> str:
        """The pointer that an address counts from; those of inputs and outputs are loaded at the start."""
        if a.space in ("arena", "constants"):
            return f"%{a.space}"
        if a.space not in ("input", "output", "slot"):
            raise InternalError(f"program {self.program.name}: no memory space {a.space!r}")
        key = (a.space, a.index)
        if key not in self.bases:
            self.bases[key] = name = f"%{a.space}{a.index}"
            if a.space == "slot":
                self.entry += [
                    f"  {name}.at = getelementptr inbounds i64, ptr %plan, i64 {a.index}",
                    f"  {name}.offset = load i64, ptr {name}.at, align 8",
                    f"  {name} = getelementptr inbounds i8, ptr %arena, i64 {name}.offset",
                ]
                return name
            self.entry += [
                f"  {name}.at = getelementptr inbounds ptr, ptr %{a.space}s, i64 {a.index}",
                f"  {name} = load ptr, ptr {name}.at, align 8",
            ]
        return self.bases[key]

    def pointer(self, a: Address) -> str:
        base = self.base(a)
        offset = a.offset if isinstance(a.offset, int) else self.size(a.offset)
        return self.value(f"getelementptr inbounds i8, ptr {base}, i64 {offset}") if offset else base

    def size(self, e: Expr) -> str:
        """The value of an expression of symbols, from the table of sizes."""
        assert self.program.sizing is not None
        lines, operand = print_size(e, self.program.sizing, self.machine, self.declares, f"s{self.number()}_")
        self.lines += lines
        return operand

    def barrier(self) -> None:
        number = self.number()
        self.declares["declare hidden void @tw_barrier(ptr)"] = None
        self.lines.append(f"  br i1 %many, label %meet{number}, label %on{number}")
        self.open(f"meet{number}")
        self.lines += ["  call void @tw_barrier(ptr %runtime)", f"  br label %on{number}"]
        self.open(f"on{number}")

    def flag(self, a: Address) -> str:
        """A bool in memory as i1."""
        return self.value(f"icmp ne i8 {self.value(f'load i8, ptr {self.pointer(a)}, align 1')}, 0")

    def steps(self, steps: Sequence[Step]) -> None:
        for s in steps:
            match s:
                case Call():
                    self.call(s)
                case Branch():
                    self.branch(s)
                case Repeat():
                    self.repeat(s)

    def call(self, s: Call) -> None:
        kernel = self.program.kernels.get(s.kernel)
        if kernel is None:
            raise InternalError(f"program {self.program.name}: step calls the unknown kernel {s.kernel!r}")
        sizes = [p for p in kernel.params if isinstance(p, Var)]
        if sizes and self.program.sizing is None:
            raise InternalError(f"kernel {s.kernel}: a call cannot give the run-time sizes {', '.join(map(str, sizes))}")
        if len(s.args) != len(kernel.buffers):
            raise InternalError(f"kernel {s.kernel}: {len(kernel.buffers)} parameters, called with {len(s.args)}")
        args = [f"ptr {self.pointer(a)}" for a in s.args] + [f"i64 {self.size(v)}" for v in sizes]
        step, self.calls = self.calls, self.calls + 1
        self.profile("enter", step)
        self.lines.append(f"  call void @{symbol(kernel.name)}({', '.join((*args, *_TRAILING))})")
        self.profile("leave", step)
        if s.meet:
            self.barrier()

    def profile(self, side: str, step: int) -> None:
        """Note the time around a step, by its number in the order of `Program.every_steps`."""
        if self.program.profile:
            self.declares[f"declare hidden void @tw_profile_{side}(ptr, i64, i64)"] = None
            self.lines.append(f"  call void @tw_profile_{side}(ptr %runtime, i64 %tid, i64 {step})")

    def branch(self, s: Branch) -> None:
        number, cond = self.number(), self.flag(s.condition)
        self.barrier()
        self.lines.append(f"  br i1 {cond}, label %then{number}, label %else{number}")
        for label, body in (("then", s.then), ("else", s.other)):
            self.open(f"{label}{number}")
            self.steps(body)
            self.lines.append(f"  br label %end{number}")
        self.open(f"end{number}")

    def repeat(self, s: Repeat) -> None:
        number = self.number()
        trips = None if s.trip_count is None else self.value(f"load i64, ptr {self.pointer(s.trip_count)}, align 8")
        entry, counter, following = self.label, f"%n{number}", f"%next{number}"
        self.lines.append(f"  br label %test{number}")
        self.open(f"test{number}")
        at = len(self.lines)  # the phi goes here, once the last block of the body is known
        goes = "true" if trips is None else self.value(f"icmp slt i64 {counter}, {trips}")
        if s.condition is not None:
            goes = self.value(f"and i1 {goes}, {self.flag(s.condition)}")
        place = self.pointer(s.counter)
        self.lines.append(f"  br i1 %first, label %count{number}, label %ready{number}")
        self.open(f"count{number}")
        self.lines += [f"  store i64 {counter}, ptr {place}, align 8", f"  br label %ready{number}"]
        self.open(f"ready{number}")
        self.barrier()
        self.lines.append(f"  br i1 {goes}, label %body{number}, label %end{number}")
        self.open(f"body{number}")
        self.steps(s.body)
        self.lines += [f"  {following} = add nuw nsw i64 {counter}, 1", f"  br label %test{number}"]
        self.lines.insert(at, f"  {counter} = phi i64 [0, %{entry}], [{following}, %{self.label}]")
        self.open(f"end{number}")


def print_main(program: Program, defined: Collection[str], declares: dict[str, None], machine: Machine) -> str:
    """The function `tw_main`; kernels that are not in `defined` are declared."""
    if program.versions:
        return _print_choice(program, defined, declares, machine)
    return _print_main("hidden void @tw_main", program, defined, declares, machine)


def _print_choice(program: Program, defined: Collection[str], declares: dict[str, None], machine: Machine) -> str:
    """`tw_main` of a program with versions: plan[0] is the number of the one that `tw_plan` chose, 0 for none of them; what
    it planned for it follows."""
    own = [replace(program, versions=())]
    own += [replace(program, steps=v.steps, sizing=v.sizing, prepare=(), versions=()) for v in program.versions]
    texts, calls = [], 0
    for n, p in enumerate(own):
        texts.append(_print_main(f"internal void @tw_main_{n}", p, defined, declares, machine, calls))
        calls += len(list(all_calls(p.steps)))
    cases = " ".join(f"i64 {n}, label %of{n}" for n in range(1, len(own)))
    lines = [
        f"define hidden void @tw_main({_PARAMETERS}{_OPEN}) nounwind {{", "entry:",
        "  %which = load i64, ptr %plan, align 8", "  %own = getelementptr inbounds i64, ptr %plan, i64 1",
        f"  switch i64 %which, label %of0 [ {cases} ]",
    ]
    for n, p in enumerate(own):
        sizes = ", ptr %sizes, ptr %own" if p.sizing else ""
        lines += [f"of{n}:", f"  call void @tw_main_{n}({_PARAMETERS}{sizes})", "  ret void"]
    return "\n".join([*texts, *lines, "}", ""])


def _print_main(
    head: str, program: Program, defined: Collection[str], declares: dict[str, None], machine: Machine, calls: int = 0
) -> str:
    m = _Main(program, declares, machine, calls)
    m.steps(program.steps)
    first = _Main(replace(program, profile=False), declares, machine)
    first.count = m.count  # names go on from there
    first.steps(program.prepare)
    for kernel in program.kernels.values():
        if kernel.name not in defined:
            types = ["i64" if isinstance(p, Var) else "ptr" for p in kernel.params] + ["ptr", "ptr", "i64", "i64"]
            declares[f"declare hidden void @{symbol(kernel.name)}({', '.join(types)})"] = None
    start = ["entry:", "  %many = icmp sgt i64 %nt, 1", "  %first = icmp eq i64 %tid, 0"]
    if program.prepare:
        start += ["  %new = icmp eq ptr %inputs, null", "  br i1 %new, label %prepare, label %begin"]
        start += ["prepare:", *first.lines, "  ret void", "begin:"]
    start += [*m.entry, "  br label %start"]
    opening = f"define {head}({_PARAMETERS}{_OPEN if program.sizing else ''}) nounwind {{"
    return "\n".join([opening, *start, "start:", *m.lines, "  ret void", "}", ""])
