"""`tilewright.compile`: any form of model, every option, the cache, and the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tilewright
from onnx import TensorProto, helper, numpy_helper
from tilewright.compiler.api import compile_with

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "cache"))


def scale_model(width: int = 4) -> onnx.ModelProto:
    """y = x * w + x for x of [batch, width]."""
    w = numpy_helper.from_array(np.arange(width, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "x"], ["y"])], "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])], [w],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def files_of(artifact: tilewright.Artifact) -> dict[str, bytes]:
    return {name: artifact.read(name) for name in artifact.files}


def test_a_path_bytes_and_a_proto_are_the_same_model(tmp_path: Path) -> None:
    made = scale_model()
    (tmp_path / "scale.onnx").write_bytes(made.SerializeToString())
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for source in (tmp_path / "scale.onnx", str(tmp_path / "scale.onnx"), made.SerializeToString(), made):
        (y,) = tilewright.compile(source, dims={"batch": 3}, name="scale").load()(x)
        np.testing.assert_allclose(y, x * np.arange(4, dtype=np.float32) + x, rtol=1e-6)


def test_shapes_bind_like_dims() -> None:
    module = tilewright.compile(scale_model(), shapes={"x": (2, 4)}).load()
    assert module.inputs[0].shape == (2, 4)
    with pytest.raises(tilewright.OptionError, match="batch"):
        tilewright.compile(scale_model(), shapes={"x": (2, 4)}, dims={"batch": 3})


def test_the_real_model_is_right_on_real_digits() -> None:
    with np.load(DIGITS / "digits.npz") as data:
        images, labels = data["images"], data["labels"]
    module = tilewright.compile(DIGITS / "digits.onnx").load()
    right = sum(
        int(module(image.reshape(1, 1, 8, 8).astype(np.float32) / 16)[0].argmax()) == label
        for image, label in zip(images, labels, strict=True)
    )
    assert right / len(labels) > 0.98


@pytest.mark.parametrize("accuracy", ["default", "strict"])
def test_results_match_the_interpreter(accuracy: str) -> None:
    from tilewright.frontend.onnx import import_model
    from tilewright.ir.interpreter import run_graph

    x = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    expected = run_graph(import_model(DIGITS / "digits.onnx"), [x])
    got = tilewright.compile(DIGITS / "digits.onnx", accuracy=accuracy).load()(x)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4, atol=1e-4)


def test_equal_requests_give_equal_bytes() -> None:
    first = tilewright.compile(DIGITS / "digits.onnx", cache=False, jobs=1)
    second = tilewright.compile(DIGITS / "digits.onnx", cache=False, jobs=2, verify=False)
    assert files_of(first) == files_of(second)
    assert first.manifest_text == second.manifest_text


def test_the_cache_gives_the_same_artifact() -> None:
    made = compile_with(DIGITS / "digits.onnx")
    found = compile_with(DIGITS / "digits.onnx")
    assert (made.cached, found.cached) == (False, True)
    assert files_of(found.artifact) == files_of(made.artifact)
    assert found.artifact.manifest_text == made.artifact.manifest_text
    assert found.summary == made.summary
    assert not compile_with(DIGITS / "digits.onnx", accuracy="strict").cached
    assert not compile_with(DIGITS / "digits.onnx", name="other").cached


def test_external_data_counts_for_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "scale.onnx"
    onnx.save_model(scale_model(512), path, save_as_external_data=True, location="weights", size_threshold=0)
    x = np.ones((1, 512), np.float32)
    before = tilewright.compile(path, dims={"batch": 1}).load()(x)[0]
    weights = np.fromfile(tmp_path / "weights", np.float32)
    (weights * 2).tofile(tmp_path / "weights")
    done = compile_with(path, dims={"batch": 1})
    assert not done.cached
    np.testing.assert_allclose(done.artifact.load()(x)[0] - 1, (before - 1) * 2)
    assert compile_with(path, dims={"batch": 1}).cached


def test_an_artifact_from_the_cache_survives_clearing_it(tmp_path: Path) -> None:
    from tilewright.compiler.cache import open_cache

    tilewright.compile(DIGITS / "digits.onnx")
    artifact = tilewright.compile(DIGITS / "digits.onnx")
    open_cache().clear()
    artifact.save(tmp_path / "out")
    tilewright.load(tmp_path / "out")


def test_emit_adds_files() -> None:
    plain = tilewright.compile(DIGITS / "digits.onnx")
    more = tilewright.compile(DIGITS / "digits.onnx", emit=["object", "llvm-ir", "asm"])
    added = set(more.files) - set(plain.files)
    assert {name.rpartition(".")[2] for name in added} == {"o", "ll", "s"}
    assert any(b"define" in more.read(name) and b"tw_main" in more.read(name) for name in added if name.endswith(".ll"))


def test_another_processor_gives_other_code() -> None:
    with pytest.raises(tilewright.OptionError, match="z80"):
        tilewright.compile(DIGITS / "digits.onnx", target="cpu:z80")
    level = tilewright.compile(DIGITS / "digits.onnx", target="cpu:x86-64-v3")
    assert level.manifest["machine"]["cpu"] == "x86-64-v3"


def test_progress_is_told_stages_in_order() -> None:
    calls: list[tuple[str, int, int]] = []
    tilewright.compile(DIGITS / "digits.onnx", cache=False, progress=lambda *call: calls.append(call))
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    wanted = ["read", "import", "fuse", "lower", "machine code"]
    assert [s for s in stages if s in wanted] == wanted
    assert all(0 <= done <= total or total == 0 for _, done, total in calls)


def test_unknown_options_are_named_with_the_nearest_known_one() -> None:
    with pytest.raises(tilewright.OptionError, match=r"'shape'; did you mean 'shapes'"):
        tilewright.compile(DIGITS / "digits.onnx", shape={"image": (1, 1, 8, 8)})  # type: ignore[arg-type]


def test_what_is_no_model_is_refused() -> None:
    for wrong in (b"", b"model", 42, None):
        with pytest.raises(tilewright.TilewrightError):
            tilewright.compile(wrong)  # type: ignore[arg-type]
