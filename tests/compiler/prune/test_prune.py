"""Pruning: patterns of zeros, fitted weights, channels through every kind of connection, and the command."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tilewright import ModelError, OptionError
from tilewright.compiler.cli import main
from tilewright.compiler.onnx_edit import OnnxEdit
from tilewright.compiler.prune import budget
from tilewright.compiler.prune.allocate import allocate, cost_curve
from tilewright.compiler.prune.api import prune
from tilewright.compiler.prune.budget import least_cost
from tilewright.compiler.prune.channels import cut_channels, remove_unread_channels
from tilewright.compiler.prune.layers import exposed, find_layers
from tilewright.compiler.prune.moments import Moments
from tilewright.compiler.prune.patterns import Pattern, parse_pattern
from tilewright.compiler.prune.reconstruct import DAMPING, choose, damped, refit, relative_error
from tilewright.compiler.prune.spaces import Follower
from tilewright.compiler.quantize.activations import ActivationRunner
from tilewright.compiler.quantize.samples import Batch
from tilewright.frontend.onnx import import_model
from tilewright.ir.interpreter import run_graph

DIGITS = Path(__file__).parents[3] / "examples" / "digits"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "prune-cache"))


def model(nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], rank: int, **constants: np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{n}" for n in range(rank)])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng([7, *shape]).standard_normal(shape).astype(np.float32)


def two_products() -> ModelProto:
    return model(
        [helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"), helper.make_node("Add", ["a", "b1"], ["b"]),
         helper.make_node("Relu", ["b"], ["c"]), helper.make_node("MatMul", ["c", "w2"], ["y"], name="second")],
        {"x": [12, 32]}, 2, w1=random(32, 64), b1=random(64), w2=random(64, 32),
    )


def samples(count: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((32, 32)) * np.linspace(0.1, 2, 32)  # inputs are correlated, as real ones are
    return [(rng.standard_normal((12, 32)) @ mix).astype(np.float32) for _ in range(count)]


# ---- patterns ----


@pytest.mark.parametrize("text", ["unstructured", "2x1", "8x1", "8x4", "2:4", "4:8"])
def test_masks_have_the_pattern(text: str) -> None:
    pattern = parse_pattern(text)
    mask = pattern.select(np.abs(random(32, 16)), 0.25)
    if pattern.of:
        assert (mask.reshape(-1, pattern.of, 16).sum(axis=1) == pattern.keep).all()
    else:
        blocks = mask.reshape(32 // pattern.deep, pattern.deep, -1, pattern.block)
        assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all() and mask.mean() == 0.25
    assert pattern.name == text


def test_wrong_options_say_what_is_known() -> None:
    with pytest.raises(OptionError, match="pattern: expected one of unstructured"):
        prune(two_products(), samples(), pattern="8by1")
    with pytest.raises(OptionError, match="importance: expected one of magnitude"):
        prune(two_products(), samples(), importance="luck")
    with pytest.raises(OptionError, match="sparsity: expected a share"):
        prune(two_products(), samples(), sparsity=1.5)
    with pytest.raises(OptionError, match="exclude: no layer is called nobody"):
        prune(two_products(), samples(), exclude=["nobody"])
    with pytest.raises(ModelError, match="no layer can be pruned"):
        prune(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [2, 2]}, 2), [random(2, 2)])


# ---- one layer ----


def correlated(rows: int, depth: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.standard_normal((rows, depth)) @ (rng.standard_normal((depth, depth)) + 2 * np.eye(depth))


def test_fitted_weights_are_the_least_squares_solution() -> None:
    x, w = correlated(400, 24), random(24, 8).astype(np.float64)
    own = x.T @ x / len(x)
    mask, _ = choose(w, own, own @ w, Pattern("unstructured"), 0.5, "magnitude")
    made = refit(w, mask, own, own @ w)
    assert not made[~mask].any()
    damping = DAMPING * np.diag(own).mean()
    for n in range(8):
        rows = mask[:, n]
        best = np.linalg.solve(own[np.ix_(rows, rows)] + damping * np.eye(rows.sum()),
                               own[rows] @ w[:, n] + damping * w[rows, n])
        np.testing.assert_allclose(made[rows, n], best, rtol=1e-3, atol=1e-3)


def test_thinning_takes_the_groups_that_lose_least_first() -> None:
    pattern, scores = parse_pattern("2:4"), np.abs(random(32, 6)).astype(np.float64)
    half = pattern.thinned(scores, 2, 0.5).reshape(8, 4, 6)
    counts = half.sum(axis=1)
    assert set(np.unique(counts)) == {2, 3} and (counts == 2).sum() == 24
    third = np.sort(scores.reshape(8, 4, 6), axis=1)[:, 1]  # what the step from three to two takes
    assert third[counts == 2].max() <= third[counts == 3].min()
    np.testing.assert_array_equal(pattern.thinned(scores, 2, 1.0), pattern.select(scores, 0.5))


def test_a_layer_makes_up_for_the_drift_of_what_it_is_added_to() -> None:
    """The residual has lost part of what depends on the layer's input: the least squares of the sum, not of the product."""
    x, w, lost = correlated(500, 16), random(16, 8).astype(np.float64), 0.3 * random(16, 8).astype(np.float64)
    found = Moments(16)
    rows = (x + 1).astype(np.float32)
    found.add(rows, rows, (rows @ lost + 0.5).astype(np.float32))
    own, _ = found.normal(True)
    made = refit(w, np.ones(w.shape, bool), own, found.target(w, True))
    drawn = np.linalg.solve(damped(own), own @ lost)  # damping draws it to w
    np.testing.assert_allclose(made, w + drawn, atol=0.02 * np.abs(w).max())
    wanted = (rows @ (w + lost) + 0.5).mean(axis=0)
    np.testing.assert_allclose((rows @ made).mean(axis=0) + found.offset(w, made), wanted, rtol=1e-3, atol=1e-3)


