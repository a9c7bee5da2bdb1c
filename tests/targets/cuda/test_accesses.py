"""Depthwise windows, pools, rows and maps access memory by 16 bytes: what the CUDA compiler makes of the emitted vectors."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from suites.test_cuda import MACHINE, lower_graph
from tilewright.codegen.cuda_program import print_program
from tilewright.ir.graph import Builder, Graph
from tilewright.ir.ops.contract import Conv
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.norm import LayerNorm, Softmax
from tilewright.ir.ops.window import Pool
from tilewright.ir.types import TensorType
from tilewright.targets.cuda.images import compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain

from .test_toolchain import needs_cuda

PTX_ACCESS = re.compile(r"\b(?:ld|st)\.global\S*")
PTX_WIDE = re.compile(r"\.v4\.\w?32|\.v2\.\w?64|\.b128")
SASS_ACCESS = re.compile(r"\b(?:LDG|STG)\.E\S*")


def windows(dtype: str) -> Graph:
    b = Builder("windows")
    x = b.input("x", TensorType(dtype, (8, 56, 56, 96)))
    weights, bias = (b.constant(np.ones(s, "f4" if dtype == "f32" else "f2")) for s in ((3, 3, 1, 96), (96,)))
    depthwise = b.add(Conv((1, 1), (1, 1, 1, 1), (1, 1), 96), x, weights, bias)
    most = b.add(Pool("max", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False), x)
    return b.graph([depthwise, most, b.add(Pool("avg", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False), x),
                    b.add(Unary("tanh"), b.add(Binary("add"), x, x))])


def rows() -> Graph:
    b = Builder("rows")
    y = b.input("y", TensorType("f32", (512, 768)))
    ones = b.constant(np.ones(768, np.float32))
    return b.graph([b.add(Softmax(1), y), b.add(LayerNorm(1, 1e-5), y, ones, ones)])


GRAPHS = {"windows f32": lambda: windows("f32"), "windows f16": lambda: windows("f16"), "rows f32": rows}


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_all_accesses_are_of_16_bytes(name: str, tmp_path: Path) -> None:
    source = print_program(lower_graph(GRAPHS[name]()), MACHINE)
    (images,) = compile_images([source.text], ("sm_80", "sm_90"), find_cuda_toolchain())
    assert len(source.functions) == (2 if name == "rows f32" else 4)
    for image in images:
        assert not image.warnings
        if image.is_ptx:
            found = PTX_ACCESS.findall(image.data.decode())
            assert found and [a for a in found if not PTX_WIDE.search(a)] == []
        elif shutil.which("cuobjdump"):
            (tmp_path / "k.cubin").write_bytes(image.data)
            shown = subprocess.run(["cuobjdump", "-sass", tmp_path / "k.cubin"], capture_output=True, text=True, check=True)
            found = SASS_ACCESS.findall(shown.stdout)
            assert found and [a for a in found if ".128" not in a] == []
