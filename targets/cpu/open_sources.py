"""The parts of generated sources that only a model with open dimensions has: tables of symbols, resize, shapes of outputs."""

from __future__ import annotations

from ...codegen.program import Program
from ...codegen.sizing import Sizing
from ...ir.expr import Expr, Var
from ...ir.types import Dim, TensorType
from .naming import c_string, comment_text

STATIC_ENTRIES = '__attribute__((visibility("hidden"))) tw_main_function tw_main;\n'
_ENTRIES = """__attribute__((visibility("hidden"))) tw_open_main_function tw_main;
__attribute__((visibility("hidden"))) int64_t tw_plan(int64_t *sizes, int64_t *plan, int64_t *needs);
__attribute__((visibility("hidden"))) void tw_shapes(const int64_t *sizes, int64_t *shapes);
"""
_EXPORTS = """
EXPORT int32_t {prefix}_resize({prefix}_model *model, const int64_t *const *input_shapes)
{{
    return tw_model_resize((tw_model *)model, input_shapes);
}}
"""
_DECLARATIONS = """
/* This model has open dimensions:
{symbols}
 *
 * Sets the shapes of the inputs for the following runs: one array for each input, of its rank.  Memory is allocated if these
 * shapes need more than any before.  PREFIX_run then takes buffers of these shapes; PREFIX_run_tensors does this by itself,
 * with the shapes of its tensors.  PREFIX_output_shape then tells those of the outputs.  TW_WRONG_SHAPE, with a message, for
 * shapes that the model does not take.  PREFIX_workspace_bytes counts no memory that depends on shapes: a workspace of the
 * caller must have room for it. */
int32_t {prefix}_resize({prefix}_model *model, const int64_t *const *input_shapes);
"""


def entries(sizing: Sizing | None) -> str:
    return STATIC_ENTRIES if sizing is None else _ENTRIES


def exports(prefix: str, sizing: Sizing | None) -> str:
    return "" if sizing is None else _EXPORTS.format(prefix=prefix)


def declarations(prefix: str, sizing: Sizing | None) -> str:
    """What the header of a model with open dimensions declares beside the functions that all have."""
    if sizing is None:
        return ""
    lines = [f" *   {comment_text(s.var.name)}: {range_text(s.low, s.high)}" for s in sizing.symbols]
    return _DECLARATIONS.format(prefix=prefix, symbols="\n".join(lines)).replace("PREFIX_", f"{prefix}_")


def range_text(low: int, high: int | None) -> str:
    return f"{low} or more" if high is None else f"{low} to {high}"


def tables(program: Program) -> str:
    """The `tw_sizing` of a program with open dimensions."""
    sizing = program.sizing
    if sizing is None:
        return ""
    rows = [f"    {{ {c_string(s.var.name)}, {s.low}, {-1 if s.high is None else s.high} }}," for s in sizing.symbols]
    numbers = [_number(sizing, d) for _, t in program.inputs for d in t.shape] or [-1]
    every = [sizing, *(v.sizing for v in program.versions if v.sizing is not None)]
    checks = [f"    {c_string(c.text)}," for s in every for c in s.checks] or ["    NULL,"]
    slots = max(len(s.slots) for s in every) + bool(program.versions)
    return "\n".join([
        "static const tw_symbol symbols[] = {", *rows, "};",
        f"static const int32_t input_symbols[] = {{ {', '.join(map(str, numbers))} }};",
        "static const char *const checks[] = {", *checks, "};",
        "static const tw_sizing sizing = {",
        "    .main = tw_main,", "    .plan = tw_plan,", "    .shapes = tw_shapes,", "    .symbols = symbols,",
        "    .input_symbols = input_symbols,", "    .checks = checks,",
        f"    .symbol_count = {len(sizing.symbols)}u,", f"    .slot_count = {slots}u,",
        "};", "",
    ])


def _number(sizing: Sizing, d: Dim) -> int:
    return sizing.number(d) if isinstance(d, Var) else -1


_CPP_OUTPUT_SHAPE = """
    // The shape of an output: in the last run, or after a resize that no run followed, the largest that it can have.
    std::vector<std::int64_t> output_shape(std::size_t index) const
    {{
        const tw_tensor_info *info = {prefix}_output_info(index);
        std::vector<std::int64_t> shape(info ? static_cast<std::size_t>(info->rank) : 0);
        check({prefix}_output_shape(model_, index, shape.data(), shape.size()));
        return shape;
    }}
"""
_CPP_RESIZE = """
    // Sets the shapes of the inputs for the following runs, which take buffers of these shapes.
    void resize(const std::array<std::vector<std::int64_t>, {inputs}> &shapes)
    {{
        const std::int64_t *pointers[{room}] = {{}};
        for (std::size_t i = 0; i < shapes.size(); i++) {{
            const auto rank = static_cast<std::size_t>({prefix}_input_info(i)->rank);
            if (shapes[i].size() != rank) {{
                throw error(TW_WRONG_SHAPE, "resize: input " + std::to_string(i) + " has " + std::to_string(rank) +
                                                " dimensions, got " + std::to_string(shapes[i].size()));
            }}
            pointers[i] = shapes[i].data();
        }}
        check({prefix}_resize(model_, pointers));
        for (std::size_t i = 0; i < shapes.size(); i++) elements_[i] = detail::product(shapes[i]);
        for (std::size_t i = {inputs}; i < elements_.size(); i++) elements_[i] = detail::product(output_shape(i - {inputs}));
        shaped_ = true;
    }}
"""
_CPP_STATE = """
    // Elements of each input, then of each output, as resize set them.
    std::array<std::size_t, {tensors}> elements_{{}};
    bool shaped_ = false;"""
_CPP_SHAPED = """        if (!shaped_) throw error(TW_NO_SHAPES, {prefix}_status_text(TW_NO_SHAPES));
"""


def cpp_parts(prefix: str, program: Program) -> dict[str, str]:
    """What fills the C++ header beside what every model has: METHODS, STATE and how it is moved, and SHAPED, the check before
    a run that the shapes of open dimensions are known."""
    inputs, tensors = len(program.inputs), len(program.inputs) + len(program.outputs)
    shape = _CPP_OUTPUT_SHAPE.format(prefix=prefix) if program.sized or program.sizing is not None else ""
    if program.sizing is None:
        return {"METHODS": shape, "STATE": "", "MOVE_STATE": "", "SWAP_STATE": "", "SHAPED": ""}
    return {
        "METHODS": shape + _CPP_RESIZE.format(prefix=prefix, inputs=inputs, room=max(1, inputs)),
        "STATE": _CPP_STATE.format(tensors=tensors), "SHAPED": _CPP_SHAPED.format(prefix=prefix),
        "MOVE_STATE": ", elements_(other.elements_), shaped_(other.shaped_)",
        "SWAP_STATE": "\n        std::swap(elements_, other.elements_);\n        std::swap(shaped_, other.shaped_);",
    }


def fixed(d: Dim) -> int:
    """A dimension in the tables of C: -1 where it is open."""
    return -1 if isinstance(d, Expr) else d


def fixed_bytes(t: TensorType) -> int:
    return t.nbytes if t.is_static else 0
