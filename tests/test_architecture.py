"""The rules of docs/architecture.md that a machine can check: who imports whom, sizes, names, the order of passes."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from suites import rows_a, rows_b, rows_c, rows_q
from tilewright.compiler.pipeline import GRAPH_PASSES, ORDER
from tilewright.ir.ops.base import Op

ROOT = Path(__file__).parent.parent
FOLDERS = ("compiler", "frontend", "ir", "codegen", "targets")
MAX_LINES, MAX_FUNCTION_LINES = 450, 80
FORBIDDEN_FILES = {"utils.py", "common.py", "helpers.py", "misc.py"}

MAY_IMPORT = {
    "ir": set(),
    "frontend": {"ir"},
    "codegen": {"ir"},
    "targets": {"ir", "codegen"},
    "compiler": {"ir", "frontend", "codegen", "targets"},
}
# Where a heavy package may be imported, as prefixes of paths.
HOMES = {
    "onnx": ("frontend/onnx/", "compiler/onnx_", "compiler/quantize/", "compiler/prune/"),
    "llvmlite": ("codegen/llvm", "targets/cpu/"),
    "jax": ("targets/xla/", "targets/tpu/"),
    "jaxlib": ("targets/xla/", "targets/tpu/"),
    "tvm": ("targets/tvm/",),
    "clang": ("targets/fpga/",),
    "jinja2": ("compiler/",),
    "PIL": ("ir/ops/image_file.py",),
    "rich": ("compiler/",),
}


def sources() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def all_python() -> list[Path]:
    return [ROOT / "__init__.py", *sources(), *sorted((ROOT / "tests").rglob("*.py"))]


def imports(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of a module as a dotted name; ours start with "tilewright.".  Those for type checkers do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = ["tilewright", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node, module
            if not node.module:
                yield from ((node, f"{module}.{alias.name}") for alias in node.names)


def test_every_folder_imports_only_what_it_may() -> None:
    wrong = []
    for path in sources():
        folder = path.relative_to(ROOT).parts[0]
        for node, module in imports(path):
            parts = module.split(".")
            inside = parts[0] == "tilewright" and len(parts) > 1 and parts[1] in FOLDERS
            if inside and parts[1] != folder and parts[1] not in MAY_IMPORT[folder]:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {module}")
    assert wrong == []


def test_inside_the_package_imports_are_relative() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources() for node, module in imports(path)
        if module.split(".")[0] == "tilewright" and not getattr(node, "level", 0)
    ]
    assert wrong == []


def test_heavy_packages_stay_in_their_homes() -> None:
    wrong = []
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        for node, module in imports(path):
            homes = HOMES.get(module.split(".")[0])
            if homes is not None and not name.startswith(homes):
                wrong.append(f"{name}:{node.lineno} imports {module}")
    assert wrong == []


def test_loading_an_artifact_needs_numpy_only() -> None:
    program = (
        "import sys, tilewright; tilewright.load\n"
        "heavy = {'onnx', 'llvmlite', 'ml_dtypes', 'jinja2', 'rich', 'google', 'filelock', 'platformdirs', 'shtab'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_running_an_artifact_needs_neither_onnx_nor_llvmlite() -> None:
    program = "import sys; from tilewright.compiler import commands, running, inspecting; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"'onnx'", "'llvmlite'", "'jinja2'"} & set(done.stdout.strip("[]\n").split(", "))


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in all_python()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_functions_fit_a_screen() -> None:
    long = []
    for path in all_python():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines")
    assert long == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [str(p.relative_to(ROOT)) for p in all_python() if p.name in FORBIDDEN_FILES] == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(p.relative_to(ROOT)) for p in sources() if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_every_folder_of_modules_is_a_package() -> None:
    """setup.py finds packages by this file: what lacks it would stay out of the wheel."""
    assert [str(p.parent) for p in sources() if not (p.parent / "__init__.py").exists()] == []


def operators() -> list[type[Op]]:
    """Every concrete operator of ir/ops."""
    for path in sorted((ROOT / "ir" / "ops").glob("*.py")):
        import_module(f"tilewright.ir.ops.{path.stem}")
    found: list[type[Op]] = []
    queue = list(Op.__subclasses__())
    while queue:
        op = queue.pop()
        queue += op.__subclasses__()
        if op.__module__.startswith("tilewright.ir.ops") and not op.__name__.startswith("_"):
            found.append(op)
    return sorted(set(found), key=lambda op: op.__name__)


@pytest.mark.parametrize("op", operators(), ids=lambda op: op.__name__)
def test_every_operator_has_types_a_meaning_and_one_lowering(op: type[Op]) -> None:
    assert op.infer is not Op.infer
    assert op.evaluate is not Op.evaluate
    forms = [f for f in ("expand", "compute", "kernel", "support") if getattr(op, f) is not getattr(Op, f)]
    assert len(forms) <= 1, f"{op.__name__} has {forms}; expected exactly one lowering"
    assert inspect.getdoc(op)


# Operators that a row (one operator on arrays) cannot say, and where they are tested instead.
WITHOUT_ROWS = {
    "Recurrent": "the base of the three cells",
    "DimTensor": "its value is a symbolic size: tests/passes/test_fold_constants.py",
    "Refine": "its shape is symbolic: tests/targets/test_open_dims.py",
    "Fused": "holds a graph: tests/passes and tests/codegen",
    "If": "holds graphs: tests/ir/test_interpreter.py",
    "Loop": "holds a graph: tests/codegen/test_control_flow.py",
    "Scan": "holds a graph: tests/codegen/test_control_flow.py",
    "NonZero": "its size depends on data: tests/frontend/test_onnx_suite.py",
    "Unique": "its size depends on data: tests/frontend/test_onnx_suite.py",
    "NonMaxSuppression": "its size depends on data: tests/frontend/test_onnx_suite.py",
    **dict.fromkeys(
        ("TextCase", "TextConcat", "TextEqual", "TextFind", "TextFormat", "TextMatch", "TextParse", "TextPieces", "TextRank",
         "SplitText"),
        "strings, which only a library's support code has: tests/targets/test_strings.py",
    ),
    **dict.fromkeys(("DecodeImage", "DecodeWithin"), "image files: tests/targets/test_image_files.py"),
    "Sized": "its size depends on data: tests/passes/test_bound_sizes.py",
}


def test_every_operator_has_a_row_in_the_suites() -> None:
    tested = {type(row.op).__name__ for row in (*rows_a.ROWS, *rows_b.ROWS, *rows_c.ROWS, *rows_q.ROWS)}
    assert sorted({op.__name__ for op in operators()} - tested) == sorted(WITHOUT_ROWS)


def test_the_order_of_the_passes_holds() -> None:
    names = [name for name, _ in GRAPH_PASSES]
    assert len(set(names)) == len(names), "a pass that runs twice needs two names"
    for earlier, later, reason in ORDER:
        assert reason
        assert names.index(earlier) < names.index(later), f"{earlier} must run before {later}: {reason}"


@pytest.mark.parametrize(("name", "function"), GRAPH_PASSES)
def test_every_pass_shows_what_it_rewrites(name: str, function: object) -> None:
    module = inspect.getmodule(function)
    assert module is not None
    assert "->" in (inspect.getdoc(module) or ""), f"{name}: the module shows no before -> after"
