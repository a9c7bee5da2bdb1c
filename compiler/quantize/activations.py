"""Run a float model over samples and look at the values inside it: calibration for quantization, pruning and the like.

    runner = ActivationRunner("model.onnx", tensors=["x1", "x2"])
    for values in runner.stream(samples):            # one mapping per run: {"x1": array, "x2": array}
        statistics["x1"].add(values["x1"])

The model is compiled for this processor with the tensors as outputs, once per shape of the inputs; the artifacts are
found again in the user's cache.  Nothing is interpreted.

Memory: no more than `memory` bytes of tensors are alive at a time.  Where the tensors of one run are larger, they are
shared out on several artifacts, each of which stops at the last tensor that it exposes; then `stream` gives several
mappings for one sample, and every tensor is in exactly one of them.  Take statistics per tensor as it comes, and keep no
array that was given.

Tensors are named as in the ONNX file and have ONNX's layout (N, C, H, W).  Any value of the top-level graph can be named,
also an input or an output of the model; values inside of If, Loop and functions cannot.  Shapes may differ from sample to
sample.  Errors: ModelError for a name that the model does not compute, OptionError for samples that do not fit the inputs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from ...frontend.onnx import import_model
from ...frontend.onnx.inputs import bind_inputs
from ...ir.errors import ModelError
from ...ir.types import DTYPES, TensorType
from ...targets.artifact import Artifact
from ...targets.cpu.naming import c_prefix
from ...targets.loader import Module
from ..api import compile_with
from ..cache import open_cache
from ..driver import compile_model
from ..onnx_edit import Model, OnnxEdit
from ..options import make_options
from ..targets import find_target
from .samples import Batch, Samples, Source, as_samples

MEMORY = 512 << 20  # bytes of exposed tensors per run
_LOADED = 8  # artifacts that stay open; each holds a copy of the weights
Signature = tuple[tuple[str, tuple[int, ...]], ...]


class ActivationRunner:
    """tensors: what `stream` and `run` give, in execution order; the model's outputs if none are named.
    inputs: the types of the model's inputs, as `read_samples` takes them.  threads: of one run; None: all that help."""

    def __init__(
        self, model: Model, tensors: Sequence[str] | None = None, *, base_dir: Path | None = None, memory: int = MEMORY,
        threads: int | None = None, cache: bool = True,
    ) -> None:
        edit = OnnxEdit(model, base_dir)
        known = {*edit.inputs, *(name for n in edit.nodes for name in n.output if name)}
        unknown = [t for t in tensors or () if t not in known]
        if unknown:
            raise ModelError(f"{edit.name}: no value is called {', '.join(map(repr, unknown[:5]))}; use the file's names")
        self.tensors = tuple(dict.fromkeys(tensors)) if tensors else tuple(edit.outputs)
        edit.set_outputs(self.tensors)
        self._proto = edit.finish()
        self._name, self._memory, self._threads, self._cache = edit.name, memory, threads, cache
        self.inputs: dict[str, TensorType] = declared_inputs(self._proto)
        self._groups: dict[Signature, tuple[tuple[str, ...], ...]] = {}
        self._modules: OrderedDict[tuple[Signature, tuple[str, ...]], Module] = OrderedDict()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All tensors of one run, whatever memory they take."""
        return {name: a for values in self._parts(Batch(inputs)) for name, a in values.items()}

    def stream(self, samples: Samples | Source) -> Iterator[dict[str, np.ndarray]]:
        """The tensors of each run, in mappings of at most `memory` bytes."""
        for batch in as_samples(samples, self.inputs):
            yield from self._parts(batch)

    def close(self) -> None:
        """Free the artifacts; the runner can still be used."""
        with ExitStack() as stack:
            for module in self._modules.values():
                stack.callback(module.close)
            self._modules.clear()

    def _parts(self, batch: Batch) -> Iterator[dict[str, np.ndarray]]:
        signature = batch.signature
        if signature not in self._groups:
            self._groups[signature] = self._divided(signature)
        for group in self._groups[signature]:
            module = self._module(signature, group)
            names = [spec.name for spec in module.inputs]
            results = module({n: batch.inputs[n] for n in names} if names else {})
            yield dict(zip(group, results, strict=True))

    def _divided(self, signature: Signature) -> tuple[tuple[str, ...], ...]:
        """The tensors in groups that fit the memory, in execution order."""
        graph = import_model(self._proto, shapes=dict(signature))
        groups: list[tuple[str, ...]] = []
        room = 0
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            size = int(np.prod(value.type.static_shape, dtype=np.int64)) * DTYPES[value.type.dtype].size
            if groups and size <= room:
                groups[-1] += (name,)
            else:
                groups.append((name,))
                room = self._memory
            room -= size
        return tuple(groups)

    def _module(self, signature: Signature, group: tuple[str, ...]) -> Module:
        key = signature, group
        if key in self._modules:
            self._modules.move_to_end(key)
            return self._modules[key]
        while len(self._modules) >= _LOADED:
            self._modules.popitem(last=False)[1].close()
        self._modules[key] = load_compiled(
            with_outputs(self._proto, group), signature, threads=self._threads, cache=self._cache
        )
        return self._modules[key]


def with_outputs(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """The same model with fewer outputs; nodes that they do not need are compiled away."""
    if [v.name for v in proto.graph.output] == list(names):
        return proto
    made = ModelProto()
    made.CopyFrom(proto)
    by_name = {v.name: v for v in proto.graph.output}
    del made.graph.output[:]
    made.graph.output.extend(by_name[n] for n in names)
    return made


def load_compiled(
    model: Model, signature: Signature = (), *, threads: int | None = None, cache: bool = True,
    base_dir: str | os.PathLike[str] | None = None,
) -> Module:
    """The model compiled for this processor and these shapes, loaded.  Passes' own checks are left out for speed."""
    options = make_options("cpu", shapes=dict(signature), name="model", verify=False)
    place = None if base_dir is None else Path(base_dir)
    done = compile_model(model, options, base_dir=place, cache=open_cache() if cache else None)
    return done.artifact.load(threads)


def compile_as(
    model: ModelProto, name: str, signature: Signature, target: str, options: dict[str, Any], any_size: bool = False
) -> Artifact:
    """The artifact of a model that is called so; options: those of `tilewright.compile`.  Open dimensions that the options do
    not bind are those of samples of these shapes.  any_size: they stay open where the target takes any size."""
    bound = options.get("shapes") or options.get("dims") or (any_size and find_target(target).name == "cpu")
    shapes = {} if bound else {"shapes": dict(signature)}
    return compile_with(model, target, **{"name": c_prefix(name), **shapes, **options}).artifact


def declared_inputs(proto: ModelProto) -> dict[str, TensorType]:
    """The types of a model's inputs; open dimensions are symbolic."""
    constants = {t.name for t in proto.graph.initializer}
    return bind_inputs([v for v in proto.graph.input if v.name not in constants])
