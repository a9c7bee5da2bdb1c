"""Walking two models in pieces: the same values as in the whole model, each node once, and stages of independent layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tilewright.compiler.onnx_edit import OnnxEdit
from tilewright.compiler.prune.layers import exposed, find_layers
from tilewright.compiler.prune.patterns import Pattern
from tilewright.compiler.prune.pieces import cut, make_stages
from tilewright.compiler.prune.sensitivity import output_costs
from tilewright.compiler.prune.walk import Spill, Walk
from tilewright.compiler.quantize.activations import ActivationRunner
from tilewright.compiler.quantize.samples import Samples, as_samples

WIDTH = 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "prune-cache"))


def branches() -> ModelProto:
    """Two products of x, one of both, added to x; a Reshape whose shape is that of an earlier tensor."""
    rng = np.random.default_rng(1)
    weights = {n: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 6 for n in ("wa", "wb", "wc", "wd")}
    constants = weights | {"flat": np.array([-1], np.int64), "bias": np.ones(WIDTH, np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "wa"], ["a"], name="first"),
         helper.make_node("MatMul", ["x", "wb"], ["b"], name="beside"),
         helper.make_node("Mul", ["a", "b"], ["ab"]), helper.make_node("Reshape", ["ab", "flat"], ["line"]),
         helper.make_node("Shape", ["a"], ["size"]), helper.make_node("Reshape", ["line", "size"], ["back"]),
         helper.make_node("MatMul", ["back", "wc"], ["c"], name="both"), helper.make_node("Add", ["c", "bias"], ["cb"]),
         helper.make_node("Add", ["cb", "x"], ["sum"]), helper.make_node("Tanh", ["sum"], ["t"]),
         helper.make_node("Reshape", ["t", "size"], ["same"]), helper.make_node("MatMul", ["same", "wd"], ["y"], name="last")],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def batches(edit: OnnxEdit) -> Samples:
    rng = np.random.default_rng(2)
    return as_samples([{"x": rng.standard_normal((24, WIDTH)).astype(np.float32)} for _ in range(3)],
                      ActivationRunner(edit.finish()).inputs)


def test_stages_hold_layers_that_do_not_depend_on_each_other() -> None:
    edit = OnnxEdit(branches())
    stages = make_stages(find_layers(edit)[0], edit)
    assert [[n.name for n in s] for s in stages] == [["first", "beside"], ["both"], ["last"]]
    pieces = cut(stages, edit)
    assert [set(p.inputs) for p in pieces] == [set(), {"x"}, {"back", "x", "a"}]
    counted = [o for p in pieces for n in p.nodes for o in n.output if o != "size"]
    assert len(counted) == len(set(counted)) and [list(p.outputs) for p in pieces] == [[], ["a", "back"], ["same"]]
    assert all("size" in [o for n in p.nodes for o in n.output] for p in pieces[1:])  # shapes are computed where they are used


def test_a_residual_that_is_not_final_is_dropped() -> None:
    nodes = [helper.make_node("MatMul", ["x", "wa"], ["a"], name="left"),
             helper.make_node("MatMul", ["x", "wb"], ["b"], name="right"), helper.make_node("Add", ["a", "b"], ["y"])]
    made = branches()
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    edit = OnnxEdit(made)
    found, _ = find_layers(edit)
    assert [n.residual for n in found] == ["b", "a"]
    assert [n.residual for s in make_stages(found, edit) for n in s] == ["", ""]


def test_moments_are_those_of_the_whole_model() -> None:
    edit = OnnxEdit(branches())
    layers, _ = find_layers(edit)
    samples = batches(edit)
    teacher = ActivationRunner(edit.finish(), exposed(layers))
    for stage in Walk(edit, layers, samples):
        student = ActivationRunner(edit.finish(), exposed(layers), cache=False)
        for layer in stage.layers:
            x, z = (np.concatenate([r.run(b.inputs)[layer.source] for b in samples]) for r in (teacher, student))
            found = stage.moments[layer.name]
            np.testing.assert_allclose(found.own, z.T @ z, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(found.cross, z.T @ x, rtol=1e-4, atol=1e-3)
            assert found.count == len(x)
            if layer.name == "last":
                assert np.abs(x - z).max() > 0.01  # the models have parted
            layer.store(edit, np.where(np.abs(layer.matrix(edit)) > 0.1, layer.matrix(edit), 0))


def test_what_does_not_fit_lies_in_files() -> None:
    spill = Spill(room=400)
    arrays = [np.full(50, n, np.float32) for n in range(4)]
    for n, a in enumerate(arrays):
        spill.put(0, str(n), a)
    for n, a in enumerate(arrays):
        np.testing.assert_array_equal(spill.get(0, str(n)), a)
    folder = Path(spill._folder.name)  # type: ignore[union-attr]
    assert len(list(folder.iterdir())) == 2
    spill.drop(0, "3")
    assert len(list(folder.iterdir())) == 1
    spill.close()
    assert not folder.exists()


def test_costs_at_the_outputs_tell_a_vital_layer_from_an_idle_one() -> None:
    edit = OnnxEdit(branches())
    edit.constants["wc"] = edit.constants["wc"] * np.float32(0.01)  # its product hardly reaches the sum
    layers, _ = find_layers(edit)
    samples = batches(edit)
    moments = Walk(edit, layers, samples, follow=False).everything()
    costs = output_costs(edit, layers, moments, Pattern("unstructured"), 0.5, samples, lambda *_: None)
    assert costs["both"] < 0.01 * costs["last"] and costs["last"] > 1e-3
    assert isinstance(edit.finish(), onnx.ModelProto)
