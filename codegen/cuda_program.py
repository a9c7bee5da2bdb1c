"""A program's kernels as one CUDA C++ file for people and compilers, and what is launched for each call.

The file compiles with nvcc or NVRTC alone.  Any other compiler is given the header `cuda_emulator.h`, which runs blocks and
threads on the processor.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

from ..ir.errors import InternalError
from ..ir.kernel import Buffer, Kernel
from ..ir.kernel_launch import Size, split_launches
from ..ir.kernel_verify import verify_kernel
from ..ir.types import DTYPES
from .c_dialect import comment_text, snippet_text, used_snippets
from .c_like import PrintedKernel, print_kernel
from .cuda import CUDA, INSTRUCTIONS
from .machine_gpu import MAX_GRID, MAX_THREADS, GpuMachine
from .program import Address, Call, Program, all_calls
from .strategies.gpu.library import LibraryProduct, read_library_product
from .strategies.gpu.library_conv import LibraryConvolution, read_library_convolution

EMULATOR_HEADER = "cuda_emulator.h"
LibraryCall = Union[LibraryProduct, LibraryConvolution]
_SHOWN_NODES = 6
_COLUMNS = 117  # behind the slashes
_HALVES = {"__half": "cuda_fp16.h", "__nv_bfloat16": "cuda_bf16.h"}


@dataclass(frozen=True)
class TensorMap:
    """A parameter of a function that is no address but describes memory for bulk copies (`CUtensorMap`), made at the launch.
    parameter: its number; sizes, strides (bytes, not of the first axis) and box: the contiguous axis first."""

    parameter: int
    dtype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One launch of a call.  params: which of the call's arguments the function takes, in its order; maps: those of them
    that are given as tensor maps; library: what cuBLASLt or cuDNN does instead of a function of ours."""

    function: str
    grid: Size
    block: Size
    shared_bytes: int
    dynamic_shared: int
    params: tuple[int, ...]
    maps: tuple[TensorMap, ...] = ()
    library: LibraryCall | None = None


@dataclass(frozen=True)
class CudaSource:
    """text: the whole file.  launches: kernel -> what a call of it launches, in order.  title, functions: what
    `module_text` makes a part of the file of; functions: name -> comment and definition."""

    text: str
    launches: Mapping[str, tuple[Launch, ...]]
    title: str
    functions: Mapping[str, str]


def print_program(program: Program, machine: GpuMachine) -> CudaSource:
    """The source of all kernels of a program.  Raises InternalError for a kernel that CUDA or the machine does not have."""
    calls: dict[str, list[Call]] = {}
    for call in all_calls(program.steps):
        calls.setdefault(call.kernel, []).append(call)
    functions: dict[str, str] = {}
    launches: dict[str, tuple[Launch, ...]] = {}
    for name, kernel in program.kernels.items():
        verify_kernel(kernel)
        by_library = read_library_product(kernel) or read_library_convolution(kernel)
        if by_library is not None:
            launches[name] = (_library_launch(name, kernel, *by_library),)
            continue
        made, parts = [], []
        for part in split_launches(kernel):
            printed = print_kernel(part, CUDA)
            _check_limits(printed, machine, kernel)
            made.append(Launch(printed.name, printed.grid, printed.block, printed.shared_bytes, printed.dynamic_shared,
                               tuple(kernel.params.index(p) for p in part.params), tensor_maps(part)))
            functions[printed.name] = printed.text
            parts.append((printed, part))
        launches[name] = tuple(made)
        for n, (printed, part) in enumerate(parts):
            place = f"launch {n + 1} of {len(parts)}" if len(parts) > 1 else ""
            comment = _comment(printed, part, calls.get(name, []), place, _roles(kernel, calls.get(name, []), program))
            functions[printed.name] = comment + functions[printed.name]
    title = f"// {comment_text(program.name)}, compiled by Tilewright for {', '.join(machine.architectures)}.\n"
    for call in all_calls(program.steps):
        made_by = launches[call.kernel][0].library if launches[call.kernel] else None
        if made_by is not None:
            title += f'// By {made_by.library} instead of a function here: "{comment_text(call.where)}".\n'
    return CudaSource(module_text(title, functions, functions), launches, title, functions)


def _library_launch(name: str, kernel: Kernel, made: LibraryCall, operands: tuple[Buffer, ...]) -> Launch:
    """A call of a library as a launch without a function; its parameters are the result, then the operands."""
    return Launch(name, (1, 1, 1), (1, 1, 1), 0, 0, tuple(kernel.buffers.index(b) for b in operands), library=made)


def tensor_maps(part: Kernel) -> tuple[TensorMap, ...]:
    """The parameters of one launch that are tensor maps."""
    return tuple(_tensor_map(n, p) for n, p in enumerate(part.buffers) if p.space == "tensor_map")


