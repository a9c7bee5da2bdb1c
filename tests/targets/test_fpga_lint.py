"""The lint that works on a syntax tree: generated kernels are clean, and everything planted is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

import pytest
from tilewright.targets.fpga.build import build
from tilewright.targets.fpga.clang_lint import available, clang_lint
from tilewright.targets.fpga.host import resolve_machine

from .fpga_graphs import conv_relu, graph_of, pools, residual

pytestmark = pytest.mark.skipif(not available(), reason="needs libclang: pip install tilewright[fpga]")

_START = '#include "weights.h"\n'
_LOOP = re.compile(r"^  for \(int \w = 0; \w < \d+; \+\+\w\)", re.MULTILINE)


@cache
def project() -> Mapping[str, bytes]:
    artifact = build(graph_of(residual, pools, conv_relu), resolve_machine("fpga:u250"), name="kernel")
    return {n: artifact.read(n) for n in artifact.files if n.startswith(("src/", "weights/"))}


def source() -> str:
    return project()["src/kernel.cpp"].decode()


def first_statement(text: str, include: str = "") -> Callable[[], str]:
    """Planted before the first loop over positions."""
    def change() -> str:
        m = _LOOP.search(source())
        assert m is not None
        planted = f"{source()[:m.start()]}  {text}\n{source()[m.start():]}"
        return planted.replace(_START, f"{_START}{include}\n", 1)
    return change


def instead(old: str, new: str) -> Callable[[], str]:
    def change() -> str:
        changed = re.sub(old, new, source(), count=1)
        assert changed != source(), old
        return changed
    return change


BOUNDED, LOOP = "a loop without constant bounds", r"\n(  for \(int p = 0; p <) \d+"
FACTORIAL = "static int g(int n) { return n < 2 ? 1 : n * g(n - 1); }"
DETOUR = "static int f(int n);\nstatic int g(int n) { return f(n); }\nstatic int f(int n) { return g(n - 1); }"
FAULTS: dict[str, tuple[str, Callable[[], str]]] = {
    "new": ("dynamic memory", first_statement("int* q = new int[3];")),
    "malloc": ("dynamic memory", first_statement("int* q = (int*)malloc(8);", "#include <stdlib.h>")),
    "printf": ("a call of the system: printf", first_statement('printf("x");', "#include <cstdio>")),
    "vector": ("a library that is not synthesizable", first_statement("", "#include <vector>")),
    "while": (BOUNDED, first_statement("while (x0.empty()) {}")),
    "do": (BOUNDED, first_statement("do {} while (x0.empty());")),
    "forever": (BOUNDED, first_statement("for (;;) {}")),
    "bound": (BOUNDED, instead(LOOP, r"\n  int n = x0.empty() + 3;\n\1 n")),
    "counter": ("a loop changes its own counter p", instead(r"(p < \d+; \+\+p\) \{)", r"\1 if (x0.empty()) p = 0;")),
    "recursion": ("g calls itself", first_statement("int z = g(3);", FACTORIAL)),
    "detour": ("f calls itself, directly or through others", first_statement("int z = f(3);", DETOUR)),
    "variable array": ("an array of variable size", first_statement("int n = x0.empty() + 3; int buffer[n];")),
    "double": ("floating point", first_statement("double d = 1;")),
    "function pointer": ("a call through a pointer", first_statement("void (*g)(int) = 0; g(3);")),
    "goto": ("goto", first_statement("again: goto again;")),
    "lambda": ("a lambda", first_statement("auto f = [](int n) { return n; };")),
    "global": ("a variable that all functions share", instead(r"(static void window_\d+\()", r"static int s;\n\1")),
    "syntax": ("expected ';'", instead(r"y0\.write\(y\);", "y0.write(y)")),
    "pragma": ("an unknown pragma", instead("HLS PIPELINE II=1", "HLS FASTER II=1")),
    "option": ("arguments that the pragma does not take", instead("HLS PIPELINE II=1", "HLS PIPELINE II=x")),
    "place": ("is not at the top of a loop", instead("(#pragma HLS DATAFLOW)", r"\1\n#pragma HLS PIPELINE II=1")),
    "late": ("is not at the top of a loop", instead(r"(#pragma HLS PIPELINE II=1)\n(.*\n)", r"\2\1\n")),
    "variable": ("no variable is called tops", instead("PARTITION variable=acc", "PARTITION variable=tops")),
    "dimension": ("has no dimension 2", instead("(PARTITION variable=acc complete)", r"\1 dim=2")),
    "fifo": ("not a stream", instead("ARRAY_PARTITION variable=acc complete", "STREAM variable=acc depth=2")),
    "port": ("no argument is called no", instead(r"m_axi port=\w+", "m_axi port=no")),
    "interface": ("not the top one", instead("#pragma HLS PIPELINE II=1", "#pragma HLS INTERFACE s_axilite port=return")),
    "logic": ("something else than a process", instead("(#pragma HLS DATAFLOW)", r"\1\n  int z = 0; z += 3;")),
    "two readers": ("2 readers, expected one writer and one reader", instead(r"(\n  dot_\d+\(\w+, \w+\);)", r"\1\1")),
}


def faults_of(text: str) -> list[str]:
    return clang_lint({**project(), "src/kernel.cpp": text.encode()}, "kernel")


def test_generated_kernels_are_clean() -> None:
    """`build` runs the lint too, and refuses what it finds: every test that builds is one of this."""
    assert faults_of(source()) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_planted_is_found(fault: str) -> None:
    wanted, change = FAULTS[fault]
    text = change()
    found = faults_of(text)
    assert any(wanted in f for f in found), found


def test_what_is_not_reached_is_not_synthesized() -> None:
    assert faults_of(source() + "\nstatic void never() { int* q = new int[3]; }\n") == []


def test_headers_are_searched_too() -> None:
    header = project()["src/tw_hls.h"].decode()
    planted = header.replace("if (x < low) return OUT(low);", "if (x < low) return saturate<OUT>(x, low, high);")
    assert planted != header
    found = clang_lint({**project(), "src/tw_hls.h": planted.encode()}, "kernel")
    assert any("saturate calls itself" in f for f in found), found
