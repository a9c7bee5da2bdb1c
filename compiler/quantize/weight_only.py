"""Weights of 4 or 8 bits, activations as they are: for models whose time is reading weights.

    MatMul(x, W)   ->   MatMulNBits(x, integers, scales)        com.microsoft, blocks of 32, 64 or 128 along the reduction

Every block of a column has its own scale, clipped to what changes the products least; with samples the integers are
rounded by what they are multiplied with (`rounding`), which is worth about half a bit.  The file allows products in bytes
(accuracy_level 4): x is then rounded per block as well, to eight bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from ...ir.errors import OptionError
from ...targets.artifact import Artifact
from ..api import compile_with
from ..onnx_edit import Model, OnnxEdit
from .activations import MEMORY, Signature, declared_inputs, load_compiled
from .calibrate import calibrated
from .judge import DEFAULT_DROPS, Judge, Metric, Outputs, Verdict, make_judge
from .layers import Layer, find_layers
from .plan import decibels
from .prepare import prepared
from .products import layer_products, products
from .rounding import curvature, refine, sweep
from .samples import Batch, Samples, Source, as_samples
from .statistics import Statistics
from .weights import channel_scales, nearest

BITS, GROUPS = (4, 8), (32, 64, 128)
DOMAIN = "com.microsoft"
_HELD_OUT = 4
_MOST_INPUTS = 8192  # of a layer whose curvature is inverted


@dataclass(frozen=True)
class NarrowLayer:
    """error: the squared change of the outputs, relative to them; on sampled rows, or without samples that of the weights.
    rounding: "nearest" or "gptq"."""

    name: str
    weights: int
    error: float
    rounding: str


@dataclass(eq=False)
class NarrowModel:
    """group: weights that share a scale; 0: those of an output, and activations are rounded by each run (`dynamic`).
    verdict: on held-out samples, None without samples.  layers: what has narrow weights; refused: what has not, and why.
    bytes: of the files' weights, before and after."""

    name: str
    model: ModelProto
    bits: int
    group: int
    layers: Sequence[NarrowLayer]
    refused: Mapping[str, str]
    verdict: Verdict | None
    max_drop: float
    signature: Signature
    bytes: tuple[int, int]
    notes: list[str] = field(default_factory=list)

    @property
    def met(self) -> bool:
        return self.verdict is None or self.verdict.drop <= self.max_drop + 1e-12

    def compile(self, target: str = "cpu", **options: Any) -> Artifact:
        """As `Quantized.compile`; without samples the shapes must be given, or be fixed."""
        if not options.get("shapes") and not options.get("dims"):
            options["shapes"] = dict(self.signature)
        options.setdefault("name", "".join(c if c.isascii() and c.isalnum() else "_" for c in f"m_{self.name}"))
        return compile_with(self.model, target, **options).artifact

    def save(self, directory: str | os.PathLike[str], target: str = "cpu", **options: Any) -> Path:
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        onnx.save_model(self.model, place / f"{self.name}.int{self.bits}.onnx")
        self.compile(target, **options).save(place / "artifact")
        return place


def quantize_weights(
    model: Model, data: Source | Samples | None = None, *, bits: int = 4, group: int = 32, rounding: str = "auto",
    in_bytes: bool = True, max_drop: float | None = None, metric: Metric = None, keep: Sequence[str] = (),
    memory: int = MEMORY, base_dir: Path | None = None,
) -> NarrowModel:
    """bits: of BITS, group: of GROUPS.  data: samples for rounding and for the verdict; without, nearest rounding.
    in_bytes: whether x may be rounded per block, so that products are of bytes.  The rest as in `quantize`."""
    if bits not in BITS or group not in GROUPS:
        raise OptionError(f"weights_only: expected bits of {BITS} and a group of {GROUPS}, got {bits} and {group}")
    edit = prepared(model, base_dir)
    layers, refused = _layers(edit, group, keep)
    samples = held = found = None
    original = edit.finish()
    if data is not None:
        samples = as_samples(data, declared_inputs(original))
        calibration, rest = samples.split(_HELD_OUT)
        held = list(rest)
        found = calibrated(edit, layers, calibration, memory)
    made = {layer.name: _narrow(edit, layer, bits, group, found, rounding) for layer in layers}
    _write(edit, layers, made, bits, group, in_bytes)
    narrow = edit.finish()
    judge = None if held is None else make_judge(held, model_outputs(original, held), metric)
    return NarrowModel(
        edit.name, narrow, bits, group, [made[layer.name][2] for layer in layers], refused,
        None if judge is None or held is None else judge.verdict(model_outputs(narrow, held)),
        allowed_drop(judge, max_drop, 2),  # four bits cost more than eight
        held[0].signature if held else (), (constant_bytes(original), constant_bytes(narrow)),
    )


def _layers(edit: OnnxEdit, group: int, keep: Sequence[str]) -> tuple[list[Layer], dict[str, str]]:
    found, refused = find_layers(edit)
    layers = []
    for layer in found:
        shape = edit.constants[layer.weight].shape
        if layer.name in keep:
            refused[layer.name] = "it is kept in floats as asked"
        elif layer.is_conv:
            refused[layer.name] = "convolutions are not read from memory once per result"
        elif shape[1 - layer.channels] % group:
            refused[layer.name] = f"blocks of {group} do not divide its {shape[1 - layer.channels]} inputs"
        else:
            layers.append(layer)
    if not layers:
        raise OptionError(f"quantize: {edit.name} has no product for narrow weights: "
                          + ("; ".join(sorted(set(refused.values()))) or "no Gemm or MatMul"))
    return layers, refused


