"""What the threads of a warp do together, and the order in which the interpreter runs the threads of a block.

A thread is a generator.  It yields where it must wait: a string for a barrier ("block", "warp", "pool"), or a tuple of an
operation's name and this thread's operands.  Threads of a warp go on when all 32 wait at the same operation, a block when
all its threads wait at its barrier.  Warps run one after the other, each as far as it can: the largest skew that the
barriers allow, so that a missing one shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from .errors import InternalError
from .kernel_launch import WARP

Thread = Generator[Any, Any, None]
_DONE = object()
_REDUCTION = re.compile(r"warp_(add|mul|max|min)(?:_(16|8|4|2))?")
_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y, "mul": lambda x, y: x * y, "max": lambda x, y: y if x < y else x,
    "min": lambda x, y: y if y < x else x,
}
_SHUFFLES: dict[str, Callable[[int, int], int]] = {
    "shuffle": lambda lane, n: n % WARP, "shuffle_xor": lambda lane, n: lane ^ n,
    "shuffle_down": lambda lane, n: lane + n if lane + n < WARP else lane,
}
# Matrix instructions: rows, columns and depth, elements of a and b per register.
_PRODUCTS = {"f16": 2, "bf16": 2, "tf32": 1, "s8": 4, "u8s8": 4}


def is_warp_function(fn: str) -> bool:
    """Whether a pure function is computed by the 32 threads of a warp together."""
    return fn in _SHUFFLES or _REDUCTION.fullmatch(fn) is not None


def run_block(name: str, threads: Sequence[Thread]) -> None:
    """Run the threads of one block to their ends.  Raises InternalError for barriers that not all threads reach."""
    waiting: list[Any] = [None] * len(threads)  # None: can go on
    answers: list[Any] = [None] * len(threads)
    while True:
        for first in range(0, len(threads), WARP):
            _run_warp(name, threads, waiting, answers, range(first, min(first + WARP, len(threads))))
        if all(w is _DONE for w in waiting):
            return
        if any(w != "block" for w in waiting):
            states = sorted({"returned" if w is _DONE else w if isinstance(w, str) else w[0] for w in waiting})
            raise InternalError(f"kernel {name}: divergent barrier: threads of a block are at {', '.join(states)}")
        waiting[:] = [None] * len(threads)


def _run_warp(name: str, threads: Sequence[Thread], waiting: list[Any], answers: list[Any], warp: range) -> None:
    """One warp until all its threads have returned or wait for the block."""
    while True:
        for n in warp:
            while waiting[n] is None:
                try:
                    waiting[n] = threads[n].send(answers[n])
                except StopIteration:
                    waiting[n] = _DONE
                answers[n] = None
        if all(waiting[n] is _DONE or waiting[n] == "block" for n in warp):
            return
        kinds = {w if isinstance(w, str) else w[0] for w in (waiting[n] for n in warp) if w is not _DONE}
        if len(kinds) != 1 or any(waiting[n] is _DONE for n in warp):
            if "block" in kinds:
                return  # an error, which the block reports
            raise InternalError(f"kernel {name}: the threads of a warp are at different operations: {', '.join(sorted(kinds))}")
        (kind,) = kinds
        if kind != "warp" and len(warp) != WARP:
            raise InternalError(f"kernel {name}: {kind} in a warp of {len(warp)} threads")
        results = [None] * len(warp) if kind == "warp" else operate(kind, [waiting[n][1:] for n in warp])
        for n, result in zip(warp, results, strict=True):
            waiting[n], answers[n] = None, result


def operate(fn: str, operands: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
    """The results of one operation for the 32 threads of a warp; tiles are written in place."""
    if fn in _SHUFFLES:
        return [operands[_SHUFFLES[fn](lane, int(n))][0] for lane, (_, n) in enumerate(operands)]
    reduction = _REDUCTION.fullmatch(fn)
    if reduction is not None:
        values = [v for (v,) in operands]
        distance = int(reduction[2] or WARP) // 2
        while distance:
            values = [_COMBINE[reduction[1]](values[n], values[n ^ distance]) for n in range(WARP)]
            distance //= 2
        return values
    if fn.startswith("ldmatrix_x"):
        return _load_matrices(int(fn[10]), fn.endswith("_trans"), operands)
    shape, _, kind = fn.removeprefix("mma_").partition("_")
    if not fn.startswith("mma_") or kind not in _PRODUCTS:
        raise InternalError(f"the instruction {fn} has no meaning here")
    return _multiply(int(shape.partition("k")[2]), kind, operands)


def _load_matrices(count: int, transposed: bool, operands: Sequence[tuple[Any, ...]]) -> Sequence[None]:
    """Thread 8 * m + r gives the row r of matrix m, 16 bytes; each thread gets four bytes of each matrix.  Transposing
    needs elements of 16 bits."""
    for lane, (tile, _) in enumerate(operands):
        g, t = lane // 4, lane % 4
        n = 4 // tile.itemsize
        if transposed and n != 2:
            raise InternalError(f"ldmatrix transposes elements of 16 bits, got {tile.dtype}")
        for m in range(count):
            for e in range(n):
                row, column = (n * t + e, g) if transposed else (g, n * t + e)
                tile[n * m + e] = operands[8 * m + row][1][column]
    return [None] * len(operands)


def _tf32(x: np.ndarray) -> np.ndarray:
    """f32 with ten bits of fraction, ties away from zero."""
    bits = (x.astype(np.float32).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32)


def _multiply(depth: int, kind: str, operands: Sequence[tuple[Any, ...]]) -> Sequence[None]:
    """d[16, 8] += a[16, depth] @ b[depth, 8], the fragments laid out as in codegen/cuda.py; exact, rounded once."""
    n = _PRODUCTS[kind]
    exact = np.int64 if "8" in kind else np.float64
    a, b = np.zeros((16, depth), exact), np.zeros((depth, 8), exact)
    for lane, (_, x, y) in enumerate(operands):
        g, t = lane // 4, lane % 4
        x, y = (_tf32(v) if kind == "tf32" else v for v in (np.array(x), np.array(y)))
        for r in range(4):
            for e in range(n):
                a[g + 8 * (r % 2), n * t + e + depth // 2 * (r // 2)] = x[n * r + e]
        for r in range(2):
            for e in range(n):
                b[n * t + e + depth // 2 * r, g] = y[n * r + e]
    product = a @ b
    for lane, (d, _, _) in enumerate(operands):
        for e in range(4):
            i = lane // 4 + 8 * (e // 2), 2 * (lane % 4) + e % 2
            total = exact(d[e]) + product[i]
            d[e] = np.array(total).astype(d.dtype)
    return [None] * len(operands)


class Copies:
    """The asynchronous copies of one thread.  Data arrive when the thread waits for their group; until then the
    destination holds poison."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[np.ndarray, np.ndarray]]] = [[]]

    def start(self, target: np.ndarray, value: np.ndarray, poison: Any) -> None:
        self.groups[-1].append((target, np.array(value)))
        target[...] = poison

    def commit(self) -> None:
        self.groups.append([])

    def wait(self, groups: int) -> None:
        """Complete all closed groups but the last `groups`."""
        closed = self.groups[:-1]
        done = closed[: max(len(closed) - groups, 0)]
        for group in done:
            for target, value in group:
                target[...] = value
        self.groups = self.groups[len(done) :]
