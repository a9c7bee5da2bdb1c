"""Products with weights of 2, 4 or 8 bits that share a scale in blocks along the reduction, for few rows.

The weights are stored as the machine unpacks them: columns in panels, and for each column 32-bit words of neighbours
along the reduction (sixteen of 2 bits, eight of 4, four of 8).  The low bits of the four bytes of a word hold neighbours 0..3,
the next higher ones neighbours 4..7, and so on, so that a mask gives four bytes that one instruction multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..expr import Expr, as_expr, binary, cast, const, load
from ..kernel import Alloc, Block, Buffer, For, Kernel, axis, store
from ..types import TensorType
from .base import Op
from .operands import require, require_count


def shifts(bits: int) -> tuple[int, ...]:
    """By how many bits each neighbour is moved within its word."""
    return tuple(byte + part for part in range(0, 8, bits) for byte in (0, 8, 16, 24))


def pack_words(q: np.ndarray, bits: int, panel: int) -> np.ndarray:
    """Weights u8[K, N] as i32[N / panel, K / per word, panel]."""
    per = 32 // bits
    k, n = q.shape
    words = np.zeros((k // per, n), np.uint32)
    for j, shift in enumerate(shifts(bits)):
        words |= q[j::per].astype(np.uint32) << np.uint32(shift)
    return pack_columns(words.view(np.int32), panel)


def pack_columns(a: np.ndarray, panel: int) -> np.ndarray:
    """[G, N] as [N / panel, G, panel]."""
    return np.ascontiguousarray(a.reshape(len(a), -1, panel).transpose(1, 0, 2))


@dataclass(frozen=True)
class BlockMatMul(Op):
    """y[m, n] = sum over blocks g of scale[g, n] * (sum over k in g of x[m, k] * (w[k, n] - zero[g, n])).

    Operands: x f32[M, K]; or in integers, x i8[M, K], its scale f32[M, K / group] and the sums of its blocks
    i32[M, K / group].  Then words i32[P, K / per word, C] and scales f32[P, K / group, C], of weights without sign; then
    zeros f32 as the scales, if `zero`, the zero point of all, does not stand for them."""

    bits: int
    group: int
    zero: int
    integers: bool = False

    @property
    def per_word(self) -> int:
        return 32 // self.bits

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        first = 3 if self.integers else 1
        require_count(self, types, first + 2, first + 3)
        x, words = types[0], types[first]
        fits = self.bits in (2, 4, 8) and self.group % self.per_word == 0
        require(fits, self, "blocks of {} of {} bits", self.group, self.bits)
        require(x.dtype == ("i8" if self.integers else "f32") and x.rank == 2, self, "x must be a matrix, got {}", x)
        depth = x.shape[1]
        require(isinstance(depth, int) and depth % self.group == 0, self, "blocks of {} do not divide {}", self.group, x)
        require(words.rank == 3 and words.dtype == "i32", self, "the words must be i32[P, K, C], got {}", words)
        panels, _, columns = words.static_shape
        count = depth // self.group  # type: ignore[operator]
        wanted = [TensorType("i32", (panels, depth // self.per_word, columns))]  # type: ignore[operator]
        wanted += [TensorType("f32", (panels, count, columns))] * (len(types) - first - 1)
        sides = [TensorType("f32", (x.shape[0], count)), TensorType("i32", (x.shape[0], count))] if self.integers else []
        fits = list(types[1:]) == [*sides, *wanted]
        require(fits, self, "expected {}, got {}", [*sides, *wanted], list(types[1:]))
        return (TensorType("f32", (x.shape[0], panels * columns)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        first = 3 if self.integers else 1
        x, words, scales, *zeros = arrays[0], *arrays[first:]
        panels, _, columns = words.shape

        def plain(a: np.ndarray) -> np.ndarray:
            return a.transpose(1, 0, 2).reshape(a.shape[1], panels * columns)

        whole = plain(words).view(np.uint32)
        q = np.stack([(whole >> np.uint32(s)) & np.uint32(2**self.bits - 1) for s in shifts(self.bits)], axis=1)
        q = q.reshape(x.shape[1], -1).astype(np.int32)
        y = np.zeros((x.shape[0], panels * columns), np.float32)
        for g in range(x.shape[1] // self.group):
            part = slice(g * self.group, (g + 1) * self.group)
            zero = plain(zeros[0])[g] if zeros else np.float32(self.zero)
            if self.integers:
                dot = (x[:, part].astype(np.int32) @ q[part]).astype(np.float32)
                dot = (dot - arrays[2][:, g : g + 1].astype(np.float32) * zero) * arrays[1][:, g : g + 1]
            else:
                dot = x[:, part] @ (q[part].astype(np.float32) - zero)
            y += dot * plain(scales)[g]
        return (y,)

    def kernel(self, outs: tuple[Buffer, ...], ins: tuple[Buffer, ...]) -> Kernel:
        (y,) = outs
        first = 3 if self.integers else 1
        x, words, scales, *zeros = ins[0], *ins[first:]
        p, c, m = axis("p", words.shape[0]), axis("c", words.shape[2]), axis("m", y.shape[0])
        g, k = axis("g", scales.shape[1]), axis("k", self.group)
        dtype = "i32" if self.integers else "f32"
        dot, total = Buffer("dot", dtype, (), "stack"), Buffer("total", "f32", (), "stack")
        at = g * self.group + k
        product = cast(load(x, m, at), dtype) * cast(self._weight(words, p, at, c), dtype)
        zero: Expr = load(zeros[0], p, g, c) if zeros else const(float(self.zero), "f32")
        if self.integers:
            whole = cast(load(dot), "f32") - cast(load(ins[2], m, g), "f32") * zero
            body: Block = (For(k, (store(dot, (), load(dot) + product),)),)
            block = whole * load(ins[1], m, g)
        else:
            weight = cast(self._weight(words, p, at, c), "f32") - zero
            body = (For(k, (store(dot, (), load(dot) + load(x, m, at) * weight),)),)
            block = load(dot)
        each: Block = (
            store(dot, (), const(0, dtype) if self.integers else const(0.0, dtype)), *body,
            store(total, (), load(total) + block * load(scales, p, g, c)),
        )
        one: Block = (
            Alloc(dot), Alloc(total), store(total, (), const(0.0, "f32")), For(g, each),
            store(y, (m, p * as_expr(words.shape[2]) + c), load(total)),
        )
        return Kernel("block_matmul", (*outs, *ins), (For(p, (For(m, (For(c, one),)),), "parallel"),))

    def _weight(self, words: Buffer, p: Expr, k: Expr, c: Expr) -> Expr:
        """The integer of weight k of a column."""
        j = k % self.per_word
        shift = j * 8 if self.bits == 8 else j % 4 * 8 + j // 4 * self.bits
        word = binary("shr", load(words, p, k // self.per_word, c), cast(shift, "i32"))
        return binary("and", word, const(2**self.bits - 1, "i32"))
