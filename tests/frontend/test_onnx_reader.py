"""Reading models: what is not one gets one clear error that names the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from frontend.onnx_models import model, node, run, value
from tilewright.frontend.onnx import import_model
from tilewright.frontend.onnx.reader import read_model
from tilewright.ir.errors import ModelError, TilewrightError


def relu() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], [value("x", 2, 3)], ["y"])


def test_path_bytes_and_proto_are_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(relu().SerializeToString())
    x = np.array([[-1, 0, 1], [2, -2, 3]], np.float32)
    for source in (path, str(path), path.read_bytes(), relu()):
        np.testing.assert_array_equal(run(import_model(source), x)[0], np.maximum(x, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, expected an ONNX model"),
        (b"hello, this is no model\n" * 20, "not an ONNX model"),
        (relu().SerializeToString()[:-7], "not an ONNX model, or cut off"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "it contains no graph"),
    ],
)
def test_content_that_is_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as e:
        import_model(path)
    assert "broken.onnx" in str(e.value)


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "missing.onnx", "No such file"), (tmp_path, "not a file"), ("a\0b", "cannot be read")):
        with pytest.raises(ModelError, match=message):
            import_model(path)


def test_versions(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    m = relu()
    m.opset_import[0].version = newest + 1
    with pytest.raises(ModelError, match=f"opset {newest + 1} is newer than {newest}.*pip install"):
        import_model(m)
    m.opset_import[0].version = newest
    m.ir_version = onnx.IR_VERSION + 1
    with pytest.warns(UserWarning, match="IR version"):
        import_model(m)
    del m.opset_import[:]
    with pytest.raises(ModelError, match="names no operator set"):
        import_model(m)


def test_every_prefix_and_random_damage_is_refused_or_imported() -> None:
    """No exception but our own, whatever the bytes."""
    data = relu().SerializeToString()
    rng = random.Random(0)
    damaged = [data[:n] for n in range(len(data))]
    for _ in range(300):
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
        damaged.append(bytes(flipped))
    refused = 0
    for content in damaged:
        try:
            import_model(content)
        except TilewrightError as e:
            assert isinstance(e, ModelError), e
            refused += 1
    assert refused > len(data)


def test_declared_versions_are_kept() -> None:
    file = read_model(model([node("Relu", ["x"], ["y"])], [value("x", 1)], ["y"], opset=13, domains={"custom": 2}))
    assert file.opsets == {"": 13, "custom": 2}
