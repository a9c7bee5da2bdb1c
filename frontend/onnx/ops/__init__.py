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
    norm,
    pad,
    pool,
    recurrent,
    reduce,
    sequence,
    shape,
)  # fmt: skip

__all__ = [
    "attention", "contract", "control", "conv", "elementwise", "gather", "image", "legacy", "norm", "pad", "pool",
    "recurrent", "reduce", "sequence", "shape",
]  # fmt: skip
