"""Backends with the interface of `onnx.backend.base`, so that the ONNX test suite and its runners drive every target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from ..frontend.onnx import check_supported, import_model
from ..ir.errors import OptionError
from ..ir.interpreter import run_graph

Shapes = dict[str, tuple[int, ...]]
Runner = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class BoundModel(BackendRep):
    """A model that is prepared for the shapes of its inputs when they are seen, once for each."""

    def __init__(self, model: onnx.ModelProto, prepare: Callable[[onnx.ModelProto, Shapes], Runner]) -> None:
        self.model = model
        self.prepare = prepare
        constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
        self.names = [v.name for v in model.graph.input if v.name not in constants]
        self.runners: dict[tuple[tuple[int, ...], ...], Runner] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for arrays in the order of the graph's inputs."""
        arrays = [np.asarray(x) for x in inputs]
        if len(arrays) != len(self.names):
            raise OptionError(f"the model has the inputs {', '.join(self.names)}, got {len(arrays)} arrays")
        return tuple(self.runner_for([a.shape for a in arrays])(arrays))

    def runner_for(self, shapes: Sequence[tuple[int, ...]]) -> Runner:
        key = tuple(shapes)
        if key not in self.runners:
            self.runners[key] = self.prepare(self.model, dict(zip(self.names, key, strict=True)))
        return self.runners[key]


def declared_shapes(model: onnx.ModelProto, names: Sequence[str]) -> list[tuple[int, ...]] | None:
    """The shapes of the inputs as the model declares them; None if one has an open dimension, or is no tensor."""
    shapes: list[tuple[int, ...]] = []
    for v in model.graph.input:
        t = v.type.tensor_type
        if v.name in names:
            if not t.HasField("shape") or not all(d.HasField("dim_value") and d.dim_value >= 0 for d in t.shape.dim):
                return None
            shapes.append(tuple(d.dim_value for d in t.shape.dim))
    return shapes


class InterpreterBackend(Backend):
    """Runs the imported graph with NumPy."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BoundModel:
        """Raises ModelError for operators that are not supported, and, unless dimensions are open until it runs, for
        everything else that keeps the model from being imported."""
        check_supported(model)
        prepared = BoundModel(model, cls.bound)
        shapes = declared_shapes(model, prepared.names)
        if shapes is not None:
            prepared.runner_for(shapes)
        return prepared

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
