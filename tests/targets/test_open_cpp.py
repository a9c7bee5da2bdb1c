"""The C++ header of models whose sizes a run chooses, and whose data say how large results are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from frontend.onnx_models import I64, model, node, unknown, value
from tilewright.compiler.api import compile

_MAIN = r"""
#include "found.hpp"
#include <cstdio>
#include <utility>

template <class Call> void refused(Call call)
{
    try {
        call();
        std::puts("not refused");
    } catch (const tilewright::error &error) {
        std::printf("%d %s\n", error.status(), error.what());
    }
}

int main()
{
    tilewright::found_module first(1);
    std::vector<float> x{ 0.f, 2.f, 0.f, 3.f, 4.f, 0.f }, kept(3), twice(6);
    std::vector<std::int64_t> at(6);
    refused([&] { (void)first.run(x); });
    refused([&] { first.resize({ { { 2, 3 } } }); });
    refused([&] { first.resize({ { { 0 } } }); });
    first.resize({ { { 6 } } });
    std::printf("at most %d\n", (int)first.output_shape(1)[1]);
    tilewright::found_module second = std::move(first), third(1);
    std::swap(second, third);
    refused([&] { second.run(x, twice, at); });
    refused([&] { third.run(kept, twice, at); });
    refused([&] { third.run(x, kept, at); });
    third.run(x, twice, at);
    auto [doubled, places] = third.run(x);
    for (float v : doubled) std::printf("%g ", v);
    for (auto v : places) std::printf("[%d] ", (int)v);
    third.resize({ { { 3 } } });
    third.run(std::vector<float>{ 1.f, 0.f, 0.f }, kept, { at.data(), 3 });
    std::printf("%d of %zu\n", (int)third.output_shape(1)[1], kept.size());
}
"""
_SAID = """23 the shapes of the inputs are not set
4 resize: input 0 has 1 dimensions, got 2
4 input 0 (x): dimension 0 (n) must be 1 or more, got 0
at most 6
23 the shapes of the inputs are not set
5 in_x: expected 6 elements, got 3
5 out_twice: expected 6 elements, got 3
0 4 0 6 8 0 [1] [3] [4] 1 of 3
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_buffers_are_as_large_as_the_shapes_that_were_set(tmp_path: Path) -> None:
    graph = model(
        [node("Add", ["x", "x"], ["twice"]), node("NonZero", ["x"], ["at"])],
        [value("x", "n")], [value("twice", "n"), unknown("at", I64)],
    )
    compile(graph, name="found", cache=False).save(tmp_path / "out")
    (tmp_path / "main.cpp").write_text(_MAIN)
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iout", "main.cpp", "-Lout", "-lfound",
               "-Wl,-rpath,out", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == _SAID
