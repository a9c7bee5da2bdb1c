"""Backends with the interface of `onnx.backend.base`, so that the ONNX test suite and its runners drive every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ..frontend.onnx import NotConstantError, check_supported, import_model
from ..ir.errors import ModelError, OptionError
from ..ir.interpreter import run_graph

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

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for arrays in the order of the graph's inputs."""
        arrays = dict(zip(self.names, map(np.asarray, inputs), strict=False))
        if len(inputs) != len(self.names):
            raise OptionError(f"the model has the inputs {', '.join(self.names)}, got {len(inputs)} arrays")
        while True:
            try:
                return tuple(self._runner(arrays)([a for n, a in arrays.items() if n not in self.fixed]))
            except NotConstantError as e:
                new = {n for n in e.inputs if n in arrays and arrays[n].size <= _LARGEST_FIXED} - self.fixed
                if not new:
                    raise
                self.fixed |= new

    def _runner(self, arrays: dict[str, np.ndarray]) -> Runner:
        key = tuple((a.shape, a.tobytes() if n in self.fixed else b"") for n, a in arrays.items())
        if key not in self.runners:
            free = {n: a.shape for n, a in arrays.items() if n not in self.fixed}
            model = with_constants(self.model, {n: arrays[n] for n in self.fixed})
            self.runners[key] = self.prepare(model, free)
        return self.runners[key]


def input_names(model: onnx.ModelProto) -> list[str]:
    """The inputs without those that have a default value; these are constants."""
    constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v.name for v in model.graph.input if v.name not in constants]


def with_constants(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model with inputs replaced by constants."""
    if not values:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in values.items())
    return result


class InterpreterBackend(Backend):
    """Runs the imported graph with NumPy."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BoundModel:
        """Raises ModelError for operators that are not supported; everything else shows when it runs."""
        check_supported(model)
        for v in model.graph.input:
            if not v.type.HasField("tensor_type"):
                raise ModelError(f"input {v.name!r}: only tensors are supported, got {v.type.WhichOneof('value')}")
        return BoundModel(model, cls.bound)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        graph = import_model(model, shapes=shapes)
        return lambda arrays: run_graph(graph, arrays)


class CpuBackend(InterpreterBackend):
    """Runs the compiled library."""

    @staticmethod
    def bound(model: onnx.ModelProto, shapes: Shapes) -> Runner:
        from .api import compile

        module = compile(model, target="cpu", shapes=shapes).load()
        return lambda arrays: module(*arrays)
