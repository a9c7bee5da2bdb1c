"""`tilewright check`: which operators a model uses, and whether it can be compiled, without compiling it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..frontend.onnx import ModelSummary, OperatorUse, check_model, import_model
from ..ir.errors import ModelError
from .options import Shapes
from .summary import printable, table

_NAME_LETTERS = 60  # of the nodes of one operator


def check(model: str, shapes: Shapes, dims: Mapping[str, int], as_json: bool) -> int:
    """Print the table; exit code 0 if the model can be compiled, 1 if not.

    Beyond the list of operators the model is imported, so that wrong attributes, shapes and missing values show too.
    """
    summary = check_model(model)
    problem = ""
    if not summary.unsupported:
        try:
            import_model(model, shapes=shapes, dims=dims)
        except ModelError as error:
            problem = str(error)
    fine = not summary.unsupported and not problem
    print(json.dumps(_as_json(summary, problem)) if as_json else _as_text(summary, problem))
    return 0 if fine else 1


def _as_text(summary: ModelSummary, problem: str) -> str:
    lines = [f"{printable(summary.name)}: " + ", ".join(f"{d or 'ai.onnx'} opset {v}" for d, v in summary.opsets.items())]
    lines += [f"  input   {printable(name)}: {printable(type)}" for name, type in summary.inputs]
    lines += [f"  output  {printable(name)}: {printable(type)}" for name, type in summary.outputs]
    rows = [_row(use) for use in summary.operators]
    lines += ["", table(rows, ("operator", "since", "nodes", "compiles", "first nodes"))]
    bad = summary.unsupported
    count = sum(u.count for u in bad)
    if bad:
        lines += ["", f"{len(bad)} operators ({count} nodes) cannot be compiled."]
    else:
        lines += ["", f"This model cannot be compiled: {printable(problem)}" if problem else "This model can be compiled."]
    return "\n".join(lines)


def _row(use: OperatorUse) -> tuple[str, ...]:
    names = ", ".join(use.nodes)
    if use.count > len(use.nodes) or len(names) > _NAME_LETTERS:
        names = names[:_NAME_LETTERS].rstrip(", ") + " ..."
    return use.full_name, str(use.version), str(use.count), f"no: {use.reason}" if use.reason else "yes", names


def _as_json(summary: ModelSummary, problem: str) -> dict[str, object]:
    return {
        "name": summary.name, "opsets": dict(summary.opsets), "inputs": dict(summary.inputs),
        "outputs": dict(summary.outputs), "compiles": not summary.unsupported and not problem, "problem": problem,
        "operators": [
            {"operator": u.full_name, "since": u.version, "nodes": u.count, "first": list(u.nodes), "reason": u.reason}
            for u in summary.operators
        ],
    }
