"""CUDA compilers: how they are found, what they say, and every kernel through nvcc where it is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from codegen.gpu_kernels import CASES
from suites.test_cpu import CASES as ROWS
from suites.test_cpu import graph_of
from suites.test_cuda import lower_graph
from tilewright.codegen.c_like import print_kernel
from tilewright.codegen.cuda import CUDA
from tilewright.codegen.cuda_program import module_text, print_program
from tilewright.codegen.machine_gpu import parse_gpu_machine
from tilewright.ir.errors import InternalError, OptionError, TargetError
from tilewright.targets.cuda import toolchain as toolchain_module
from tilewright.targets.cuda.build import build
from tilewright.targets.cuda.images import _read_log, compile_images
from tilewright.targets.cuda.toolchain import find_cuda_toolchain


def _is_there() -> bool:
    try:
        find_cuda_toolchain()
    except TargetError:
        return False
    return True


needs_cuda = pytest.mark.skipif(not _is_there(), reason="no nvcc and no NVRTC")
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k0_map' for 'sm_80'
ptxas info    : Function properties for k0_map
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 46 registers, used 1 barriers, 8160 bytes smem, 384 bytes cmem[0]
ptxas info    : Compile time = 18.711 ms
kernels.cu(3): warning #177-D: variable "c" was declared but never referenced
"""


def test_what_ptxas_prints_is_read() -> None:
    resources, warnings = _read_log(LOG)
    r = resources["k0_map"]
    assert (r.registers, r.stack, r.spill_stores, r.spill_loads, r.shared) == (46, 8, 16, 24, 8160)
    assert warnings.startswith("kernels.cu(3): warning #177-D")


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    exists = os.path.exists
    monkeypatch.setattr(toolchain_module.os.path, "exists", lambda p: not str(p).startswith("/usr/local/cuda") and exists(p))
    monkeypatch.setattr(toolchain_module, "_nvrtc_places", lambda: iter(()))
    monkeypatch.setattr(toolchain_module, "_wheels", list)
    with pytest.raises(TargetError, match=r"expected nvcc on the PATH.*pip install tilewright\[cuda\]"):
        find_cuda_toolchain.__wrapped__()


def test_a_program_that_is_no_compiler_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "nvcc"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(toolchain_module, "_nvcc_places", lambda: iter([("CUDA_HOME", str(fake))]))
    monkeypatch.setattr(toolchain_module, "_nvrtc_places", lambda: iter(()))
    with pytest.raises(TargetError, match="nvcc of CUDA_HOME, which does not run"):
        find_cuda_toolchain.__wrapped__()


@pytest.mark.parametrize("spec", ["cuda:sm_81", "cuda:sm_80+", "cuda:h100"])
def test_unknown_architectures_list_the_known_ones(spec: str) -> None:
    with pytest.raises(OptionError, match="sm_80, sm_86"):
        parse_gpu_machine(spec)


def test_a_machine_of_several_architectures_has_what_all_have() -> None:
    both = parse_gpu_machine("cuda:sm_90+sm_86")
    assert both.architectures == ("sm_86", "sm_90")
    assert both.shared_bytes == parse_gpu_machine("cuda:sm_86").shared_bytes
    assert both.has("cp_async")
    assert not parse_gpu_machine("cuda:sm_75+sm_90").has("cp_async")
    assert parse_gpu_machine("cuda").architectures == parse_gpu_machine("cuda:all").architectures
    assert parse_gpu_machine("cuda:sm_90a").has("wgmma")
    assert not parse_gpu_machine("cuda:sm_90").has("wgmma")


@needs_cuda
def test_hand_written_kernels_compile_without_a_warning_or_spill() -> None:
    functions = {k.name: print_kernel(k, CUDA).text for k in (CASES[n].kernel("") for n in ("transpose", "softmax", "product"))}
    text = module_text("", functions, functions)
    (made,) = compile_images([text], ("sm_80", "sm_90"), find_cuda_toolchain())
    assert [(i.arch, i.is_ptx, i.warnings) for i in made] == [("sm_80", False, ""), ("sm_90", False, ""), ("sm_90", True, "")]
    for image in made[:2]:
        assert set(image.resources) == set(functions)
        assert all(r.spill_stores == r.spill_loads == 0 and r.registers <= 64 for r in image.resources.values())


@needs_cuda
def test_architectures_that_the_compiler_does_not_know() -> None:
    with pytest.raises(TargetError, match="does not know this architecture"):
        compile_images(["extern \"C\" __global__ void k() {}"], ("sm_999",), find_cuda_toolchain())
    with pytest.raises(InternalError, match="refuses the emitted code"):
        compile_images(["not C++"], ("sm_80",), find_cuda_toolchain())


@needs_cuda
@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes() -> None:
    machine = parse_gpu_machine("cuda:sm_80")
    row, weights = ROWS["layernorm-last-weights"] if "layernorm-last-weights" in ROWS else next(iter(ROWS.values()))
    first, second = (build(lower_graph(graph_of(row, weights), machine), machine, name="same", jobs=n) for n in (1, 2))
    assert first.manifest_text == second.manifest_text
    assert all(first.read(name) == second.read(name) for name in first.files)


@needs_cuda
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_every_row_compiles_to_machine_code_without_a_warning(arch: str) -> None:
    machine = parse_gpu_machine(f"cuda:{arch}")
    functions: dict[str, str] = {}
    for n, (row, weights) in enumerate(ROWS.values()):
        for name, text in print_program(lower_graph(graph_of(row, weights), machine), machine).functions.items():
            functions[f"r{n}_{name}"] = re.sub(rf"\b{name}\b", f"r{n}_{name}", text)
    names = list(functions)
    texts = [module_text("", functions, names[i : i + 150]) for i in range(0, len(names), 150)]
    for made in compile_images(texts, (arch,), find_cuda_toolchain(), jobs=2):
        assert all(image.warnings == "" for image in made)
