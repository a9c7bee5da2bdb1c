"""Linking: reproducible, self-contained, hostile names, weights beside the library, other compilers and targets."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tilewright
from native_toy import HERE, WEIGHTS, toy_artifact, toy_inputs, toy_machine, toy_object, toy_outputs, toy_program, write_sources
from tilewright.codegen.machine import LEVELS, PROCESSORS, make_machine, parse_machine
from tilewright.ir.errors import OptionError, TargetError
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.cpu import features, host_machine, toolchain
from tilewright.targets.cpu.naming import c_prefix, c_string, comment_text, distinct_identifiers
from tilewright.targets.cpu.packaging import package

HAS_ZIG = importlib.util.find_spec("ziglang") is not None
HOSTILE = [
    '"); system("id"); ("', "*/ int evil; /*", "// x \\", "a\nb\r\n#error", "??/", "??)%s%n", "\0nul", "\udcff\udc80", "\ud800",
    "名前", "", "a" * 5000, "int", "@PREFIX@", "x", "x",
]


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.read(name) for name in (*artifact.files, "manifest.json")}


def test_same_bytes_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for folder in ("one", "two with spaces"):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
        monkeypatch.setenv("TMPDIR", str(tmp_path / folder))
        seen.append(contents(toy_artifact()))
    assert seen[0] == seen[1]
    library = seen[0]["libtoy.so"]
    assert str(tmp_path).encode() not in library and b"tilewright-link" not in library


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_library_is_self_contained_and_hardened(tmp_path: Path) -> None:
    place = toy_artifact().save(tmp_path / "toy")
    command = ["readelf", "-dlW", "--dyn-syms", str(place / "libtoy.so")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", shown.stdout))
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"}
    assert "GNU_RELRO" in shown.stdout and "NOW" in shown.stdout and "libtoy.so" in shown.stdout
    assert re.search(r"GNU_STACK .* RW ", shown.stdout)
    exported = set(re.findall(r"(?:FUNC|OBJECT) +GLOBAL +DEFAULT +\d+ (\w+)$", shown.stdout, re.M))
    assert exported and all(name.startswith("toy_") for name in exported), exported


def test_weights_beside_the_library(tmp_path: Path) -> None:
    artifact = toy_artifact(embed_limit=10)
    place = artifact.save(tmp_path / "toy")
    weights = (place / "toy.weights").read_bytes()
    assert len(weights) == 96 + 32 and np.array_equal(np.frombuffer(weights[64:96], np.float32), WEIGHTS)
    assert WEIGHTS.tobytes() not in (place / "libtoy.so").read_bytes()
    x, k = toy_inputs()
    module = tilewright.load(place, threads=2)
    np.testing.assert_array_equal(module(x, k)[0], toy_outputs(x, k)[0])
    moved = tmp_path / "moved"
    place.rename(moved)
    np.testing.assert_array_equal(tilewright.load(moved, threads=1)(x, k)[0], toy_outputs(x, k)[0])
    np.testing.assert_array_equal(artifact.load(threads=1)(x, k)[0], toy_outputs(x, k)[0])

    (moved / "toy.weights").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(TargetError, match=r"made for another library; ship the one made with this"):
        tilewright.load(moved)
    (moved / "toy.weights").write_bytes(weights[:-1])
    with pytest.raises(OptionError, match="incomplete"):
        tilewright.load(moved)


def test_weights_are_found_from_c(tmp_path: Path) -> None:
    """Without a path the library looks beside itself, wherever the program runs."""
    place = toy_artifact(embed_limit=0).save(tmp_path / "toy")
    (tmp_path / "main.c").write_text(
        '#include "toy.h"\n#include <stdio.h>\n'
        "int main(void) { char text[300] = \"\"; toy_model *m; tw_options o = TW_OPTIONS_INIT;\n"
        "  o.message = text; o.message_bytes = sizeof text;\n"
        "  int s = toy_create(&o, &m); puts(text); toy_destroy(m); return s; }\n"
    )
    subprocess.run(["cc", f"-I{place}", "main.c", f"-L{place}", "-ltoy", f"-Wl,-rpath,{place}", "-o", "main"], cwd=tmp_path,
                   check=True)

    def status() -> tuple[int, str]:
        done = subprocess.run([tmp_path / "main"], cwd="/", capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert status() == (0, "\n")
    (place / "toy.weights").write_bytes(b"short")
    assert status()[0] == 14 and "expected 128 bytes, got 5" in status()[1]
    (place / "toy.weights").unlink()
    assert status()[0] == 13 and "cannot open: No such file" in status()[1]


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    sides = tuple((name, TensorType("f32", (4, 8)) if i % 2 == 0 else TensorType("i64", ())) for i, name in enumerate(HOSTILE))
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", c_prefix(name)) for name in HOSTILE)
    artifact = package([toy_object()], toy_program("".join(HOSTILE), sides, sides), toy_machine())
    module = artifact.load(threads=1)
    assert [s.name for s in module.inputs][9] == "名前" and len(module.inputs) == len(HOSTILE)
    place = artifact.save(tmp_path / "out")
    for header, compiler in ((f"{artifact.name}.h", "cc -std=c99"), (f"{artifact.name}.hpp", "c++ -std=c++17")):
        if shutil.which(compiler.split()[0]):
            subprocess.run([*compiler.split(), "-Wall", "-Werror", "-trigraphs", "-Wno-pragma-once-outside-header",
                            "-fsyntax-only", str(place / header)], check=True)


def test_names() -> None:
    assert c_prefix("my_model") == "my_model" and c_prefix("ResNet-50 v2") == "ResNet_50_v2"
    assert [c_prefix(n) for n in ("", "名", "50")] == ["model", "model", "model_50"]
    assert [c_prefix(n) for n in ("pthread", "tw", "timer")] == ["model_pthread", "model_tw", "model_timer"]
    assert all(c_prefix(c_prefix(n)) == c_prefix(n) for n in HOSTILE)
    assert c_string('a"\\?7\n\0é') == '"a\\042\\134\\0777\\012\\1340\\303\\251"'
    assert comment_text("a*/b\n\\é") == "a__b___"
    assert distinct_identifiers(["a", "a", "a_2", "é", ""], "in") == ["in_a", "in_a_2", "in_a_2_2", "in", "in_2"]


def test_refuses_a_processor_without_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message instead of an illegal instruction; no processor has the invented feature."""
    machine = toy_machine()
    invented = features.FeatureBit(leaf=0x7FFFFFFF, subleaf=0, reg=0, bit=0)
    monkeypatch.setitem(features._TABLES, machine.arch, {**features._TABLES[machine.arch], "warp9": invented})
    changed = type(machine)(**{**vars(machine), "required": (*machine.required, "warp9")})
    place = package([toy_object()], toy_program(), changed).save(tmp_path / "toy")
    with pytest.raises(TargetError, match="this processor lacks warp9, which the code of toy was compiled for"):
        tilewright.load(place)


