"""Backends with the interface of `onnx.backend.base`, so that the ONNX test suite and its runners drive every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ..frontend.onnx import NotConstantError, check_supported, import_model
from ..frontend.onnx.inputs import tensors_of
from ..ir.errors import OptionError
from ..ir.graph import Graph, Value
from ..ir.interpreter import run_graph
from ..ir.ops.control import Loop
from ..ir.ops.data_sized import DataSized
from .onnx_values import as_declared, flattened, gathered, has_only_tensors, stored, without_maps

Shapes = dict[str, tuple[int, ...]]
Runner = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]

_LARGEST_FIXED = 1024  # elements of an input that becomes a constant


class BoundModel(BackendRep):
    """A model that is prepared when its inputs are seen, once for their shapes.

    Some operators need operands while compiling (axes, sizes, repeats).  Where a model takes these as inputs, as the test
    suite likes to, they become constants of the prepared model: it is then prepared once for their values too.
    """

    def __init__(self, model: onnx.ModelProto, prepare: Callable[[onnx.ModelProto, Shapes], Runner]) -> None:
        self.model = model
        self.prepare = prepare
        self.names = input_names(model)
        self.fixed: set[str] = set()
        self.runners: dict[tuple[object, ...], Runner] = {}

    def prepare_declared(self) -> None:
        """Prepare now if the model declares every shape, so that what keeps it from being imported shows early."""
        declared = declared_shapes(self.model, self.names)
        if declared is not None:
            with suppress(NotConstantError):  # its values are needed too: they come with `run`
                self._runner(declared, {})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for values in the order of the graph's inputs: arrays, lists of them for sequences, or None."""
        declared = model_inputs(self.model)
        if len(inputs) != len(declared):
            raise OptionError(f"the model has the inputs {', '.join(v.name for v in declared)}, got {len(inputs)} values")
        inputs = without_maps(declared, inputs)
        if not has_only_tensors(self.model):
            flat, tensors = flattened(self.model, dict(zip(self.names, inputs, strict=True)))
            return BoundModel(flat, self.prepare).run(list(tensors.values()))
        arrays = dict(zip(self.names, map(stored, inputs), strict=True))
        shapes = {n: a.shape for n, a in arrays.items()}
        while True:
            fixed = {n: arrays[n] for n in self.fixed}
            try:
                made = self._runner(shapes, fixed)([a for n, a in arrays.items() if n not in fixed])
                return self._as_declared(made, shapes, fixed)
            except NotConstantError as e:
                new = {n for n in e.inputs if n in arrays and arrays[n].size <= _LARGEST_FIXED} - self.fixed
                if not new:
                    raise
                self.fixed |= new

    def _as_declared(self, made: Sequence[np.ndarray], shapes: Shapes, fixed: dict[str, np.ndarray]) -> tuple[Any, ...]:
        outputs = self.model.graph.output
        if all(v.type.HasField("tensor_type") for v in outputs):
            return tuple(as_declared(a, v) for a, v in zip(made, outputs, strict=True))
        free = {n: shape for n, shape in shapes.items() if n not in fixed}
        names = import_model(with_constants(self.model, fixed), shapes=free).output_names
        return gathered(outputs, dict(zip(names, made, strict=True)))

    def _runner(self, shapes: Shapes, fixed: dict[str, np.ndarray]) -> Runner:
        key = tuple((shape, fixed[n].tobytes() if n in fixed else None) for n, shape in shapes.items())
        if key not in self.runners:
            free = {n: shape for n, shape in shapes.items() if n not in fixed}
            self.runners[key] = self.prepare(with_constants(self.model, fixed), free)
        return self.runners[key]


def declared_shapes(model: onnx.ModelProto, names: Sequence[str]) -> Shapes | None:
    """The shapes of the inputs as the model declares them; None if one has an open dimension."""
    shapes: Shapes = {}
    for v in model.graph.input:
        t = v.type.tensor_type
        if v.name in names:
            if not t.HasField("shape") or not all(d.HasField("dim_value") and d.dim_value >= 0 for d in t.shape.dim):
                return None
            shapes[v.name] = tuple(d.dim_value for d in t.shape.dim)
    return shapes


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs without those that have a default value; these are constants."""
    constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v for v in model.graph.input if v.name not in constants]


def input_names(model: onnx.ModelProto) -> list[str]:
    """The tensors that these are given as."""
    return [tensor.name for v in model_inputs(model) for tensor in tensors_of(v)]


def with_constants(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model with inputs replaced by constants."""
    if not values:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    declared = {v.name: v for v in model.graph.input}
    result.graph.initializer.extend(onnx.numpy_helper.from_array(as_declared(a, declared[n]), n) for n, a in values.items())
    return result


def fix_sizes(graph: Graph, loops_only: bool = False) -> None:
    """Raises NotConstantError for inputs whose data sizes a result, which a target with fixed sizes needs while compiling:
    how often a loop runs; unless loops_only, what Compress keeps, if other inputs remain."""
    loops = [n for n in graph.nodes if isinstance(n.op, Loop) and n.op.scanned and not isinstance(n.op.length, int)]
    names = _origins(graph, {v for n in loops for v in n.inputs[:2]})
    if not names and not loops_only:
        names = _origins(graph, {v for n in graph.nodes if isinstance(n.op, DataSized) for v in n.inputs})
        names = names if len(names) < len(graph.inputs) else ()
    if names:
        raise NotConstantError(f"{', '.join(names)} must be known: their data size a result", names)


def _origins(graph: Graph, values: set[Value]) -> tuple[str, ...]:
    """The inputs that values are computed from."""
    needed = set(values)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
    return tuple(v.name for v in graph.inputs if v in needed)


class InterpreterBackend(Backend):
    """Runs the imported graph with NumPy."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BoundModel:
        """Raises ModelError for a model that cannot be imported; with open dimensions that may show when it runs."""
        check_supported(model)
        prepared = BoundModel(model, cls.bound)
        if has_only_tensors(model):
            prepared.prepare_declared()
        return prepared

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        graph = import_model(model, shapes=shapes)
        return lambda arrays: run_graph(graph, arrays)


def _compiled(model: onnx.ModelProto, shapes: Shapes, target: str, *, loops_only: bool = False, **options: Any) -> Runner:
    """Runs the artifact.  Raises what `fix_sizes` does for sizes that the target must know while compiling."""
    from .api import compile

    fix_sizes(import_model(model, shapes=shapes), loops_only=loops_only)
    module = compile(model, target=target, shapes=shapes, **options).load()
    return lambda arrays: module(*arrays)


class CpuBackend(InterpreterBackend):
    """Runs the compiled library."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        return _compiled(model, shapes, "cpu", loops_only=True)


class XlaCpuBackend(InterpreterBackend):
    """Runs the StableHLO module on XLA's processor client."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        return _compiled(model, shapes, "xla:cpu", cache=False)


class TvmBackend(InterpreterBackend):
    """Runs what TVM compiles for the processor."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        return _compiled(model, shapes, "tvm:llvm", cache=False)


class CudaEmulatorBackend(InterpreterBackend):
    """Runs the kernels of a CUDA target in the emulator."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        from .emulating import emulate

        fix_sizes(import_model(model, shapes=shapes))
        module = emulate(model, shapes=shapes)
        return lambda arrays: module(*arrays)


class HlsCsimBackend(InterpreterBackend):
    """Runs the C simulation of the FPGA project, in 16-bit fixed point calibrated on random data."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        return _compiled(model, shapes, "fpga:u250", fpga={"max_error": 1e9}, cache=False)
