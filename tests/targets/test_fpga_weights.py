"""Weights in the board's memory: other weights there are other weights in use, without another build."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewright.codegen.hls.design import Design
from tilewright.codegen.hls.fetch import Fetch
from tilewright.codegen.hls.fixed import Fixed
from tilewright.ir.errors import ModelError
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.interpreter import run_graph
from tilewright.ir.ops.contract import Conv, MatMul
from tilewright.ir.ops.quantize import Dequantize, Quantize
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.fpga import build as building
from tilewright.targets.fpga.host import resolve_machine
from tilewright.targets.fpga.options import make_fpga_options
from tilewright.targets.fpga.ranges import random_samples

from .fpga_graphs import graph_of, wide_convs

OLD, NEW = graph_of(wide_convs), graph_of(wide_convs, seed=5)
SAMPLE = random_samples(OLD, (-4.0, 4.0), 1)[0]


def made(monkeypatch: pytest.MonkeyPatch, board: str, **options: object) -> tuple[Artifact, Design]:
    kept: list[Design] = []

    def keeping(*arguments: Any) -> Any:
        found = make(*arguments)
        kept.append(found.design)
        return found

    make = building.make_design
    monkeypatch.setattr(building, "make_design", keeping)
    machine = resolve_machine(f"fpga:{board}")
    return building.build(OLD, machine, name="kernel", fpga=make_fpga_options(options)), kept[0]


def layers(graph: Graph) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights [O, kh * kw * C] and bias of every convolution."""
    rows = []
    for node in graph.nodes:
        if isinstance(node.op, (Conv, MatMul)):
            w, b = (graph.constants[v] for v in node.inputs[1:])
            rows.append((w.reshape(-1, w.shape[-1]).T, b))
    return rows


def tool(place: Path) -> Any:
    spec = importlib.util.spec_from_file_location("weights", place / "host" / "weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def exchanged(design: Design, facts: list[dict[str, Any]]) -> Design:
    """The integer interpreter with the new weights, quantized here."""
    new = {f["port"]: (f, *layer) for f, layer in zip(facts, layers(NEW), strict=True)}
    processes = []
    for p in design.processes:
        if isinstance(p, Fetch):
            f, w, b = new[f"mem_{p.name}"]
            q = Fixed(f["bits"], f["frac"]).quantize(w)
            q = q.reshape(-1, f["pe"], f["inputs"] // f["simd"], f["simd"]).transpose(0, 2, 1, 3).reshape(p.rows.shape)
            assert p.bias is not None
            p = replace(p, rows=q, bias=Fixed(60, f["sum_frac"]).quantize(b).reshape(p.bias.shape))
        processes.append(p)
    return replace(design, processes=tuple(processes))


@pytest.mark.parametrize(("board", "kind", "options"), [
    ("zcu104", "loaded_dot", {}), ("zcu104", "loaded_dot", {"interface": "axis"}), ("pynq-z2", "tiled_dot", {"max_bram": 0.06}),
])
def test_other_weights_need_no_other_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, kind: str, options: dict[str, object]
) -> None:
    """In every bit what the interpreter gives for the new weights, and close to the new model in f32."""
    artifact, design = made(monkeypatch, board, reloadable=True, **options)
    assert [p.kind for p in design.processes].count(kind) == 2
    place = artifact.save(tmp_path / "project")
    weights = tool(place)
    module = artifact.load()
    np.testing.assert_allclose(module(*SAMPLE)[0], run_graph(OLD, SAMPLE)[0], atol=0.02)
    memories = module._memories  # type: ignore[attr-defined]
    for memory, fact, (w, b) in zip(memories, weights.LAYERS, layers(OLD), strict=True):
        np.testing.assert_array_equal(weights.pack(fact["port"], w, b), memory)
    for memory, fact, (w, b) in zip(memories, weights.LAYERS, layers(NEW), strict=True):
        memory[:] = weights.pack(fact["port"], w, b)
    (y,) = module(*SAMPLE)
    module.close()
    np.testing.assert_allclose(y, run_graph(NEW, SAMPLE)[0], atol=0.02)
    codes = exchanged(design, weights.LAYERS).run([design.in_ports[0].encode(SAMPLE[0], design.inputs[0])])
    np.testing.assert_array_equal(y, design.out_ports[0].decode(codes[0], design.outputs[0]))


def test_what_cannot_be_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in memory for lack of room have biases and sums of the model that was compiled."""
    artifact, _ = made(monkeypatch, "pynq-z2", max_bram=0.06)
    place = artifact.save(tmp_path / "project")
    weights = tool(place)
    (fact,) = weights.LAYERS
    w = next(w for w, _ in layers(OLD) if w.shape == (fact["outputs"], fact["inputs"]))
    np.testing.assert_array_equal(weights.pack(fact["port"], w), np.fromfile(place / f"weights/{fact['port']}.bin", "<u8"))
    with pytest.raises(ValueError, match="could leave its"):
        weights.pack(fact["port"], np.full_like(w, 100.0))
    with pytest.raises(ValueError, match="expected weights"):
        weights.pack(fact["port"], w[1:])
    with pytest.raises(ValueError, match="the bias is in the kernel"):
        weights.pack(fact["port"], w, np.zeros(len(w)))
    np.savez(tmp_path / "new.npz", weights=w)
    command = [sys.executable, "host/weights.py", fact["port"], str(tmp_path / "new.npz"), str(tmp_path / "new.bin")]
    subprocess.run(command, cwd=place, check=True)
    assert (tmp_path / "new.bin").read_bytes() == (place / f"weights/{fact['port']}.bin").read_bytes()
    assert json.loads(artifact.read("report.json"))["memory"]["one_frame"]


def test_models_with_codes_of_their_own_keep_their_weights() -> None:
    b = Builder()
    x = b.input("x", TensorType("f32", (4, 8)))
    scale, zero = b.constant(np.array(0.05, np.float32)), b.constant(np.array(0, np.int8))
    q = b.add(Dequantize(), b.add(Quantize("i8", -128, 127), x, scale, zero), scale, zero)
    w = b.constant(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))
    graph = b.graph([b.add(MatMul(), q, w)])
    with pytest.raises(ModelError, match="in float models only"):
        building.build(graph, resolve_machine("fpga:zcu104"), name="kernel", fpga=make_fpga_options({"reloadable": True}))
