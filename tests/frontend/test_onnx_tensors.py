"""Tensor data: sizes are checked before anything is allocated, external data cannot leave the model's folder."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from frontend.onnx_models import F32, model, node, run, value
from onnx import TensorProto, helper, numpy_helper
from tilewright.frontend.onnx import import_model
from tilewright.frontend.onnx.tensors import TensorReader
from tilewright.ir.errors import ModelError
from tilewright.ir.types import DTYPES, NUMBERS


def adding(tensor: TensorProto, shape: tuple[int, ...] = (2,)) -> onnx.ModelProto:
    m = model([node("Add", ["x", "w"], ["y"])], [value("x", *shape)], ["y"])
    m.graph.initializer.append(tensor)
    return m


def external(location: str, **entries: object) -> TensorProto:
    w = TensorProto(name="w", data_type=F32, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **entries}.items():
        w.external_data.add(key=key, value=str(text))
    return w


@pytest.mark.parametrize("dtype", list(NUMBERS))
def test_every_element_type_in_both_encodings(dtype: str) -> None:
    array = np.array([[0, 1, 2], [1, 0, 100]]).astype(DTYPES[dtype].numpy)
    reader = TensorReader(None)
    raw = numpy_helper.from_array(array, "raw")
    typed = helper.make_tensor("typed", raw.data_type, array.shape, array.reshape(-1).astype(np.float64).tolist())
    assert raw.HasField("raw_data") and not typed.HasField("raw_data")
    for tensor in (raw, typed):
        got = reader.read(tensor)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_negative_numbers_and_sixteen_bit_patterns() -> None:
    reader = TensorReader(None)
    i8 = helper.make_tensor("t", TensorProto.INT8, [2], [-128, -1])
    assert reader.read(i8).tolist() == [-128, -1]
    bf16 = TensorProto(name="t", data_type=TensorProto.BFLOAT16, dims=[1], int32_data=[0xC000])
    assert reader.read(bf16)[0] == ml_dtypes.bfloat16(-2.0)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(name="w", data_type=F32, dims=[2], raw_data=b"\0" * 7), "needs 8 bytes of data, got 7"),
        (TensorProto(name="w", data_type=F32, dims=[2], float_data=[1, 2, 3]), "needs 2 elements in float_data, got 3"),
        (TensorProto(name="w", data_type=F32, dims=[10**6, 10**6], raw_data=b"\0" * 8), "needs 4000000000000 bytes"),
        (TensorProto(name="w", data_type=F32, dims=[-1], raw_data=b""), "negative dimension"),
        (TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"a"]), "needs 2 strings, got 1"),
        (TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[1], raw_data=b"a"), "type COMPLEX64 is not supported"),
        (TensorProto(name="w", data_type=4711, dims=[1], raw_data=b"a"), "element type number 4711"),
    ],
)
def test_data_that_does_not_fit_its_type(tensor: TensorProto, message: str) -> None:
    with pytest.raises(ModelError, match=message) as e:
        import_model(adding(tensor))
    assert "initializer 'w'" in str(e.value)


def test_external_data_is_read_at_its_offset_and_mapped(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"head" + np.array([3, 4], np.float32).tobytes())
    m = adding(external("sub/weights.bin", offset=4, length=8))
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    graph = import_model(path)
    (constant,) = graph.constants.values()
    assert not constant.flags.owndata and not constant.flags.writeable
    np.testing.assert_array_equal(run(graph, np.array([1, 2], np.float32))[0], [4, 6])
    np.testing.assert_array_equal(run(m, np.zeros(2, np.float32), base_dir=tmp_path)[0], [3, 4])
    with pytest.raises(ModelError, match="pass base_dir"):
        import_model(m)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/hostname"}, "not a path inside"),
        ({"location": "../secret.bin"}, "lies outside of the model's folder"),
        ({"location": "a/../../secret.bin"}, "lies outside of the model's folder"),
        ({"location": ""}, "not a path inside"),
        ({"location": "."}, "lies outside|not a regular file"),
        ({"location": "w.bin\0.txt"}, "not a path inside"),
        ({"location": "link.bin"}, "lies outside of the model's folder"),
        ({"location": "linked/secret.bin"}, "lies outside of the model's folder"),
        ({"location": "hard.bin"}, "hard links"),
        ({"location": "pipe"}, "not a regular file"),
        ({"location": "missing.bin"}, "cannot be opened"),
        ({"location": "w.bin", "offset": 4}, "bytes 4 to 12 are needed"),
        ({"location": "w.bin", "offset": -4}, "offset of the external data must be a number"),
        ({"location": "w.bin", "offset": 10**30}, "offset of the external data must be a number"),
        ({"location": "w.bin", "length": 4}, "need 8 bytes"),
        ({"location": "w.bin", "length": "eight"}, "length of the external data must be a number"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "model"
    outside.mkdir()
    folder.mkdir()
    for secret in (outside / "secret.bin", tmp_path / "secret.bin", folder / "w.bin"):
        secret.write_bytes(b"\0" * 8)
    (folder / "link.bin").symlink_to(outside / "secret.bin")
    (folder / "linked").symlink_to(outside)
    os.link(outside / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe")
    (folder / "m.onnx").write_bytes(adding(external(**entries)).SerializeToString())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=message):
        import_model(folder / "m.onnx")


def test_weights_behind_four_gibibytes(tmp_path: Path) -> None:
    """A sparse file: it takes no space, and none of it is read."""
    offset = 5 * 2**30
    with open(tmp_path / "large.bin", "wb") as f:
        f.seek(offset)
        f.write(np.array([5, 6], np.float32).tobytes())
    m = adding(external("large.bin", offset=offset, length=8))
    assert run(m, np.zeros(2, np.float32), base_dir=tmp_path)[0].tolist() == [5, 6]


def test_attributes_and_subgraphs_use_the_same_reader(tmp_path: Path) -> None:
    """A check that holds for initializers only is the classic hole."""
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    folder = tmp_path / "model"
    folder.mkdir()
    stolen = external("../secret.bin")
    constant = node("Constant", [], ["w"], value=stolen)
    in_attribute = model([constant, node("Add", ["x", "w"], ["y"])], [value("x", 2)], ["y"])
    branch = helper.make_graph([constant], "b", [], [value("w", 2)])
    inner = helper.make_graph([], "b", [], [value("w", 2)], [stolen])
    cond = {"c": np.array(True)}
    for then in (branch, inner):
        m = model([node("If", ["c"], ["y"], then_branch=then, else_branch=then)], [], ["y"], cond)
        with pytest.raises(ModelError, match="lies outside"):
            import_model(m, base_dir=folder)
    with pytest.raises(ModelError, match="lies outside"):
        import_model(in_attribute, base_dir=folder)


def sparse(values: list[float], indices: list, dims: list[int]) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.array(values, np.float32), "w"),
        numpy_helper.from_array(np.array(indices, np.int64), "i"), dims,
    )  # fmt: skip


def test_sparse_tensors_become_dense() -> None:
    for indices in ([1, 5], [[0, 1], [1, 2]]):
        m = model([node("Add", ["x", "w"], ["y"])], [value("x", 2, 3)], ["y"])
        m.graph.sparse_initializer.append(sparse([7, 8], indices, [2, 3]))
        np.testing.assert_array_equal(run(m, np.zeros((2, 3), np.float32))[0], [[0, 7, 0], [0, 0, 8]])


@pytest.mark.parametrize(
    ("indices", "dims"),
    [([1, 6], [2, 3]), ([-1, 0], [2, 3]), ([[0, 1], [2, 0]], [2, 3]), ([1], [2, 3]), ([0, 1], [10**9, 10**9])],
)
def test_sparse_tensors_that_are_refused(indices: list, dims: list[int]) -> None:
    m = model([node("Add", ["x", "w"], ["y"])], [value("x", 2, 3)], ["y"])
    m.graph.sparse_initializer.append(sparse([7, 8], indices, dims))
    with pytest.raises(ModelError, match="initializer 'w'"):
        import_model(m)


def test_results_too_large_for_any_machine_are_refused() -> None:
    shape = {"s": np.array([10**6, 10**6], np.int64)}
    m = model([node("ConstantOfShape", ["s"], ["y"], name="bomb")], [], ["y"], shape)
    with pytest.raises(ModelError, match=r"'bomb'.*4000000000000 bytes; the limit"):
        import_model(m)
    with pytest.raises(ModelError, match="negative dimension"):
        import_model(model([node("ConstantOfShape", ["s"], ["y"])], [], ["y"], {"s": np.array([-3], np.int64)}))


def test_large_results_are_not_computed_while_importing() -> None:
    """They would be weights of the artifact: 64 MiB of zeros stay an operator."""
    m = model([node("ConstantOfShape", ["s"], ["y"])], [], ["y"], {"s": np.array([4096, 4096], np.int64)})
    graph = import_model(m)
    assert sum(a.nbytes for a in graph.constants.values()) < 100


def test_zero_size_tensors_work() -> None:
    m = model(
        [node("Concat", ["x", "e"], ["a"], axis=0), node("Relu", ["a"], ["y"])], [value("x", 2, 3)], ["y"],
        {"e": np.zeros((0, 3), np.float32)},
    )  # fmt: skip
    x = np.array([[1, -1, 2], [0, 3, -4]], np.float32)
    np.testing.assert_array_equal(run(m, x)[0], np.maximum(x, 0))
    empty = model([node("Relu", ["x"], ["y"])], [value("x", 0, 3)], ["y"])
    assert run(empty, np.zeros((0, 3), np.float32))[0].shape == (0, 3)


def test_input_shapes_are_checked() -> None:
    m = model([node("Relu", ["x"], ["y"])], [value("x", -7, 3)], ["y"])
    with pytest.raises(ModelError, match="dimension 0 is -7"):
        import_model(m)
    numbers = model([node("Identity", ["x"], ["y"])], [value("x", 2, dtype=TensorProto.COMPLEX64)], ["y"])
    with pytest.raises(ModelError, match="COMPLEX64 is not supported"):
        import_model(numbers)
