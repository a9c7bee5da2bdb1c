"""The inner loops of products and convolutions keep everything in registers, in LLVM's assembly for each machine."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from codegen.small_kernels import conv, matmul
from tilewright.codegen.llvm import emit_kernel
from tilewright.codegen.machine import parse_machine
from tilewright.codegen.math import legalize_math
from tilewright.codegen.schedule import fma_contract, prefetch, relayout, reorder, sink, split, unroll, vectorize
from tilewright.ir.kernel import Kernel
from tilewright.targets.cpu.objects import compile_asm


def tiled_matmul(rows: int, vectors: int, lanes: int) -> Kernel:
    """Register tile of rows x vectors over a packed right operand, four steps at a time, the next panel prefetched."""
    panel = vectors * lanes
    k = matmul(2 * rows, 2 * panel, 64)
    b = k.param("B")
    k = relayout(k, "B", (2, 64, panel), lambda r, c: (c / panel, r, c % panel))
    k = split(k, "n", panel, "no", "ni")
    k = reorder(k, ["m", "no"], ["no", "m"])
    k = split(k, "m", rows, "mo", "mi")
    k = sink(k, ["mi", "ni"])
    k = split(k, "ni", lanes, "nv", "nl")
    k = split(k, "k", 4, "ko", "ki")
    k = prefetch(k, "ko", b.name, lambda env: [(env["no"] + 1, env["mo"] * 16 + env["ko"], 0)])
    return vectorize(fma_contract(unroll(k, "mi", "nv", "ki")), "nl")


def tiled_conv(rows: int, vectors: int, lanes: int) -> Kernel:
    panel = vectors * lanes
    k = conv(6, rows + 2, 8, panel, 3, 1)
    k = sink(k, ["ow", "n"])
    k = split(k, "n", lanes, "nv", "nl")
    return vectorize(fma_contract(unroll(k, "ow", "nv")), "nl")


def hot_loop(asm: str) -> str:
    """The loop with the most multiply-adds: from a label to the backward jump to it."""
    loops = []
    for label in re.findall(r"^(\.L\w+):", asm, re.M):
        body = asm.split(f"\n{label}:", 1)[1]
        ends = list(re.finditer(rf"^\t\S+\s+{re.escape(label)}$", body, re.M))
        if ends:
            loops.append(body[: ends[0].end()])
    inner = [loop for loop in loops if not any(other in loop and other is not loop for other in loops)]
    return max(inner, key=multiply_adds)


def multiply_adds(asm: str) -> int:
    return len(re.findall(r"^\t(?:vfmadd\w+|fmla)\t", asm, re.M))


TILES = [
    ("x86-64-v4", 8, 3, 16), ("x86-64-v4", 13, 2, 16), ("x86-64-v4", 6, 4, 16), ("x86-64-v3", 6, 2, 8), ("aarch64", 7, 3, 4),
]


@pytest.mark.parametrize("shape", [tiled_matmul, tiled_conv])
@pytest.mark.parametrize("name, rows, vectors, lanes", TILES)
def test_no_spill(name: str, rows: int, vectors: int, lanes: int, shape: Callable[[int, int, int], Kernel]) -> None:
    machine = parse_machine("cpu:" + name)
    kernel = legalize_math(shape(rows, vectors, lanes), machine)
    loop = hot_loop(compile_asm(emit_kernel(kernel, machine), machine))
    steps = 4 if shape is tiled_matmul else 1
    assert multiply_adds(loop) == rows * vectors * steps
    assert not re.findall(r"\(%rsp|\(%rbp|\[sp", loop)
