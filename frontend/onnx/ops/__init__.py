"""One function per ONNX operator, grouped by family; importing a module registers its functions (`..table`)."""

from . import (
    attention,
    attention_microsoft,
    contract,
    control,
    conv,
    elementwise,
    fused,
    gather,
    image,
    legacy,
    linear,
    microsoft,
    ml,
    ml_trees,
    narrow_quantize,
    norm,
    pad,
    pool,
    qonnx,
    quantize,
    recurrent,
    reduce,
    regions,
    sequence,
    shape,
    signal,
    text,
    training,
)  # fmt: skip

__all__ = [
    "attention", "attention_microsoft", "contract", "control", "conv", "elementwise", "fused", "gather", "image",
    "legacy", "linear", "microsoft", "ml", "ml_trees", "narrow_quantize", "norm", "pad", "pool", "qonnx", "quantize",
    "recurrent", "reduce", "regions", "sequence", "shape", "signal", "text", "training",
]  # fmt: skip
