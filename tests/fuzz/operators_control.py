"""Control flow, sequences, functions of a model, and operators of other domains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fuzz.draw import BOOL, CODES, F32, I64, Draw, Refused, Tensor
from fuzz.operators_contract import weights

_INNER_UNARY = ("Relu", "Neg", "Abs", "Tanh", "Sigmoid", "Identity")
_INNER_BINARY = ("Add", "Sub", "Mul", "Max")


def declared(name: str, dtype: np.dtype, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, CODES[dtype], shape)


def body(d: Draw, prefix: str, start: str, x: Tensor, steps: int) -> tuple[list[onnx.NodeProto], str, bool]:
    """Nodes that keep shape and type, some of them reading values of the outer graph; the name of the last result; whether
    they round nothing."""
    nodes, name, exact = [], start, True
    outer = [t for t in d.values if t.dtype == x.dtype and t.shape in (x.shape, (), x.shape[-1:])]
    for i in range(steps):
        made = f"{prefix}{i}"
        if d.chance(0.5):
            op = d.pick(_INNER_UNARY)
            exact &= op not in ("Tanh", "Sigmoid")
            nodes.append(helper.make_node(op, [name], [made]))
        else:
            other = d.pick(outer).name if outer and d.chance(0.7) else start
            nodes.append(helper.make_node(d.pick(_INNER_BINARY), [name, other], [made]))
        name = made
    return nodes, name, exact


def if_(d: Draw, op: str) -> None:
    x = d.value((F32,))
    condition = d.const(d.chance(0.5), BOOL) if d.chance(0.2) else d.input(np.array(d.chance(0.5)))
    branches, exact = [], True
    for prefix in (f"t{len(d.nodes)}_", f"e{len(d.nodes)}_"):
        nodes, last, same = body(d, prefix, x.name, x, d.int(1, 3))
        exact &= same
        extra = []
        if d.chance(0.3):
            extra = [numpy_helper.from_array(d.array(x.shape[-1:], F32), f"{prefix}w")]
            nodes.append(helper.make_node("Add", [last, f"{prefix}w"], [f"{prefix}s"]))
            last = f"{prefix}s"
        branches.append(helper.make_graph(nodes, prefix, [], [declared(last, F32)], extra))
    d.node(op, condition, then_branch=branches[0], else_branch=branches[1], exact=exact)


def loop(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.value.size > 0)
    p = f"l{len(d.nodes)}_"
    nodes, last, exact = body(d, p, f"{p}state", x, d.int(1, 3))
    nodes.append(helper.make_node("Mul", [last, f"{p}half"], [f"{p}next"]))
    outputs = [declared(f"{p}go2", BOOL), declared(f"{p}next", F32)]
    scanned = d.chance(0.5)
    if scanned:
        nodes.append(helper.make_node("Identity", [f"{p}next"], [f"{p}out"]))
        outputs.append(declared(f"{p}out", F32))
    if d.chance(0.4):
        nodes += [
            helper.make_node("Cast", [f"{p}i"], [f"{p}number"], to=CODES[F32]),
            helper.make_node("Add", [f"{p}state", f"{p}number"], [f"{p}unused"]),
        ]
    constants = [numpy_helper.from_array(np.float32(0.5), f"{p}half")]
    stops = d.chance(0.3) and not scanned
    if stops:
        constants.append(numpy_helper.from_array(np.int64(1), f"{p}last"))
        nodes.append(helper.make_node("Less", [f"{p}i", f"{p}last"], [f"{p}go2"]))
    else:
        nodes.append(helper.make_node("Identity", [f"{p}go"], [f"{p}go2"]))
    graph = helper.make_graph(nodes, p, [declared(f"{p}i", I64, []), declared(f"{p}go", BOOL, []), declared(f"{p}state", F32)],
                              outputs, constants)  # fmt: skip
    trips = d.const(d.int(0 if not scanned else 1, 3), I64)
    if not scanned and d.chance(0.5):
        trips = d.input(np.array(d.int(0, 3), np.int64))
    d.node(op, trips, None if d.chance(0.5) else d.const(True, BOOL), x, body=graph, outputs=1 + scanned, exact=exact)


def scan(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 2 and t.value.size > 0)
    p = f"s{len(d.nodes)}_"
    state = d.operand(d.array(x.shape[1:], F32))
    nodes = [
        helper.make_node(d.pick(("Add", "Max", "Sub")), [f"{p}state", f"{p}x"], [f"{p}mixed"]),
        helper.make_node("Mul", [f"{p}mixed", f"{p}half"], [f"{p}next"]),
        helper.make_node(d.pick(("Relu", "Neg")), [f"{p}next"], [f"{p}y"]),
    ]
    graph = helper.make_graph(
        nodes, p, [declared(f"{p}state", F32, x.shape[1:]), declared(f"{p}x", F32, x.shape[1:])],
        [declared(f"{p}next", F32), declared(f"{p}y", F32)], [numpy_helper.from_array(np.float32(0.5), f"{p}half")],
    )  # fmt: skip
    extra = {"scan_input_directions": [1]} if d.chance(0.3) else {}
    extra |= {"scan_output_directions": [1]} if d.chance(0.3) else {}
    d.node(op, state, x, body=graph, num_scan_inputs=1, outputs=2, exact=True, **extra)


def sequence(d: Draw, op: str) -> None:
    """SplitToSequence - SequenceAt or ConcatFromSequence, which exist while importing only."""
    x = d.value((F32, I64), lambda t: t.rank > 0 and t.value.size > 0)
    axis = d.int(0, x.rank - 1)
    p = f"q{len(d.nodes)}_"
    if d.chance(0.5):
        first = helper.make_node("SplitToSequence", [x.name], [f"{p}s"], axis=axis)
    else:
        first = helper.make_node("SequenceConstruct", [x.name, x.name], [f"{p}s"])
    graph_nodes = [first]
    if d.chance(0.5):
        at = d.ints([0])
        (at,) = d.node("Squeeze", at, keep=False, exact=True)
        graph_nodes.append(helper.make_node("SequenceAt", [f"{p}s", at.name], [f"{p}y"]))
    else:
        graph_nodes.append(helper.make_node("ConcatFromSequence", [f"{p}s"], [f"{p}y"], axis=0))
    inner = helper.make_graph(graph_nodes, p, [], [declared(f"{p}y", x.dtype)])
    other = helper.make_graph([helper.make_node("Identity", [x.name], [f"{p}z"])], f"{p}e", [], [declared(f"{p}z", x.dtype)])
    d.node("If", d.const(True, BOOL), then_branch=inner, else_branch=other, exact=True)


MICROSOFT = "com.microsoft"


def microsoft_unary(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 1 and t.value.size > 0)
    operands = (x, weights(d, x.shape[-1])) if op == "BiasGelu" else (x,)
    d.node(op, *operands, domain=MICROSOFT)


def skip_norm(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank == 3 and t.value.size > 0 and t.shape[-1] > 1)
    n = x.shape[-1]
    operands = [x, d.operand(d.array(x.shape, F32)), weights(d, n)]
    if op == "SkipLayerNormalization":
        operands.append(weights(d, n))
    d.node(op, *operands, domain=MICROSOFT, epsilon=1e-2)


def fused_product(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank >= 2 and t.value.size > 0)
    d.node(op, x, weights(d, x.shape[-1], d.int(1, 9)), domain=MICROSOFT, alpha=d.pick((1.0, 0.5)), exact=True)


def tree(d: Draw, op: str) -> None:
    """A small ensemble on [N, C]: stumps with thresholds between the values that occur."""
    x = d.value((F32,), lambda t: t.rank == 2 and t.value.size > 0, exact=True)
    trees = d.int(1, 4)
    ids = np.repeat(np.arange(trees), 3)
    feature = [d.int(0, x.shape[1] - 1) if i % 3 == 0 else 0 for i in range(3 * trees)]
    d.domains["ai.onnx.ml"] = 3
    d.node(
        op, x, domain="ai.onnx.ml", n_targets=1, aggregate_function=d.pick(("SUM", "MAX", "MIN")),
        nodes_treeids=[int(i) for i in ids], nodes_nodeids=[0, 1, 2] * trees, nodes_featureids=feature,
        nodes_modes=[d.pick(("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT")) if i % 3 == 0 else "LEAF" for i in range(3 * trees)],
        nodes_values=[d.int(-8, 8) / 8 + 1 / 16 if i % 3 == 0 else 0.0 for i in range(3 * trees)],
        nodes_truenodeids=[1, 0, 0] * trees, nodes_falsenodeids=[2, 0, 0] * trees,
        nodes_missing_value_tracks_true=[0] * (3 * trees), nodes_hitrates=[1.0] * (3 * trees),
        target_treeids=[int(i) for i in np.repeat(np.arange(trees), 2)], target_nodeids=[1, 2] * trees,
        target_ids=[0] * (2 * trees), target_weights=[d.int(-8, 8) / 4 for _ in range(2 * trees)],
    )  # fmt: skip


def scaler(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank == 2 and t.value.size > 0)
    n = x.shape[1]
    d.domains["ai.onnx.ml"] = 3
    d.node(op, x, domain="ai.onnx.ml", offset=[0.5] * n, scale=[0.25] * n, exact=True)


def linear_regressor(d: Draw, op: str) -> None:
    x = d.value((F32,), lambda t: t.rank == 2 and t.value.size > 0)
    n = x.shape[1]
    d.domains["ai.onnx.ml"] = 3
    coefficients = [d.int(-8, 8) / 8 for _ in range(n)]
    d.node(op, x, domain="ai.onnx.ml", coefficients=coefficients, intercepts=[0.5], targets=1, exact=True)


def label(d: Draw, op: str) -> None:
    x = d.value((I64,), lambda t: t.rank > 0)
    if d.opset < 9:
        raise Refused("old")
    d.domains["ai.onnx.ml"] = 3
    d.node(op, x, domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 5], values_floats=[0.5, 1.5, -2.0, 3.0], default_float=-1.0,
           exact=True)  # fmt: skip


ROWS = {"If": if_, "Loop": loop, "Scan": scan}
PATTERNS = {
    "sequence": sequence,
    **{f"com.microsoft:{op}": f for op, f in {
        "FastGelu": microsoft_unary, "BiasGelu": microsoft_unary, "Gelu": microsoft_unary, "QuickGelu": microsoft_unary,
        "SkipLayerNormalization": skip_norm, "SkipSimplifiedLayerNormalization": skip_norm, "FusedMatMul": fused_product,
    }.items()},
    **{f"ai.onnx.ml:{op}": f for op, f in {
        "TreeEnsembleRegressor": tree, "Scaler": scaler, "LinearRegressor": linear_regressor, "LabelEncoder": label,
    }.items()},
}  # fmt: skip
