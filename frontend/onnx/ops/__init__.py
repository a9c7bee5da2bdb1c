"""One function per ONNX operator, grouped by family; importing a module registers its functions (`..table`)."""

from . import (
    attention,
    contract,
    control,
    conv,
    elementwise,
    gather,
    image,
    legacy,
    linear,
    microsoft,
    ml,
    ml_trees,
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
    training,
)  # fmt: skip

__all__ = [
    "attention", "contract", "control", "conv", "elementwise", "gather", "image", "legacy", "linear", "microsoft", "ml",
    "ml_trees", "norm", "pad", "pool", "qonnx", "quantize", "recurrent", "reduce", "regions", "sequence", "shape",
    "signal", "training",
]  # fmt: skip
