"""A compiled model for a long time: no growth over runs and instances, 64 threads at once, one instance in many threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import tilewright
from native_toy import HERE

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
DIGITS = HERE.parent.parent / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endurance")
    library = tilewright.compile(DIGITS, name="digits", cache=False).save(folder / "digits")
    command = ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{library}", HERE / "endurance.c", f"-L{library}",
               "-ldigits", f"-Wl,-rpath,{library}", "-pthread", "-o", folder / "endurance"]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True)
    return folder / "endurance"


@pytest.mark.parametrize(("runs", "instances"), [
    (50_000, 500), pytest.param(1_000_000, 20_000, marks=pytest.mark.slow),
])  # fmt: skip
def test_nothing_grows(program: Path, runs: int, instances: int) -> None:
    done = subprocess.run([program, str(runs), str(instances)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr
