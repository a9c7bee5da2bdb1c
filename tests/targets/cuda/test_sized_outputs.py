"""Outputs of a size that data tells, by whole libraries on the driver of the tests."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx.helper as oh
import pytest
from onnx import TensorProto
from tilewright.compiler.emulating import TARGET, cuda_program
from tilewright.compiler.options import make_options
from tilewright.ir.errors import TilewrightError
from tilewright.targets.artifact import Artifact
from tilewright.targets.cuda.loader import CudaModule, load_on

from .driven import driven_artifact, fake_driver
from .test_library import OnDevice

X = np.array([[0, 1.5, 0, 2], [3, 0, 0, 0], [0, 0, 0, -1]], np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """NonZero(x) and x + x."""
    inputs = [oh.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)]
    outputs = [oh.make_tensor_value_info("places", TensorProto.INT64, [2, "n"]),
               oh.make_tensor_value_info("double", TensorProto.FLOAT, X.shape)]
    nodes = [oh.make_node("NonZero", ["x"], ["places"]), oh.make_node("Add", ["x", "x"], ["double"])]
    model = oh.make_model(oh.make_graph(nodes, "sized", inputs, outputs), opset_imports=[oh.make_opsetid("", 20)])
    program, machine = cuda_program(model, make_options(TARGET))
    return driven_artifact(program, machine, name="sized")


@pytest.fixture
def module(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaModule]:
    driver = fake_driver()
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", driver.path)
    driver.fake_reset()
    with load_on(artifact.save(tmp_path / "sized"), 0) as opened:
        assert isinstance(opened, CudaModule)
        yield opened
    driver.fake_reset()


def test_results_have_the_size_that_the_run_gives(module: CudaModule) -> None:
    assert module.outputs[0].run_time_axes == (1,) and module.outputs[0].shape == (2, 12)
    for x in (X, np.zeros_like(X), np.ones_like(X)):
        places, double = module(x)
        np.testing.assert_array_equal(places, np.stack(np.nonzero(x)))
        np.testing.assert_array_equal(double, x + x)


def test_arrays_on_the_device_have_it_too(module: CudaModule) -> None:
    places, double = module(OnDevice(module, X))
    assert (places.shape, double.shape) == ((2, 4), (3, 4))
    memory = (ctypes.c_int64 * 8).from_address(places.address & ~(1 << 56))
    np.testing.assert_array_equal(np.array(list(memory)).reshape(2, 4), np.stack(np.nonzero(X)))


def test_before_a_run_there_is_no_shape(module: CudaModule) -> None:
    with pytest.raises(TilewrightError, match="output 0 has the shape that a run gives it"):
        module.output_shape(0)
    assert module.output_shape(1) == (3, 4)
    module(X)
    assert module.output_shape(0) == (2, 4)