def test_this_processor_has_the_features_that_llvm_sees() -> None:
    x, k = toy_inputs()
    artifact = package([toy_object()], toy_program(), host_machine())
    np.testing.assert_array_equal(artifact.load(threads=1)(x, k)[0], toy_outputs(x, k)[0])
    assert artifact.manifest["machine"]["required"] == list(host_machine().required)


def test_every_machine_has_a_check() -> None:
    for name in (*LEVELS, *PROCESSORS):
        machine = parse_machine(f"cpu:{name}")
        assert {feature for feature, _ in features.feature_bits(machine)} == set(machine.required)
    unknown = make_machine("aarch64", ("sme9",))
    with pytest.raises(TargetError, match="no run-time check is known for sme9"):
        features.feature_bits(unknown)


def test_compiler_is_chosen_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = toy_machine()
    with pytest.raises(OptionError, match="option cc: expected a C compiler, got 'no-such-cc -O2'"):
        toolchain.find_toolchain(machine, "no-such-cc -O2")
    with pytest.raises(TargetError, match="--version failed"):
        toolchain.find_toolchain(machine, "false")
    monkeypatch.setenv("CC", "cc -pipe")
    assert toolchain.find_toolchain(machine).command == ("cc", "-pipe")
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(OptionError, match="environment variable CC"):
        toolchain.find_toolchain(machine)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="no cc, gcc or clang is on the PATH; run `pip install ziglang`"):
        toolchain.find_toolchain(machine)
    other = make_machine("riscv64" if platform.machine() != "riscv64" else "aarch64")
    with pytest.raises(TargetError, match=f"the installed compilers are not for {other.arch}"):
        toolchain.find_toolchain(other)


