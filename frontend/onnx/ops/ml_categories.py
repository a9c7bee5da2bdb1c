"""Operators of ai.onnx.ml on categories: numbers and strings that stand for something."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.movement import Iota
from ....ir.ops.reduce import ArgReduce, Reduce
from ..builder import OnnxBuilder, TensorMap
from ..table import Outputs, onnx_op
from .ml_scores import DOMAIN
from .strings import find_texts, text_array

_MOST_KEYS = 4096  # of an encoder of numbers: every element is compared with all of them

Floats = tuple[float, ...]
Ints = tuple[int, ...]
Strings = tuple[str, ...]



@onnx_op("OneHotEncoder", since=1, domain=DOMAIN)
def one_hot_encoder(
    b: OnnxBuilder, x: Value, *, cats_int64s: Ints | None = None, cats_strings: Strings | None = None, zeros: int = 1
) -> Outputs:
    """A row of zeros for what is no category; with zeros = 0 that would have to fail, which compiled code does not."""
    if bool(cats_strings) == bool(cats_int64s) or (x.type.dtype == "str") != bool(cats_strings):
        raise ModelError(f"expected categories of the type of x, {x.type}: integers or strings")
    if not zeros:
        raise ModelError("attribute 'zeros' is 0: an unknown category must be an error, which is not supported")
    places = find_texts(b, x, cats_strings) if cats_strings else b.cast(x, "i64")
    classes = b.constant(np.arange(len(cats_strings)) if cats_strings else np.array(cats_int64s, np.int64))
    values = b.reshape(places, (*x.type.shape, 1))
    return b.cast(b.binary("eq", values, classes), "f32")


@onnx_op("LabelEncoder", since=1, domain=DOMAIN)
def label_encoder_1(
    b: OnnxBuilder, x: Value, *, classes_strings: Strings | None = None, default_int64: int = -1,
    default_string: str = "_Unused",
) -> Outputs:  # fmt: skip
    """Strings to their positions among the classes, or positions to their strings."""
    if not classes_strings:
        raise ModelError("attribute 'classes_strings' is empty")
    places = find_texts(b, x, classes_strings) if x.type.dtype == "str" else _checked(b, x, len(classes_strings))
    if x.type.dtype == "str":
        return _looked_up(b, places, np.arange(len(classes_strings)), default_int64)
    return _looked_up(b, places, text_array(classes_strings), default_string)


def _checked(b: OnnxBuilder, x: Value, count: int) -> Value:
    """Positions; -1 for what is none."""
    wide = b.cast(x, "i64")
    return b.select(b.binary("lt", wide, count), b.binary("max", wide, -1), b.scalar(-1, "i64"))


@onnx_op("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(
    b: OnnxBuilder, x: Value, *, default_float: float = -0.0, default_int64: int = -1, default_string: str = "",
    keys_floats: Floats | None = None, keys_int64s: Ints | None = None, keys_strings: Strings | None = None,
    values_floats: Floats | None = None, values_int64s: Ints | None = None, values_strings: Strings | None = None,
    keys_tensor: np.ndarray | None = None, values_tensor: np.ndarray | None = None,
    default_tensor: np.ndarray | None = None,
) -> Outputs:  # fmt: skip
    """Every element is looked up among the keys, the last of equal ones; NaN is found like a number."""
    keys = _entries(keys_tensor, keys_floats, keys_int64s, keys_strings, "keys")
    values = _entries(values_tensor, values_floats, values_int64s, values_strings, "values")
    if keys.size != values.size or not keys.size:
        raise ModelError(f"{keys.size} keys and {values.size} values; expected as many of both")
    if default_tensor is not None:
        default = default_tensor.reshape(-1)[0]
    else:
        default = {"f": default_float, "O": default_string}.get(values.dtype.kind, default_int64)
    if (keys.dtype == object) != (x.type.dtype == "str"):
        raise ModelError(f"the keys are not of the type of x, {x.type}")
    if keys.dtype == object:
        return _looked_up(b, find_texts(b, x, tuple(keys.tolist())), values, default)
    if keys.size > _MOST_KEYS:
        raise ModelError(f"{keys.size} keys that are numbers; at most {_MOST_KEYS} are supported")
    elements = b.reshape(x, (*x.type.shape, 1))
    equal = b.binary("eq", elements, b.cast(b.constant(keys), x.type.dtype))
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        equal = b.binary("or", equal, b.binary("and", b.unary("isnan", elements), b.constant(np.isnan(keys))))
    hits = b.cast(equal, "u8")
    place = b.add(ArgReduce("max", x.type.rank, False, True), hits)
    known = b.cast(b.add(Reduce("max", (x.type.rank,), False), hits), "bool")
    return _looked_up(b, b.select(known, place, b.scalar(-1, "i64")), values, default)


def _looked_up(b: OnnxBuilder, places: Value, values: np.ndarray, default: object) -> Value:
    """The values at these places, the default at -1."""
    table = np.append(values, np.array([default]).astype(values.dtype))
    return b.gather(b.constant(table), b.select(b.binary("lt", places, 0), b.scalar(values.size, "i64"), places), 0)


@onnx_op("CategoryMapper", since=1, domain=DOMAIN)
def category_mapper(
    b: OnnxBuilder, x: Value, *, cats_int64s: Ints | None = None, cats_strings: Strings | None = None,
    default_int64: int = -1, default_string: str = "_Unused",
) -> Outputs:  # fmt: skip
    """Strings to their integers, or integers to their strings."""
    if not cats_int64s or not cats_strings or len(cats_int64s) != len(cats_strings):
        raise ModelError(f"{len(cats_int64s or ())} integers and {len(cats_strings or ())} strings; expected as many of both")
    if x.type.dtype == "str":
        return label_encoder(b, x, keys_strings=cats_strings, values_int64s=cats_int64s, default_int64=default_int64)
    return label_encoder(b, x, keys_int64s=cats_int64s, values_strings=cats_strings, default_string=default_string)


def _entries(
    tensor: np.ndarray | None, floats: Floats | None, ints: Ints | None, strings: Strings | None, what: str
) -> np.ndarray:
    if tensor is not None:
        return tensor.reshape(-1)
    if floats:
        return np.array(floats, np.float32)
    if ints:
        return np.array(ints, np.int64)
    if strings:
        return text_array(strings)
    raise ModelError(f"the {what} are missing")


def _entry_of(b: OnnxBuilder, given: TensorMap, wanted: Value) -> Value:
    """What a map has for each of wanted[V, 1]; 0 or "" where it has nothing."""
    keys = b.reshape(given.keys, (1, *given.keys.type.shape))
    hits = b.cast(b.binary("eq", wanted, b.cast(keys, "i64")), "u8")
    there = b.cast(b.add(Reduce("max", (1,), False), hits), "bool")
    found = b.gather(given.values, b.add(ArgReduce("max", 1, False, False), hits), 0)
    dtype = given.values.type.dtype
    return b.select(there, found, b.scalar("" if dtype == "str" else 0, dtype))


@onnx_op("DictVectorizer", since=1, domain=DOMAIN)
def dict_vectorizer(
    b: OnnxBuilder, x: TensorMap, *, int64_vocabulary: Ints | None = None, string_vocabulary: Strings | None = None
) -> Outputs:
    """The entries of the vocabulary's words as a row [1, V]; what is not in the vocabulary is left out."""
    texts = x.keys.type.dtype == "str"
    words = string_vocabulary if texts else int64_vocabulary
    if not words:
        raise ModelError(f"expected a vocabulary of the type of the keys, {x.keys.type}")
    if texts:
        x, words = TensorMap(find_texts(b, x.keys, string_vocabulary or ()), x.values), tuple(range(len(words)))
    row = _entry_of(b, x, b.constant(np.array(words, np.int64)[:, None]))
    return b.reshape(row, (1, len(words)))