def test_residuals_are_found_behind_a_bias() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"), helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Add", ["q", "x"], ["y"]),
    ]
    edit = OnnxEdit(model(nodes, {"x": [4, 64]}, 2, w=random(64, 64), b=random(64)))
    (layer,), _ = find_layers(edit)
    assert (layer.bias, layer.residual) == ("b", "x") and exposed([layer]) == ["x"]


def test_second_order_beats_magnitude() -> None:
    """With correlated inputs, and all fitted at the end."""
    x, w = correlated(600, 64), random(64, 32).astype(np.float64)
    own = x.T @ x / len(x)
    errors = {}
    for importance in ("magnitude", "obs"):
        mask, _ = choose(w, own, own @ w, Pattern("unstructured"), 0.5, importance)
        errors[importance] = relative_error(refit(w, mask, own, own @ w), w, own, own, own)
    assert errors["obs"] < 0.6 * errors["magnitude"]


def test_allocation_meets_the_target_and_spares_what_matters() -> None:
    curves = {"vital": cost_curve(np.full((64, 64), 5.0), Pattern("u"), 100.0),
              "idle": cost_curve(np.full((64, 64), 0.01), Pattern("u"), 100.0)}
    found = allocate(curves, {"vital": 4096, "idle": 4096}, 0.5)
    assert found["vital"] > found["idle"] and abs(sum(found.values()) / 2 - 0.5) < 0.03


# ---- models ----


@pytest.mark.parametrize("pattern, block", [("unstructured", 1), ("8x1", 8), ("8x4", 8), ("2:4", 1)])
def test_models_keep_their_outputs(pattern: str, block: int) -> None:
    fitted = prune(two_products(), samples(), pattern=pattern, sparsity=0.5)
    plain = prune(two_products(), samples(), pattern=pattern, sparsity=0.5, importance="magnitude", reconstruct=False)
    assert abs(fitted.reached - 0.5) < 0.03
    assert fitted.agreement.error < 0.8 * plain.agreement.error
    for name in ("w1", "w2"):
        w = next(numpy_helper.to_array(t) for t in fitted.model.graph.initializer if t.name == name)
        blocks = (w != 0).reshape(w.shape[0], -1, block)
        assert (blocks.all(axis=2) == blocks.any(axis=2)).all()
        if pattern == "8x4":
            deep = (w != 0).reshape(-1, 4, w.shape[1])
            assert (deep.all(axis=1) == deep.any(axis=1)).all()
        if pattern == "2:4":
            assert ((w != 0).reshape(-1, 4, w.shape[1]).sum(axis=1) <= 2).all()


def test_excluded_nodes_stay_as_they_are() -> None:
    made = prune(two_products(), samples(), sparsity=0.5, exclude=["second"])
    w2 = next(numpy_helper.to_array(t) for t in made.model.graph.initializer if t.name == "w2")
    np.testing.assert_array_equal(w2, random(64, 32))
    assert made.skipped == {"second": "excluded"} and [r.name for r in made.layers] == ["first"]


# ---- channels ----


def conv(x: str, w: str, y: str, group: int = 1) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w], [y], name=y, kernel_shape=[3, 3], pads=[1] * 4, group=group)