def _narrow(
    edit: OnnxEdit, layer: Layer, bits: int, group: int, found: Statistics | None, rounding: str
) -> tuple[np.ndarray, np.ndarray, NarrowLayer]:
    """Integers [K, N] around zero, scales [K / group, N]."""
    w = layer.matrix(edit.constants[layer.weight])[0].astype(np.float32)
    blocks = w.reshape(-1, group, w.shape[1])
    rows = None if found is None else found.rows_of(layer)
    importance = None if rows is None else np.square(rows[0]).mean(axis=0).reshape(-1, group)
    weights = np.ones(blocks.shape[:2]) if importance is None else importance
    scales = channel_scales(blocks, bits, weights)[:, 0]
    spread = np.repeat(scales, group, axis=0)
    q, how = nearest(w, spread, bits), "nearest"
    if rows is None:
        error = float(np.square(q * spread - w).sum() / max(np.square(w).sum(), 1e-30))
        return q, scales, NarrowLayer(layer.name, w.size, error, how)
    p = layer_products(layer, edit.constants[layer.weight], rows)
    if rounding != "nearest" and len(w) <= _MOST_INPUTS and rows.shape[1] > 3:
        fit = np.arange(rows.shape[1]) % 4 != 3
        c = curvature(rows[0, fit])
        careful = refine(sweep(w, c, spread, bits), w, c, spread, bits)
        test = products(rows[:, ~fit], w[None])
        if test.error(test.x, (careful * spread)[None]) < test.error(test.x, (q * spread)[None]):
            q, how = careful, "gptq"
    return q, scales, NarrowLayer(layer.name, w.size, p.error(p.x, (q * spread)[None]), how)


def _write(
    edit: OnnxEdit, layers: Sequence[Layer], made: Mapping[str, tuple[np.ndarray, np.ndarray, NarrowLayer]], bits: int,
    group: int, in_bytes: bool,
) -> None:
    by_name = {layer.name: layer for layer in layers}
    nodes = [
        _node(edit, n, by_name[n.name], *made[n.name][:2], bits, group, in_bytes) if n.name in by_name else n
        for n in edit.nodes
    ]
    edit.replace_nodes(nodes)
    if not any(o.domain == DOMAIN for o in edit.proto.opset_import):
        edit.proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _node(
    edit: OnnxEdit, node: NodeProto, layer: Layer, q: np.ndarray, scales: np.ndarray, bits: int, group: int, in_bytes: bool
) -> NodeProto:
    """The low half of a byte comes first; [N, blocks, bytes of a block]."""
    depth, columns = q.shape
    whole = (q.T.astype(np.int32) + 2 ** (bits - 1)).astype(np.uint8).reshape(columns, depth // group, group)
    packed = whole if bits == 8 else whole[..., 0::2] | (whole[..., 1::2] << 4)
    inputs = [
        node.input[0], edit.constant(packed, f"{layer.weight}_q{bits}"),
        edit.constant(np.ascontiguousarray(scales.T).reshape(-1), f"{layer.weight}_scales"),
    ]
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        inputs += ["", "", node.input[2]]
    return helper.make_node(
        "MatMulNBits", inputs, list(node.output), node.name, domain=DOMAIN, K=depth, N=columns, bits=bits, block_size=group,
        accuracy_level=4 if in_bytes else 0,
    )


def model_outputs(model: ModelProto, batches: Sequence[Batch]) -> Outputs:
    modules = {b.signature: load_compiled(model, b.signature) for b in {b.signature: b for b in batches}.values()}
    results = [modules[b.signature](b.inputs) for b in batches]
    for m in modules.values():
        m.close()
    return results


def allowed_drop(judge: Judge | None, given: float | None, times: float) -> float:
    """What was asked for, or so many times the default of the metric."""
    if given is not None:
        return given
    return times * DEFAULT_DROPS.get("" if judge is None else judge.name, 0.005)


def constant_bytes(model: ModelProto) -> int:
    return sum(len(t.raw_data) for t in model.graph.initializer)


def as_text(done: NarrowModel) -> str:
    """The summary and the layers with the largest error."""
    from ..summary import printable, table

    rows = [("layers", f"{len(done.layers)} in int{done.bits}, "
             + (f"blocks of {done.group}" if done.group else "activations by the range of each run")),
            ("weights", f"{done.bytes[0] / 2**20:.2f} -> {done.bytes[1] / 2**20:.2f} MiB")]
    v = done.verdict
    if v is not None:
        rows += [(v.metric, f"{100 * v.value:.2f} %, original {100 * v.reference:.2f} % ({v.rows} held-out rows)"),
                 ("contract", f"drop {100 * v.drop:.2f} %, allowed {100 * done.max_drop:.2f} %: "
                              + ("met" if done.met else "NOT met")),
                 ("cosine", f"{v.cosine_mean:.5f} mean, {v.cosine_min:.5f} least; {v.snr:.1f} dB")]
    worst = sorted(done.layers, key=lambda n: -n.error)[:20]
    cells = [(f"{decibels(n.error):.1f}", printable(n.name), str(n.weights), n.rounding) for n in worst]
    rows += [("", note) for note in done.notes]
    return "\n".join([table(rows), "", table(cells, ("SNR", "layer", "weights", "rounding"))])
