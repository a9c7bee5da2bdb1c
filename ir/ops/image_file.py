"""Image files as operands: u8[n] is a file, its pixels a result.

C functions of the artifact's support code decode them (`targets/cpu/runtime/tw_image.c`).  Here Pillow does, which was
written independently, and which the standard's reference uses.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import volume
from ..errors import ModelError, OptionError, TargetError
from ..types import Dim, TensorType
from .base import Op
from .data_sized import DataSized
from .operands import require, require_count
from .text import Support

if TYPE_CHECKING:
    from ..graph import Builder, Value

ORDERS = ("RGB", "BGR", "Grayscale")
"""Of the colours of a pixel."""
_DEPTH = 8
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # ITU-R BT.601 in 1/65536


def _require_file(op: Op, types: tuple[TensorType, ...]) -> None:
    require_count(op, types, 1)
    require(types[0].dtype == "u8" and types[0].rank == 1, op, "expected the bytes of a file, u8[n], got {}", types[0])


def channels(order: str) -> int:
    return 1 if order == "Grayscale" else 3


@dataclass(frozen=True)
class DecodeImage(DataSized, Op):
    """A file as u8[height, width, channels].  height, width: numbers that it must have, or symbols for what it has; most:
    the largest size that memory is kept for in an artifact.

    Colours of grey images are equal; grey is the luma of ITU-R BT.601; transparency is left out; of more than 8 bits the upper
    ones are kept.  A file that cannot be decoded is an error of the run."""

    order: str
    height: Dim
    width: Dim
    most: tuple[int, int]
    folds = False
    takes_open = True

    @property
    def counts(self) -> tuple[Dim, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.height, self.width

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _require_file(self, types)
        require(self.order in ORDERS, self, "unknown order of colours {!r}; expected {}", self.order, ", ".join(ORDERS))
        return (TensorType("u8", (self.height, self.width, channels(self.order))),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        pixels = decoded(arrays[0], self.order)
        for what, size, wanted in zip(("height", "width"), pixels.shape, self.counts, strict=False):
            if isinstance(wanted, int) and size != wanted:
                raise OptionError(f"ImageDecoder: the {what} of the image is {size}, the model was compiled for {wanted}")
        return (pixels,)

    def bounded(self, b: Builder, *values: Value) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
        sizes = [d if isinstance(d, int) else most for d, most in zip(self.counts, self.most, strict=True)]
        fixed = tuple(isinstance(d, int) for d in self.counts)
        pixels, height, width = b.add_multi(DecodeWithin(self.order, sizes[0], sizes[1], fixed), *values)
        return (pixels,), (height, width)


@dataclass(frozen=True)
class DecodeWithin(Op):
    """The image in the upper left corner of u8[height, width, channels], and its height and width, i64[].  fixed: whether
    the height, the width must be the largest."""

    order: str
    height: int
    width: int
    fixed: tuple[bool, ...]
    folds = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        _require_file(self, types)
        scalar = TensorType("i64", ())
        return TensorType("u8", (self.height, self.width, channels(self.order))), scalar, scalar

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        pixels = decoded(arrays[0], self.order)
        height, width, depth = pixels.shape
        if height > self.height or width > self.width:
            raise OptionError(f"ImageDecoder: the image has {width} x {height} pixels (width x height), the model was compiled "
                              f"for at most {self.width} x {self.height}")
        within = np.zeros((self.height, self.width, depth), np.uint8)
        within[:height, :width] = pixels
        return within, np.array(height, np.int64), np.array(width, np.int64)

    def support(self, *types: TensorType) -> Support:
        fixed = self.fixed[0] + 2 * self.fixed[1]
        return "tw_image_decode", (volume(types[0].shape), self.height, self.width, ORDERS.index(self.order), fixed)


def decoded(data: np.ndarray, order: str) -> np.ndarray:
    """The pixels of a file, by Pillow.  Raises TargetError without it, OptionError for a file that it cannot read."""
    try:
        from PIL import Image
    except ImportError as error:
        raise TargetError("the interpreter decodes image files with Pillow, which is missing: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
            pixels = _colours(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OptionError(f"ImageDecoder: the file cannot be decoded: {error}") from error
    if order == "Grayscale":
        grey = (pixels.astype(np.uint32) @ _LUMA + 32768 >> 16).astype(np.uint8)
        return grey[..., None]
    return np.ascontiguousarray(pixels[..., ::-1] if order == "BGR" else pixels)


def _colours(image: Any) -> np.ndarray:
    """u8[height, width, 3]."""
    if image.mode == "I" and image.format == "PPM":  # samples of up to 16 bits, made those of 16
        grey = np.round(np.asarray(image) * (255 / 65535)).astype(np.uint8)
    elif image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) >> _DEPTH).astype(np.uint8)
    elif image.mode in ("I", "F"):
        raise ModelError(f"ImageDecoder: samples of 32 bits ({image.format}) are not supported")
    else:
        return np.asarray(image.convert("RGB"))
    return np.repeat(grey[..., None], 3, axis=2)
