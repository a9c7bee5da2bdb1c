"""A random ONNX model from the table of all generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from fuzz import operators_contract, operators_control, operators_elementwise, operators_quantized, operators_shape
from fuzz.draw import BOOL, F16, F32, F64, I64, Draw, Refused, Tensor, captured

Step = Callable[[Draw, str], None]
OPERATORS: Mapping[str, Step] = {
    **operators_elementwise.ROWS, **operators_shape.ROWS, **operators_contract.ROWS, **operators_quantized.ROWS,
    **operators_control.ROWS,
}  # fmt: skip
"""Operators of the standard; one is drawn if the model's opset has it."""
PATTERNS: Mapping[str, Step] = {**operators_shape.PATTERNS, **operators_quantized.PATTERNS, **operators_control.PATTERNS}
"""Several nodes together, and operators of other domains."""
OLDEST, NEWEST = 7, onnx.defs.onnx_opset_version()
_DRAWS_PER_NODE = 4


@dataclass(frozen=True, eq=False)
class RandomModel:
    """tensors: every value in it, by name.  model: with inputs, constants and outputs named as there.  refusals: why nodes
    that were drawn are not in it."""

    seed: int
    opset: int
    model: onnx.ModelProto
    tensors: Mapping[str, Tensor]
    refusals: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        return [v.name for v in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        return [v.name for v in self.model.graph.output]

    def arrays(self) -> dict[str, np.ndarray]:
        return {n: self.tensors[n].value for n in self.inputs}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {n: self.tensors[n].shape for n in self.inputs}


def known(opset: int) -> list[str]:
    """The rows that a model of an opset may have, operators of the standard first."""
    since = {s.name: s.since_version for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    for s in onnx.defs.get_all_schemas_with_history():
        if not s.domain:
            since[s.name] = min(since[s.name], s.since_version)
    operators = [op for op in OPERATORS if since[op] <= opset and not _removed(op, opset)]
    return [*operators, *(p for p in PATTERNS if opset >= 10)]


def _removed(op: str, opset: int) -> bool:
    return onnx.defs.get_schema(op, opset, "").deprecated


_KNOWN: dict[int, list[str]] = {}


def random_model(seed: int) -> RandomModel:
    """Model number `seed`."""
    choices = np.random.default_rng(seed)
    opset = NEWEST if choices.random() < 0.25 else int(choices.integers(OLDEST, NEWEST + 1))
    d = Draw(seed, opset)
    names = _KNOWN.setdefault(opset, known(opset))
    for _ in range(d.int(1, 2)):
        d.input(d.array(d.shape(), d.pick((F32, F32, F32, F32, F64, F16, I64, BOOL))))
    focus = [d.pick(names) for _ in range(6)]  # a model has some operators often, so that they meet
    count = d.int(1, 4) if d.chance(0.3) else d.int(4, 14)
    for _ in range(_DRAWS_PER_NODE * count):
        if len(d.nodes) >= count:
            break
        name = d.pick(focus) if d.chance(0.5) else d.pick(names)
        before = len(d.nodes)
        try:
            {**OPERATORS, **PATTERNS}[name](d, name.rpartition(":")[2])
        except Refused:
            for t in [t for t in d.tensors.values() if t.name in {o for n in d.nodes[before:] for o in n.output}]:
                if t not in d.values:
                    d.values.append(t)  # a pattern that was cut short
    return finish(d, seed)


def finish(d: Draw, seed: int) -> RandomModel:
    """The model of what was drawn: what nothing reads is an output, and at times another value."""
    if not d.nodes:
        d.node("Identity", d.value(), exact=True)
    made = [o for n in d.nodes for o in n.output if o]
    read = {i for n in d.nodes for i in (*n.input, *captured(n))}
    outputs = [o for o in made if o not in read]
    others = [o for o in made if o in read]
    if others and d.chance(0.3):
        outputs.append(d.pick(others))
    inputs = [t.name for t in d.tensors.values() if t.name in read and t.name not in made and not t.constant]
    constants = {t.name: t.value for t in d.tensors.values() if t.name in read and t.constant}
    symbolic = d.chance(0.2)
    model = d.make_model(d.nodes, inputs, outputs, constants, symbolic)
    if constants and d.chance(0.2):
        _constants_as_nodes(model)
    return RandomModel(seed, d.opset, model, d.tensors, tuple(d.refusals))


def _constants_as_nodes(model: onnx.ModelProto) -> None:
    """Constant nodes instead of initializers."""
    made = [
        onnx.helper.make_node("Constant", [], [t.name], value=numpy_helper.from_array(numpy_helper.to_array(t)))
        for t in model.graph.initializer
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
