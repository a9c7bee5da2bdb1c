"""An ONNX model that is being changed: constants as arrays, producers and users by name, nodes added and replaced.

What compresses a model (quantization, pruning) writes an ONNX file again, so it works on the ONNX graph itself.  Only the
top-level graph is edited; subgraphs of control flow keep the names that they capture.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ..frontend.onnx.reader import ModelFile, read_model
from ..frontend.onnx.structure import outer_names

Model = Union[str, "os.PathLike[str]", bytes, ModelProto]


class OnnxEdit:
    """proto: the model, owned by this object; its initializers are in `constants` until `finish`.

    constants: arrays by name, of initializers and of Constant nodes that hold one tensor.  Raises ModelError for what is no
    ONNX model or has damaged tensors.
    """

    def __init__(self, model: Model, base_dir: Path | None = None) -> None:
        source = model
        if isinstance(model, ModelProto):
            source = ModelProto()
            source.CopyFrom(model)
        elif isinstance(model, os.PathLike):
            source = os.fspath(model)
        file = read_model(source, base_dir)  # type: ignore[arg-type]
        self.name, self.proto, self.opsets = file.name, file.proto, file.opsets
        self.constants: dict[str, np.ndarray] = {}
        self._read_constants(file)
        self._names = {n for v in self.nodes for n in (*v.input, *v.output)} | set(self.constants)
        self._names |= {v.name for v in (*self.graph.input, *self.graph.output)}

    def copy(self) -> OnnxEdit:
        """Another one over the same arrays."""
        made = object.__new__(OnnxEdit)
        made.name, made.opsets, made.proto = self.name, self.opsets, ModelProto()
        made.proto.CopyFrom(self.proto)
        made.constants, made._names = dict(self.constants), set(self._names)
        return made

    def _read_constants(self, file: ModelFile) -> None:
        graph = file.proto.graph
        plain = []
        for t in graph.initializer:
            array = file.tensors.read(t, f"initializer {t.name!r}")
            if t.data_type in _NARROW_CODES:
                plain.append(t)  # kept as it is: NumPy has no such type
            else:
                self.constants[t.name] = array
        del graph.initializer[:]
        graph.initializer.extend(plain)
        kept = []
        for node in graph.node:
            if node.op_type == "Constant" and not node.domain and len(node.attribute) == 1:
                array = _constant_value(node, file)
                if array is not None:
                    self.constants[node.output[0]] = array
                    continue
            kept.append(node)
        del graph.node[:]
        graph.node.extend(kept)
        overridden = [v for v in graph.input if v.name not in self.constants]
        del graph.input[:]
        graph.input.extend(overridden)

    # ---- looking ----

    @property
    def graph(self) -> onnx.GraphProto:
        return self.proto.graph

    @property
    def nodes(self) -> Iterable[NodeProto]:
        return self.proto.graph.node

    @property
    def inputs(self) -> list[str]:
        return [v.name for v in self.graph.input]

    @property
    def outputs(self) -> list[str]:
        return [v.name for v in self.graph.output]

    def producers(self) -> dict[str, NodeProto]:
        return {name: n for n in self.nodes for name in n.output if name}

    def users(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value, with those that capture it in a subgraph; graph outputs are not counted."""
        found: dict[str, list[NodeProto]] = {}
        for n in self.nodes:
            for name in dict.fromkeys([*n.input, *outer_names([n])]):
                if name:
                    found.setdefault(name, []).append(n)
        return found

    # ---- changing ----

    def unique(self, name: str) -> str:
        """A name that no value has yet; it is taken from now on."""
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}_{count}", count + 1
        self._names.add(candidate)
        return candidate

    def constant(self, array: np.ndarray, name: str) -> str:
        """A new constant; the name that it got."""
        name = self.unique(name)
        self.constants[name] = np.asarray(array)
        return name

    def replace_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """All nodes of the graph, in execution order."""
        nodes = list(nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def set_outputs(self, names: Iterable[str]) -> None:
        """The outputs of the graph, by name; their types are those that the importer infers."""
        old = {v.name: v for v in self.graph.output}
        made = [old.get(n) or onnx.ValueInfoProto(name=n) for n in names]
        del self.graph.output[:]
        self.graph.output.extend(made)

    def finish(self) -> ModelProto:
        """A copy of the model with its constants as initializers; those that nothing reads are left out."""
        made = ModelProto()
        made.CopyFrom(self.proto)
        used = {name for n in self.nodes for name in (*n.input, *outer_names([n]))} | set(self.outputs)
        del made.graph.value_info[:]  # they describe values that may be gone
        for name, array in self.constants.items():
            if name in used:
                made.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return made


_NARROW_CODES = frozenset(
    code for name, code in onnx.TensorProto.DataType.items()
    if name in ("INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1", "STRING") or name.startswith("FLOAT8")
)


def _constant_value(node: NodeProto, file: ModelFile) -> np.ndarray | None:
    a = node.attribute[0]
    if a.name == "value" and a.t.data_type not in _NARROW_CODES:
        return file.tensors.read(a.t, f"constant {node.name!r}")
    plain: Mapping[str, Any] = {
        "value_float": np.float32(a.f), "value_int": np.int64(a.i), "value_floats": np.array(a.floats, np.float32),
        "value_ints": np.array(a.ints, np.int64),
    }
    return np.asarray(plain[a.name]) if a.name in plain else None


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes that a node states."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def like(node: NodeProto, **changed: Any) -> NodeProto:
    """A copy of a node with other inputs, outputs or name."""
    made = NodeProto()
    made.CopyFrom(node)
    for field, value in changed.items():
        if isinstance(value, str):
            setattr(made, field, value)
        else:
            del getattr(made, field)[:]
            getattr(made, field).extend(value)
    return made
