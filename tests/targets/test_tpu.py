"""The tpu target: machines, splits, and small modules compiled by libtpu, with no TPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tilewright
from targets.networks import bert_jax, bert_onnx, resnet50_jax, resnet50_onnx
from tilewright.ir.errors import OptionError, TargetError
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.elementwise import Binary, Cast
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.tpu import aot
from tilewright.targets.tpu.build import build, is_native
from tilewright.targets.tpu.host import TpuMachine, machines, resolve_machine
from tilewright.targets.tpu.sharding import shardings

V5E = resolve_machine("tpu:v5e-1")
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu") or not importlib.util.find_spec("jaxlib"),
    reason="libtpu is not installed: pip install 'tilewright[tpu]'",
)


def layers(width: int = 256, batch: int = 8) -> Graph:
    """Two products, a residual connection, two products."""
    b = Builder("layers")
    rng = np.random.default_rng(0)
    x = b.input("x", TensorType("f32", (batch, width)))
    y = x
    for _ in range(2):
        wide = b.add(MatMul(), y, b.constant(rng.standard_normal((width, 2 * width), np.float32)))
        wide = b.add(Binary("max"), wide, b.constant(np.zeros((), np.float32)))
        y = b.add(Binary("add"), y, b.add(MatMul(), wide, b.constant(rng.standard_normal((2 * width, width), np.float32))))
    return b.graph([y], ["y"])


def estimate(artifact: Artifact) -> Mapping[str, Any]:
    return artifact.manifest["estimate"]


# ---- machines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "topology", "chips"),
    [("tpu", "v5e:1x1", 1), ("tpu:v5e-4", "v5e:2x2", 4), ("tpu:v4-8", "v4:2x2x1", 4), ("tpu:v5p-8", "v5p:2x2x1", 4),
     ("tpu:v6e-1", "v6e:1x1", 1), ("tpu:v6e:4x4", "v6e:4x4", 16), ("tpu:tpu7x:2x2x1", "tpu7x:2x2x1", 4)],
)  # fmt: skip
def test_machines_have_topologies(spec: str, topology: str, chips: int) -> None:
    machine = resolve_machine(spec)
    assert (machine.topology, machine.chips) == (topology, chips)
    assert "v5e-4" in machines()


@pytest.mark.parametrize("spec", ["tpu:v5e-3", "tpu:v9-8", "tpu:v5e:2x2x2", "tpu:v5e:axb", "tpu:4"])
def test_machines_that_are_not_made_are_refused(spec: str) -> None:
    with pytest.raises(OptionError, match="expected"):
        resolve_machine(spec)


def test_bytes_are_multiplied_where_that_is_faster() -> None:
    types = (TensorType("i8", (4, 4)),) * 2
    assert is_native(V5E, MatMul("i32"), types)
    assert not is_native(resolve_machine("tpu:v4-8"), MatMul("i32"), types)


@pytest.mark.parametrize(
    ("batch", "kernel", "channels", "faster"), [(1, 1, 64, True), (1, 3, 64, False), (64, 3, 64, True), (64, 3, 1, False)]
)
def test_convolutions_of_bytes_need_many_images(batch: int, kernel: int, channels: int, faster: bool) -> None:
    types = TensorType("i8", (batch, 14, 14, 64)), TensorType("i8", (kernel, kernel, channels, 64))
    assert is_native(V5E, MatMul("i32"), types) == faster


# ---- splits ------------------------------------------------------------------------------------------------------


def test_data_splits_batches_and_model_splits_weights_in_pairs() -> None:
    graph = layers()
    assert list(shardings(graph, "data=4").values()) == [("data", None)] * 2
    assert list(shardings(graph, "model=4").values()) == [(None, "model"), ("model", None)] * 2
    assert shardings(graph, "") == {}


@pytest.mark.parametrize("shard", ["data=3", "model=7"])
def test_splits_that_do_not_fit_are_refused(shard: str) -> None:
    with pytest.raises(OptionError, match="cannot be split over"):
        shardings(layers(), shard)


def test_a_split_needs_as_many_chips() -> None:
    with pytest.raises(OptionError, match=r"tpu:v5e-1 has 1 chip\(s\)"):
        build(layers(), V5E, name="m", shard="data=4")


# ---- libtpu ------------------------------------------------------------------------------------------------------


@needs_libtpu
def test_a_small_module_is_compiled_with_its_estimate() -> None:
    artifact = build(layers(), V5E, name="m")
    facts = estimate(artifact)
    assert facts["estimated_cycles"] == sum(c for _, _, c in facts["fusions"]) > 0
    assert facts["memory"]["arguments"] >= 4 * 256 * 512 * 4
    assert facts["collectives"] == {}
    assert len(artifact.read("m.v5e-1.bin")) > 1000
    rows = dict(facts["rows"])
    assert "not measured" in rows["XLA estimate"]
    assert set(artifact.manifest["versions"]) >= {"libtpu", "jaxlib", "stablehlo"}


@needs_libtpu
def test_a_residual_network_in_bf16_keeps_its_layers_names() -> None:
    model = resnet50_onnx(stages=((1, 32, 1),), size=32).SerializeToString()
    artifact = tilewright.compile(model, "tpu:v6e-1", precision="bf16", cache=False)
    assert any("conv" in origin for _, origin, _ in estimate(artifact)["fusions"])
    assert {w["dtype"] for w in artifact.manifest["weights"]} == {"bf16"}


@needs_libtpu
def test_split_batches_need_no_talk_and_split_weights_one_sum_a_pair() -> None:
    machine = resolve_machine("tpu:v5e-4")
    by_batch = estimate(build(layers(), machine, name="m", shard="data=4"))
    by_weight = estimate(build(layers(), machine, name="m", shard="model=4"))
    assert by_batch["collectives"] == {}
    assert by_weight["collectives"] == {"all-reduce": 2}
    assert by_weight["memory"]["arguments"] < 0.3 * by_batch["memory"]["arguments"]


@needs_libtpu
def test_state_gives_its_memory_to_its_successor() -> None:
    b = Builder("step")
    state = b.input("state_in", TensorType("f32", (512, 512)))
    artifact = build(b.graph([b.add(Binary("add"), state, state)], ["state_out"]), V5E, name="m")
    assert estimate(artifact)["memory"]["aliased"] == 512 * 512 * 4
    assert artifact.manifest["inputs"][0]["donated_to"] == 0


@needs_libtpu
def test_products_of_bytes_cost_less() -> None:
    def product(dtype: str) -> Graph:
        b = Builder("p")
        w = b.constant(np.ones((4096, 1024), np.int8) * np.arange(1024).astype(np.int8), "w")
        x = b.input("x", TensorType("i8", (1024, 4096)))
        if dtype == "i8":
            return b.graph([b.add(MatMul("i32"), x, w)], ["y"])
        return b.graph([b.add(MatMul(), b.add(Cast("f32"), x), b.constant(b.constants[w].astype(np.float32)))], ["y"])

    cycles = [estimate(build(product(d), V5E, name="m"))["estimated_cycles"] for d in ("i8", "f32")]
    assert cycles[0] < 0.75 * cycles[1]


@needs_libtpu
def test_what_libtpu_refuses_is_a_target_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"v5e-1: libtpu refused the module.*"):
        aot.compile_ahead(b"nonsense", V5E, 1)


def test_a_crash_and_a_hang_are_target_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash, hang = tmp_path / "crash.py", tmp_path / "hang.py"
    crash.write_text("import os, signal; print('about to crash', flush=True); os.kill(os.getpid(), signal.SIGABRT)")
    hang.write_text("import time; time.sleep(60)")
    with pytest.raises(TargetError, match=r"libtpu crashed \(SIGABRT\); the last it said:\nabout to crash"):
        aot.compile_ahead(b"", V5E, 1, program=crash)
    monkeypatch.setenv(aot.TIMEOUT_VARIABLE, "0.3")
    with pytest.raises(TargetError, match=r"did not finish within 0.3 s; set TILEWRIGHT_TPU_TIMEOUT"):
        aot.compile_ahead(b"", V5E, 1, program=hang)
    monkeypatch.setenv(aot.TIMEOUT_VARIABLE, "soon")
    with pytest.raises(OptionError, match="expected a number of seconds"):
        aot.timeout()


def test_without_libtpu_there_is_still_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    bare: TpuMachine = replace(V5E, libtpu="", jaxlib="")
    artifact = build(layers(), bare, name="m")
    assert {"m.mlir", "m.safetensors", "run.py"} <= set(artifact.files)
    assert "stablehlo.dot_general" in artifact.read("m.mlir").decode()
    assert artifact.notes == (
        "tpu:v5e-1: jax and libtpu not installed, so the artifact has StableHLO only, neither checked nor compiled; install "
        "with: pip install 'tilewright[tpu]'",
    )
    assert "m.v5e-1.bin" not in artifact.files


# ---- against plain jax, minutes of libtpu ------------------------------------------------------------------------


def cycles_of_jax(network: Any, shapes: list[tuple[int, ...]], x: tuple[int, ...]) -> int:
    import jax
    import jax.numpy as jnp
    from jax import export

    jax.config.update("jax_platforms", "cpu")  # do not look for a TPU
    avals = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in (x, *shapes)]
    exported = export.export(jax.jit(network), platforms=("tpu",))(avals[0], avals[1:])
    return int(aot.compile_ahead(exported.mlir_module_serialized, V5E, 1).facts["estimated_cycles"])


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("name", ["resnet50", "bert"])
def test_the_tpu_compiler_makes_of_our_module_what_it_makes_of_plain_jax(name: str) -> None:
    """Within 5 %, or better."""
    if name == "resnet50":
        model, (network, shapes), x = resnet50_onnx(), resnet50_jax(), (1, 224, 224, 3)
    else:
        model, (network, shapes), x = bert_onnx(), bert_jax(), (1, 128, 768)
    artifact = tilewright.compile(model.SerializeToString(), "tpu:v5e-1", precision="bf16", cache=False)
    assert estimate(artifact)["estimated_cycles"] <= 1.05 * cycles_of_jax(network, shapes, x)
    nodes = len(model.graph.node)
    assert artifact.manifest["operations"] <= 3 * nodes


