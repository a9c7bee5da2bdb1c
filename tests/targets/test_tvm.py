"""The bridge to TVM: modules for build scripts, artifacts of the tvm target."""

from __future__ import annotations

import functools
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
import tilewright
from targets.networks import resnet50_onnx
from targets.test_xla import by_interpreter, loop_model
from tilewright.ir.errors import OptionError, TargetError
from tilewright.ir.expr import Var
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.control import BOOL, I64, Loop
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.ops.reduce import Reduce
from tilewright.ir.types import TensorType
from tilewright.targets.loader import Module
from tilewright.targets.tvm.build import _reason, require_tvm
from tilewright.targets.tvm.host import resolve_machine

tvm = pytest.importorskip("tvm", reason="TVM is not installed: pip install 'tilewright[tvm]'")

SMALL = ((1, 8, 1), (2, 16, 2))  # stages of a residual network


def block() -> Graph:
    b = Builder("block")
    x = b.input("x", TensorType("f32", (1, 8, 8, 16)))
    w = b.constant(np.ones((3, 3, 16, 32), np.float32), "w")
    y = b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 1), x, w)
    return b.graph([b.add(Binary("max"), y, b.constant(np.zeros((), np.float32)))], ["y"])


def test_a_build_script_gets_a_module_and_its_weights() -> None:
    from tilewright.compiler import to_tvm

    module, weights = to_tvm(block())
    assert "R.nn.conv2d" in str(module)
    assert [w.shape for w in weights] == [(3, 3, 16, 32)]
    assert int(module["main"].attrs["num_input"]) == 1


def test_a_network_runs_and_is_right() -> None:
    model = resnet50_onnx(stages=SMALL, size=32)
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    artifact = tilewright.compile(model.SerializeToString(), "tvm:llvm", name="net", cache=False)
    assert set(artifact.files) == {"net.so", "net.relax.py", "net.safetensors"}
    module = artifact.load()
    (got,), (want,) = module(x), by_interpreter(model, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
    y = np.empty_like(got)
    module.bind([x], [y])()
    np.testing.assert_array_equal(y, got)
    module.close()
    with pytest.raises(OptionError, match="net is closed"):
        module(x)


def test_a_gpu_needs_no_gpu_to_compile_for() -> None:
    from tilewright.compiler import to_tvm

    b = Builder("product")
    x = b.input("x", TensorType("f32", (64, 64)))
    module, _ = to_tvm(b.graph([b.add(MatMul(), x, x)], ["y"]))
    target = tvm.target.Target({"kind": "opencl", "max_threads_per_block": 256, "thread_warp_size": 1})
    from tvm.s_tir import dlight

    with target:
        scheduled = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(tvm.relax.transform.LegalizeOps()(module))
    assert "blockIdx.x" in str(scheduled)


@pytest.mark.parametrize(("n", "limit", "want"), [(0, 1e9, 1), (4, 1e9, 5), (100, 20.0, 7), (1 << 40, 3e4, 10_000)])
def test_loops_run_until_their_condition_or_count(n: int, limit: float, want: float) -> None:
    module = loops()
    (got,) = module(np.array(n), np.ones(3, np.float32), np.array(limit, np.float32))
    np.testing.assert_array_equal(got, np.full(3, want, np.float32))


@functools.cache
def loops() -> Module:
    return tilewright.compile(loop_model(), "tvm:llvm", cache=False).load()


def test_loops_of_unknown_length_that_keep_slices_are_refused() -> None:
    from tilewright.compiler import to_tvm

    b = Builder("growing")
    body = Builder("body")
    i, go = body.input("i", I64), body.input("go", BOOL)
    op = Loop(body.graph([go, i], ["go", "kept"]), 0, 1, Var.of("count", None))
    made = b.add_multi(op, b.input("n", I64), b.constant(np.array(True)))
    (total,) = b.add_multi(Reduce("sum", (0,), False), *made)
    with pytest.raises(TargetError, match=r"Loop.*give the loop a constant trip count"):
        to_tvm(b.graph([total], ["total"]))


@pytest.mark.parametrize(("target", "name"), [("xla:cpu", "XLA"), ("tvm:llvm", "TVM")])
def test_strings_are_refused(target: str, name: str) -> None:
    graph = onnx.parser.parse_graph("g (string[2] x) => (bool[2] y) { y = Equal(x, x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(TargetError, match=f"x: {name} has no strings; use the target cpu"):
        tilewright.compile(model, target, cache=False)


def test_the_reason_is_found_in_a_trace() -> None:
    trace = "Traceback:\n  RuntimeError: no compiler\n  at here\n(... 49 lines skipped ...)\n"
    assert _reason(RuntimeError(trace)) == "RuntimeError: no compiler"
    assert _reason(ValueError("")) == "ValueError"


def test_wrong_targets_are_refused() -> None:
    with pytest.raises(OptionError, match="expected a TVM target such as llvm"):
        resolve_machine("tvm:abacus")
    assert resolve_machine("tvm").name == "llvm"
    with pytest.raises(TargetError, match=r"TVM refuses the target"):
        tilewright.compile(resnet50_onnx(stages=SMALL, size=32).SerializeToString(), "tvm:llvm -frobnicate=1", cache=False)


def test_a_missing_package_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(TargetError, match=r"apache-tvm is missing.*pip install 'tilewright\[tvm\]'"):
        require_tvm()
