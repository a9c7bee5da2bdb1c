"""Versions for some sizes beside, or instead of, the code for any size: chosen by the sizes when the model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frontend.onnx_models import model, node, value
from onnx import ModelProto
from tilewright.compiler.api import compile, compile_with
from tilewright.frontend.onnx import import_model
from tilewright.ir.errors import OptionError
from tilewright.ir.interpreter import run_graph
from tilewright.targets.loader import Module

RNG = np.random.default_rng(21)


def network() -> ModelProto:
    """Large enough that a version packs its weights in another layout; a TopK that not every size allows."""
    w, v = ((RNG.standard_normal(shape) / 8).astype(np.float32) for shape in ((48, 96), (96, 7)))
    nodes = [
        node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["c"]),
        node("Softmax", ["c"], ["d"], axis=1), node("TopK", ["d", "two"], ["y", "at"], axis=1),
    ]
    constants = {"w": w, "v": v, "two": np.array([2])}
    return model(nodes, [value("x", "n", "m", 48)], ["d", "y"], constants)


PROTO = network()


def built(folder: Path, **options: Any) -> Module:
    compile(PROTO, cache=False, name="net", jobs=1, **options).save(folder)
    return Module(folder, threads=2)


def agrees(module: Module, *shape: int) -> bool:
    x = RNG.standard_normal((*shape, 48)).astype(np.float32)
    wanted = run_graph(import_model(PROTO, shapes={"x": x.shape}), [x])
    for g, w in zip(module(x), wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-5)
    return True


def test_every_size_beside_versions(tmp_path: Path) -> None:
    module = built(tmp_path, specialize={"n": (4, 8), "m": 16}, debug_bounds=True)
    versions = module.manifest["specialized"]
    assert [v["dims"] for v in versions] == [{"m": 16, "n": 4}, {"m": 16, "n": 8}]
    assert all(0 <= v["own_weights"] <= v["weights"] for v in versions)
    assert sum(v["own_weights"] for v in versions) < module.manifest["sizes"]["weights"]
    assert all(agrees(module, *shape) for shape in ((4, 16), (8, 16), (4, 15), (9, 2), (8, 16), (30, 40), (4, 16)))


def test_some_dimensions_of_a_version_stay_open(tmp_path: Path) -> None:
    module = built(tmp_path, specialize={"n": 5})
    assert all(agrees(module, *shape) for shape in ((5, 2), (5, 40), (6, 3)))


def test_the_checks_of_a_version_are_its_own(tmp_path: Path) -> None:
    """They are counted on behind those of the code for any size, and m is open in both."""
    module = built(tmp_path, specialize={"n": 5})
    for n in (1, 5):
        with pytest.raises(OptionError, match=rf"TopK.*: f32\[{'5' if n == 5 else 'n'}, m, 7\] has fewer elements"):
            module(np.zeros((n, 1, 48), np.float32))
        assert agrees(module, n, 2)


def test_sizes_without_a_version_are_refused(tmp_path: Path) -> None:
    module = built(tmp_path, dims={"n": (4, 6), "m": 16})
    assert agrees(module, 4, 16) and agrees(module, 6, 16)
    with pytest.raises(OptionError, match=r"the model was compiled for n=4 or n=6; compile it for these sizes too"):
        module(np.zeros((5, 16, 48), np.float32))
    with pytest.raises(OptionError, match=r"dimension 0 \(n\) must be from 4 to 6, got 7"):
        module(np.zeros((7, 16, 48), np.float32))
    assert agrees(module, 6, 16)


def test_equal_versions_cost_no_weights() -> None:
    done = compile_with(PROTO, cache=False, name="net", jobs=1, dims={"n": (8, 16), "m": 16})
    assert done.program is not None and len(done.program.versions) == 2
    assert [name for name, _ in done.summary.estimate] == ["version n=8", "version n=16"]


@pytest.mark.parametrize("options, message", [
    ({"specialize": {"k": 4}}, r"specialize: the model has no open dimension 'k'; open are m, n"),
    ({"specialize": {"n": 9}, "dims": {"n": "1..8"}}, r"specialize: n=9 is outside of the range 1\.\.8"),
    ({"specialize": {"n": 2}, "dims": {"n": 2}}, r"specialize: n has a size in dims"),
    ({"specialize": {"n": ()}}, r"specialize\['n'\]: expected a size or several, got \(\)"),
    ({"specialize": {"n": tuple(range(1, 70))}}, r"specialize: 69 combinations of sizes, at most 64"),
    ({"specialize": {"n": 2}, "target": "xla"}, r"specialize: n=2: target xla has no code for open.*; use --dim n=2"),
    ({"specialize": {"n": 2}, "transform_weights": "create"}, r"transform_weights=create with the open dimensions"),
])  # fmt: skip
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compile(PROTO, cache=False, **options)
