"""The node tests of the ONNX standard through the interpreter, all of them: each one passes, or is refused for a reason
that this file states.  A stated reason that no longer holds is an error too."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from tilewright.compiler.onnx_backend import InterpreterBackend
from tilewright.frontend.onnx import check_model
from tilewright.frontend.onnx.tensors import DTYPE_OF_ONNX, NARROW
from tilewright.ir.errors import ModelError, OptionError

CHUNKS = 8

REFUSED_OPERATORS: dict[str, str] = {}

DIFFERENT = {
    r"test_attention_4d_causal_fp16(_expanded)?": "the reference rounds to f16 after each step; two elements differ by 2 ulp",
    r"test_bernoulli(_double|_seed)?(_expanded)?": "expects the numbers of NumPy's generator",
    r"test_training_dropout(_default|_mask|_default_mask)?": "expects the numbers of NumPy's generator",
    r"test_dft_inverse(_opset19)?": "expects what cancels to be 1.9e-7: its transform is computed in f32",
}


INCOMPARABLE = {"test_loop16_seq_none": "the suite cannot compare scalars in sequences"}


def tensor_types(model: onnx.ModelProto) -> set[int]:
    """The element types of inputs, outputs and constants that are tensors."""
    values = [v.type for v in (*model.graph.input, *model.graph.output)]
    found = {t.tensor_type.elem_type for t in values if t.HasField("tensor_type")}
    for node in model.graph.node:
        found |= {a.t.data_type for a in node.attribute if a.type == onnx.AttributeProto.TENSOR}
        found |= {a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"}
    return found


def refusal(case: TestCase) -> str:
    """Why a test is expected to be refused, or ""."""
    model: Any = case.model
    operators = {u.operator for u in check_model(model).unsupported}
    unstated = operators - set(REFUSED_OPERATORS)
    assert not unstated, f"{case.name} uses {unstated}, which is neither imported nor refused for a stated reason"
    if operators:
        return REFUSED_OPERATORS[min(operators)]
    return "" if tensor_types(model) <= {*DTYPE_OF_ONNX, *NARROW} else "an element type"


def as_array(x: Any) -> Any:
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def run(case: TestCase) -> None:
    prepared = InterpreterBackend.prepare(case.model)
    for inputs, expected in case.data_sets or ():
        outputs = prepared.run([as_array(x) for x in inputs])
        Runner.assert_similar_outputs([as_array(x) for x in expected], outputs, case.rtol, case.atol)


def problem(case: TestCase) -> str:
    """What is wrong with the result of a test, or ""."""
    reason = refusal(case)
    different = any(re.fullmatch(name, case.name) for name in DIFFERENT)
    try:
        run(case)
    except (ModelError, OptionError) as e:
        return "" if reason else f"{case.name}: refused: {e}"
    except AssertionError as e:
        return "" if different else f"{case.name}: {' '.join(str(e).split())[:300]}"
    return f"{case.name}: passes, but is said to be impossible" if reason or different else ""


def scalars_of(x: Any) -> list[Any]:
    """The arrays of nested lists, in order."""
    return [a for item in x for a in scalars_of(item)] if isinstance(x, (list, tuple)) else [as_array(x)]


@pytest.mark.parametrize("name", INCOMPARABLE)
def test_what_the_suite_cannot_compare(name: str) -> None:
    (case,) = (case for case in load_model_tests(kind="node") if case.name == name)
    prepared = InterpreterBackend.prepare(case.model)
    for inputs, expected in case.data_sets or ():
        made, wanted = scalars_of(prepared.run([as_array(x) for x in inputs])), scalars_of(expected)
        for got, array in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(got, array, strict=True)


@pytest.fixture(scope="module")
def cases() -> list[TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow while the suite computes its expectations
        return [case for case in load_model_tests(kind="node") if case.name not in INCOMPARABLE]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_node_tests_of_the_standard(cases: list[TestCase], chunk: int) -> None:
    assert len(cases) > 1000
    with np.errstate(all="ignore"):
        problems = [p for p in map(problem, cases[chunk::CHUNKS]) if p]
    assert not problems, "\n".join(problems)
