"""Casts to and from types of 8 bits and less, against ml_dtypes: every number of 16 bits, every code."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from frontend.onnx_models import model, node, run, unknown, value
from onnx import TensorProto
from tilewright.compiler.onnx_backend import InterpreterBackend
from tilewright.frontend.onnx.tensors import NARROW
from tilewright.ir.errors import ModelError

POWERS = TensorProto.FLOAT8E8M0  # of two: no sign, no zero
FLOATS = [code for code, (_, name) in NARROW.items() if name.startswith("float8") and code != POWERS]
INTS = [code for code, (_, name) in NARROW.items() if "int" in name]
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


def dtype_of(code: int) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, NARROW[code][1]))


def to_narrow(x: np.ndarray, code: int, **attributes: int | str) -> np.ndarray:
    """The stored bytes, and their meaning."""
    n = node("Cast", ["x"], ["y"], to=code, **attributes)
    m = model([n], [value("x", *x.shape, dtype=onnx.helper.np_dtype_to_tensor_dtype(x.dtype))], [unknown("y", code)], opset=25)
    return InterpreterBackend.prepare(m).run([x])[0]


@pytest.mark.parametrize("code", FLOATS)
def test_every_half_is_rounded_as_in_ml_dtypes(code: int) -> None:
    """Without saturation; ml_dtypes has none."""
    got = to_narrow(HALVES, code, saturate=0)
    with np.errstate(invalid="ignore"):
        expected = HALVES.astype(dtype_of(code))
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    zeros = got.astype(np.float32) == 0
    np.testing.assert_array_equal(got.view(np.uint8)[zeros], expected.view(np.uint8)[zeros])


@pytest.mark.parametrize("code", FLOATS)
def test_saturation_and_ties_between_halves(code: int) -> None:
    dtype = dtype_of(code)
    largest = float(ml_dtypes.finfo(dtype).max)
    x = np.float32([largest * 2, -np.inf, np.inf, np.nan, 1 + 2**-12, -largest])
    got = to_narrow(x, code).astype(np.float32)
    np.testing.assert_array_equal(got, np.float32([largest, -largest, largest, np.nan, 1, -largest]))


@pytest.mark.parametrize("code", [*FLOATS, POWERS, TensorProto.FLOAT4E2M1])
def test_every_code_is_read(code: int) -> None:
    codes = np.arange(16 if code == TensorProto.FLOAT4E2M1 else 256, dtype=np.uint8)
    m = model([node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], [value("x", len(codes), dtype=code)], ["y"], opset=25)
    np.testing.assert_array_equal(run(m, codes)[0], codes.view(dtype_of(code)).astype(np.float32))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two_are_rounded_as_in_the_standard(mode: str, saturate: int) -> None:
    edges = np.float32([0, 1e-45, 2**-126, 1.5, 1.4999999, 3, 6, 2**127, 3.4e38, 2.0**127 * 1.5, np.inf, -2.5, np.nan])
    for x in (HALVES, edges):
        with np.errstate(invalid="ignore"):
            expected = onnx.numpy_helper.to_float8e8m0(x, bool(saturate), mode)
        got = to_narrow(x, POWERS, saturate=saturate, round_mode=mode)
        np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("code", INTS)
def test_integers_keep_their_low_bits(code: int) -> None:
    x = np.arange(-40, 40, dtype=np.int32)
    np.testing.assert_array_equal(to_narrow(x, code).astype(np.int32), x.astype(dtype_of(code)).astype(np.int32))


def test_what_has_no_meaning_on_them_is_refused() -> None:
    code = TensorProto.FLOAT8E5M2
    m = model([node("Add", ["x", "x"], ["y"])], [value("x", 3, dtype=code)], [unknown("y", code)], opset=25)
    with pytest.raises(ModelError, match="FLOAT8E5M2, which this operator does not take"):
        run(m, np.zeros(3, np.uint8))
    with pytest.raises(ModelError, match="cast to f32 first"):
        to_narrow(np.zeros(3), code)
