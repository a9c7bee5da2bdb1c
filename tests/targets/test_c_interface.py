"""The run-time support from C: the whole interface, with sanitizers, from the examples, in C and C++."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from native_toy import HERE, toy_artifact, toy_machine, toy_object, toy_program, write_sources
from tilewright.codegen.program import Program
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.packaging import package

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
EXAMPLES = HERE.parent.parent / "examples"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror")


def run(*command: object, cwd: Path | None = None, text: str = "") -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_artifact().save(tmp_path_factory.mktemp("a folder with spaces") / "toy")


def test_whole_interface_without_allocation_after_create(saved: Path, tmp_path: Path) -> None:
    program = tmp_path / "abi"
    run("cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-DCOUNT_ALLOCATIONS", f"-I{saved}", HERE / "abi_test.c", f"-L{saved}",
        "-ltoy", f"-Wl,-rpath,{saved}", "-pthread", "-o", program)
    assert run(program) == "ok\n"


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(sanitizer: str, tmp_path: Path) -> None:
    """Of a profile build, which has everything that others have."""
    names = write_sources(tmp_path, profile=True)
    flags = ["-std=c11", "-DPROFILE", "-g", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    if sanitizer == "thread":
        flags.append("-DNO_FORK")  # its run-time does not survive threads after fork
    else:
        flags += ["-fno-omit-frame-pointer"]
    run("cc", *flags, "-I.", *names, HERE / "toy.c", HERE / "abi_test.c", "-lm", "-ldl", "-o", "abi", cwd=tmp_path)
    # without address randomisation: older sanitizers find no room for their shadow memory with it
    plain = ["setarch", "-R"] if shutil.which("setarch") else []
    assert run(*plain, tmp_path / "abi") == "ok\n"


def test_runtime_compiles_without_warnings(tmp_path: Path) -> None:
    names = write_sources(tmp_path)
    run("cc", "-std=c11", "-O2", "-fPIC", *STRICT, "-c", *names, cwd=tmp_path)


def test_cgroup_quota(tmp_path: Path) -> None:
    """Both versions of cgroups, nested groups, and a group that is not mounted at its own path."""
    write_sources(tmp_path)
    (tmp_path / "main.c").write_text(
        '#include "tw_runtime.h"\n#include <stdio.h>\n'
        'int main(int c, char **v) { (void)c; printf("%d\\n", tw_cgroup_cpus(v[1], v[2])); return 0; }\n'
    )
    run("cc", "-std=c11", "-I.", "main.c", "tw_host.c", "-o", "quota", cwd=tmp_path)

    def quota(membership: str, **files: str) -> int:
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (tmp_path / "membership").write_text(membership)
        return int(run(tmp_path / "quota", root, tmp_path / "membership"))

    assert quota("0::/\n") == 0
    assert quota("0::/\n", **{"cpu.max": "max 100000\n"}) == 0
    assert quota("0::/\n", **{"cpu.max": "150000 100000\n"}) == 2
    assert quota("0::/a/b\n", **{"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "300000 100000\n"}) == 3
    assert quota("0::/gone/here\n", **{"cpu.max": "50000 100000\n"}) == 1
    v1 = {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert quota("9:cpuset:/x\n3:cpuacct,cpu:/a\n0::/\n", **v1) == 3
    assert quota("3:cpu:/a\n", **{**v1, "cpu/a/cpu.cfs_quota_us": "-1\n"}) == 0
    assert quota("3:cpuacct:/a\n", **v1) == 0
    assert quota("garbage\n:\n::\n") == 0
    run(tmp_path / "quota", tmp_path / "nowhere", tmp_path / "nothing")


def digits_program() -> Program:
    return Program(
        name="digits", kernels={}, steps=(), inputs=(("image", TensorType("f32", (1, 64))),),
        outputs=(("scores", TensorType("f32", (1, 10))),), constants=(), constant_bytes=0, arena_bytes=0,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the interface of the digits model: the score of a digit is the pixel at its place."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "main.c").write_text(
        "#include <stdint.h>\n"
        "void tw_main(void *r, char *a, char *s, const char *c, void *const *in, void *const *out, int64_t t, int64_t n)\n"
        "{ (void)r, (void)a, (void)s, (void)c, (void)n;\n"
        "  for (int i = 0; t == 0 && i < 10; i++) ((float *)out[0])[i] = ((const float *)in[0])[i]; }\n"
    )
    run("cc", "-fPIC", "-O1", "-c", "main.c", "-o", "main.o", cwd=folder)
    return package([(folder / "main.o").read_bytes()], digits_program(), toy_machine()).save(folder / "out")


@pytest.mark.parametrize("compiler, source", [("cc -std=c11", "c/digits.c"), ("c++ -std=c++17", "cpp/digits.cpp")])
def test_examples(compiler: str, source: str, digits: Path, tmp_path: Path) -> None:
    command = compiler.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    run(*command, "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{digits}", EXAMPLES / source, f"-L{digits}",
        "-ldigits", f"-Wl,-rpath,{digits}", "-o", tmp_path / "classify")
    pixels = [0.0] * 64
    pixels[7] = 1.0
    assert run(tmp_path / "classify", text=" ".join(map(str, pixels))) == "7\n"
    done = subprocess.run([tmp_path / "classify"], input="1 2 3", capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected 64 numbers" in done.stderr


CPP_MAIN = r"""
#include "toy.hpp"
#include "digits.hpp"
#include <cstdio>
#include <string>

