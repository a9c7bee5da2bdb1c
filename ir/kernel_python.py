"""Writes a kernel as Python source, for the interpreter.

The function is a generator: one thread, which yields where it waits for others (see `kernel_warp.py`).

Scalars are NumPy scalars of their element type, i64 scalars are Python ints, vectors are arrays of lanes; a stream is a
pair of a position and a flat array.  What several expressions of a statement share is computed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernel_functions as functions
from .errors import InternalError
from .expr import (
    I64,
    Bin,
    Call,
    Cast,
    Const,
    Expr,
    Fma,
    HReduce,
    Load,
    Ramp,
    Select,
    Shuffle,
    Splat,
    Type,
    Un,
    Var,
    as_expr,
    bounds,
)
from .kernel import Alloc, Barrier, Block, Buffer, Do, For, If, Kernel, Prefetch, Read, Stmt, Store, Write, parts_of
from .kernel_launch import BINDINGS
from .kernel_warp import Copies, is_warp_function
from .traverse import children, walk
from .types import DTYPES

_OPERATORS = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}",
    "lt": "{} < {}", "le": "{} <= {}", "eq": "{} == {}", "ne": "{} != {}", "shr": "{} >> {}", "shl": "{} << {}",
    "mod": "{} % {}", "tdiv": "_tdiv({}, {})", "tmod": "_tmod({}, {})",
}
_I64_SCALAR = {"div": "_div64({}, {})", "mod": "_mod64({}, {})", "shl": "_shl64({}, {})", "shr": "{} >> min({}, 63)"}
_WRAPPING = ("add", "sub", "mul")
_UNARY = {
    "neg": "-{}", "abs": "abs({})", "rint": "_np.rint({})", "floor": "_np.floor({})", "ceil": "_np.ceil({})",
    "trunc": "_np.trunc({})", "sqrt": "_np.sqrt({})",
}
_GLOBALS: dict[str, Any] = {
    "_np": np, "_min": functions.least, "_max": functions.greatest, "_tdiv": functions.tdiv, "_tmod": functions.tmod,
    "_div64": functions.div64, "_mod64": functions.mod64, "_shl64": functions.shl64, "_wrap64": functions.wrap64,
    "_to_i64": functions.to_i64, "_Copies": Copies,
}


def kernel_source(kernel: Kernel) -> tuple[str, dict[str, Any]]:
    """Source of a generator function `program(tid, nt, at, shared, *params)` over flat arrays and sizes, and the names it
    needs.  at: the numbers of the block and thread in x, y, z; shared: a dict that the threads of a block have in common."""
    writer = _Writer(kernel)
    return writer.program(), writer.globals


def _out_of_bounds(kernel: str, buf: str, dim: int, low: int, high: int, size: int) -> None:
    where = f"dimension {dim} of {buf}" if dim >= 0 else f"the elements of {buf}"
    raise InternalError(
        f"kernel {kernel}: index {low if low < 0 else high} of {where} is outside 0..{size - 1}; "
        "both arms of a select are evaluated, so an index under a condition must be clamped"
    )


class _Writer:
    """Writes one kernel as Python source.  A value has one name or text; what is used twice in a statement is named."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.depth = 1
        self.globals: dict[str, Any] = dict(_GLOBALS)
        self.constants: dict[object, str] = {}
        self.variables: dict[Var, str] = {}
        self.buffers: dict[Buffer, str] = {}
        self.values: dict[Expr, str] = {}
        self.shared: set[Expr] = set()
        self.counter = 0

    def fail(self, message: str) -> InternalError:
        return InternalError(f"kernel {self.kernel.name}: {message}", str(self.kernel))

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def constant(self, key: object, value: Any) -> str:
        """A name for a Python object."""
        if key not in self.constants:
            self.constants[key] = name = self.fresh("c")
            self.globals[name] = value
        return self.constants[key]

    # ---- statements

    def program(self) -> str:
        names = []
        for p in self.kernel.params:
            names.append(self.fresh("p"))
            if isinstance(p, Var):
                self.variables[p] = names[-1]
            else:
                self.buffers[p] = names[-1]
        self.block(self.kernel.body)
        self.line("return")
        self.line("yield")
        head = f"def program({', '.join(['tid', 'nt', 'at', 'shared', *names])}):"
        return "\n".join([head, "    copies = _Copies()", *self.lines, ""])

    def block(self, block: Block) -> None:
        outer = dict(self.buffers)
        start = len(self.lines)
        for s in block:
            self.values, self.shared = {}, set()
            self.statement(s)
        if len(self.lines) == start:
            self.line("pass")
        self.buffers = outer

    def indented(self, block: Block) -> None:
        self.depth += 1
        self.block(block)
        self.depth -= 1

    def statement(self, s: Stmt) -> None:
        match s:
            case For():
                self.loop(s)
            case If():
                self.line(f"if {self.root(s.cond)}:")
                self.indented(s.then)
                if s.other:
                    self.line("else:")
                    self.indented(s.other)
            case Alloc():
                self.allocate(s.buf)
            case Store() if s.mode == "async":
                self.copy_async(s)
            case Store():
                self.share((*s.idx, s.value))
                if s.value.type.dtype != s.buf.dtype:
                    raise self.fail(f"a value of {s.value.type.dtype} is stored in {s.buf.name} of {s.buf.dtype}")
                value = self.expr(s.value)
                wrap = s.value.type == I64 and bounds(s.value) == (None, None)
                self.line(f"{self.place(s.buf, s.idx, s.value.type)} = {f'_wrap64({value})' if wrap else value}")
            case Prefetch():
                pass
            case Barrier():
                self.line(f"yield {s.scope!r}")
            case Read():
                self.share(s.idx)
                stream = self.buffers[s.stream]
                self.line(f"{self.place(s.buf, s.idx, Type(s.buf.dtype))} = {stream}[1][next({stream}[0])]")
            case Write():
                value = self.root(s.value)
                stream = self.buffers[s.stream]
                self.line(f"{stream}[1][next({stream}[0])] = {value}")
            case Do():
                self.instruction(s)
            case _:
                raise self.fail(f"statement {type(s).__name__} has no meaning here")

    def loop(self, s: For) -> None:
        count = self.root(as_expr(s.var.extent)) if s.var.extent is not None else None
        if count is None:
            raise self.fail(f"loop {s.var.name} has no extent")
        if s.var in self.variables:
            raise self.fail(f"loop {s.var.name} stands inside a loop of the same variable")
        self.variables[s.var] = name = self.fresh("v")
        if s.kind in BINDINGS:
            number = f"at[{BINDINGS.index(s.kind)}]"
            self.line(f"if {number} < {count}:")
            self.depth += 1
            self.line(f"{name} = {number}")
            self.block(s.body)
            self.depth -= 1
            del self.variables[s.var]
            return
        bound = f"({count}) * tid // nt, ({count}) * (tid + 1) // nt" if s.kind == "parallel" else count
        iterations = f"reversed(range({bound}))" if "reverse" in s.attrs else f"range({bound})"
        if (parts := parts_of(s)) > 1:
            iterations = f"[v % {parts} * (({count}) // {parts}) + v // {parts} if nt == 1 else v for v in {iterations}]"
        self.line(f"for {name} in {iterations}:")
        self.indented(s.body)
        del self.variables[s.var]

    def instruction(self, s: Do) -> None:
        """One effectful instruction of the graphics processor; a Load among its arguments names a tile or a row."""
        self.share(tuple(i for a in s.args for i in (a.idx if isinstance(a, Load) else (a,))))
        args = [self.tile(a) if isinstance(a, Load) else self.expr(a) for a in s.args]
        if s.fn in ("cp_async_commit", "cp_async_wait"):
            self.line(f"copies.{s.fn.removeprefix('cp_async_')}({', '.join(args)})")
        else:
            self.line(f"yield {', '.join([repr(s.fn), *args])}")

    def tile(self, e: Load) -> str:
        """The elements below leading indices; from a full index on, the 16 bytes of a row."""
        rest = e.buf.shape[len(e.idx) :]
        idx = (*e.idx, *(as_expr(0) for _ in rest))
        start = self.place(e.buf, idx, Type(e.buf.dtype)).partition("[")[2].removesuffix("]")
        count = 1
        for n in rest:
            count *= int(n)  # type: ignore[arg-type]
        return f"{self.buffers[e.buf]}[{start}:{start}+{count if rest else 16 // DTYPES[e.buf.dtype].size}]"

    def copy_async(self, s: Store) -> None:
        """A copy from global to shared memory, or zeros where a condition does not hold."""
        value, cond = (s.value.a, s.value.cond) if isinstance(s.value, Select) else (s.value, None)
        if not isinstance(value, Load):
            raise self.fail(f"an asynchronous store to {s.buf.name} is no copy")
        cond = cond.a if isinstance(cond, Splat) else cond
        self.share((*s.idx, *(() if cond is None else (cond,))))
        type = Type(s.buf.dtype, max(value.type.lanes, 2))  # a slice, also of one element
        target = self.place(s.buf, s.idx, type._replace(lanes=value.type.lanes))
        if value.type.lanes == 1:
            start = target.partition("[")[2].removesuffix("]")
            target = f"{self.buffers[s.buf]}[{start}:{start}+1]"
        poison = self.poison(s.buf)
        if cond is None:
            self.line(f"copies.start({target}, {self.expr(value)}, {poison})")
            return
        self.line(f"if {self.expr(cond)}:")
        self.depth += 1
        self.line(f"copies.start({target}, {self.expr(value)}, {poison})")
        self.depth -= 1
        self.line("else:")
        self.line(f"    copies.start({target}, 0, {poison})")

    def poison(self, buf: Buffer) -> str:
        """What memory holds before it is written: NaN, or a large pattern."""
        info = DTYPES[buf.dtype]
        value = np.nan if info.kind == "f" else True if info.kind == "b" else np.full(
            info.size, 0x5A, np.uint8).view(info.numpy)[0]
        return self.constant((buf.dtype, "poison"), value)

    def allocate(self, buf: Buffer) -> None:
        info = DTYPES[buf.dtype]
        self.buffers[buf] = name = self.fresh("b")
        size = "1"
        for d in buf.shape:
            size += f" * {d if isinstance(d, int) else self.root(d)}"
        if buf.strides is not None:
            size = str(1 + sum((int(n) - 1) * k for n, k in zip(buf.shape, buf.strides, strict=True)))  # type: ignore[arg-type]
        made = f"_np.full({size}, {self.poison(buf)}, {self.constant(info.numpy, info.numpy)})"
        if buf.space == "shared":
            self.line(f"if {buf.name!r} not in shared: shared[{buf.name!r}] = {made}")
            made = f"shared[{buf.name!r}]"
        self.line(f"{name} = {made}")

    # ---- places

    def place(self, buf: Buffer, idx: tuple[Expr, ...], type: Type) -> str:
        """`name[...]` of the elements that a load or store of this type touches, with the checks it needs before it."""
        if buf not in self.buffers:
            raise self.fail(f"buffer {buf.name} is used where it is not allocated")
        if len(idx) != len(buf.shape):
            raise self.fail(f"buffer {buf.name} has {len(buf.shape)} dimensions, indexed with {len(idx)}")
        name = self.buffers[buf]
        if any(i.type.lanes > 1 for i in idx):
            if type.dtype != buf.dtype:
                raise self.fail(f"a gather from {buf.name} cannot reinterpret {buf.dtype} as {type.dtype}")
            self.check(buf, idx)
            return f"{name}[{self.flat(buf, idx)}]"
        size, have = DTYPES[type.dtype].size, DTYPES[buf.dtype].size
        count = max(type.lanes * size // have, 1)
        self.check(buf, idx)
        start = self.flat(buf, idx)
        last = bounds(idx[-1])[1] if idx and buf.strides is None else None
        if count > 1 and (last is None or not isinstance(buf.shape[-1], int) or last + count > buf.shape[-1]):
            bad = self.constant("bad", _out_of_bounds)
            end = f"{start} + {count - 1}"
            self.line(f"if {end} >= {name}.size: {bad}({self.kernel.name!r}, {buf.name!r}, -1, 0, {end}, {name}.size)")
        if type.dtype == buf.dtype:
            return f"{name}[{start}]" if type.lanes == 1 else f"{name}[{start}:{start}+{count}]"
        dtype = self.constant(DTYPES[type.dtype].numpy, DTYPES[type.dtype].numpy)
        return f"{name}[{start}:{start}+{count}].view({dtype})[{0 if type.lanes == 1 else f':{type.lanes}'}]"

    def check(self, buf: Buffer, idx: tuple[Expr, ...]) -> None:
        """Every index inside its dimension."""
        for dim, (i, n) in enumerate(zip(idx, buf.shape, strict=True)):
            size = self.expr(as_expr(n))
            if i.type.lanes > 1:
                low, high = f"int({self.expr(i)}.min())", f"int({self.expr(i)}.max())"
            else:
                lo, hi = bounds(i)
                proved = (isinstance(i, Var) and i.extent is n) or (hi is not None and isinstance(n, int) and hi < n)
                if lo is not None and lo >= 0 and proved:
                    continue
                low = high = self.values[i] = self.named(self.expr(i))
            bad = self.constant("bad", _out_of_bounds)
            self.line(f"if {low} < 0 or {high} >= {size}: "
                      f"{bad}({self.kernel.name!r}, {buf.name!r}, {dim}, {low}, {high}, {size})")

    def flat(self, buf: Buffer, idx: tuple[Expr, ...]) -> str:
        if buf.strides is not None:
            terms = [self.expr(i) if s == 1 else f"{self.expr(i)} * {s}" for i, s in zip(idx, buf.strides, strict=True)]
            return self.named(" + ".join(terms) or "0")
        text = "0"
        for i, n in zip(idx, buf.shape, strict=True):
            text = self.expr(i) if text == "0" else f"({text}) * {self.expr(as_expr(n))} + {self.expr(i)}"
        return self.named(text)

    # ---- expressions

    def root(self, e: Expr) -> str:
        self.share((e,))
        return self.expr(e)

    def share(self, roots: tuple[Expr, ...]) -> None:
        """Find the nodes that are used more than once below these."""
        self.values, self.shared = {}, set()
        seen: set[Expr] = set()
        distinct = [n for r in dict.fromkeys(roots) for n in walk(r)]
        for node in dict.fromkeys(distinct):
            for c in children(node):
                (self.shared if c in seen else seen).add(c)
        self.shared.update(r for r in roots if r in seen)

    def named(self, text: str) -> str:
        if text.isidentifier() or text.isdigit():
            return text
        name = self.fresh("t")
        self.line(f"{name} = {text}")
        return name

    def expr(self, e: Expr) -> str:
        """Python text of a value."""
        found = self.values.get(e)
        if found is None:
            text = self.text(e)
            if isinstance(e, Load) or e in self.shared:  # loads are done even in an arm that is not taken
                text = self.named(text)
            found = self.values[e] = text if text.isidentifier() or text.isdigit() else f"({text})"
        return found

    def text(self, e: Expr) -> str:
        lanes, info = e.type.lanes, DTYPES[e.type.dtype]
        match e:
            case Const():
                return self.const_text(e)
            case Var():
                if e not in self.variables:
                    raise self.fail(f"variable {e.name} is used outside its loop")
                return self.variables[e]
            case Un():
                if e.op == "not":
                    return f"{'not ' if e.type == ('bool', 1) else '~'}{self.expr(e.a)}"
                return _UNARY[e.op].format(self.expr(e.a))
            case Bin():
                return self.bin_text(e)
            case Fma():
                name = self.constant(("fma", e.type), functions.fma(e.type.dtype, lanes))
                return f"{name}({self.expr(e.a)}, {self.expr(e.b)}, {self.expr(e.c)})"
            case Select():
                form = "{1} if {0} else {2}" if lanes == 1 else "_np.where({0}, {1}, {2})"
                return form.format(self.expr(e.cond), self.expr(e.a), self.expr(e.b))
            case Cast():
                return self.cast_text(e)
            case Load():
                place = self.place(e.buf, e.idx, e.type)
                return f"int({place})" if e.type == I64 else place
            case Splat():
                return f"_np.full({lanes}, {self.expr(e.a)}, {self.constant(info.numpy, info.numpy)})"
            case Ramp():
                return self.constant(e, np.arange(lanes, dtype=info.numpy))
            case Shuffle():
                both = f"_np.hstack(({self.expr(e.a)}, {self.expr(e.b)}))"  # scalars too
                if e.type.lanes == 1:
                    return f"int({both}[{e.mask[0]}])" if e.type == I64 else f"{both}[{e.mask[0]}]"
                return f"{both}[{self.constant(e.mask, np.array(e.mask, np.int64))}]"
            case HReduce():
                name = self.constant(("reduce", e.op), functions.HORIZONTAL[e.op])
                text = f"{name}({self.expr(e.a)}, dtype={self.constant(info.numpy, info.numpy)})"
                return f"int({text})" if e.type == I64 else text
            case Call() if is_warp_function(e.fn):
                return self.named(f"(yield ({', '.join([repr(e.fn), *map(self.expr, e.args)])}))")
            case Call():
                fn = functions.function(e.fn, e.args[0].type.dtype, e.type.dtype, lanes)
                if fn is None:
                    raise self.fail(f"function {e.fn} of {e.args[0].type.dtype} has no meaning here")
                arguments = ", ".join(self.expr(a) for a in e.args)
                return f"{self.constant((e.fn, e.args[0].type, e.type), fn)}({arguments})"
        raise self.fail(f"expression {type(e).__name__} has no meaning here")

    def const_text(self, e: Expr) -> str:
        if e.type.dtype in ("i64", "bool") and e.type.lanes == 1:
            return repr(e.value)  # type: ignore[attr-defined]
        made = DTYPES[e.type.dtype].numpy.type
        value = np.array(e.value).astype(made)[()]  # type: ignore[attr-defined]
        return self.constant(e, value if e.type.lanes == 1 else np.full(e.type.lanes, value))

    def bin_text(self, e: Bin) -> str:
        a, b = self.expr(e.a), self.expr(e.b)
        operand = e.a.type
        scalar = operand.lanes == 1
        if e.op in ("min", "max"):
            if scalar:
                return f"_{e.op}({a}, {b})"
            return f"_np.where({b} < {a}, {b}, {a})" if e.op == "min" else f"_np.where({a} < {b}, {b}, {a})"
        if operand == I64:
            if e.op in ("div", "mod") and isinstance(e.b, Const) and e.b.value > 0:
                return f"{a} {'//' if e.op == 'div' else '%'} {b}"
            text = _I64_SCALAR.get(e.op, _OPERATORS.get(e.op, "")).format(a, b)
            wraps = e.op in _WRAPPING and bounds(e) == (None, None) and any(isinstance(x, Load) for x in walk(e))
            return f"_wrap64({text})" if wraps else text
        if e.op == "div":
            return f"{a} / {b}" if DTYPES[operand.dtype].kind == "f" else f"{a} // {b}"
        if operand.dtype == "bool" and scalar and e.op == "ne":
            return f"{a} ^ {b}"
        return _OPERATORS[e.op].format(a, b)

    def cast_text(self, e: Cast) -> str:
        a, source, target = self.expr(e.a), e.a.type, e.type.dtype
        if target == "bool":
            return f"{a} != 0"
        info = DTYPES[target]
        made = self.constant(info.numpy.type, info.numpy.type)
        if source.lanes > 1:
            return f"{a}.astype({made})"
        if target == "i64":
            return f"int({a})" if DTYPES[source.dtype].kind != "f" else f"_to_i64({a})"
        if source.dtype == "i64":
            return f"_np.int64({a}).astype({made})"
        return f"{made}({a})" if source.dtype == "bool" else f"{a}.astype({made})"
