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
from tilewright.compiler.onnx_backend import CpuBackend

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
