"""Image files that a model decodes."""

from __future__ import annotations

from ....ir.errors import ModelError
from ....ir.expr import Var
from ....ir.graph import Value
from ....ir.ops.image_file import ORDERS, DecodeImage
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op

LARGEST = 4096
"""The height and the width that memory is kept for, unless the model or its user says another size."""


@onnx_op("ImageDecoder", since=20)
def image_decoder(b: OnnxBuilder, x: Value, *, pixel_format: str = "RGB") -> Outputs:
    """The height and width are those that the model declares for the result; where it declares none, dimensions of the names
    OUTPUT_height and OUTPUT_width that the user may bind, or give a range."""
    if pixel_format not in ORDERS:
        raise ModelError(f"attribute 'pixel_format' is {pixel_format!r}, expected {', '.join(ORDERS)}")
    declared = b.declared.get(b.hint, ())
    sizes: list[Dim] = []
    most: list[int] = []
    for axis, what in enumerate(("height", "width")):
        name = f"{b.hint}_{what}"
        least, largest = b.sizes.get(name, (1, None))
        known = declared[axis] if len(declared) == 3 else None
        if known and not (least <= known <= (largest or known)):
            raise ModelError(f"the {what} of {b.hint!r} is {known} in the model, the option for {name} does not allow that")
        exact = known or (least if least == largest else None)
        sizes.append(exact or Var.of(b.unique(name), None))
        most.append(exact or largest or LARGEST)
    return b.add(DecodeImage(pixel_format, sizes[0], sizes[1], (most[0], most[1])), x)