int main()
{
    using tilewright::toy_module;
    static_assert(toy_module::in_x_size == 32 && toy_module::out_n_size == 1);
    static_assert(!std::is_copy_constructible_v<toy_module> && std::is_nothrow_move_constructible_v<toy_module>);
    toy_module model(2);
    const std::vector<float> x(32, 1.0f);
    const std::array<std::int64_t, 1> k{ 5 };
    auto [y, n] = model.run(x, k);
    toy_module moved = std::move(model);
    float place[32];
    std::int64_t sum = 0;
    moved.run(x, k, place, { &sum, 1 });
    if (y[1] != 3.0f || n[0] != 37 || place[31] != 9.0f || sum != 37 || moved.thread_count() != 2) return 1;
    if (std::string(toy_module::manifest()).find("toy") == std::string::npos) return 2;
    try {
        moved.run(std::vector<float>(31), k);
        return 3;
    } catch (const tilewright::error &error) {
        if (error.status() != TW_WRONG_SIZE || std::string(error.what()) != "in_x: expected 32 elements, got 31") return 4;
    }
    try {
        toy_module wrong(-1);
        return 5;
    } catch (const tilewright::error &error) {
        if (error.status() != TW_BAD_OPTION) return 6;
    }
    try {
        model.run(x, k);
        return 7;
    } catch (const tilewright::error &error) {
        if (error.status() != TW_NULL_POINTER) return 8;
    }
    std::puts("ok");
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_cpp_wrapper_with_two_models(saved: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(CPP_MAIN)
    run("c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", f"-I{saved}", f"-I{digits}",
        "main.cpp", f"-L{saved}", f"-L{digits}", "-ltoy", "-ldigits",
        f"-Wl,-rpath,{saved}:{digits}", "-o", "main", cwd=tmp_path)
    assert run(tmp_path / "main") == "ok\n"


def test_headers_of_every_element_type_compile(tmp_path: Path) -> None:
    dtypes = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8", "bool"]
    sides = tuple((f"t {d}", TensorType(d, (2, 0))) for d in dtypes)
    for outputs in (sides, sides[:2], sides[:1], ()):
        artifact = package([toy_object()], toy_program("types", sides if outputs else (), outputs), toy_machine())
        (tmp_path / "types.h").write_bytes(artifact.read("types.h"))
        (tmp_path / "types.hpp").write_bytes(artifact.read("types.hpp"))
        (tmp_path / "a.c").write_text('#include "types.h"\n')
        (tmp_path / "a.cpp").write_text('#include "types.hpp"\n')
        run("cc", "-std=c11", *STRICT, "-fsyntax-only", "a.c", cwd=tmp_path)
        if shutil.which("c++"):
            run("c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "a.cpp", cwd=tmp_path)
