"""A model compiled for another processor, linked into a C program for it, runs under emulation."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tilewright

ROOT = Path(__file__).resolve().parents[2]
SYSROOT = Path("/usr/aarch64-linux-gnu")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
    pytest.mark.skipif(EMULATOR is None, reason="no qemu-aarch64"),
    pytest.mark.skipif(not SYSROOT.exists(), reason="no C library for aarch64 (Debian's libc6-arm64-cross)"),
]


def test_the_digits_model_on_aarch64(tmp_path: Path) -> None:
    model = ROOT / "examples" / "digits" / "digits.onnx"
    artifact = tilewright.compile(model, target="cpu:aarch64", cache=False)
    place = artifact.save(tmp_path / "out")
    images = np.random.default_rng(0).integers(0, 17, (3, 64)).astype(np.float32)
    expected = [int(tilewright.compile(model)
                    .load(threads=1)(x.reshape(1, 1, 8, 8))[0].argmax()) for x in images]
    program = tmp_path / "digits"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-std=c11", f"-I{place}"]
    command += [str(ROOT / "examples" / "c" / "digits.c"), f"-L{place}", "-ldigits", "-o", str(program)]
    subprocess.run(command, check=True)
    assert EMULATOR is not None
    for image, digit in zip(images, expected, strict=True):
        done = subprocess.run(
            [EMULATOR, "-L", str(SYSROOT), "-E", f"LD_LIBRARY_PATH={place}", str(program)],
            input=" ".join(map(str, image)), capture_output=True, text=True, check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == str(digit)