def tower() -> ModelProto:
    """A residual sum, a depthwise convolution, a concatenation, a flattened head."""
    nodes = [
        conv("x", "w0", "a"), helper.make_node("Relu", ["a"], ["ar"]), conv("ar", "w1", "b"),
        helper.make_node("Add", ["ar", "b"], ["s"]),
        conv("s", "wd", "d", group=8), helper.make_node("Sigmoid", ["d"], ["ds"]), conv("ds", "w2", "e"),
        helper.make_node("Concat", ["e", "s"], ["c"], axis=1), conv("c", "w3", "f"),
        helper.make_node("Mul", ["f", "scale"], ["fs"]),
        helper.make_node("Flatten", ["fs"], ["flat"]), helper.make_node("Gemm", ["flat", "wf", "bf"], ["y"], name="head"),
    ]
    return model(nodes, {"x": [2, 3, 4, 4]}, 2, w0=random(8, 3, 3, 3), w1=random(8, 8, 3, 3), wd=random(8, 1, 3, 3),
                 w2=random(6, 8, 3, 3), w3=random(10, 14, 3, 3), scale=random(10, 1, 1), wf=random(160, 5), bf=random(5))


def attention() -> ModelProto:
    """Two tokens times three heads of four; the projections share one bias, which each of them gets for itself."""
    nodes = []
    for n in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"w{n}"], [n], name=n), helper.make_node("Add", [n, "bias"], [f"{n}b"]),
            helper.make_node("Reshape", [f"{n}b", "heads"], [f"{n}r"]),
            helper.make_node("Transpose", [f"{n}r"], [f"{n}t"], perm=[0, 2, 3, 1] if n == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("MatMul", ["qt", "kt"], ["p"]), helper.make_node("Softmax", ["p"], ["sm"], axis=-1),
        helper.make_node("MatMul", ["sm", "vt"], ["o"]), helper.make_node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["ot", "flat"], ["of"]), helper.make_node("MatMul", ["of", "wo"], ["y"], name="out"),
    ]
    return model(nodes, {"x": [1, 5, 12]}, 3, wq=random(12, 12), wk=random(12, 12) + 1, wv=random(12, 12) + 2,
                 bias=random(12), wo=random(12, 7), heads=np.array([1, 5, 3, 4]), flat=np.array([1, 5, 12]))


