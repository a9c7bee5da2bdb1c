"""The generated C of a CUDA library: tables of functions, launches and addresses, and the assembly with the machine code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from ...codegen.cuda_program import CudaSource, Launch, LibraryCall, TensorMap
from ...codegen.machine_gpu import STATIC_SHARED, GpuMachine
from ...codegen.program import Address, Branch, Call, Program, Repeat, Step
from ...codegen.strategies.gpu.library import LibraryProduct
from ...codegen.strategies.gpu.library_conv import LibraryConvolution
from ...ir.errors import InternalError
from ..cpu.naming import c_string
from ..cpu.sources import c_header, fill_text, info_table, run_time_axes_of, runtime_file
from . import runtime
from .images import Image

RUNTIME_SOURCES = ("tw_cuda_create.c", "tw_cuda_cudnn.c", "tw_cuda_driver.c", "tw_cuda_library.c", "tw_cuda_load.c",
                   "tw_cuda_run.c", "tw_cuda_steps.c")
RUNTIME_HEADERS = ("tw_cuda.h", "tw_cuda_abi.h")
SHARED_SOURCES, SHARED_HEADERS = ("tw_check.c", "tw_memory.c"), ("tw_abi.h", "tw_runtime.h")
MAX_ARGUMENTS, MAX_MAPS = 64, 4  # TW_MAX_ARGUMENTS, TW_MAX_MAPS
_SPACES = {"arena": "TW_ARENA", "constants": "TW_CONSTANTS", "input": "TW_INPUT", "output": "TW_OUTPUT"}


def cuda_file(name: str) -> str:
    """The text of a file of the CUDA run-time support."""
    return (resources.files(runtime) / name).read_text(encoding="utf-8")


def cuda_header(prefix: str, program: Program, machine: GpuMachine) -> str:
    """PREFIX.h: that of every library, and what CUDA adds."""
    more = fill_text(cuda_file("cuda_template.h"), {"PREFIX": prefix})
    return c_header(prefix, program, machine, cuda_file("tw_cuda_abi.h"), more)


@dataclass
class _Tables:
    """Steps and addresses as rows of C tables."""

    source: CudaSource
    numbers: dict[str, int]
    steps: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    convolutions: list[str] = field(default_factory=list)
    counters: int = 0

    def address(self, *given: Address | None) -> int:
        """The number of the first of these, which follow each other."""
        first = len(self.addresses)
        for a in given:
            space = "TW_NOWHERE" if a is None else _SPACES[a.space]
            index, offset = (0, 0) if a is None else (a.index if a.space in ("input", "output") else 0, a.offset)
            self.addresses.append(f"{{ {space}, {index}u, {offset}u }}")
        return first

    def add(self, kind: str, function: int = 0, first: int = 0, target: int = 0, comment: str = "") -> int:
        self.steps.append(f"{{ {kind}, {function}u, {first}u, {target}u }}")
        return len(self.steps) - 1

    def aim(self, step: int, target: int) -> None:
        head, _, _ = self.steps[step].rpartition(",")
        self.steps[step] = f"{head}, {target}u }}"

    def add_library(self, call: LibraryCall, first: int) -> None:
        """A step that another library makes of the addresses from number `first` on."""
        if isinstance(call, LibraryProduct):
            self.products.append(_product_row(call))
            self.add("TW_MULTIPLY", len(self.products) - 1, first)
        else:
            self.convolutions.append(_convolution_row(call))
            self.add("TW_CONVOLVE", len(self.convolutions) - 1, first)

    def flatten(self, steps: Sequence[Step]) -> None:
        for s in steps:
            match s:
                case Call():
                    for launch in self.source.launches[s.kernel]:
                        if len(launch.params) > MAX_ARGUMENTS:
                            raise InternalError(f"kernel {launch.function}: more than {MAX_ARGUMENTS} parameters")
                        if len(launch.maps) > MAX_MAPS:
                            raise InternalError(f"kernel {launch.function}: more than {MAX_MAPS} tensor maps")
                        first = self.address(*(s.args[n] for n in launch.params))
                        if launch.library is not None:
                            self.add_library(launch.library, first)
                            continue
                        self.add("TW_LAUNCH", self.numbers[launch.function], first)
                case Branch():
                    branch = self.add("TW_BRANCH", first=self.address(s.condition))
                    self.flatten(s.then)
                    jump = self.add("TW_JUMP")
                    self.aim(branch, len(self.steps))
                    self.flatten(s.other)
                    self.aim(jump, len(self.steps))
                case Repeat():
                    counter, self.counters = self.counters, self.counters + 1
                    self.add("TW_ENTER", counter)
                    test = self.add("TW_TEST", counter, self.address(s.trip_count, s.condition, s.counter))
                    self.flatten(s.body)
                    self.add("TW_NEXT", counter, target=test)
                    self.aim(test, len(self.steps))


def _table(ctype: str, name: str, rows: Sequence[str], empty: str) -> str:
    """C has no empty arrays: an empty table gets one row that nothing reads."""
    lines = [f"    {row}," for row in rows] or [f"    {empty},"]
    return "\n".join([f"static const {ctype} {name}[] = {{", *lines, "};", ""])


def descriptor_source(
    prefix: str, program: Program, source: CudaSource, modules: Sequence[Sequence[str]], images: Sequence[Sequence[Image]],
    machine: GpuMachine, weights_id: bytes, weights_file: str | None,
) -> str:
    """The C source that describes the model and exports its functions.

    modules: names of the functions of each module; images: of each module; weights_file: the name of the file beside the
    library that holds the constants, or None when they are embedded."""
    launches = {launch.function: launch for ls in source.launches.values() for launch in ls}
    order = [(name, m) for m, names in enumerate(modules) for name in names]
    tables = _Tables(source, {name: n for n, (name, _) in enumerate(order)})
    tables.flatten(program.steps)
    functions, maps = [], []
    for name, m in order:
        functions.append(_function_row(launches[name], m, len(maps)))
        maps += map(_map_row, launches[name].maps)
    image_rows = [
        f"{{ {_number(i.arch)}u, {int(i.is_ptx)}u, {int(i.arch.endswith('a'))}u, {_label(m, n)} }}"
        for m, made in enumerate(images) for n, i in enumerate(made)
    ]
    declared = [f'extern const unsigned char {_label(m, n)}[] __attribute__((visibility("hidden")));'
                for m, made in enumerate(images) for n in range(len(made))]
    embedded = program.constant_bytes > 0 and weights_file is None
    identity = f"static const unsigned char weights_id[] = {{ {', '.join(str(b) for b in weights_id)} }};\n"
    return fill_text(cuda_file("cuda_template.c"), {
        "PREFIX": prefix, "NAME": c_string(program.name), "ARENA_BYTES": program.arena_bytes,
        "CONSTANT_BYTES": program.constant_bytes, "CONSTANTS": "tw_constants" if embedded else "NULL",
        "WEIGHTS_NAME": c_string(weights_file) if weights_file else "NULL",
        "WEIGHTS_ID": "weights_id" if weights_file else "NULL",
        "INPUT_COUNT": len(program.inputs), "OUTPUT_COUNT": len(program.outputs),
        "ARCHITECTURES": c_string(", ".join(machine.architectures)), "IMAGE_DECLARATIONS": "\n".join(declared),
        "MODULE_COUNT": len(modules), "IMAGE_COUNT": len(images[0]) if images else 0, "FUNCTION_COUNT": len(functions),
        "STEP_COUNT": len(tables.steps), "PRODUCT_COUNT": len(tables.products), "CONVOLUTION_COUNT": len(tables.convolutions),
        "COUNTER_COUNT": tables.counters, "STATIC_SHARED": STATIC_SHARED,
        "SIZED_COUNT": len(program.sized), "HAS_CONTROL": int(any(not isinstance(s, Call) for s in program.steps)),
        "TABLES": "\n".join([
            info_table("inputs", program.inputs) + info_table("outputs", program.outputs, run_time_axes_of(program)),
            identity if weights_file else "",
            _table("tw_cuda_sized", "sized", [f"{{ {s.output}u, {s.kept}u }}" for s in program.sized], "{ 0u, 0u }"),
            _table("tw_cuda_image", "images", image_rows, "{ 0u, 0u, 0u, NULL }"),
            _table("tw_cuda_function", "functions", functions,
                   "{ NULL, 0u, { 1u, 1u, 1u }, { 1u, 1u, 1u }, 0u, 0u, 0u, 0u }"),
            _table("tw_cuda_map", "maps", maps, "{ 0u, 0u, 0u, { 1u }, { 0u }, { 1u } }"),
            _table("tw_cuda_product", "products", tables.products,
                   "{ 1u, 1u, 1u, 1u, { 0 }, { 0 }, { 0 }, 0, 0, 0u }"),
            _table("tw_cuda_convolution", "convolutions", tables.convolutions,
                   "{ { { 0, { 1 }, { 1 } } }, { 1 }, { 1 }, { 0 }, { 0 }, 0u, 0u }"),
            _table("tw_cuda_address", "addresses", tables.addresses, "{ TW_NOWHERE, 0u, 0u }"),
            _table("tw_cuda_step", "steps", tables.steps, "{ TW_JUMP, 0u, 0u, 0u }"),
        ]),
    })


def _function_row(launch: Launch, module: int, first_map: int) -> str:
    grid, block = (", ".join(f"{n}u" for n in size) for size in (launch.grid, launch.block))
    return (f"{{ {c_string(launch.function)}, {module}u, {{ {grid} }}, {{ {block} }}, {launch.dynamic_shared}u, "
            f"{len(launch.params)}u, {first_map}u, {len(launch.maps)}u }}")


_MAP_TYPES = {"f16": 6, "bf16": 9}  # CUtensorMapDataType


def _map_row(m: TensorMap) -> str:
    sizes, strides, box = (", ".join(f"{n}u" for n in row) for row in (m.sizes, m.strides, m.box))
    return f"{{ {m.parameter}u, {_MAP_TYPES[m.dtype]}u, {len(m.sizes)}u, {{ {sizes} }}, {{ {strides} }}, {{ {box} }} }}"


_DATA_TYPES = {"f32": 0, "f16": 2, "bf16": 14}  # cudaDataType


def _product_row(p: LibraryProduct) -> str:
    steps = ", ".join(f"{{ {', '.join(map(str, row))} }}" for row in (p.left, p.right, p.out))
    return (f"{{ {p.batches}u, {p.rows}u, {p.columns}u, {p.depth}u, {steps}, {_DATA_TYPES[p.dtype]}, "
            f"{_DATA_TYPES[p.out_dtype]}, {int(p.tf32)}u }}")


_CUDNN_TYPES = {"f32": 0, "f16": 2, "bf16": 9}  # cudnnDataType_t


def _convolution_row(c: LibraryConvolution) -> str:
    """Tensors as cuDNN names them: images n, channels, height, width, weights filter, channel, height, width."""
    n, height, width, channels = c.image
    filters = c.out[2]
    kh, kw = c.window
    order = (0, 3, 1, 2)
    dtypes = list(c.dtypes[3:])
    dense = (kh * kw * channels, 1, kw * channels, channels)
    tensors = [
        (c.dtypes[1], (n, channels, height, width), tuple(c.x_steps[d] for d in order)),
        (c.dtypes[2], (filters, channels, kh, kw), dense),
        (c.dtypes[0], (n, filters, *c.out[:2]), tuple(c.y_steps[d] for d in order)),
        (dtypes.pop(0), (1, filters, 1, 1), (filters, 1, filters, filters)) if c.has_bias else None,
        (dtypes.pop(0), (n, filters, *c.out[:2]), tuple(c.z_steps[d] for d in order)) if c.has_residual else None,
    ]
    rows = [
        "{ -1, { 1, 1, 1, 1 }, { 1, 1, 1, 1 } }" if t is None else
        f"{{ {_CUDNN_TYPES[t[0]]}, {{ {', '.join(map(str, t[1]))} }}, {{ {', '.join(map(str, t[2]))} }} }}" for t in tensors
    ]
    pairs = ", ".join(f"{{ {a}, {b} }}" for a, b in (c.strides, c.dilations, c.pads[:2], c.pads[2:]))
    return f"{{ {{ {', '.join(rows)} }}, {pairs}, {c.has_relu}u, {c.tf32}u }}"


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_").rstrip("a"))


def _label(module: int, image: int) -> str:
    return f"tw_image_{module}_{image}"


def image_file(module: int, image: int) -> str:
    return f"image{module}_{image}.bin"


def image_assembly(images: Sequence[Sequence[Image]]) -> str:
    """Assembly that takes the images from files; a zero byte ends each, as PTX needs."""
    lines = ['    .section .rodata.tw_images,"a",%progbits']
    for m, made in enumerate(images):
        for n in range(len(made)):
            lines += ["    .balign 64", f"    .hidden {_label(m, n)}", f"    .globl {_label(m, n)}", f"{_label(m, n)}:",
                      f'    .incbin "{image_file(m, n)}"', "    .byte 0"]
    return "\n".join([*lines, '    .section .note.GNU-stack,"",%progbits', ""])


def runtime_texts() -> dict[str, str]:
    """Every file of the run-time support that a CUDA library is made of, by name."""
    own = {name: cuda_file(name) for name in (*RUNTIME_HEADERS, *RUNTIME_SOURCES)}
    return {**{name: runtime_file(name) for name in (*SHARED_HEADERS, *SHARED_SOURCES)}, **own}
