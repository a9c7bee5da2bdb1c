"""`tilewright check`: which operators a model uses, which targets have them, and whether it can be imported, without
compiling it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..frontend.onnx import ModelSummary, OperatorUse, check_model, import_model, operators_of_nodes
from ..ir.errors import ModelError
from .options import Shapes
from .summary import printable, table
from .target_support import by_operator, open_sizes, target_reasons

Reasons = Mapping[str, Mapping[str, str]]
"""Target -> operator -> why that target cannot compile it; the operator "" is the model as a whole."""
_NAME_LETTERS = 60  # of the nodes of one operator


def check(model: str, shapes: Shapes, dims: Mapping[str, int], as_json: bool) -> int:
    """Print the table; exit code 0 if the model can be compiled, 1 if not.

    Beyond the list of operators the model is imported, so that wrong attributes, shapes and missing values show too.
    """
    summary = check_model(model)
    problem = ""
    reasons: Reasons = {}
    unknown: tuple[str, ...] = ()
    if not summary.unsupported:
        try:
            graph = import_model(model, shapes=shapes, dims=dims)
            names = operators_of_nodes(model)
            unknown = open_sizes(graph)
            reasons = {target: by_operator(found, names) for target, found in target_reasons(graph).items()}
        except ModelError as error:
            problem = str(error)
    fine = not summary.unsupported and not problem
    print(json.dumps(_as_json(summary, problem, reasons, unknown)) if as_json else _as_text(summary, problem, reasons, unknown))
    return 0 if fine else 1


def _as_text(summary: ModelSummary, problem: str, reasons: Reasons, unknown: Sequence[str]) -> str:
    lines = [f"{printable(summary.name)}: " + ", ".join(f"{d or 'ai.onnx'} opset {v}" for d, v in summary.opsets.items())]
    lines += [f"  input   {printable(name)}: {printable(type)}" for name, type in summary.inputs]
    lines += [f"  output  {printable(name)}: {printable(type)}" for name, type in summary.outputs]
    rows = [_row(use, reasons) for use in summary.operators]
    head = tuple(reasons) or ("compiles",)
    lines += ["", table(rows, ("operator", "since", "nodes", *head, "first nodes"))]
    lines += _told(reasons)
    if unknown:
        lines += ["", f"Open sizes: {', '.join(map(printable, unknown))}. All targets but cpu need them: --dim or --shape."]
    bad = summary.unsupported
    count = sum(u.count for u in bad)
    if bad:
        lines += ["", f"{len(bad)} operators ({count} nodes) cannot be compiled."]
    else:
        lines += ["", f"This model cannot be compiled: {printable(problem)}" if problem else "This model can be compiled."]
    return "\n".join(lines)


def _told(reasons: Reasons) -> list[str]:
    """Why targets cannot compile what they cannot: those with the same reason together."""
    together: dict[tuple[str, str], list[str]] = {}
    for target, found in reasons.items():
        for operator, reason in found.items():
            together.setdefault((operator, reason), []).append(target)
    lines = [
        f"  not on {', '.join(targets)}: {operator + ': ' if operator else ''}{printable(reason)}"
        for (operator, reason), targets in together.items()
    ]
    return ["", *lines] if lines else []


def _row(use: OperatorUse, reasons: Reasons) -> tuple[str, ...]:
    names = ", ".join(use.nodes)
    if use.count > len(use.nodes) or len(names) > _NAME_LETTERS:
        names = names[:_NAME_LETTERS].rstrip(", ") + " ..."
    have = tuple("no" if use.full_name in found else "yes" for found in reasons.values())
    verdict = have or ((f"no: {use.reason}" if use.reason else "yes"),)
    return use.full_name, str(use.version), str(use.count), *verdict, names


def _as_json(
    summary: ModelSummary, problem: str, reasons: Reasons, unknown: Sequence[str]
) -> dict[str, object]:
    return {
        "name": summary.name, "opsets": dict(summary.opsets), "inputs": dict(summary.inputs),
        "outputs": dict(summary.outputs), "compiles": not summary.unsupported and not problem, "problem": problem,
        "open_sizes": list(unknown),
        "targets": {target: {"compiles": not found, "reasons": dict(found)} for target, found in reasons.items()},
        "operators": [
            {"operator": u.full_name, "since": u.version, "nodes": u.count, "first": list(u.nodes), "reason": u.reason}
            for u in summary.operators
        ],
    }
