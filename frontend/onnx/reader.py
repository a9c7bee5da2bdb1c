"""Model files: bytes to protobuf, with a clear error for everything that is not an ONNX model."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import onnx
from google.protobuf.message import DecodeError

from ...ir.errors import ModelError
from .tensors import TensorReader

ModelSource = Union[str, Path, bytes, onnx.ModelProto]

_PROTOBUF_LIMIT = 2**31 - 1  # bytes; protobuf itself cannot read more


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A parsed model: name for messages, versions of the operator sets by domain ("" is ONNX's own)."""

    name: str
    proto: onnx.ModelProto
    tensors: TensorReader
    opsets: dict[str, int]


def read_model(source: ModelSource, base_dir: Path | None = None) -> ModelFile:
    """Read and check the outside of a model.

    source: a path, the bytes of a file, or a parsed model; base_dir: the folder of its external data, default the folder
    of the file.  Raises ModelError, naming the file, if it cannot be read or is not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        name, proto = source.graph.name or "model", source
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name, proto = "model", _parse(bytes(source), "the given bytes")
    else:
        path = Path(source)
        name, proto = path.stem, _parse(_read_file(path), str(path))
        base_dir = path.parent if base_dir is None else base_dir
    where = str(source) if isinstance(source, (str, Path)) else "the given model"
    if not proto.HasField("graph"):
        raise ModelError(f"{where}: not an ONNX model: it contains no graph")
    for nodes, values in ((proto.graph.node, proto.graph), *((f.node, f) for f in proto.functions)):
        _check_text(nodes, values, where)
    return ModelFile(name, proto, TensorReader(base_dir), _opsets(proto, where))


def _check_text(nodes: Iterable[onnx.NodeProto], values: onnx.GraphProto | onnx.FunctionProto, where: str) -> None:
    """Protobuf gives a text that is not UTF-8 as bytes.  Raises ModelError for names that are such."""
    texts: list[object] = [values.name]
    if isinstance(values, onnx.GraphProto):
        texts += [v.name for v in (*values.input, *values.output, *values.initializer)]
        texts += [d.dim_param for v in values.input for d in v.type.tensor_type.shape.dim]
    else:
        texts += [values.domain, *values.input, *values.output]
    for node in nodes:
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
        for attribute in node.attribute:
            texts.append(attribute.name)
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _check_text(graph.node, graph, where)
    garbled = next((t for t in texts if isinstance(t, bytes)), None)
    if garbled is not None:
        raise ModelError(f"{where}: the name {garbled[:40]!r} is not UTF-8 text; the file is damaged")


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path}: not a file; give the path of an .onnx file")
        if size > _PROTOBUF_LIMIT:
            raise ModelError(
                f"{path}: {size} bytes, but a protobuf file ends at 2 GiB; save the weights beside it: "
                "onnx.save_model(..., save_as_external_data=True)"
            )
        return path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a path with a NUL character
        raise ModelError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{where}: empty, expected an ONNX model")
    if len(data) > _PROTOBUF_LIMIT:
        raise ModelError(f"{where}: {len(data)} bytes, but a protobuf message ends at 2 GiB; use external data")
    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        raise ModelError(
            f"{where}: not an ONNX model, or cut off: its {len(data)} bytes are not a protobuf message; "
            "copy or download it again"
        ) from None


def _opsets(proto: onnx.ModelProto, where: str) -> dict[str, int]:
    if not proto.opset_import:
        raise ModelError(f"{where}: not an ONNX model: it names no operator set (opset_import)")
    if proto.ir_version > onnx.IR_VERSION:
        warnings.warn(
            f"{where}: IR version {proto.ir_version} is newer than {onnx.IR_VERSION}, the newest that the installed onnx "
            "package knows; what is new in it is ignored",
            stacklevel=2,
        )
    return opset_versions(proto.opset_import, where)


def opset_versions(imports: object, where: str) -> dict[str, int]:
    """Version of each imported domain.  Raises ModelError for versions that the onnx package does not know."""
    newest = onnx.defs.onnx_opset_version()
    versions: dict[str, int] = {}
    for entry in imports:  # type: ignore[attr-defined]
        domain = normal_domain(entry.domain)
        if not 0 <= entry.version < 2**31:
            raise ModelError(f"{where}: {entry.version} is no version of an operator set")
        versions[domain] = max(versions.get(domain, 0), entry.version)
    if versions.get("", 1) > newest:
        raise ModelError(
            f"{where}: opset {versions['']} is newer than {newest}, the newest that the installed onnx package knows; "
            "pip install --upgrade onnx"
        )
    return versions


def normal_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
