"""The content of a model as bytes: what a cache key is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from .reader import ModelFile, ModelSource


def model_content(model: ModelFile) -> Iterator[bytes | memoryview]:
    """Everything that the meaning of a model depends on: the protobuf, then the external data it refers to.

    Raises ModelError for external data that cannot be read.
    """
    yield model.proto.SerializeToString(deterministic=True)
    for tensor in _external_tensors(model.proto):
        array = model.tensors.read(tensor, f"{model.name}: tensor {tensor.name!r}")
        if array.size:
            yield array.reshape(-1).view(np.uint8).data


def model_sha256(source: ModelSource, model: ModelFile) -> str:
    """SHA-256 of the model's file or bytes; of the canonical bytes of a ModelProto."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, ModelProto):
        return hashlib.sha256(model.proto.SerializeToString(deterministic=True)).hexdigest()
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _external_tensors(message: Message) -> Iterator[TensorProto]:
    """The tensors within a message whose data lies in other files, in the order of the fields."""
    stack = [message]
    while stack:
        here = stack.pop()
        if isinstance(here, TensorProto):
            if here.data_location == TensorProto.EXTERNAL:
                yield here
            continue
        inner: list[Message] = []
        for field, value in here.ListFields():
            if field.message_type is not None:
                inner.extend([value] if isinstance(value, Message) else value)
        stack.extend(reversed(inner))
