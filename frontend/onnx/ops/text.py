"""What is counted in sequences of tokens."""

from __future__ import annotations

import numpy as np

from ....ir.errors import ModelError
from ....ir.graph import Value
from ....ir.ops.reduce import Reduce
from ..builder import OnnxBuilder
from ..table import Outputs, onnx_op
from .strings import find_texts

_WIDEST = 2**24  # columns of the result
_MOST_COMPARED = 2**24  # pairs of a position and a gram


@onnx_op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(
    b: OnnxBuilder, x: Value, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str,
    ngram_counts: tuple[int, ...], ngram_indexes: tuple[int, ...], pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None, weights: tuple[float, ...] | None = None,
) -> Outputs:  # fmt: skip
    """How often each gram of the pool stands in x[C] or in each row of x[N, C]; between its tokens up to max_skip_count
    others are skipped, as many between all of them.  IDF: its weight where it stands at all; TFIDF: the product."""
    if bool(pool_strings) == bool(pool_int64s) or (x.type.dtype == "str") != bool(pool_strings):
        raise ModelError(f"expected a pool of the type of x, {x.type}: integers or strings")
    if pool_strings:
        tokens = tuple(dict.fromkeys(pool_strings))
        places = {token: n for n, token in enumerate(tokens)}
        x, pool_int64s = find_texts(b, x, tokens), tuple(places[t] for t in pool_strings)
    assert pool_int64s is not None
    if mode not in ("TF", "IDF", "TFIDF") or x.type.rank not in (1, 2):
        raise ModelError(f"mode {mode!r} and x {x.type} are not supported")
    rows = b.cast(x if x.type.rank == 2 else b.reshape(x, (1, *x.type.shape)), "i64")
    grams = _grams(pool_int64s, ngram_counts)
    total = sum(map(len, grams))
    if total != len(ngram_indexes) or (weights and len(weights) != total):
        raise ModelError(f"{len(ngram_indexes)} indexes and {len(weights or ())} weights do not fit {total} grams")
    if min(ngram_indexes) < 0 or max(ngram_indexes) >= _WIDEST:
        raise ModelError(f"attribute 'ngram_indexes' must be in 0..{_WIDEST - 1}")
    columns = []
    for n, pool in enumerate(grams, 1):
        if len(pool):
            wanted = min_gram_length <= n <= max_gram_length
            columns.append(_counts(b, rows, pool, max_skip_count if n > 1 else 0, wanted))
    counts = b.concat(columns, 1)
    if mode == "IDF":
        counts = b.cast(b.binary("gt", counts, 0), "f32")
    if mode != "TF" and weights:
        counts = b.binary("mul", counts, b.constant(np.array(weights, np.float32)))
    width = max(ngram_indexes) + 1
    place = np.full(width, len(ngram_indexes))  # a column of zeros stands behind the others
    place[list(ngram_indexes)] = np.arange(len(ngram_indexes))
    zeros = b.broadcast(b.scalar(0, "f32"), (rows.type.shape[0], 1))
    y = b.gather(b.concat((counts, zeros), 1), b.constant(place), 1)
    return y if x.type.rank == 2 else b.reshape(y, (width,))


def _grams(pool: tuple[int, ...], starts: tuple[int, ...]) -> list[np.ndarray]:
    """The grams of length 1, 2, ... as rows."""
    ends = (*starts[1:], len(pool))
    made = []
    for n, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        if not 0 <= start <= end <= len(pool) or (end - start) % n:
            raise ModelError(f"attribute 'ngram_counts' {list(starts)} does not divide a pool of {len(pool)} tokens")
        made.append(np.array(pool[start:end], np.int64).reshape(-1, n))
    return made


def _counts(b: OnnxBuilder, x: Value, pool: np.ndarray, skips: int, wanted: bool) -> Value:
    """[N, grams] in f32."""
    batch, length = x.type.shape
    count, n = pool.shape
    if not isinstance(length, int) or length * count > _MOST_COMPARED:
        raise ModelError(f"the tokens of {x.type} must be known, and at most {_MOST_COMPARED} pairs with grams")
    total = b.broadcast(b.scalar(0, "f32"), (batch, count))
    for skip in range(skips + 1 if wanted else 0):
        places = length - (n - 1) * (skip + 1)
        if places < 1:
            break
        same = None
        for j in range(n):
            token = b.reshape(b.slice(x, 1, j * (skip + 1), places), (batch, places, 1))
            here = b.binary("eq", token, b.constant(np.ascontiguousarray(pool[:, j])))
            same = here if same is None else b.binary("and", same, here)
        assert same is not None
        total = b.binary("add", total, b.add(Reduce("sum", (1,), False), b.cast(same, "f32")))
    return total
