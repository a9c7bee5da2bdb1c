"""Node tests of the ONNX standard as compiled libraries: a few of every family; `test_onnx_suite` runs all in the
interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from tilewright.compiler.onnx_backend import CpuBackend, InterpreterBackend

NAMES = (
    "adam", "ai_onnx_ml_tree_ensemble_set_membership", "argmax_keepdims_random_select_last_index", "attention_4d_gqa",
    "averagepool_2d_ceil", "bitcast_2d_float32_to_int32", "cast_FLOAT_to_FLOAT8E5M2", "compress_negative_axis",
    "convinteger_with_padding", "convtranspose_output_shape", "cumprod_2d_axis_1",
    "deform_conv_with_multiple_offset_groups", "dequantizelinear_int4", "det_nd", "dft_rfft", "einsum_batch_matmul",
    "gridsample_bicubic", "gru_seq_length", "if", "layer_normalization_3d_axis1_epsilon", "loop11", "lstm_with_peepholes",
    "maxpool_with_argmax_2d_precomputed_pads", "maxunpool_export_with_output_shape", "melweightmatrix",
    "nonmaxsuppression_two_batches", "nonzero_example", "qlinearconv", "range_float_type_positive_delta_expanded",
    "resize_downsample_scales_cubic", "roialign_mode_max", "scan9_sum", "scan_sum", "scatternd_add",
    "softmax_axis_1_expanded", "stft", "tensorscatter_circular", "top_k_smallest", "unique_not_sorted_without_axis",
    "unique_sorted_with_axis", "where_long_example",
)  # fmt: skip

@pytest.fixture(scope="module")
def cases() -> Mapping[str, TestCase]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts that overflow while the suite computes its expectations
        return {case.name: case for case in load_model_tests(kind="node")}


def as_array(x: object) -> object:
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def run(case: TestCase) -> None:
    prepared = CpuBackend.prepare(case.model)
    for inputs, expected in case.data_sets or ():
        outputs = prepared.run([as_array(x) for x in inputs])
        Runner.assert_similar_outputs([as_array(x) for x in expected], outputs, case.rtol, case.atol)


@pytest.mark.parametrize("name", NAMES)
def test_node(cases: Mapping[str, TestCase], name: str) -> None:
    with np.errstate(all="ignore"):
        run(cases[f"test_{name}"])


def untested() -> onnx.ModelProto:
    """The operators that the standard has no node tests for, but MaxRoiPool (`test_onnx_roi`): every one makes an output."""
    node = onnx.helper.make_node
    ints = {"one": 1, "zero": 0, "minus": -1}
    nodes = [
        *(node("Constant", [], [name], value_int=n) for name, n in ints.items()),
        node("SequenceConstruct", ["x", "y"], ["pair"]), node("SequenceEmpty", [], ["none"]),
        node("SequenceInsert", ["pair", "x", "zero"], ["three"]), node("SequenceErase", ["three", "minus"], ["two"]),
        node("SequenceAt", ["two", "one"], ["at"]), node("SequenceLength", ["three"], ["length"]),
        node("SequenceLength", ["none"], ["nothing"]), node("ConcatFromSequence", ["three"], ["joined"], axis=1),
        node("ConcatFromSequence", ["two"], ["stacked"], axis=0, new_axis=1), node("GlobalLpPool", ["x"], ["pooled"], p=3),
        node("Optional", ["x"], ["maybe"]), node("OptionalGetElement", ["maybe"], ["got"]),
        node("OptionalHasElement", ["maybe"], ["has"]),
        node("RandomNormal", [], ["normal"], shape=[3, 50], seed=1.0, mean=2.0),
        node("RandomUniform", [], ["uniform"], shape=[90], seed=2.0),
        node("RandomNormalLike", ["x"], ["normal_like"], seed=3.0),
        node("RandomUniformLike", ["x"], ["uniform_like"], seed=4.0),
        node("Multinomial", ["weights"], ["drawn"], sample_size=40, seed=5.0),
    ]
    shapes = {"x": (2, 3, 4), "y": (2, 3, 4), "weights": (3, 7)}
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    types = {"length": 7, "nothing": 7, "has": 9, "drawn": 6}
    made = ("at", "length", "nothing", "joined", "stacked", "pooled", "got", "has", "normal", "uniform", "normal_like",
            "uniform_like", "drawn")  # fmt: skip
    outputs = [onnx.helper.make_tensor_value_info(name, types.get(name, 1), None) for name in made]
    graph = onnx.helper.make_graph(nodes, "untested", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_operators_without_node_tests() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4), (2, 3, 4), (3, 7))]
    x, y, _ = arrays
    made = dict(zip((v.name for v in untested().graph.output), CpuBackend.prepare(untested()).run(arrays), strict=True))
    expected = {"at": x, "length": 3, "nothing": 0, "joined": np.concatenate([x, x, y], 1), "stacked": np.stack([x, x]),
                "pooled": (abs(x) ** 3).sum(2, keepdims=True) ** (1 / 3), "got": x, "has": True}  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(made[name], value, rtol=1e-5)
    for got, same in zip(made.values(), InterpreterBackend.prepare(untested()).run(arrays), strict=True):
        np.testing.assert_allclose(got, same, rtol=1e-5, atol=1e-6)  # also the random numbers: they depend on the seed alone
