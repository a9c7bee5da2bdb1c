"""Operators of ai.onnx.ml on rows of features: linear models, scalers, and what else makes numbers of numbers."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.contract import MatMul
from ....ir.ops.movement import Pad
from ....ir.ops.reduce import Reduce
from ....ir.types import DTYPES, is_float
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op
from .ml_scores import DOMAIN, labels_of, numbers, transformed

Floats = tuple[float, ...]
Ints = tuple[int, ...]
Strings = tuple[str, ...]


def matrix(values: Floats | None, rows: int, what: str, dtype: str) -> np.ndarray:
    """A flat attribute as a matrix of so many rows."""
    if not values or rows < 1 or len(values) % rows:
        raise ModelError(f"attribute {what!r} has {len(values or ())} entries, they do not make {rows} rows")
    return np.array(values, np.float32).astype(DTYPES[dtype].numpy).reshape(rows, -1)


def _per_row(b: OnnxBuilder, values: Floats | None, count: int, what: str, dtype: str) -> Value | None:
    if not values:
        return None
    if len(values) not in (1, count):
        raise ModelError(f"attribute {what!r} has {len(values)} entries, expected 1 or {count}")
    return b.cast(b.constant(np.array(values, np.float32)), dtype)


def linear_rows(b: OnnxBuilder, x: Value, rows: int, coefficients: Floats | None, intercepts: Floats | None) -> Value:
    w = matrix(coefficients, rows, "coefficients", x.type.dtype)
    if isinstance(x.type.shape[1], int) and x.type.shape[1] != w.shape[1]:
        raise ModelError(f"attribute 'coefficients' has {w.shape[1]} features, x is {x.type}")
    y = b.add(MatMul(), x, b.constant(np.ascontiguousarray(w.T)))
    bias = _per_row(b, intercepts, rows, "intercepts", x.type.dtype)
    return y if bias is None else b.binary("add", y, bias)


@onnx_op("LinearRegressor", since=1, domain=DOMAIN)
def linear_regressor(
    b: OnnxBuilder, x: Value, *, coefficients: Floats | None = None, intercepts: Floats | None = None, targets: int = 1,
    post_transform: str = "NONE",
) -> Outputs:  # fmt: skip
    return transformed(b, b.cast(linear_rows(b, numbers(b, x), targets, coefficients, intercepts), "f32"), post_transform)


@onnx_op("LinearClassifier", since=1, domain=DOMAIN)
def linear_classifier(
    b: OnnxBuilder, x: Value, *, coefficients: Floats | None = None, intercepts: Floats | None = None,
    classlabels_ints: Ints | None = None, classlabels_strings: Strings | None = None, multi_class: int = 0,
    post_transform: str = "NONE",
) -> Outputs:  # fmt: skip
    """Two classes with one row of coefficients: the other class has the opposite score."""
    labels = classlabels_ints or classlabels_strings or ()
    rows = numbers(b, x)
    features = rows.type.shape[1]
    count = len(coefficients or ()) // features if isinstance(features, int) and features else len(labels)
    if len(labels) < 2 or count not in (1, len(labels)) or (count == 1 and len(labels) != 2):
        raise ModelError(f"{count} rows of coefficients do not fit {len(labels)} classes")
    scores = b.cast(linear_rows(b, rows, count, coefficients, intercepts), "f32")
    if count == 1:
        scores = b.concat((b.unary("neg", scores), scores), 1)
    scores = transformed(b, scores, post_transform)
    return labels_of(b, scores, labels), scores


# ---- numbers to numbers ----


@onnx_op("Scaler", since=1, domain=DOMAIN)
def scaler(b: OnnxBuilder, x: Value, *, offset: Floats | None = None, scale: Floats | None = None) -> Outputs:
    y = b.cast(x, "f32")
    features = y.type.shape[-1] if y.type.rank else 1
    for fn, values in (("sub", offset), ("mul", scale)):
        if values:
            if len(values) != 1 and len(values) != features:
                raise ModelError(f"{len(values)} offsets or scales do not fit {x.type}")
            y = b.binary(fn, y, b.constant(np.array(values, np.float32)))
    return y


@onnx_op("Normalizer", since=1, domain=DOMAIN)
def normalizer(b: OnnxBuilder, x: Value, *, norm: str = "MAX") -> Outputs:
    """Every row divided by its norm; rows of zeros stay."""
    y = b.cast(x, "f32")
    along = (y.type.rank - 1,)
    if norm == "L2":
        size = b.unary("sqrt", b.add(Reduce("sum", along, True), b.binary("mul", y, y)))
    elif norm in ("L1", "MAX"):
        size = b.add(Reduce("sum" if norm == "L1" else "max", along, True), b.unary("abs", y))
    else:
        raise ModelError(f"attribute 'norm' is {norm!r}, expected L1, L2 or MAX")
    return b.binary("div", y, b.select(b.binary("eq", size, 0), b.scalar(1, "f32"), size))


@onnx_op("Imputer", since=1, domain=DOMAIN)
def imputer(
    b: OnnxBuilder, x: Value, *, imputed_value_floats: Floats | None = None, imputed_value_int64s: Ints | None = None,
    replaced_value_float: float = 0.0, replaced_value_int64: int = 0,
) -> Outputs:  # fmt: skip
    floats = is_float(x.type.dtype)
    values = (imputed_value_floats if floats else imputed_value_int64s) or ()
    if not values or (len(values) != 1 and len(values) != x.type.shape[-1]):
        raise ModelError(f"{len(values)} imputed values do not fit {x.type}")
    if floats and np.isnan(replaced_value_float):
        missing = b.unary("isnan", x)
    else:
        missing = b.binary("eq", x, replaced_value_float if floats else replaced_value_int64)
    return b.select(missing, b.constant(np.array(values).astype(DTYPES[x.type.dtype].numpy)), x)


@onnx_op("Binarizer", since=1, domain=DOMAIN)
def binarizer(b: OnnxBuilder, x: Value, *, threshold: float = 0.0) -> Outputs:
    return b.cast(b.binary("gt", x, threshold), x.type.dtype)


@onnx_op("ArrayFeatureExtractor", since=1, domain=DOMAIN)
def array_feature_extractor(b: OnnxBuilder, x: Value, indices: Value) -> Outputs:
    """Columns of the last axis; a vector counts as a row."""
    if x.type.rank == 1:
        x = b.reshape(x, (1, *x.type.shape))
    flat = b.reshape(indices, (product(indices.type.shape),))
    return b.gather(x, flat, x.type.rank - 1)


@onnx_op("FeatureVectorizer", since=1, domain=DOMAIN)
def feature_vectorizer(b: OnnxBuilder, *xs: Value, inputdimensions: Ints | None = None) -> Outputs:
    """Rows side by side, each cut, or filled with zeros, to its size."""
    sizes = inputdimensions or ()
    if len(sizes) != len(xs):
        raise ModelError(f"attribute 'inputdimensions' has {len(sizes)} entries for {len(xs)} inputs")
    parts = []
    for x, size in zip(xs, sizes, strict=True):
        rows = b.cast(b.reshape(x, (x.type.shape[0], product(x.type.shape[1:]))), "f32")
        have = rows.type.shape[1]
        if not isinstance(have, int):
            raise ModelError(f"the features of {x.type} must be known; bind them (--shape, --dim)")
        if have > size:
            rows = b.slice(rows, 1, 0, size)
        elif have < size:
            rows = b.add(Pad((0, 0), (0, size - have), "constant"), rows, b.scalar(0, "f32"))
        parts.append(rows)
    return b.concat(parts, 1)
