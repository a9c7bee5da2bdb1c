"""Mixtures of experts of the domain com.microsoft: every row goes through the few experts that a router gives it.

Each expert is a branch that runs if any row needs it, and then on all rows, weighted: a row alone, as in generation, costs the
experts that it has; of many rows each costs all experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.control import If
from ....ir.ops.movement import GatherElements
from ....ir.ops.norm import Gelu, Softmax
from ....ir.ops.quantize import Dequantize
from ....ir.ops.reduce import Reduce
from ....ir.ops.scatter import ScatterElements
from ....ir.ops.sort import TopK
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op
from .layout import require_rank
from .microsoft import DOMAIN, unpacked

Layer = Callable[[OnnxBuilder, Value, int], Value]
"""The product of rows with the weights of an expert, and its bias."""


@dataclass(frozen=True)
class Unit:
    """What stands between the two layers: an activation, or a product of two halves (SwiGLU)."""

    kind: str
    fusion: int
    alpha: float
    beta: float
    limit: float | None

    def __post_init__(self) -> None:
        if self.kind not in ("relu", "gelu", "silu", "swiglu", "identity"):
            raise ModelError(f"attribute 'activation_type' is {self.kind!r}, expected relu, gelu, silu, swiglu or identity")
        if self.fusion not in (0, 1, 2):
            raise ModelError(f"attribute 'swiglu_fusion' is {self.fusion}, expected 0, 1 or 2")

    @property
    def parts(self) -> int:
        """How many values of the first layer make one of the second."""
        return 2 if self.kind == "swiglu" and self.fusion else 1

    def apply(self, b: OnnxBuilder, x: Value, other: Value | None) -> Value:
        if self.kind == "swiglu":
            return self._gated(b, *self._halves(b, x, other))
        made = {
            "relu": lambda: b.binary("max", x, 0), "gelu": lambda: b.add(Gelu("tanh"), x),
            "silu": lambda: b.binary("mul", x, b.unary("sigmoid", x)), "identity": lambda: x,
        }[self.kind]()  # fmt: skip
        return made if other is None else b.binary("mul", made, other)

    def _halves(self, b: OnnxBuilder, x: Value, other: Value | None) -> tuple[Value, Value]:
        if not self.fusion:
            if other is None:
                raise ModelError("swiglu that is not fused needs the weights fc3")
            return x, other
        size = x.type.shape[-1]
        assert isinstance(size, int)
        if self.fusion == 1:
            return b.slice(x, 1, 0, size // 2, 2), b.slice(x, 1, 1, size // 2, 2)
        return b.slice(x, 1, 0, size // 2), b.slice(x, 1, size // 2, size // 2)

    def _gated(self, b: OnnxBuilder, gate: Value, linear: Value) -> Value:
        if self.limit is not None:
            gate = b.binary("min", gate, self.limit)
            linear = b.binary("min", b.binary("max", linear, -self.limit), self.limit)
        shut = b.unary("sigmoid", b.binary("mul", gate, self.alpha))
        return b.binary("mul", b.binary("mul", gate, shut), b.binary("add", linear, self.beta))


def _gates(b: OnnxBuilder, router: Value, weights: Value | None, k: int, normalize: bool) -> Value:
    """How much each expert counts for each row, [T, E]: the softmax of its scores, 0 but for the k largest."""
    require_rank("router_probs", router, 2)
    experts = router.type.shape[1]
    if not isinstance(experts, int) or not 1 <= k <= experts:
        raise ModelError(f"k is {k}, of {experts} experts")
    scores, places = b.add_multi(TopK(1, k, True), router)
    if weights is not None:
        if weights.type != router.type:
            raise ModelError(f"router_weights must be {router.type}, got {weights.type}")
        chosen = _picked(b, weights, places)
        total = b.add(Reduce("sum", (1,), True), chosen)
        chosen = b.binary("div", chosen, total) if normalize else chosen
    elif normalize:
        chosen = b.add(Softmax(1), scores)
    else:
        chosen = _picked(b, b.add(Softmax(1), router), places)
    zeros = b.broadcast(b.scalar(0, router.type.dtype), router.type.shape)
    return b.add(ScatterElements(1, "none"), zeros, places, chosen)


def _picked(b: OnnxBuilder, x: Value, places: Value) -> Value:
    return b.add(GatherElements(1), x, places)


def _mixture(
    b: OnnxBuilder, x: Value, gates: Value, unit: Unit, first: Layer, second: Layer, third: Layer | None
) -> Value:
    shape = x.type.shape
    if x.type.rank not in (2, 3):
        raise ModelError(f"expected rows [T, H] or [B, S, H], got {x.type}")
    rows = b.reshape(x, (product(shape[:-1]), shape[-1]))
    total = b.broadcast(b.scalar(0, x.type.dtype), rows.type.shape)
    experts = gates.type.shape[1]
    assert isinstance(experts, int)
    for n in range(experts):
        gate = b.cast(b.slice(gates, 1, n, 1), x.type.dtype)
        used = b.cast(b.binary("ne", gate, 0), "i32")
        needed = b.binary("gt", b.add(Reduce("max", (0, 1), False), used), 0)
        then, other = OnnxBuilder(f"expert_{n}"), OnnxBuilder(f"no_expert_{n}")
        for branch in (then, other):
            branch.where = b.where
        inner = [then.input(name, v.type) for name, v in (("total", total), ("rows", rows), ("gate", gate))]
        kept = [other.input(name, v.type) for name, v in (("total", total), ("rows", rows), ("gate", gate))]
        hidden = unit.apply(then, first(then, inner[1], n), None if third is None else third(then, inner[1], n))
        made = then.binary("add", inner[0], then.binary("mul", second(then, hidden, n), inner[2]))
        zero = other.binary("add", kept[0], 0)  # a result of its own
        op = If(then.graph([made], ["total"]), other.graph([zero], ["total"]))
        (total,) = b.add_multi(op, needed, total, rows, gate)
    return b.reshape(total, shape)


def _require_experts(what: str, weights: Value, gates: Value) -> None:
    require_rank(what, weights, 3)
    if weights.type.shape[0] != gates.type.shape[1]:
        raise ModelError(f"{what}: {weights.type}, expected one of each of the router's {gates.type.shape[1]} experts")


def _offsets(b: OnnxBuilder, what: str, bias: Value | None, experts: int, out: int) -> np.ndarray | None:
    """The bias of every expert, [E, out]."""
    if bias is not None and bias.type.shape != (experts, out):
        raise ModelError(f"{what}_bias: expected [{experts}, {out}], got {bias.type}")
    return None if bias is None else b.array(bias, f"{what}_bias")


def _dense(b: OnnxBuilder, what: str, weights: Value, bias: Value | None, gates: Value) -> Layer:
    """weights: [E, out, in]."""
    _require_experts(what, weights, gates)
    array = b.array(weights, what)
    offsets = _offsets(b, what, bias, *array.shape[:2])

    def layer(b: OnnxBuilder, x: Value, n: int) -> Value:
        y = b.add(MatMul(), x, b.constant(np.ascontiguousarray(array[n].T)))
        return y if offsets is None else b.binary("add", y, b.constant(np.ascontiguousarray(offsets[n])))

    return layer


@onnx_op("MoE", since=0, domain=DOMAIN)
def mixture_of_experts(
    b: OnnxBuilder, x: Value, router: Value, w1: Value, b1: Value | None, w2: Value, b2: Value | None = None,
    w3: Value | None = None, b3: Value | None = None, *, activation_alpha: float = 1.0, activation_beta: float = 0.0,
    activation_type: str = "relu", k: int = 1, normalize_routing_weights: int = 0, swiglu_fusion: int = 0,
    swiglu_limit: float | None = None, use_sparse_mixer: int = 0,
) -> Outputs:  # fmt: skip
    if use_sparse_mixer:
        raise ModelError("the sparse mixer is not supported")
    unit = Unit(activation_type, swiglu_fusion, activation_alpha, activation_beta, swiglu_limit)
    gates = _gates(b, router, None, k, bool(normalize_routing_weights))
    third = None if w3 is None else _dense(b, "fc3_experts", w3, b3, gates)
    first, second = _dense(b, "fc1_experts", w1, b1, gates), _dense(b, "fc2_experts", w2, b2, gates)
    return _mixture(b, x, gates, unit, first, second, third)


@dataclass(frozen=True)
class _Packed:
    """Weights of integers, [E, out, in * bits / 8] with the low bits first, and what makes numbers of them."""

    what: str
    weights: Value
    scales: Value | None
    zeros: Value | None
    bias: Value | None
    bits: int
    block: int

    def layer(self, b: OnnxBuilder, gates: Value) -> Layer:
        _require_experts(self.what, self.weights, gates)
        if self.bits not in (2, 4, 8) or self.scales is None:
            raise ModelError(f"{self.what}: {self.bits} bits; supported are 2, 4 and 8 bits with scales")
        bytes_ = b.array(self.weights, self.what)
        experts, out, _ = bytes_.shape
        size = bytes_.shape[2] * 8 // self.bits
        scales = b.array(self.scales, f"{self.what}_scales")
        block = self.block if self.block > 0 else max(size, 1)
        blocks = -(-size // block)
        if scales.shape not in ((experts, out), (experts, out, blocks)) or scales.size != experts * out * blocks:
            raise ModelError(f"{self.what}: scales {list(scales.shape)} for {experts} experts with {out} rows of {size} in "
                             f"blocks of {block}")
        scales = scales.reshape(experts, out, blocks)
        zeros = self._zero_points(b, experts, out, blocks)
        offsets = _offsets(b, self.what, self.bias, experts, out)

        def layer(b: OnnxBuilder, x: Value, n: int) -> Value:
            codes = b.constant(np.ascontiguousarray(unpacked(bytes_[n], self.bits, (out, size)).T))
            scale = b.constant(np.ascontiguousarray(scales[n].T))
            floats = b.add(Dequantize(0, block), codes, scale, b.constant(np.ascontiguousarray(zeros[n].T)))
            y = b.add(MatMul(), x, b.cast(floats, x.type.dtype))
            return y if offsets is None else b.binary("add", y, b.constant(np.ascontiguousarray(offsets[n])))

        return layer

    def _zero_points(self, b: OnnxBuilder, experts: int, out: int, blocks: int) -> np.ndarray:
        """u8[E, out, blocks]: those of one block for each row are packed along the rows."""
        if self.zeros is None:
            return np.full((experts, out, blocks), 2 ** (self.bits - 1), np.uint8)
        array = b.array(self.zeros, f"{self.what}_zero_points")
        lead, count = ((experts * out, blocks) if array.ndim == 3 else (experts, out))
        whole = unpacked(array, self.bits, (lead, -(-count * self.bits // 8) * (8 // self.bits)))
        return np.ascontiguousarray(whole[:, :count]).reshape(experts, out, blocks)


@onnx_op("QMoE", since=0, domain=DOMAIN)
def quantized_mixture_of_experts(
    b: OnnxBuilder, x: Value, router: Value, w1: Value, s1: Value | None, b1: Value | None, w2: Value,
    s2: Value | None = None, b2: Value | None = None, w3: Value | None = None, s3: Value | None = None,
    b3: Value | None = None, z1: Value | None = None, z2: Value | None = None, z3: Value | None = None,
    router_weights: Value | None = None, *others: Value | None, activation_alpha: float = 1.0, activation_beta: float = 0.0,
    activation_type: str = "relu", accuracy_level: int = 0, block_size: int = 0, expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int | None = None, fc2_expert_weight_bits: int | None = None,
    fc3_expert_weight_bits: int | None = None, k: int = 1, normalize_routing_weights: int = 0, quant_type: str = "int",
    swiglu_fusion: int = 0, swiglu_limit: float | None = None, use_sparse_mixer: int = 0, weights_prepacked: int = 0,
) -> Outputs:  # fmt: skip
    """Weights of 2, 4 or 8 bits, a scale for each row of them or each block along it."""
    if use_sparse_mixer or quant_type != "int" or weights_prepacked > 0 or any(v is not None for v in others):
        raise ModelError(f"quant_type {quant_type!r}, weights_prepacked {weights_prepacked}, sparse mixer {use_sparse_mixer}: "
                         "supported are integers that are not prepacked, without the sparse mixer")  # fmt: skip
    if not normalize_routing_weights and router_weights is None:
        raise ModelError("normalize_routing_weights is 0 without router_weights: runtimes disagree about what it means")
    unit = Unit(activation_type, swiglu_fusion, activation_alpha, activation_beta, swiglu_limit)
    gates = _gates(b, router, router_weights, k, bool(normalize_routing_weights))
    rows = (("fc1_experts", w1, s1, z1, b1, fc1_expert_weight_bits), ("fc2_experts", w2, s2, z2, b2, fc2_expert_weight_bits),
            ("fc3_experts", w3, s3, z3, b3, fc3_expert_weight_bits))  # fmt: skip
    layers = [
        _Packed(what, w, s, z, bias, bits or expert_weight_bits, block_size).layer(b, gates)
        for what, w, s, z, bias, bits in rows if w is not None
    ]  # fmt: skip
    return _mixture(b, x, gates, unit, layers[0], layers[1], layers[2] if len(layers) > 2 else None)
