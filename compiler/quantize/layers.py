"""Which products of a model can be quantized, and their operands as matrices.

A layer is a Conv, Gemm or MatMul whose weights are a constant.  As matrices, with groups g (1 but for grouped convolution):

    rows [R, g, K] of what the products read  x  weights [g, K, N]  ->  [R, g, N]

so that one formula serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from ..onnx_edit import OnnxEdit, attributes


@dataclass(frozen=True, eq=False)
class Layer:
    """x, weight, y: names of what it reads and makes.  bias: the name of its constant bias, also that of an Add behind a
    MatMul, or "".  added: the output of that Add.  channels: the axis of the weights with one index per output channel;
    groups, strides, pads, dilations, kernel: of a convolution."""

    name: str
    kind: str
    x: str
    weight: str
    y: str
    bias: str = ""
    added: str = ""
    channels: int = 0
    groups: int = 1
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()

    @property
    def is_conv(self) -> bool:
        return self.kind == "Conv"

    @property
    def channel_axis(self) -> int:
        """Of x: the axis that the weights sum over."""
        return 1 if self.is_conv else -1

    def matrix(self, w: np.ndarray) -> np.ndarray:
        """Weights as [g, K, N]."""
        if self.is_conv:
            out = w.shape[0]
            return w.reshape(self.groups, out // self.groups, -1).transpose(0, 2, 1)
        return (w.T if self.channels == 0 else w)[None]

    def unmatrix(self, m: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The inverse of `matrix`."""
        if self.is_conv:
            return np.ascontiguousarray(m.transpose(0, 2, 1)).reshape(tuple(shape))
        return np.ascontiguousarray(m[0].T if self.channels == 0 else m[0])

    def per_input(self, w: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Weights times a factor per index of x's channel axis."""
        if self.is_conv:
            per_group = s.reshape(self.groups, -1)
            by_out = np.repeat(per_group, w.shape[0] // self.groups, axis=0)
            return (w * by_out.reshape(*by_out.shape, *(1,) * (w.ndim - 2))).astype(w.dtype)
        return (w * (s[None, :] if self.channels == 0 else s[:, None])).astype(w.dtype)

    def input_peak(self, w: np.ndarray) -> np.ndarray:
        """The largest weight, in magnitude, per index of x's channel axis."""
        if not self.is_conv:
            return np.abs(w).max(axis=0 if self.channels == 0 else 1)
        taps = tuple(range(2, w.ndim))
        peak = np.abs(w).max(axis=taps) if taps else np.abs(w)
        return peak.reshape(self.groups, -1, w.shape[1]).max(axis=1).reshape(-1)

    def spread(self, s: np.ndarray) -> np.ndarray:
        """One number per index of x's channel axis, as [g, K] beside the rows."""
        taps = int(np.prod(self.kernel)) if self.is_conv else 1
        return np.repeat(s.reshape(self.groups, -1), taps, axis=1)

    def rows(self, x: np.ndarray, count: int, r: np.random.Generator) -> np.ndarray:
        """Up to `count` random rows [R, g, K] of what the products read."""
        if not self.is_conv:
            flat = x.reshape(-1, x.shape[-1])
            return flat[_picked(len(flat), count, r)][:, None, :]
        return self._patches(x, count, r)

    def _patches(self, x: np.ndarray, count: int, r: np.random.Generator) -> np.ndarray:
        rank = x.ndim - 2
        kernel = self.kernel
        before, after = self.pads[:rank], self.pads[rank:]
        sizes = [
            (n + a + b - d * (k - 1) - 1) // s + 1
            for n, a, b, k, s, d in zip(x.shape[2:], before, after, kernel, self.strides, self.dilations, strict=True)
        ]
        chosen = np.unravel_index(_picked(x.shape[0] * int(np.prod(sizes)), count, r), (x.shape[0], *sizes))
        where, inside = [], np.ones((len(chosen[0]), *kernel), bool)
        for a in range(rank):
            start = chosen[a + 1] * self.strides[a] - before[a]
            taps = np.arange(kernel[a]) * self.dilations[a]
            at = start[:, None] + taps
            shape = [len(start), *(1,) * rank]
            shape[a + 1] = kernel[a]
            inside &= ((at >= 0) & (at < x.shape[2 + a])).reshape(shape)
            where.append(np.clip(at, 0, x.shape[2 + a] - 1).reshape(shape))
        batch = chosen[0].reshape(-1, *(1,) * rank)
        taken = x[(batch, slice(None), *where)]  # [R, *kernel, C]
        taken = np.moveaxis(taken * inside[..., None], -1, 1)  # [R, C, *kernel]
        return taken.reshape(len(taken), self.groups, -1)


def _picked(total: int, count: int, r: np.random.Generator) -> np.ndarray:
    return np.arange(total) if total <= count else r.choice(total, count, replace=False)


@dataclass(frozen=True, eq=False)
class Unit:
    """What is quantized together or not at all: a tensor and the layers that read it."""

    tensor: str
    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return self.layers[0].name


def units_of(layers: Sequence[Layer]) -> list[Unit]:
    """In execution order of their first layers."""
    by_tensor: dict[str, list[Layer]] = {}
    for layer in layers:
        by_tensor.setdefault(layer.x, []).append(layer)
    return [Unit(x, tuple(found)) for x, found in by_tensor.items()]


def find_layers(edit: OnnxEdit) -> tuple[list[Layer], dict[str, str]]:
    """The layers in execution order, and why other products are none, by node."""
    users, outputs = edit.users(), set(edit.outputs)
    layers: list[Layer] = []
    refused: dict[str, str] = {}
    for node in edit.nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain:
            continue
        name = node.name or node.output[0]
        made = _layer(edit, node, name)
        if isinstance(made, str):
            refused[name] = made
        else:
            layers.append(_with_added_bias(edit, made, users, outputs))
    return layers, refused


def _layer(edit: OnnxEdit, node: NodeProto, name: str) -> Layer | str:
    w = edit.constants.get(node.input[1])
    if w is None:
        return "the right operand is no constant"
    if w.dtype != np.float32 or w.size == 0:
        return f"weights are {w.dtype}"
    if node.input[0] in edit.constants:
        return "the left operand is constant"
    bias = node.input[2] if len(node.input) > 2 else ""
    made = Layer(name, node.op_type, node.input[0], node.input[1], node.output[0], bias if bias in edit.constants else "")
    a = attributes(node)
    if node.op_type == "MatMul":
        return replace(made, channels=1) if w.ndim == 2 else f"weights have rank {w.ndim}"
    if node.op_type == "Gemm":
        if a.get("transA") or a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1:
            return "it transposes its input or scales its result"
        return replace(made, channels=0 if a.get("transB") else 1)
    if bias and not made.bias:
        return "the bias is no constant"
    rank = w.ndim - 2
    strides, dilations = tuple(a.get("strides", (1,) * rank)), tuple(a.get("dilations", (1,) * rank))
    pads = tuple(a.get("pads", (0,) * 2 * rank))
    automatic = a.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        if set(strides) != {1}:
            return "its padding depends on the size of the input"
        whole = [(k - 1) * d for k, d in zip(w.shape[2:], dilations, strict=True)]
        less, more = [n // 2 for n in whole], [n - n // 2 for n in whole]
        pads = (*less, *more) if automatic == b"SAME_UPPER" else (*more, *less)
    return replace(
        made, groups=a.get("group", 1), strides=strides, kernel=w.shape[2:], pads=pads, dilations=dilations
    )


def _with_added_bias(edit: OnnxEdit, layer: Layer, users: dict[str, list[NodeProto]], outputs: set[str]) -> Layer:
    """A MatMul whose only user adds a vector has that as its bias."""
    behind = users.get(layer.y, [])
    if layer.kind != "MatMul" or layer.y in outputs or len(behind) != 1 or behind[0].op_type != "Add":
        return layer
    other = [n for n in behind[0].input if n != layer.y]
    if len(other) != 1 or other[0] not in edit.constants:
        return layer
    c = edit.constants[other[0]]
    fits = c.shape == (edit.constants[layer.weight].shape[1],) and len(users[other[0]]) == 1
    return replace(layer, bias=other[0], added=behind[0].output[0]) if fits else layer
