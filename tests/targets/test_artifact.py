"""Saving: whole or not at all, never over what is not ours."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from native_toy import toy_artifact, toy_inputs, toy_outputs
from tilewright.ir.errors import OptionError, TargetError
from tilewright.targets import artifact as artifact_module
from tilewright.targets.artifact import Artifact, ConstantFile


@pytest.fixture(scope="module")
def toy() -> Artifact:
    return toy_artifact(model_sha256="abc", options={"accuracy": "default"})


def small(**files: bytes) -> Artifact:
    return Artifact("cpu", "small", files, {"format": "tilewright"})


def test_manifest_describes_what_was_made(toy: Artifact, tmp_path: Path) -> None:
    place = toy.save(tmp_path / "deep" / "er")
    manifest = json.loads((place / "manifest.json").read_text())
    assert sorted(p.name for p in place.iterdir()) == ["libtoy.so", "manifest.json", "toy.h", "toy.hpp"]
    assert manifest["files"]["toy.h"] == {
        "bytes": (place / "toy.h").stat().st_size, "sha256": hashlib.sha256((place / "toy.h").read_bytes()).hexdigest(),
    }
    assert manifest["model_sha256"] == "abc" and manifest["options"] == {"accuracy": "default"}
    assert manifest["versions"]["linker"] and manifest["versions"]["llvm"] and manifest["target"].startswith("cpu:")
    assert manifest["sizes"] == {"code": manifest["sizes"]["code"], "weights": 96, "arena": 144, "scratch_per_thread": 32}
    assert manifest["inputs"][0] == {"name": "x", "dtype": "f32", "shape": [4, 8], "bytes": 128}
    assert (place.stat().st_mode & 0o777) == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_read_and_load_without_saving(toy: Artifact) -> None:
    assert toy.read("toy.h").startswith(b"/* toy, compiled by Tilewright")
    assert json.loads(toy.read("manifest.json"))["name"] == "toy"
    with pytest.raises(OptionError, match=r"expected one of .*toy.hpp, got 'x'"):
        toy.read("x")
    x, k = toy_inputs()
    np.testing.assert_array_equal(toy.load(threads=2)(x, k)[0], toy_outputs(x, k)[0])


def test_replaces_its_own_kind_only(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    small(a=b"1").save(place)  # an empty folder
    small(b=b"2").save(place)
    assert sorted(p.name for p in place.iterdir()) == ["b", "manifest.json"]
    (place / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"not of the artifact \(notes.txt\)"):
        small(c=b"3").save(place)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    for other in (tmp_path / "home", tmp_path / "home" / "thesis.txt"):
        with pytest.raises(OptionError, match="choose another folder"):
            small(c=b"3").save(other)
    assert (place / "b").read_bytes() == b"2" and (tmp_path / "home" / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "out"]


def test_replaces_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems without the exchange of two names get two renames."""
    class NoExchange:
        def __init__(self, name: object, use_errno: bool = False) -> None:
            pass

    monkeypatch.setattr(artifact_module.ctypes, "CDLL", NoExchange)
    small(a=b"1").save(tmp_path / "out")
    small(b=b"2").save(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b", "manifest.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("code, kind, says", [
    (errno.ENOSPC, TargetError, "No space left on device; free space"), (errno.EACCES, OptionError, "Permission denied"),
])
def test_failing_disk_leaves_nothing(
    code: int, kind: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(a=b"old").save(tmp_path / "out")
    write, count = artifact_module._write, iter(range(9))

    def failing(content: object, path: Path) -> None:
        if next(count) == 1:
            raise OSError(code, os.strerror(code))
        write(content, path)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact_module, "_write", failing)
    with pytest.raises(kind, match=says):
        small(a=b"new", b=b"new").save(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a").read_bytes() == b"old"


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact_module, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small(a=b"1").save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/proc/nothing/out", "/dev/null/out"])
def test_unwritable_path(path: str) -> None:
    with pytest.raises(OptionError, match=r"cannot write .* choose a folder that can be written"):
        small(a=b"1").save(path)


def test_constant_file_is_arrays_with_zeros_between(tmp_path: Path) -> None:
    parts = (
        (0, np.array([1, 2], np.int16)), (64, np.array(1.5, ml_dtypes.bfloat16)), (128, np.zeros((0, 3), np.float32)),
        (192, np.arange(6, dtype=np.int64).reshape(2, 3)), (5 << 20, np.array([True])),
    )
    expected = bytearray((5 << 20) + 64)
    for offset, array in parts:
        expected[offset : offset + array.nbytes] = array.tobytes()
    file = ConstantFile(parts, len(expected), b"end")
    file.write_to(tmp_path / "constants")
    assert (tmp_path / "constants").read_bytes() == bytes(expected) + b"end"
    assert b"".join(map(bytes, file.chunks())) == expected
    assert file.digest() == hashlib.sha256(expected).digest()
    assert (tmp_path / "constants").stat().st_blocks * 512 < 1 << 20
