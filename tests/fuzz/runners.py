"""What a random model is given to: the interpreter, every target, and implementations of others.

A runner takes a model and arrays by input name and gives the outputs in the model's order.  It raises Declined for what its
target does not take.
"""

from __future__ import annotations

import functools
import os
import pickle
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from codegen.native_program import NativeProgram, compile_texts, program_text
from onnx.reference import ReferenceEvaluator
from tilewright.codegen.lower import lower
from tilewright.compiler.api import compile
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages
from tilewright.compiler.targets import find_target
from tilewright.frontend.onnx import import_model
from tilewright.frontend.onnx.importer import import_graph
from tilewright.frontend.onnx.reader import read_model
from tilewright.ir.errors import InternalError, ModelError, OptionError, TilewrightError
from tilewright.ir.interpreter import run_graph

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[onnx.ModelProto, Arrays], list[np.ndarray]]


class Declined(Exception):
    """The target does not take the model, and says so."""


def _declines(runner: Runner) -> Runner:
    @functools.wraps(runner)
    def run(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
        try:
            return runner(model, arrays)
        except InternalError:
            raise
        except TilewrightError as error:
            raise Declined(f"{type(error).__name__}: {error}") from None

    return run


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {n: a.shape for n, a in arrays.items()}


def interpreter(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """With the shapes bound; where dimensions have names, also with them open.  An open dimension that meets another in a
    broadcast is taken to be equal to it (`Refine`), and a run with 1 is refused."""
    bound = run_graph(import_model(model, shapes=_shapes(arrays)), list(arrays.values()))
    if any(d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim):
        try:
            graph = import_model(model)
        except TilewrightError:
            return bound  # sizes that must be known
        try:
            outputs = run_graph(graph, list(arrays.values()))
        except ModelError as error:
            if str(error).startswith("Refine: "):
                return bound
            raise
        for a, b in zip(bound, outputs, strict=True):
            np.testing.assert_array_equal(a, b, "with open dimensions")
    return bound


MACHINES = ("cpu", "cpu:x86-64-v3", "cpu:x86-64-v2")


def cpu(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """Machine code in guarded memory full of NaNs, for a machine chosen by the model, on one thread and on two."""
    options, target = make_options("cpu"), find_target("cpu")
    machine: Any = target.machine(MACHINES[len(model.SerializeToString()) % len(MACHINES)])
    source = read_model(model)
    graph = import_graph(source, _shapes(arrays))
    fused = run_passes(graph, options, Stages(lambda *_: None), lambda *_: None, target.passes_for(options),
                       target.native(machine))  # fmt: skip
    program = lower(fused, machine, "random")
    native = NativeProgram(program, compile_texts([program_text(program, "p", machine)], machine), "p.tw_main")
    one = native.run(list(arrays.values()), 1)
    for a, b in zip(one, native.run(list(arrays.values()), 2), strict=True):
        np.testing.assert_array_equal(a, b, "one thread and two")
    return one


def library(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """The shared library, as users get it."""
    module = compile(model, shapes=_shapes(arrays), cache=False, jobs=1).load()
    return [np.asarray(a) for a in module(*arrays.values())]


def bounds(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """The library with every access checked."""
    module = compile(model, shapes=_shapes(arrays), cache=False, jobs=1, debug_bounds=True).load(threads=2)
    return [np.asarray(a) for a in module(*arrays.values())]


def _target(name: str) -> Runner:
    def run(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
        module = compile(model, target=name, shapes=_shapes(arrays), cache=False).load()
        return [np.asarray(a) for a in module(*arrays.values())]

    return run


def cuda(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    from tilewright.compiler.emulating import emulate

    return [np.asarray(a) for a in emulate(model, shapes=_shapes(arrays))(*arrays.values())]


def fpga(model: onnx.ModelProto, arrays: Arrays, max_error: float = 1e9) -> list[np.ndarray]:
    """The C simulation, calibrated on these very inputs.  max_error: 0 for the bound that users get."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        np.savez(path, **{n: a[None] for n, a in arrays.items()})
        settings = {"max_error": max_error, "calibration": str(path)}
        module = compile(model, target="fpga:u250", shapes=_shapes(arrays), fpga=settings, cache=False).load()
        return [np.asarray(a) for a in module(*arrays.values())]


def too_coarse(model: onnx.ModelProto, arrays: Arrays) -> str:
    """The words with which the usual bound on the error refuses a model for FPGA, or ""."""
    try:
        fpga(model, arrays, 0.0)
    except OptionError as error:
        return str(error).splitlines()[0]
    return ""


def reference(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(arrays))]
    except Exception as error:
        raise Declined(f"{type(error).__name__}: {error}") from None


PEER_PYTHON = "TILEWRIGHT_FUZZ_PEERS"


@functools.cache
def _peer(process: int) -> subprocess.Popen[bytes]:
    """A server of this process.  The variable names the Python of an environment with onnxruntime."""
    server = Path(__file__).with_name("peer_server.py")
    return subprocess.Popen([os.environ[PEER_PYTHON], "-P", str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})  # fmt: skip


def onnxruntime(model: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    if PEER_PYTHON not in os.environ:
        raise Declined(f"{PEER_PYTHON} is not set")
    peer = _peer(os.getpid())
    assert peer.stdin and peer.stdout
    data = pickle.dumps((model.SerializeToString(), dict(arrays)))
    peer.stdin.write(struct.pack("<q", len(data)) + data)
    peer.stdin.flush()
    status, value = pickle.loads(peer.stdout.read(struct.unpack("<q", peer.stdout.read(8))[0]))
    if status != "ok":
        raise Declined(str(value))
    return [np.asarray(a) for a in value]


RUNNERS: Mapping[str, Runner] = {
    "interpreter": interpreter, "cpu": _declines(cpu), "library": _declines(library), "bounds": _declines(bounds),
    "cuda": _declines(cuda), "xla": _declines(_target("xla:cpu")), "tvm": _declines(_target("tvm:llvm -opt-level=0")),
    "fpga": _declines(fpga), "reference": reference, "onnxruntime": onnxruntime,
}  # fmt: skip
PEERS = ("reference", "onnxruntime")