def _tensor_map(number: int, p: Buffer) -> TensorMap:
    assert p.strides is not None
    ((_, *box),) = (a for a in p.attrs if isinstance(a, tuple) and a[0] == "box")
    size = DTYPES[p.dtype].size
    strides = tuple(s * size for s in reversed(p.strides[:-1]) if isinstance(s, int))
    assert len(strides) == len(p.strides) - 1, p  # only known sizes have maps
    return TensorMap(number, p.dtype, p.static_shape[::-1], strides, tuple(box[::-1]))


def module_text(title: str, functions: Mapping[str, str], names: Collection[str]) -> str:
    """A complete file with some of the functions, and the helpers that they use."""
    bodies = "\n".join(functions[n] for n in functions if n in names)
    helpers = used_snippets(bodies, CUDA.snippets)
    includes = [header for ctype, header in _HALVES.items() if ctype in bodies]
    lines = [title, "#ifdef __CUDACC__", *(f"#include <{h}>" for h in includes)]
    own = [h for h in helpers if h in INSTRUCTIONS or h.startswith(("INFINITY", "NAN"))]
    lines += [snippet_text(own, CUDA).rstrip(), "#else", f'#include "{EMULATOR_HEADER}"', "#endif", ""]
    rest = snippet_text([h for h in helpers if h not in own], CUDA)
    return "\n".join([*(x for x in lines if x or x == ""), rest, bodies])


def _check_limits(printed: PrintedKernel, machine: GpuMachine, kernel: Kernel) -> None:
    threads = printed.block[0] * printed.block[1] * printed.block[2]
    limits = ((threads, MAX_THREADS, "threads in a block"),
              (printed.shared_bytes, machine.shared_bytes, "bytes of shared memory"),
              *zip(printed.grid, MAX_GRID, ("blocks in x", "blocks in y", "blocks in z"), strict=True))
    for got, most, what in limits:
        if got > most:
            raise InternalError(f"kernel {printed.name}: {got} {what}, {machine.name} has at most {most}", str(kernel))


def _roles(kernel: Kernel, calls: list[Call], program: Program) -> dict[str, str]:
    """Parameter -> what all calls give it: a weight, or an input or output of the model, by its name."""

    def role(a: Address) -> str:
        if a.space in ("input", "output"):
            names = program.inputs if a.space == "input" else program.outputs
            return f'{a.space} "{comment_text(names[a.index][0], 60)}"'
        return "weights" if a.space == "constants" else ""

    found = {p.name: {role(call.args[n]) for call in calls} for n, p in enumerate(kernel.buffers)}
    return {name: next(iter(roles)) for name, roles in found.items() if len(roles) == 1}


def _comment(printed: PrintedKernel, part: Kernel, calls: list[Call], place: str, roles: Mapping[str, str]) -> str:
    """What a kernel implements, for whom, how large and by which schedule.  place: of the launch among those of the kernel;
    roles: of parameters."""
    lines = []
    operators = list(dict.fromkeys(", ".join(c.ops) for c in calls))
    which = f" ({place})" if place else ""
    lines.append(f"{printed.name}: {comment_text('; '.join(operators)) or 'no call'}{which}")
    where = [f'"{comment_text(w, 120)}"' for w in dict.fromkeys(c.where for c in calls) if w]
    more = f" and {len(where) - _SHOWN_NODES} more" if len(where) > _SHOWN_NODES else ""
    lines += [f"    nodes {', '.join(where[:_SHOWN_NODES])}{more}"] if where else []
    lines += [f"    {_shape(p)}{'  ' if roles.get(p.name) else ''}{roles.get(p.name, '')}" for p in part.buffers]
    size = " x ".join(str(n) for n in printed.grid if n > 1) or "1"
    threads = " x ".join(str(n) for n in printed.block if n > 1) or "1"
    shared = f", {printed.shared_bytes} bytes of shared memory" if printed.shared_bytes else ""
    lines.append(f"    {size} {'block' if size == '1' else 'blocks'} of {threads} threads{shared}")
    notes = list(dict.fromkeys(c.cost.schedule for c in calls if c.cost.schedule))
    lines += [f"    {comment_text(n, 600)}" for n in notes]
    wrapped = [part for line in lines for part in _wrapped(line)]
    return "".join(f"// {line}\n" for line in wrapped)


def _wrapped(line: str) -> list[str]:
    """A line of a comment as lines of at most _COLUMNS, the later ones indented."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(line, _COLUMNS, subsequent_indent=indent, break_long_words=False) or [line]


def _shape(p: Buffer) -> str:
    strides = "" if p.strides is None else f" strides {', '.join(map(str, p.strides))}"
    box = [" x ".join(map(str, a[1:])) for a in p.attrs if isinstance(a, tuple) and a[0] == "box"]
    copied = f", in boxes of {box[0]}" if box else ""
    return f"{p.name} {p.dtype}[{', '.join(map(str, p.shape))}]{strides}{copied}"
