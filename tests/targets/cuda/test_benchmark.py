"""What benchmarks/gpu.py does beside measuring: the peers that are not there are gaps, XLA runs the same model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
DIGITS = str(ROOT / "examples" / "digits" / "digits.onnx")


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_jax_times_the_same_model(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax")
    shapes = gpu.input_shapes(DIGITS, 1, {})
    arrays = [np.zeros(s, np.float32) for s in shapes.values()]
    time = gpu.time_jax(DIGITS, shapes, arrays, 3, "f32", platform="cpu")
    assert time is not None and time > 0
    assert gpu.time_jax(DIGITS, shapes, arrays, 3, "tf32") is None
    assert gpu.time_jax(DIGITS, shapes, arrays, 3, "f32", platform="no such thing") is None
    assert "JAX: XLA cannot compile" in capsys.readouterr().out


def test_the_table_comes_with_gaps(gpu: ModuleType) -> None:
    rows = [gpu.Row("a.onnx", 1, "f32", 1e-6, 1.0, 2.0, None, 3.0, None, 4.0)]
    heading, line = gpu.table(rows).splitlines()
    assert heading.split()[:3] == ["model", "batch", "precision"] and "JAX, ms" in heading
    assert line.split() == ["a.onnx", "1", "f32", "1.0e-06", "1.000", "2.000", "-", "3.000", "-", "4.0"]


def test_open_dimensions_take_the_batch(gpu: ModuleType) -> None:
    shapes = gpu.input_shapes(DIGITS, 64, {})
    assert all(s[0] in (1, 64) for s in shapes.values())