def test_failing_linker_is_quoted() -> None:
    with pytest.raises(TargetError, match=r"(?s)failed with status 1.*tw_main"):
        package([], toy_program(), toy_machine())
    with pytest.raises(OptionError, match="embed_limit: expected 0 to"):
        toy_artifact(embed_limit=-1)


def test_no_constants_and_no_tensors() -> None:
    program = toy_program("empty", (), ())
    bare = type(program)(**{**vars(program), "constants": (), "constant_bytes": 0, "arena_bytes": 0, "scratch_bytes": 0})
    artifact = package([toy_object()], bare, toy_machine(), embed_limit=0)
    assert sorted(artifact.files) == ["empty.h", "empty.hpp", "libempty.so"]
    assert artifact.load(threads=2).inputs == ()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ZIG, reason="ziglang is not installed")
def test_zig_links_without_a_toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_object()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    artifact = toy_artifact()
    assert artifact.manifest["versions"]["linker"].startswith("zig cc")
    x, k = toy_inputs()
    np.testing.assert_array_equal(artifact.load(threads=2)(x, k)[0], toy_outputs(x, k)[0])
    assert contents(artifact) == contents(toy_artifact())
    library = artifact.read("libtoy.so")
    assert str(Path.home()).encode() not in library and b"tilewright-link" not in library and len(library) < 200_000


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ZIG, reason="ziglang is not installed")
@pytest.mark.parametrize("level, code", [("aarch64", 183), ("riscv64", 243), ("x86-64-v3", 62)])
def test_zig_links_for_other_machines(level: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(level)
    arch = machine.arch
    command = (sys.executable, "-m", "ziglang", "cc", "-target", f"{arch}-linux-gnu")
    monkeypatch.setattr(toolchain, "_NATIVE", ())
    monkeypatch.delenv("CC", raising=False)
    artifact = package([toy_object(command=command)], toy_program(), machine)
    library = artifact.read("libtoy.so")
    assert library[:4] == b"\x7fELF" and int.from_bytes(library[18:20], "little") == code
    place = artifact.save(tmp_path / "toy")
    if arch != toolchain.host_arch():
        with pytest.raises(TargetError, match=f"compiled for {arch}"):
            tilewright.load(place)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ZIG, reason="ziglang is not installed")
@pytest.mark.parametrize("level", ["aarch64", "riscv64"])
def test_interface_under_emulation(level: str, tmp_path: Path) -> None:
    """The run-time support on another processor with musl, in a static program."""
    machine = make_machine(level)
    emulator = shutil.which(f"qemu-{machine.arch}") or shutil.which(f"qemu-{machine.arch}-static")
    if emulator is None:
        pytest.skip(f"no qemu-{machine.arch}")
    names = write_sources(tmp_path, machine)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine.arch}-linux-musl", "-static", "-std=c11", "-O1"]
    command += ["-DNO_FORK"]  # the emulator does not wipe memory on fork
    subprocess.run([*command, "-I.", *names, HERE / "toy.c", HERE / "abi_test.c", "-o", "abi"], cwd=tmp_path, check=True)
    done = subprocess.run([emulator, tmp_path / "abi"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr
