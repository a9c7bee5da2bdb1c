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
    microsoft,
    norm,
    pad,
    pool,
    qonnx,
    quantize,
    recurrent,
    reduce,
    sequence,
    shape,
)  # fmt: skip

__all__ = [
    "attention", "contract", "control", "conv", "elementwise", "gather", "image", "legacy", "microsoft", "norm", "pad",
    "pool", "qonnx", "quantize", "recurrent", "reduce", "sequence", "shape",
]  # fmt: skip
