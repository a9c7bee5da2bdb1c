"""One function per ONNX operator, grouped by family; importing a module registers its functions (`..table`)."""

from . import contract, control, conv, elementwise, gather, image, norm, pad, pool, recurrent, reduce, shape

__all__ = [
    "contract", "control", "conv", "elementwise", "gather", "image", "norm", "pad", "pool", "recurrent", "reduce",
    "shape",
]  # fmt: skip
