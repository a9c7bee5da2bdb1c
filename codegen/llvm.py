"""Kernels as LLVM IR text.  The printer decides nothing: every choice is in the kernel.

    llvm_text     types, constants, value numbering         llvm_memory   addresses, loads, stores
    llvm_expr     expressions                               llvm_convert  casts
    llvm_calls    instructions, libm                        llvm_stmt     loops, branches, register arrays
    llvm_main     the entry point that runs a program

The text needs no LLVM optimisation pass: loop-invariant code, common subexpressions and registers are already in place.
It is a function of the kernel and the machine alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..ir.errors import InternalError
from ..ir.expr import Var
from ..ir.kernel import Alloc, Barrier, Block, Buffer, For, If, Kernel, Store, walk_block
from .llvm_expr import evaluate
from .llvm_main import print_main
from .llvm_memory import stack_extent
from .llvm_sizing import print_sizing
from .llvm_stmt import TRAILING, print_block
from .llvm_text import Printer, symbol, unsupported
from .machine import Machine
from .program import Program

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def emit_kernel(kernel: Kernel, machine: Machine) -> str:
    """A complete LLVM module (without triple) with one function

        void kernel_NAME(ptr param..., i64 size..., ptr scratch, ptr runtime, i64 tid, i64 nt)

    scratch: `scratch_bytes(kernel)` bytes, aligned to 64.  Raises InternalError, with the kernel's text, for what a CPU
    or this machine does not have."""
    return emit_module([kernel], machine)


def emit_module(kernels: Sequence[Kernel], machine: Machine, main: Program | None = None) -> str:
    """Several kernels in one module; with `main`, also the entry point `tw_main` of that program, which calls its
    kernels wherever they are."""
    declares: dict[str, None] = {}
    functions = [_function(k, machine, declares) for k in kernels]
    if main is not None:
        functions.append(print_main(main, {k.name for k in kernels}, declares, machine))
        if main.sizing is not None:
            functions += print_sizing(main, machine, declares)
    names = [k.name for k in kernels]
    if len(set(names)) != len(names):
        raise InternalError(f"kernels of one module share a name: {sorted(n for n in names if names.count(n) > 1)}")
    return "\n".join([*sorted(declares), "", *functions])


def emit_main(program: Program, machine: Machine) -> str:
    """The module with `tw_main` alone: see codegen/program.py.  The kernels are declared."""
    return emit_module((), machine, program)


def scratch_bytes(kernel: Kernel) -> int:
    """Bytes of scratch memory that each thread needs for the `stack` buffers of a kernel, whose sizes are constant."""
    return _stack_peak(kernel.body, 0)


def _stack_peak(block: Block, top: int) -> int:
    peak = top
    for s in block:
        if isinstance(s, Alloc) and s.buf.space == "stack":
            _, after = stack_extent(s.buf, top)
            if not isinstance(after, int):
                raise InternalError(f"stack buffer {s.buf.name} has a symbolic size: {after}")
            top = after
            peak = max(peak, top)
        elif isinstance(s, For):
            peak = max(peak, _stack_peak(s.body, top))
        elif isinstance(s, If):
            peak = max(peak, _stack_peak(s.then, top), _stack_peak(s.other, top))
    return peak


def _function(kernel: Kernel, machine: Machine, declares: dict[str, None]) -> str:
    if not _NAME.fullmatch(kernel.name):
        raise InternalError(f"kernel name {kernel.name!r} is not an identifier")
    p = Printer(machine, evaluate)
    p.declares = declares
    shared = _shared_buffers(kernel)
    parameters = ", ".join([_parameter(p, n, param, shared) for n, param in enumerate(kernel.params)] + [TRAILING])
    try:
        if not _is_shared(kernel):
            p.line("br i1 %others, label %leave, label %body")
            p.scopes[0].lines.insert(0, "  %others = icmp ne i64 %tid, 0")
            p.scopes[0].lines += ["leave:", "  ret void", "body:"]
            p.label = "body"
        print_block(p, kernel.body)
    except InternalError as error:
        raise InternalError(f"kernel {kernel.name}: {error}", str(kernel)) from error
    p.line("ret void")
    width = f'"prefer-vector-width"="{machine.vector_bits}"'
    head = f"define hidden void @{symbol(kernel.name)}({parameters}) nounwind {width} {{"
    return "\n".join([head, "entry:", *p.scopes[0].lines, "}", ""])


def _shared_buffers(kernel: Kernel) -> set[Buffer]:
    """What other threads may change during the call: everything that is written, if there is a barrier."""
    statements = list(walk_block(kernel.body))
    if not any(isinstance(s, Barrier) for s in statements):
        return set()
    return {s.buf for s in statements if isinstance(s, Store)}


def _parameter(p: Printer, n: int, param: Buffer | Var, shared: set[Buffer]) -> str:
    """Names carry the number of the parameter, so that no model can make two of them equal."""
    label = re.sub(r"\W", "_", param.name, flags=re.ASCII)
    name = f"%p{n}.{label}"
    if isinstance(param, Var):
        p.env[param] = name
        return f"i64 {name}"
    p.pointers[param] = name
    return f"ptr {name}" if "may_alias" in param.attrs or param in shared else f"ptr noalias {name}"


def _is_shared(kernel: Kernel) -> bool:
    """Whether all threads take part; otherwise thread 0 alone runs the kernel."""
    statements = list(walk_block(kernel.body))
    parallel = any(isinstance(s, For) and s.kind == "parallel" for s in statements)
    if not parallel and any(isinstance(s, Barrier) for s in statements):
        raise unsupported("a barrier in a kernel without a parallel loop, which one thread runs alone")
    return parallel