@onnx_op("CastMap", since=1, domain=DOMAIN)
def cast_map(
    b: OnnxBuilder, x: TensorMap, *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1
) -> Outputs:
    """A row of the values in the order of their keys; SPARSE: [1, max_map], each value at its key."""
    types = {"TO_FLOAT": "f32", "TO_INT64": "i64", "TO_STRING": "str"}
    if cast_to not in types or map_form not in ("DENSE", "SPARSE") or not 1 <= max_map <= _MOST_KEYS:
        raise ModelError(
            f"cast_to {cast_to!r}, map_form {map_form!r} and max_map {max_map} are not possible; max_map may be {_MOST_KEYS}"
        )
    values = TensorMap(x.keys, b.cast(x.values, types[cast_to]))
    if map_form == "SPARSE":
        return b.reshape(_entry_of(b, values, b.constant(np.arange(max_map)[:, None])), (1, max_map))
    (count,) = x.keys.type.shape
    smaller = b.binary("lt", b.reshape(x.keys, (count, 1)), b.reshape(x.keys, (1, count)))
    rank = b.add(Reduce("sum", (0,), False), b.cast(smaller, "i64"))
    places = b.reshape(b.add(Iota(count, "i64")), (count, 1))
    return b.reshape(_entry_of(b, TensorMap(rank, values.values), places), (1, count))


@onnx_op("ZipMap", since=1, domain=DOMAIN)
def zip_map(
    b: OnnxBuilder, x: Value, *, classlabels_int64s: Ints | None = None, classlabels_strings: Strings | None = None
) -> Outputs:
    """The rows as they are, where the standard has maps from labels to numbers: columns in the order of the labels."""
    labels = classlabels_int64s or classlabels_strings or ()
    if x.type.rank != 2 or x.type.shape[1] != len(labels):
        raise ModelError(f"{len(labels)} labels do not fit {x.type}")
    return x