@pytest.mark.parametrize("make", [tower, attention], ids=lambda f: f.__name__)
def test_cut_channels_change_nothing_that_is_read(make: object) -> None:
    """Units whose readers have zeros in their place leave the graph: the outputs are the same."""
    edit = OnnxEdit(make())  # type: ignore[operator]
    found = Follower(edit).run()
    layers = {layer.name: layer for layer in find_layers(edit, smallest=0)[0]}
    free = [s for s in found.spaces if s.parent is None and not s.locked]
    assert free
    rng = np.random.default_rng(1)
    kept = {s: np.sort(rng.permutation(s.size)[: max(1, s.size // 2)]) for s in free}
    from tilewright.compiler.prune.channels import _rows_of

    for name, carried in found.readers.items():
        w = layers[name].matrix(edit)
        for space, units in _rows_of(carried, len(w)):
            if space in kept:
                w[np.delete(units, kept[space], axis=0).reshape(-1)] = 0
        layers[name].store(edit, w)
    zeros = edit.finish()
    cut_channels(edit, found, kept)
    small = edit.finish()
    onnx.checker.check_model(small, full_check=True)
    assert sum(np.prod(t.dims) for t in small.graph.initializer) < 0.7 * sum(np.prod(t.dims) for t in zeros.graph.initializer)
    x = random(*(d.dim_value for d in small.graph.input[0].type.tensor_type.shape.dim))
    a, b = (run_graph(import_model(m), [x])[0] for m in (zeros, small))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def test_channels_that_nothing_reads_leave_the_graph() -> None:
    edit = OnnxEdit(tower())
    gone = {"w3": [1, 7, 9], "w2": [3], "w1": [3]}  # channel 1 of `e`; 3 of the residual sum, in every reader of it; 1 in one
    for name, inputs in gone.items():
        edit.constants[name] = edit.constants[name].copy()
        edit.constants[name][:, inputs] = 0
    zeros = edit.finish()
    assert remove_unread_channels(edit) == 2
    small = edit.finish()
    shapes = {t.name.removesuffix("_cut"): list(t.dims) for t in small.graph.initializer}
    assert shapes["w0"][0] == 7 and shapes["w1"][:2] == [7, 7] and shapes["w2"][:2] == [5, 7]
    x = random(2, 3, 4, 4)
    a, b = (run_graph(import_model(m), [x])[0] for m in (zeros, small))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(a).max())


def test_groups_follow_the_connections() -> None:
    found = Follower(OnnxEdit(tower())).run()
    groups = {s.name: s for s in found.spaces if s.parent is None}
    assert sorted(s.size for s in groups.values() if not s.locked) == [6, 8, 10]  # e; a, b and what reads them; f
    assert groups["head"].locked == "an output of the model"
    heads = Follower(OnnxEdit(attention())).run()
    assert [s.size for s in heads.spaces if s.parent is None and not s.locked] == [3]


def test_channels_are_removed_and_the_rest_is_fitted() -> None:
    fitted = prune(two_products(), samples(), pattern="channels", sparsity=0.25)
    plain = prune(two_products(), samples(), pattern="channels", sparsity=0.25, importance="magnitude", reconstruct=False)
    shapes = {t.name.removesuffix("_cut"): list(t.dims) for t in fitted.model.graph.initializer}
    assert shapes == {"w1": [32, 48], "b1": [48], "w2": [48, 32]}
    assert fitted.agreement.error < 0.8 * plain.agreement.error
    assert fitted.model.graph.output[0].name == "y"


# ---- the command ----


def test_the_command_writes_model_artifact_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(DIGITS / "digits.npz") as data:
        images = data["images"][:32].reshape(4, 8, 1, 8, 8).astype(np.float32) / 16
    (tmp_path / "samples").mkdir()
    for n, x in enumerate(images):
        for m, one in enumerate(x):
            np.savez(tmp_path / "samples" / f"{n}{m}.npz", image=one[None])
    out = tmp_path / "out"
    arguments = ["prune", DIGITS / "digits.onnx", "--data", tmp_path / "samples", "-o", out, "--sparsity", "0.6",
                 "--report", tmp_path / "r.html", "--json"]
    assert main([str(a) for a in arguments]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["meets"] and len(facts["trials"]) == 1 and facts["trials"][0]["layers"]
    assert (out / "artifact" / "manifest.json").is_file() and (out / "prune.json").is_file()
    page = (tmp_path / "r.html").read_text()
    assert "unstructured 60 %" in page and "<svg" in page
    pruned = onnx.load(facts["onnx"])
    chosen = facts["trials"][facts["chosen"]]
    assert abs(chosen["reached"] - chosen["sparsity"]) < 0.05
    assert ActivationRunner(pruned).run({"image": images[0, 0][None]})


def test_least_cost_is_the_best_choice_that_fits() -> None:
    rng = np.random.default_rng(1)
    times = np.sort(rng.random((4, 3)), axis=1)[:, ::-1]
    costs = np.sort(rng.random((4, 3)), axis=1)
    for most in (0.9 * times[:, 0].sum(), 0.6 * times[:, 0].sum(), 1.02 * times[:, 2].sum()):
        chosen = least_cost(times, costs, most)
        rows = np.arange(4)
        fits = [c for c in itertools.product(range(3), repeat=4) if times[rows, c].sum() <= most * 0.99]
        assert times[rows, chosen].sum() <= most
        assert costs[rows, chosen].sum() <= min(costs[rows, list(c)].sum() for c in fits) + 1e-12
    assert least_cost(times, costs, 0.0).tolist() == [2, 2, 2, 2]


def test_a_time_decides_how_much_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that are what is left of the weights, half of the time is half of the weights."""

    def measured(proto: onnx.ModelProto, batch: Batch) -> tuple[float, dict[str, float]]:
        edit = OnnxEdit(proto)
        left = {n.name: float(1e-6 * np.count_nonzero(n.matrix(edit))) for n in find_layers(edit)[0]}
        return 1e-4 + sum(left.values()), left

    def raced(models: Sequence[onnx.ModelProto], batch: Batch) -> list[float]:
        noise = next(slow)
        return [noise * measured(m, batch)[0] for m in models]

    slow = itertools.cycle([1.0, 1.7, 1.2])  # phases in which the machine is busy
    monkeypatch.setattr(budget, "measure", measured)
    monkeypatch.setattr(budget, "race", raced)
    whole = measured(OnnxEdit(two_products()).finish(), Batch({}))[0]
    pruned = prune(two_products(), samples(), seconds=0.5 * whole)
    assert measured(pruned.model, Batch({}))[0] == pytest.approx(0.5 * whole, rel=0.04)
    assert prune(two_products(), samples(), seconds=2 * whole).reached == 0
    with pytest.raises(OptionError, match="no sparsity to choose by time"):
        prune(two_products(), samples(), pattern="2:4", seconds=1.0)
