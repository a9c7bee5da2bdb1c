"""Models split over several chips: run by the scripts of the artifact on virtual devices of this processor."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from targets.networks import bert_onnx, resnet50_onnx
from targets.test_tpu import V5E, estimate, needs_libtpu
from tilewright.compiler.options import make_options
from tilewright.compiler.pipeline import run_passes
from tilewright.compiler.progress import Stages, silent
from tilewright.compiler.targets import TARGETS
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import TargetError
from tilewright.ir.graph import Builder
from tilewright.ir.ops.elementwise import Binary
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.tpu import aot
from tilewright.targets.tpu import build as tpu_build
from tilewright.targets.tpu.host import resolve_machine

pytest.importorskip("jaxlib", reason="the scripts need jax: pip install 'tilewright[tpu]'")

FOUR = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PATH": os.environ["PATH"]}
SIZES = {"batch": 4, "tokens": 8, "width": 256, "heads": 4}


def bert_input() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 8, 256), np.float32)


@functools.cache
def bert() -> tuple[onnx.ModelProto, np.ndarray]:
    model = bert_onnx(layers=2, **SIZES)
    return model, tilewright.compile(model.SerializeToString(), "cpu", cache=False).load()(bert_input())[0]


def split(model: onnx.ModelProto, shard: str) -> Artifact:
    """The artifact for four chips, without an executable: libtpu is not asked."""
    options = make_options("tpu:v5e-4", shard=shard)
    target = TARGETS["tpu"]
    machine = replace(resolve_machine("tpu:v5e-4"), libtpu="")
    graph = run_passes(import_model(model), options, Stages(silent), lambda *_: None, target.passes_for(options),
                       target.native(machine))  # type: ignore[arg-type]
    return tpu_build.build(graph, machine, name="bert", shard=shard)


def run_python(folder: Path, *arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=FOUR)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shard", ["data=4", "model=4"])
def test_four_devices_give_the_result_of_one(shard: str, tmp_path: Path) -> None:
    model, want = bert()
    artifact = split(model, shard)
    splits = [w for w in artifact.manifest["weights"] if "sharding" in w]
    assert len(splits) == (0 if shard == "data=4" else 2 * (6 + 1))  # six products a layer, and the bias of the widest
    artifact.save(tmp_path / "out")
    np.savez(tmp_path / "in.npz", x=bert_input())
    run_python(tmp_path / "out", "run.py", "--platform", "cpu", "--input", tmp_path / "in.npz", "--output", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as file:
        (got,) = file.values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max()))


def test_the_server_runs_on_all_chips(tmp_path: Path) -> None:
    split(bert()[0], "model=4").save(tmp_path / "out")
    np.save(tmp_path / "x.npy", bert_input())
    program = (
        "import io, sys, threading, urllib.request, numpy as np\n"
        "from run import Model; from serve import make_server\n"
        "model = Model(platform='cpu'); server = make_server(model, '127.0.0.1', 0)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "body = io.BytesIO(); np.savez(body, x=np.load(sys.argv[1]))\n"
        "url = f'http://127.0.0.1:{server.server_address[1]}/run'\n"
        "answer = urllib.request.urlopen(urllib.request.Request(url, body.getvalue())).read()\n"
        "(y,) = np.load(io.BytesIO(answer)).values(); np.save(sys.argv[2], y); print(len(model.devices))\n"
    )
    assert run_python(tmp_path / "out", "-c", program, tmp_path / "x.npy", tmp_path / "y.npy") == "4\n"
    want = bert()[1]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), want, rtol=1e-4, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("shard", ["", "data=4"])
def test_state_is_fed_back_without_a_copy(shard: str, tmp_path: Path) -> None:
    """The donated input is gone after the run, and its memory is the output's."""
    b = Builder("step")
    x, state = b.input("x", TensorType("f32", (8, 16))), b.input("state_in", TensorType("f32", (8, 16)))
    graph = b.graph([b.add(Binary("add"), state, x)], ["state_out"])
    machine = replace(resolve_machine("tpu:v5e-4"), libtpu="")
    tpu_build.build(graph, machine, name="step", shard=shard).save(tmp_path / "out")
    program = (
        "import numpy as np, jax\nfrom run import Model\nmodel = Model(platform='cpu')\n"
        "x, state = np.ones((8, 16), np.float32), model.put(model.manifest['inputs'][1], np.zeros((8, 16), np.float32))\n"
        "for _ in range(3):\n    old = state; (state,) = model(x, old); assert old.is_deleted()\n"
        "print(float(state.sum()))\n"
    )
    assert run_python(tmp_path / "out", "-c", program) == f"{3 * 8 * 16:.1f}\n"


def test_a_crash_of_libtpu_leaves_an_error_and_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import ctypes; print('in libtpu', flush=True); ctypes.string_at(0)")
    monkeypatch.setattr(tpu_build, "compile_ahead", functools.partial(aot.compile_ahead, program=crash))
    monkeypatch.setattr(tpu_build, "_missing", lambda machine: "")
    model = resnet50_onnx(stages=((1, 8, 1),), size=32).SerializeToString()
    with pytest.raises(TargetError, match=r"v5e-1: libtpu crashed \(SIGSEGV\); the last it said:\nin libtpu"):
        tilewright.compile(model, "tpu:v5e-1", cache=False).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- real sizes, minutes of libtpu ---------------------------------------------------------------------------------


@pytest.mark.slow
@needs_libtpu
def test_bert_base_over_four_chips() -> None:
    """Batches need no talk; split weights take two sums a layer and a fraction of the memory."""
    model = bert_onnx(layers=12, batch=4).SerializeToString()
    by_batch, by_weight = (
        estimate(tilewright.compile(model, "tpu:v5e-4", precision="bf16", shard=s, cache=False)) for s in ("data=4", "model=4")
    )
    assert by_batch["collectives"] == {}
    assert by_weight["collectives"] == {"all-reduce": 24}
    assert by_weight["memory"]["arguments"] < 0.3 * by_batch["memory"]["arguments"]
    assert all("a chip" in dict(e["rows"])["XLA memory"] for e in (by_batch, by_weight))


@pytest.mark.slow
@needs_libtpu
def test_libtpu_stays_under_a_gigabyte_on_resnet50() -> None:
    artifact = tilewright.compile(resnet50_onnx().SerializeToString(), "tpu:v5e-1", precision="bf16", cache=False)
    made = aot.compile_ahead(artifact.read(artifact.manifest["library"]), V5E, 1)
    assert made.facts["peak_bytes"] < 1e9
