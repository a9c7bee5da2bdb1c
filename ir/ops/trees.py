"""Decision trees: one step of every row in every tree, from a node to one of the two behind it, without branches.

A node is a word of 64 bits:

    bits 0..31    the bits of the f32 that the feature is compared with; with f64 they stand in a table of their own
    INNER         1; 0 in a leaf, which leads to itself
    EQUAL         whether yes means x == value, else it means x <= value
    MISSING       whether NaN counts as yes
    feature, yes  the other bits: the column of x, and the next node; that for no is the one behind it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compute import Compute
from ..expr import Expr, as_expr, binary, call, cast, load, select
from ..kernel import Buffer
from ..types import TensorType
from .base import Op
from .movement import output_axes
from .operands import require

INNER, EQUAL, MISSING = 1, 2, 4
FLAGS = 3  # bits
VALUE = 32  # bits of the value in a word


@dataclass(frozen=True)
class TreeStep(Op):
    """x[N, F] and the words of the nodes, u64[M]; for f64 also their values, f64[M]; and the node at which each row is in
    each tree, i32[N, T]: the nodes they go to, i32[N, T].

    trees: 0, or T without the last operand: all rows are at nodes 0 ... T - 1, the roots.  wide: bits of a feature.
    equal, missing: whether a node has that flag.  Words lead to nodes of the table only; features are clamped.
    """

    trees: int
    wide: int
    equal: bool
    missing: bool
    weight: ClassVar[int] = 12

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        x, words = types[:2]
        require(x.rank == 2 and x.dtype in ("f32", "f64"), self, "expected rows of f32 or f64, got {}", x)
        require(x.shape[1] != 0, self, "{} has no features", x)
        require(words.rank == 1 and words.dtype == "u64" and words.shape[0] != 0, self, "words are u64[M], got {}", words)
        tables = 2 if x.dtype == "f64" else 1
        require(len(types) == 1 + tables + (not self.trees), self, "got {} operands", len(types))
        if tables == 2:
            fits = types[2] == TensorType("f64", words.shape)
            require(fits, self, "expected a value for each of {}, got {}", words, types[2])
        if self.trees:
            return (TensorType("i32", (x.shape[0], self.trees)),)
        at = types[-1]
        fits = at.dtype == "i32" and at.rank == 2 and at.shape[0] == x.shape[0]
        require(fits, self, "expected a node of type i32 for every row of {} and tree, got {}", x, at)
        return (at,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, words = arrays[:2]
        at = np.broadcast_to(np.arange(self.trees, dtype=np.int32), (len(x), self.trees)) if self.trees else arrays[-1]
        node = words[at]
        link = node if x.dtype == np.float64 else node >> np.uint64(VALUE)
        values = arrays[2][at] if x.dtype == np.float64 else (node & np.uint64(2**32 - 1)).astype(np.uint32).view(np.float32)
        column = (link >> np.uint64(FLAGS)) & np.uint64(2**self.wide - 1)
        found = np.take_along_axis(x, np.minimum(column, x.shape[1] - 1).astype(np.int64), 1)
        yes = np.where((link & np.uint64(EQUAL)) != 0, found == values, found <= values)
        yes = np.where(np.isnan(found), (link & np.uint64(MISSING)) != 0, yes)
        target = (link >> np.uint64(FLAGS + self.wide)).astype(np.int32)
        return (np.where(yes | ((link & np.uint64(INNER)) == 0), target, target + 1),)

    def compute(self, out: Buffer, *ins: Buffer) -> Compute:
        x, words = ins[:2]
        row, tree = axes = output_axes(out)
        at = tree if self.trees else cast(load(ins[-1], row, tree), "i64")
        word = load(words, at)
        link, value = (word, load(ins[2], at)) if x.dtype == "f64" else _halves(word)
        column = cast(_bits(binary("shr", link, FLAGS), 2**self.wide - 1), "i64")
        found = load(x, row, binary("min", column, as_expr(x.shape[1]) - 1))
        yes = binary("le", found, value)
        if self.equal:
            yes = select(_has(link, EQUAL), binary("eq", found, value), yes)
        if self.missing:
            yes = select(binary("ne", found, found), _has(link, MISSING), yes)
        target = cast(binary("shr", link, FLAGS + self.wide), "i32")
        return Compute(out, axes, select(yes, target, target + cast(_bits(link, INNER), "i32")))


def _halves(word: Expr) -> tuple[Expr, Expr]:
    """The link of a word, and its value."""
    return cast(binary("shr", word, VALUE), "u32"), call("bitcast", cast(word, "u32"), dtype="f32")


def _bits(link: Expr, mask: int) -> Expr:
    return binary("and", link, mask)


def _has(link: Expr, flag: int) -> Expr:
    return binary("ne", _bits(link, flag), 0)
