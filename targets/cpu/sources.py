"""The generated sources of an artifact: C header, C++ header, descriptor and the assembly that embeds the constants.

Templates lie in `runtime/`; a `@NAME@` in them is replaced by text made here.  Text of the model passes `naming`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from importlib import resources

from ... import __version__
from ...codegen.machine import Machine
from ...codegen.machine_gpu import GpuMachine
from ...codegen.program import Program, all_calls
from ...codegen.threads import recommended_threads
from ...ir.types import DTYPES, TensorType
from . import open_sources, runtime
from .features import feature_bits
from .naming import c_string, comment_text, distinct_identifiers

ABI_VERSION = 1
RUNTIME_SOURCES = (
    "tw_bounds.c", "tw_check.c", "tw_float.c", "tw_host.c", "tw_memory.c", "tw_model.c", "tw_profile.c", "tw_sizes.c",
    "tw_threads.c",
)  # fmt: skip
SUPPORT_SOURCES = ("tw_support.c",)
PART_SOURCES = {
    "text": ("tw_text.c", "tw_text_numbers.c", "tw_text_regex.c"),
    "image": (
        "tw_bmp.c", "tw_image.c", "tw_inflate.c", "tw_j2k.c", "tw_j2k_blocks.c", "tw_j2k_markers.c", "tw_j2k_packets.c",
        "tw_j2k_tile.c", "tw_j2k_wavelet.c", "tw_jpeg.c", "tw_jpeg_pixels.c", "tw_jpeg_scan.c", "tw_png.c", "tw_pnm.c",
        "tw_tiff.c", "tw_tiff_packed.c", "tw_vp8.c", "tw_vp8_filter.c", "tw_vp8_pixels.c", "tw_vp8_tokens.c",
        "tw_webp.c", "tw_webp_codes.c", "tw_webp_lossless.c", "tw_webp_transforms.c",
    ),
}  # fmt: skip
"""For programs with operators that run in C alone: memory and messages, and the parts that they use."""
IMAGE_HEADERS = (
    "tw_image.h", "tw_j2k.h", "tw_jpeg.h", "tw_tiff.h", "tw_vp8.h", "tw_vp8_tables.h", "tw_webp.h", "tw_webp_codes.h",
)  # fmt: skip
RUNTIME_HEADERS = ("tw_abi.h", "tw_runtime.h", "tw_support.h", "tw_text.h", *IMAGE_HEADERS)
MANIFEST_FILE, CONSTANTS_FILE = "manifest.bin", "constants.bin"

_CPP_TYPES = {
    "f64": "double", "f32": "float", "f16": "float16", "bf16": "bfloat16", "i64": "std::int64_t", "i32": "std::int32_t",
    "i16": "std::int16_t", "i8": "std::int8_t", "u64": "std::uint64_t", "u32": "std::uint32_t", "u16": "std::uint16_t",
    "u8": "std::uint8_t", "bool": "bool", "str": "text",
}
Tensors = Sequence[tuple[str, TensorType]]
Parameters = Sequence[tuple[str, str, TensorType]]  # identifier, C++ element type, tensor type


def runtime_file(name: str) -> str:
    """The text of a file of the run-time support."""
    return (resources.files(runtime) / name).read_text(encoding="utf-8")


def fill(template: str, values: Mapping[str, object]) -> str:
    """A template of the run-time support with every @NAME@ replaced."""
    return fill_text(runtime_file(template), values)


def fill_text(text: str, values: Mapping[str, object]) -> str:
    """The text with every @NAME@ replaced, once: what is put in is not searched again."""
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), text)


def _tensor_lines(program: Program, mark: str) -> str:
    lines = []
    sized = {s.output for s in program.sized}
    for kind, tensors in (("input ", program.inputs), ("output", program.outputs)):
        for index, (name, type_) in enumerate(tensors):
            bound = " or less: see output_shape" if kind == "output" and index in sized else ""
            size = f"{type_.nbytes} bytes{bound}" if type_.is_static else "as large as its shape, which resize sets"
            lines.append(f"{mark}   {kind} {index}  {comment_text(name)}: {comment_text(str(type_))}, {size}")
    return "\n".join(lines) or f"{mark}   none"


def _constant_lines(prefix: str, program: Program, best: int) -> str:
    """Counts and sizes as macros, for callers with static buffers; and the number of threads that pays."""
    upper = prefix.upper()
    lines = [f"#define {upper}_BEST_THREADS {best} /* more are not expected to be faster */"] if best else []
    for kind, tensors in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        lines.append(f"#define {upper}_{kind}_COUNT {len(tensors)}")
        for index, (_, type_) in enumerate(tensors):
            if not type_.is_static:
                continue
            lines.append(f"#define {upper}_{kind}_{index}_ELEMENTS {type_.size}")
            lines.append(f"#define {upper}_{kind}_{index}_BYTES {type_.nbytes}")
    return "\n".join(lines) + "\n"


def c_header(prefix: str, program: Program, machine: Machine | GpuMachine, abi: str = "", more: str = "") -> str:
    """PREFIX.h: complete in itself, the shared types included.  abi, more: types and functions that a target adds."""
    best = recommended_threads(program, machine) if isinstance(machine, Machine) else 0
    return fill("model_template.h", {
        "PREFIX": prefix, "GUARD": f"TILEWRIGHT_{prefix.upper()}_H", "VERSION": __version__,
        "TITLE": comment_text(program.name), "MACHINE": machine.name, "ABI_VERSION": ABI_VERSION,
        "ABI": runtime_file("tw_abi.h") + abi, "MORE": more + open_sources.declarations(prefix, program.sizing),
        "TENSORS": _tensor_lines(program, " *"),
        "CONSTANTS": _constant_lines(prefix, program, best),
    })


def cpp_header(prefix: str, program: Program, machine: Machine | GpuMachine) -> str:
    """PREFIX.hpp: a C++17 class with one typed parameter for each input and output."""
    names_in = distinct_identifiers((name for name, _ in program.inputs), "in")
    names_out = distinct_identifiers((name for name, _ in program.outputs), "out")
    inputs = [(n, _CPP_TYPES[t.dtype], t) for n, (_, t) in zip(names_in, program.inputs, strict=True)]
    outputs = [(n, _CPP_TYPES[t.dtype], t) for n, (_, t) in zip(names_out, program.outputs, strict=True)]
    parameters = [f"view<const {c}> {n}" for n, c, _ in inputs] + [f"view<{c}> {n}" for n, c, _ in outputs]
    every = inputs + outputs
    sizes = [f"{n}_size" if t.is_static else f"elements_[{i}]" for i, (n, _, t) in enumerate(every)]
    expected = [f'        detail::expect({n}, {size}, "{n}");' for size, (n, _, _) in zip(sizes, every, strict=True)]
    return fill("model_template.hpp", {
        "PREFIX": prefix, "GUARD": f"TILEWRIGHT_{prefix.upper()}_HPP", "VERSION": __version__,
        "TITLE": comment_text(program.name), "MACHINE": machine.name, "TENSORS": _tensor_lines(program, "//"),
        "EXAMPLE": ", ".join(n for n, _, _ in every), "PARAMETERS": ", ".join(parameters),
        "SIZES": "".join(f"    static constexpr std::size_t {n}_size = {t.size};\n" for n, _, t in every if t.is_static),
        "EXPECTS": "\n".join(expected),
        "INPUT_POINTERS": ", ".join(f"{n}.data()" for n in names_in) or "nullptr",
        "OUTPUT_POINTERS": ", ".join(f"{n}.data()" for n in names_out) or "nullptr",
        "RETURNING_RUN": _returning_run(inputs, outputs, sizes[len(inputs):], {s.output for s in program.sized}),
        **open_sources.cpp_parts(prefix, program),
    })


def _returning_run(inputs: Parameters, outputs: Parameters, sizes: Sequence[str], sized: Set[int]) -> str:
    """`run` with the inputs alone, which returns vectors: one, or a tuple of them.  sizes: elements of each output; sized:
    those of which a run gives as many as its data say, the vector is cut to them.

    There is none for bool outputs (std::vector<bool> holds no bools), nor without inputs or outputs."""
    if not inputs or not outputs or any(c == "bool" for _, c, _ in outputs):
        return ""
    vectors = [f"std::vector<{c}>" for _, c, _ in outputs]
    returned = vectors[0] if len(vectors) == 1 else f"std::tuple<{', '.join(vectors)}>"
    names = [n for n, _, _ in outputs]
    result = names[0] if len(names) == 1 else "{ " + ", ".join(f"std::move({n})" for n in names) + " }"
    lines = [
        "", "    // The same with new vectors for the outputs.",
        f"    {returned} run({', '.join(f'view<const {c}> {n}' for n, c, _ in inputs)})", "    {",
        *(f"        {vector} {n}({size});" for vector, size, (n, _, _) in zip(vectors, sizes, outputs, strict=True)),
        f"        run({', '.join([n for n, _, _ in inputs] + [f'view<{c}>({n})' for n, c, _ in outputs])});",
        *(f"        {names[i]}.resize(detail::product(output_shape({i})));" for i in sorted(sized)),
        f"        return {result};", "    }", "",
    ]
    return "\n".join(lines)


def info_table(kind: str, tensors: Tensors, run_time_axes: Mapping[int, int] | None = None) -> str:
    """The array of tw_tensor_info for inputs or outputs; C has no empty arrays, so an empty one gets a zero row."""
    lines, rows = [], []
    for index, (name, type_) in enumerate(tensors):
        shape = "NULL"
        if type_.rank:
            shape = f"{kind}_{index}_shape"
            dims = ", ".join(f"{open_sources.fixed(d)}" for d in type_.shape)
            lines.append(f"static const int64_t {shape}[] = {{ {dims} }};")
        dtype, size = "TW_STRING" if type_.dtype == "str" else f"TW_{type_.dtype.upper()}", DTYPES[type_.dtype].size
        rows.append(f"    {{ {c_string(name)}, {open_sources.fixed_bytes(type_)}u, {dtype}, {type_.rank}, {shape}, {size}u, "
                    f"{(run_time_axes or {}).get(index, 0)}u }},")
    table = rows or ["    { NULL, 0u, 0, 0, NULL, 1u, 0u },"]
    return "\n".join([*lines, f"static const tw_tensor_info {kind}[] = {{", *table, "};", ""])


def run_time_axes_of(program: Program) -> dict[int, int]:
    """Output -> bits of its dimensions that are known after a run only."""
    return {s.output: sum(1 << n for n, d in enumerate(s.dims) if not isinstance(d, int)) for s in program.sized}


def _sized_table(program: Program) -> str:
    rows = [f"    {{ {s.output}u, {len(s.dims)}u }}," for s in program.sized] or ["    { 0u, 0u },"]
    return "\n".join(["static const tw_sized_output sized[] = {", *rows, "};", ""])


def _feature_table(machine: Machine) -> str:
    rows = [f"    {{ {c_string(name)}, {bit.leaf}u, {bit.subleaf}u, {bit.reg}u, {bit.bit}u, {bit.state}u }},"
            for name, bit in feature_bits(machine)] or ["    { NULL, 0u, 0u, 0u, 0u, 0u },"]
    return "\n".join(["static const tw_feature features[] = {", *rows, "};", ""])


def _site_table(program: Program) -> str:
    """The accesses that a debug-bounds build checks; nothing in other builds."""
    rows = [f"    {{ {', '.join(map(c_string, (s.kernel, s.buffer, s.access, s.what)))} }}," for s in program.sites]
    return "\n".join(["static const tw_site sites[] = {", *rows, "};", ""]) if rows else ""


def descriptor_source(
    prefix: str, program: Program, machine: Machine, weights_id: bytes, weights_file: str | None
) -> str:
    """The C source that describes the model and exports its functions.  weights_file: the name of the file beside the
    library that holds the constants, or None when they are embedded."""
    embedded = program.constant_bytes > 0 and weights_file is None
    sizing = program.sizing
    identity = f"static const unsigned char weights_id[] = {{ {', '.join(str(b) for b in weights_id)} }};\n"
    return fill("model_template.c", {
        "PREFIX": prefix, "NAME": c_string(program.name), "ARENA_BYTES": 0 if sizing else program.arena_bytes,
        "SCRATCH_BYTES": 0 if sizing else program.scratch_bytes, "ENTRIES": open_sources.entries(sizing),
        "MAIN": "NULL" if sizing else "tw_main", "SIZING": "&sizing" if sizing else "NULL",
        "MORE": open_sources.exports(prefix, sizing), "CONSTANT_BYTES": program.constant_bytes,
        "CONSTANTS": "tw_constants" if embedded else "NULL",
        "WEIGHTS_NAME": c_string(weights_file) if weights_file else "NULL",
        "WEIGHTS_ID": "weights_id" if weights_file else "NULL",
        "INPUT_COUNT": len(program.inputs), "OUTPUT_COUNT": len(program.outputs),
        "FEATURE_COUNT": len(feature_bits(machine)), "BEST_THREADS": recommended_threads(program, machine),
        "PREPARES": int(bool(program.prepare)), "SIZED_COUNT": len(program.sized),
        "SUPPORT": "&tw_run_support" if program.support_parts else "NULL",
        "STEP_COUNT": len(list(all_calls(program.every_steps))) if program.profile else 0,
        "SITE_COUNT": len(program.sites), "SITES": "sites" if program.sites else "NULL",
        "TABLES": info_table("inputs", program.inputs) + info_table("outputs", program.outputs, run_time_axes_of(program))
        + _sized_table(program) + _feature_table(machine) + _site_table(program) + open_sources.tables(program)
        + (identity if weights_file else ""),
    })


def data_assembly(embedded: bool) -> str:
    """Assembly that takes the manifest, and the constants if they are embedded, from files into read-only sections.

    The constants start at a page, as a mapped file would."""
    lines = [
        '    .section .rodata.tw_manifest,"a",%progbits', "    .hidden tw_manifest", "    .globl tw_manifest",
        "tw_manifest:", f'    .incbin "{MANIFEST_FILE}"', "    .byte 0",
    ]
    if embedded:
        lines += [
            '    .section .tw_constants,"a",%progbits', "    .balign 4096", "    .hidden tw_constants",
            "    .globl tw_constants", "tw_constants:", f'    .incbin "{CONSTANTS_FILE}"',
        ]
    return "\n".join([*lines, '    .section .note.GNU-stack,"",%progbits', ""])
