"""The calibration runner against the interpreter, and the forms in which samples are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compiler.quantize.models import cnn, mlp
from onnx import ModelProto
from tilewright.compiler.onnx_edit import OnnxEdit
from tilewright.compiler.quantize.activations import ActivationRunner
from tilewright.compiler.quantize.samples import Batch, read_samples
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import ModelError, OptionError
from tilewright.ir.interpreter import run_graph
from tilewright.ir.types import TensorType


def interpreted(model: ModelProto, tensors: list[str], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    edit = OnnxEdit(model)
    edit.set_outputs(tensors)
    graph = import_model(edit.finish(), shapes={n: a.shape for n, a in inputs.items()})
    return dict(zip(tensors, run_graph(graph, inputs), strict=True))


def images(count: int, seed: int = 3) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 1, 3, 12, 12)).astype(np.float32))


def test_values_inside_a_model_are_those_of_the_interpreter() -> None:
    tensors = ["x", "n1", "r3", "p3", "y"]
    runner = ActivationRunner(cnn(), tensors)
    x = images(1)[0]
    found, expected = runner.run({"x": x}), interpreted(cnn(), tensors, {"x": x})
    assert list(found) == tensors
    for name in tensors:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_memory_is_bounded_by_sharing_the_tensors_out() -> None:
    tensors = ["r1", "c2", "r2", "c3", "y"]
    whole = ActivationRunner(cnn(), tensors)
    small = ActivationRunner(cnn(), tensors, memory=2 * 16 * 6 * 6 * 4)
    data = images(2)
    parts = list(small.stream(data))
    assert len(parts) > 2  # more than one group each
    seen: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, a in part.items():
            seen.setdefault(name, []).append(a)
    for n, values in enumerate(whole.stream(data)):
        for name in tensors:
            np.testing.assert_allclose(seen[name][n], values[name], rtol=1e-5, atol=1e-5)


def test_samples_of_several_shapes() -> None:
    runner = ActivationRunner(mlp(), ["r1"])
    r = np.random.default_rng(0)
    rows = [1, 5, 1]
    found = list(runner.stream([{"x": r.normal(size=(n, 24)).astype(np.float32)} for n in rows]))
    assert [v["r1"].shape for v in found] == [(n, 32) for n in rows]


def test_a_name_that_the_model_does_not_compute() -> None:
    with pytest.raises(ModelError, match="no value is called 'nothing'"):
        ActivationRunner(mlp(), ["nothing"])


def test_sources_of_samples(tmp_path: Path) -> None:
    inputs = ActivationRunner(mlp()).inputs
    x = np.random.default_rng(1).normal(size=(12, 24)).astype(np.float32)
    labels = np.arange(12)
    np.savez(tmp_path / "all.npz", x=x, labels=labels)
    whole = list(read_samples(tmp_path / "all.npz", inputs))
    assert [b.inputs["x"].shape for b in whole] == [(12, 24)]
    for n in range(3):
        np.savez(tmp_path / f"part{n}.npz", x=x[4 * n : 4 * n + 4], y=labels[4 * n : 4 * n + 4])
    (tmp_path / "all.npz").unlink()
    forms = [tmp_path, [(x[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)], ({"x": a} for a in np.split(x, 3)),
             lambda: iter(np.split(x, 3))]
    for form in forms:
        samples = read_samples(form, inputs)  # pyright: ignore
        for _ in range(2):  # every source can be read again
            np.testing.assert_array_equal(np.concatenate([b.inputs["x"] for b in samples]), x)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in read_samples(tmp_path, inputs)]), labels)


def test_stacked_samples_and_the_split() -> None:
    inputs = ActivationRunner(cnn()).inputs
    samples = read_samples([np.concatenate(images(8))], inputs)
    assert samples.count() == 8
    most, rest = samples.split(4)
    assert (most.count(), rest.count()) == (6, 2)
    first = {b.inputs["x"].tobytes() for b in most} & {b.inputs["x"].tobytes() for b in rest}
    assert not first


def test_of_few_batches_the_last_is_held_out() -> None:
    x = np.arange(6.0, dtype=np.float32)[:, None]
    types = {"x": TensorType("f32", (2, 1))}
    for count in (2, 3):
        most, rest = read_samples([x[: 2 * count]], types).split(4)
        assert [b.inputs["x"][0, 0] for b in most] == [2 * n for n in range(count - 1)]
        assert [b.inputs["x"][0, 0] for b in rest] == [2 * (count - 1)]


@pytest.mark.parametrize(
    "source, message",
    [([{"z": np.zeros((1, 24))}], "no array x"), ([np.zeros((3, 7), np.float32)], r"has the shape \[3, 7\]"),
     ("nowhere", "expected a folder"), ([{"x": np.array([["a"]])}], "is <U1")],
)
def test_samples_that_do_not_fit(source: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        list(read_samples(source, ActivationRunner(mlp()).inputs))  # pyright: ignore


def test_a_batch_knows_its_shapes() -> None:
    assert Batch({"x": np.zeros((2, 3))}).signature == (("x", (2, 3)),)
