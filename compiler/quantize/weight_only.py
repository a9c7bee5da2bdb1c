"""Weights of 2, 3, 4 or 8 bits, activations as they are: for models whose time is reading weights, or whose size counts.

    MatMul(x, W)   ->   MatMulNBits(x, integers, scales)        com.microsoft, blocks of 32, 64 or 128 along the reduction
    Conv(x, W)     ->   Conv(x, DequantizeLinear(integers))     fewer than 8 bits only; a scale per output

Every block of a column has its own scale, clipped to what changes the products least; with samples the integers are rounded
by what they are multiplied with, layer after layer (`staged`).  The file allows products in bytes (accuracy_level 4): x is then
rounded per block as well, to eight bits.  Weights of 3 bits are stored in 4: nothing unpacks them faster.  Those of
convolutions are INT4 in files of operator set 21 or later, INT8 in older ones, and floats in the artifact.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from ...ir.errors import OptionError
from ...targets.artifact import Artifact
from ..onnx_edit import Model, OnnxEdit, like
from ..prune.layers import find_layers as followed_layers
from .activations import MEMORY, Signature, compile_as, declared_inputs, load_compiled
from .judge import DEFAULT_DROPS, Judge, Metric, Outputs, Verdict, make_judge
from .layers import Layer, find_layers
from .plan import decibels
from .prepare import prepared
from .samples import Batch, Samples, Source, as_samples
from .staged import Rounded, round_in_stages, spread
from .weights import block_scales, nearest

BITS, GROUPS = (2, 3, 4, 8), (32, 64, 128)
INT4_OPSET = 21
DOMAIN = "com.microsoft"


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
        """As `Quantized.compile`, but for the sizes of the samples: weights stay narrow in products of known sizes alone."""
        return compile_as(self.model, self.name, self.signature, target, options)

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
    layers, refused = _layers(edit, bits, group, keep)
    original, signature = edit.finish(), ()
    judge = samples = None
    if data is not None:
        samples, held = as_samples(data, declared_inputs(original)).divided()
        batches = list(held)
        judge, signature = make_judge(batches, model_outputs(original, batches), metric), batches[0].signature
    made = _rounded(edit, layers, bits, group, samples if rounding != "nearest" else None)
    _write(edit, layers, made, bits, group, in_bytes)
    narrow = edit.finish()
    how = "nearest" if samples is None or rounding == "nearest" else "gptq"
    return NarrowModel(
        edit.name, narrow, bits, group, [NarrowLayer(n, r.integers.size, r.error, how) for n, r in made.items()], refused,
        None if judge is None else judge.verdict(model_outputs(narrow, judge.batches)),
        allowed_drop(judge, max_drop, 2),  # four bits cost more than eight
        signature, (constant_bytes(original), constant_bytes(narrow)),
    )


def _rounded(edit: OnnxEdit, layers: Sequence[Layer], bits: int, group: int, samples: Samples | None) -> dict[str, Rounded]:
    """By layer; in stages where there are samples, else (and for what those cannot follow) the nearest integers."""
    made: dict[str, Rounded] = {}
    groups = {n.name: edit.constants[n.weight][0].size if n.is_conv else group for n in layers}
    if samples is not None:
        followed, _ = followed_layers(edit, smallest=1)
        chosen = [n for n in followed if n.name in groups]
        made = round_in_stages(edit, chosen, bits, groups, samples)
    for layer in layers:
        if layer.name not in made:
            w = _columns(layer, edit.constants[layer.weight])
            scales = block_scales(w.reshape(-1, groups[layer.name], w.shape[1]), bits)
            q = nearest(w, spread(scales, len(w)), bits, whole=True)
            error = float(np.square(q * spread(scales, len(w)) - w).sum() / max(np.square(w).sum(), 1e-30))
            made[layer.name] = Rounded(q, scales, error)
    return {n.name: made[n.name] for n in layers}


def _columns(layer: Layer, w: np.ndarray) -> np.ndarray:
    """Weights as [depth, outputs], the channels of a convolution last in depth (as `prune` has them)."""
    if layer.is_conv:
        return np.moveaxis(w, 1, -1).reshape(w.shape[0], -1).T.astype(np.float32)
    return layer.matrix(w)[0].astype(np.float32)


def _layers(edit: OnnxEdit, bits: int, group: int, keep: Sequence[str]) -> tuple[list[Layer], dict[str, str]]:
    found, refused = find_layers(edit)
    layers = []
    for layer in found:
        shape = edit.constants[layer.weight].shape
        if layer.name in keep:
            refused[layer.name] = "it is kept in floats as asked"
        elif layer.is_conv and bits >= 8:
            refused[layer.name] = "convolutions are not read from memory once per result"
        elif layer.is_conv and layer.groups > 1:
            refused[layer.name] = "a grouped convolution has few weights"
        elif not layer.is_conv and shape[1 - layer.channels] % group:
            refused[layer.name] = f"blocks of {group} do not divide its {shape[1 - layer.channels]} inputs"
        else:
            layers.append(layer)
    if not layers:
        raise OptionError(f"quantize: {edit.name} has no product for narrow weights: "
                          + ("; ".join(sorted(set(refused.values()))) or "no Gemm or MatMul"))
    return layers, refused


def _write(
    edit: OnnxEdit, layers: Sequence[Layer], made: Mapping[str, Rounded], bits: int, group: int, in_bytes: bool
) -> None:
    by_name = {layer.name: layer for layer in layers}
    nodes: list[NodeProto] = []
    for n in edit.nodes:
        layer = by_name.get(n.name)
        if layer is None:
            nodes.append(n)
        elif layer.is_conv:
            nodes += _convolution(edit, n, layer, made[n.name])
        else:
            nodes.append(_product(edit, n, layer, made[n.name], bits, group, in_bytes))
    edit.replace_nodes(nodes)
    if not any(o.domain == DOMAIN for o in edit.proto.opset_import):
        edit.proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _product(
    edit: OnnxEdit, node: NodeProto, layer: Layer, made: Rounded, bits: int, group: int, in_bytes: bool
) -> NodeProto:
    """The low bits of a byte come first; [N, blocks, bytes of a block]."""
    q, scales = made.integers, made.scales
    stored = 4 if bits == 3 else bits
    depth, columns = q.shape
    whole = (q.T.astype(np.int32) + 2 ** (stored - 1)).astype(np.uint8).reshape(columns, depth // group, group)
    packed = np.zeros((*whole.shape[:2], group * stored // 8), np.uint8)
    for part in range(8 // stored):
        packed |= whole[..., part :: 8 // stored] << np.uint8(part * stored)
    inputs = [
        node.input[0], edit.constant(packed, f"{layer.weight}_q{bits}"),
        edit.constant(np.ascontiguousarray(scales.T).reshape(-1), f"{layer.weight}_scales"),
    ]
    if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
        inputs += ["", "", node.input[2]]
    return helper.make_node(
        "MatMulNBits", inputs, list(node.output), node.name, domain=DOMAIN, K=depth, N=columns, bits=stored,
        block_size=group, accuracy_level=4 if in_bytes else 0,
    )


def _convolution(edit: OnnxEdit, node: NodeProto, layer: Layer, made: Rounded) -> list[NodeProto]:
    """Its weights as integers with a scale per output."""
    outputs, channels, *kernel = edit.constants[layer.weight].shape
    q = np.moveaxis(made.integers.T.reshape(outputs, *kernel, channels), -1, 1).astype(np.int8)
    name = edit.unique(f"{layer.weight}_q")
    if edit.opsets.get("", 0) >= INT4_OPSET:
        flat = q.reshape(-1).astype(np.uint8) & 15
        flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        data = (flat[0::2] | flat[1::2] << 4).tobytes()
        edit.graph.initializer.append(TensorProto(name=name, data_type=TensorProto.INT4, dims=q.shape, raw_data=data))
    else:
        edit.constants[name] = q
    scales = edit.constant(made.scales.reshape(-1), f"{layer.weight}_scales")
    weights = edit.unique(f"{layer.weight}_dq")
    return [
        helper.make_node("DequantizeLinear", [name, scales], [weights], edit.unique(f"{layer.name}_DQ"), axis=0),
        like(node, input=[node.input[0], weights, *node.input[2:]]),
    ]


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
