"""Fourier transforms of all kinds of lengths, determinants, running products against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from frontend.onnx_models import F64, check_reference, draw, model, node, run, value

LENGTHS = (1, 2, 3, 31, 32, 36, 64, 97, 120, 480, 1024)


@pytest.mark.parametrize("n", LENGTHS)
def test_complex_transforms_and_back(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(2, n, 2))
    forward = node("DFT", ["x"], ["y"])
    back = node("DFT", ["y"], ["z"], inverse=1)
    m = model([forward, back], [value("x", 2, n, 2, dtype=F64)], [value("y", 2, n, 2, dtype=F64), "z"], opset=20)
    y, z = run(m, x)
    expected = np.fft.fft(x[..., 0] + 1j * x[..., 1])
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], expected, atol=1e-11 * n)
    np.testing.assert_allclose(z, x, atol=1e-12)


@pytest.mark.parametrize("n", (*LENGTHS[1:], 1025, 6000, 16384))
def test_real_transforms_and_back(n: int) -> None:
    x = draw(2, n, 1)
    forward = node("DFT", ["x"], ["y"], onesided=1)
    back = node("DFT", ["y", "n"], ["z"], onesided=1, inverse=1)
    m = model([forward, back], [value("x", 2, n, 1)], ["y", "z"], {"n": np.array(n)}, opset=20)
    y, z = run(m, x)
    expected = np.fft.rfft(x[..., 0].astype(np.float64))
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(z, x, atol=1e-6)


def test_a_real_signal_of_prime_length() -> None:
    n = 1031
    x = np.random.default_rng(n).normal(size=(1, n))
    spectrum = np.fft.rfft(x)
    m = model([node("DFT", ["y", "n"], ["z"], onesided=1, inverse=1)], [value("y", 1, n // 2 + 1, 2, dtype=F64)], ["z"],
              {"n": np.array(n)}, opset=20)  # fmt: skip
    (z,) = run(m, np.stack([spectrum.real, spectrum.imag], -1))
    np.testing.assert_allclose(z[..., 0], x, atol=1e-12)


def test_what_cancels_is_zero() -> None:
    """A sine has one frequency: the others are zero in f32 after sums in f64."""
    t = np.arange(256)
    x = np.sin(2 * np.pi * 5 * t / 256).astype(np.float32).reshape(1, 256, 1)
    (y,) = run(model([node("DFT", ["x"], ["y"], onesided=1)], [value("x", 1, 256, 1)], ["y"], opset=20), x)
    assert np.abs(y[0, 5, 1] + 128) < 1e-4
    assert np.abs(np.delete(y[0], 5, 0)).max() < 5e-5  # the rounding of the signal itself


@pytest.mark.parametrize(("length", "axis"), [(5, 1), (12, 1), (8, 2)])
def test_lengths_and_axes(length: int, axis: int) -> None:
    m = model([node("DFT", ["x", "n", "axis"], ["y"])], [value("x", 3, 8, 6, 1)], ["y"],
              {"n": np.array(length), "axis": np.array(axis)}, opset=20)  # fmt: skip
    check_reference(m, draw(3, 8, 6, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_determinants(n: int) -> None:
    x = draw(4, n, n)
    x[1, 0] = 0 if n > 1 else x[1, 0]
    if n > 2:
        x[2, 0, 0] = 0  # the first pivot is in another row
    (y,) = run(model([node("Det", ["x"], ["y"])], [value("x", 4, n, n)], ["y"], opset=22), x)
    np.testing.assert_allclose(y, np.linalg.det(x.astype(np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_running_products(exclusive: int, reverse: int) -> None:
    n = node("CumProd", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    check_reference(model([n], [value("x", 3, 11, 2)], ["y"], {"axis": np.array(1)}, opset=26), draw(3, 11, 2))
