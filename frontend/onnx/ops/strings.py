"""Operators on strings: joined, cut, matched, cleaned."""

from __future__ import annotations

import numpy as np

from ....ir.dims import as_dim
from ....ir.errors import ModelError
from ....ir.expr import Expr, Var, binary
from ....ir.graph import Value
from ....ir.ops.arithmetic import broadcast_shapes
from ....ir.ops.data_sized import NonZero, SplitText
from ....ir.ops.regex import compile_pattern
from ....ir.ops.text import TextCase, TextConcat, TextEqual, TextFind, TextMatch, case_table
from ....ir.types import Dim
from ..builder import OnnxBuilder
from ..symbolic import product
from ..table import Outputs, onnx_op

MOST_PIECES = 64  # of one string, where maxsplit does not say less; more are an error of the run


def together(b: OnnxBuilder, x: Value, y: Value) -> tuple[Value, Value]:
    """Two operands in the shape that both broadcast to."""
    shape = broadcast_shapes(TextConcat(), x.type.shape, y.type.shape)
    return b.broadcast(x, shape), b.broadcast(y, shape)


def text_array(texts: tuple[str, ...]) -> np.ndarray:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def find_texts(b: OnnxBuilder, x: Value, keys: tuple[str, ...]) -> Value:
    """Where each string stands among the keys, the last of equal ones; -1 where it does not."""
    places = {key: n for n, key in enumerate(keys)}
    rising = tuple(sorted(places))
    found = b.add(TextFind(), x, b.constant(text_array(rising)))
    if rising == keys:
        return found
    order = b.constant(np.array([*(places[key] for key in rising), -1]))
    return b.gather(order, b.select(b.binary("lt", found, 0), b.scalar(len(rising), "i64"), found), 0)


@onnx_op("Equal", since=7)
def equal(b: OnnxBuilder, x: Value, y: Value) -> Outputs:
    if x.type.dtype == y.type.dtype == "str":
        return b.add(TextEqual(), *together(b, x, y))
    return b.binary("eq", x, y)


@onnx_op("StringConcat", since=20)
def string_concat(b: OnnxBuilder, x: Value, y: Value) -> Outputs:
    return b.add(TextConcat(), *together(b, x, y))


@onnx_op("RegexFullMatch", since=20)
def regex_full_match(b: OnnxBuilder, x: Value, *, pattern: str | None = None) -> Outputs:
    return b.add(TextMatch(), x, b.constant(compile_pattern(pattern or "").array()))


@onnx_op("StringSplit", since=20)
def string_split(b: OnnxBuilder, x: Value, *, delimiter: str | None = None, maxsplit: int | None = None) -> Outputs:
    """As many pieces for each string as the one with the most has; "" where one has fewer."""
    cuts = -1 if maxsplit is None else maxsplit
    most = MOST_PIECES if cuts < 0 else min(cuts + 1, MOST_PIECES)
    count = Var.of(b.unique(f"{b.hint}_count"), None)
    return b.add_multi(SplitText(cuts, most, count), x, b.constant(text_array((delimiter or "",))))


@onnx_op("StringNormalizer", since=10)
def string_normalizer(
    b: OnnxBuilder, x: Value, *, case_change_action: str = "NONE", is_case_sensitive: int = 0, locale: str | None = None,
    stopwords: tuple[str, ...] | None = None,
) -> Outputs:  # fmt: skip
    """The strings that are no stop words, in another case; one empty string if there are none.  Case is Unicode's, whatever
    the locale; where it does not count, both sides are compared in lower case."""
    if case_change_action not in ("NONE", "LOWER", "UPPER"):
        raise ModelError(f"attribute 'case_change_action' is {case_change_action!r}, expected NONE, LOWER or UPPER")
    rank = x.type.rank
    if rank not in (1, 2) or (rank == 2 and x.type.shape[0] != 1):
        raise ModelError(f"expected strings [C] or [1, C], got {x.type}")
    flat = b.reshape(x, x.type.shape[-1:])
    made = flat if case_change_action == "NONE" else in_case(b, flat, case_change_action.lower())
    if stopwords:
        made = _without(b, flat, made, stopwords, bool(is_case_sensitive))
    return made if rank == 1 else b.reshape(made, (1, *made.type.shape))


def in_case(b: OnnxBuilder, x: Value, case: str) -> Value:
    return b.add(TextCase(case), x, b.constant(case_table(case)))


def _without(b: OnnxBuilder, x: Value, made: Value, words: tuple[str, ...], sensitive: bool) -> Value:
    """The elements of `made` where x is no stop word: an index behind the last stands for the empty string."""
    compared = x if sensitive else in_case(b, x, "lower")
    stop = words if sensitive else tuple("".join(map(str.lower, w)) for w in words)
    kept = b.binary("lt", find_texts(b, compared, stop), 0)
    if kept in b.constants:
        places = np.nonzero(b.constants[kept])[0]
        return b.constant(text_array(tuple(b.constants[made][places].tolist()) or ("",)))
    count: Expr = Var.of(b.unique(f"{b.hint}_count"), None)
    places = b.reshape(b.add(NonZero(count), kept), (count,))
    size = product(x.type.shape)
    behind = b.dim_tensor((size,))
    least: Dim = as_dim(binary("max", count, 1))
    index = b.slice(b.concat((places, behind), 0), 0, 0, least)
    return b.gather(b.concat((made, b.constant(text_array(("",)))), 0), index, 0)
