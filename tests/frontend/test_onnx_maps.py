"""Maps as inputs: their keys and values are tensors of the compiled model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from frontend.onnx_models import model, node, run, unknown, value
from onnx import TensorProto, helper
from tilewright.compiler.onnx_backend import CpuBackend, InterpreterBackend
from tilewright.ir.errors import ModelError

I64, F32, STRING = TensorProto.INT64, TensorProto.FLOAT, TensorProto.STRING


def of_map(op: str, keys: int, values: int, result: int, **attributes: Any) -> onnx.ModelProto:
    proto = helper.make_map_type_proto(keys, helper.make_tensor_type_proto(values, []))
    n = node(op, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    return model([n], [helper.make_value_info("x", proto)], [unknown("y", result)], domains={"ai.onnx.ml": 3})


CASES = [
    (of_map("DictVectorizer", STRING, F32, F32, string_vocabulary=["a", "c", "b", "z"]), {"c": 8.0, "a": 4.0, "no": 1.0},
     np.float32([[4, 8, 0, 0]])),
    (of_map("DictVectorizer", I64, F32, F32, int64_vocabulary=[7, -3, 5]), {5: 1.5, 7: 2.5}, np.float32([[2.5, 0, 1.5]])),
    (of_map("DictVectorizer", STRING, I64, I64, string_vocabulary=["x", "y"]), {"y": 9}, np.int64([[0, 9]])),
    (of_map("CastMap", I64, F32, I64, cast_to="TO_INT64"), {5: 1.5, -2: 7.0, 3: -4.5}, np.int64([[7, -4, 1]])),
    (of_map("CastMap", I64, F32, F32, map_form="SPARSE", max_map=4), {2: 1.5, 0: 7.0, 9: 3.0}, np.float32([[7, 0, 1.5, 0]])),
    (of_map("CastMap", I64, STRING, F32), {4: "2.5", 1: "-1e3"}, np.float32([[-1000, 2.5]])),
]  # fmt: skip


@pytest.mark.parametrize("backend", [InterpreterBackend, CpuBackend])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_maps(backend: Any, case: int) -> None:
    m, given, expected = CASES[case]
    (y,) = backend.prepare(m).run([given])
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


def test_maps_and_tensors_are_different() -> None:
    plain = model([node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", int64_vocabulary=[1])], [value("x", 3)], ["y"],
                  domains={"ai.onnx.ml": 3})  # fmt: skip
    with pytest.raises(ModelError, match="must be a map"):
        run(plain, np.zeros(3, np.float32))
    mapped = CASES[0][0]
    mapped.graph.node[0].op_type = "Binarizer"
    del mapped.graph.node[0].attribute[:]
    with pytest.raises(ModelError, match="must be no map"):
        InterpreterBackend.prepare(mapped).run([{"a": 1.0}])
