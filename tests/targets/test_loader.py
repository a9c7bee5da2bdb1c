"""Running saved artifacts: arrays of every kind, binding, errors, and a process that has no compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tilewright
from native_toy import toy_artifact, toy_inputs, toy_machine, toy_object, toy_outputs, toy_program
from tilewright.ir.errors import OptionError, TargetError
from tilewright.ir.types import TensorType
from tilewright.targets.cpu.packaging import package
from tilewright.targets.loader import ABI_VERSION, Module


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_artifact().save(tmp_path_factory.mktemp("a folder ünder test") / "toy")


@pytest.fixture
def module(saved: Path) -> Module:
    return tilewright.load(saved, threads=1)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_runs_with_threads(saved: Path, threads: int) -> None:
    with tilewright.load(saved, threads=threads) as module:
        assert module.threads == threads
        for seed in range(20):
            x, k = toy_inputs(seed)
            for got, expected in zip(module(x, k), toy_outputs(x, k), strict=True):
                assert got.dtype == expected.dtype and got.shape == expected.shape
                np.testing.assert_array_equal(got, expected)


def test_describes_itself(module: Module) -> None:
    assert [(s.name, s.dtype, s.shape) for s in module.inputs] == [("x", "f32", (4, 8)), ("k", "i64", ())]
    assert [s.name for s in module.outputs] == ["y", "n"]
    assert repr(module) == "Module toy(x: f32[4, 8], k: i64[]) -> (y: f32[4, 8], n: i64[])"
    assert module.manifest["sizes"]["scratch_per_thread"] == 32


class OnlyDlpack:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)  # type: ignore[arg-type]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class OnlyArray:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
    raw[:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw.view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize("form", [
    np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1][::-1], OnlyDlpack, OnlyArray, unaligned,
    lambda a: memoryview(a), lambda a: a.view(type("Sub", (np.ndarray,), {})),
])
def test_takes_every_kind_of_array(module: Module, form: object) -> None:
    x, k = toy_inputs(3)
    given = form(x)  # type: ignore[operator]
    for got in (module(given, k), module({"k": k, "x": given}), module(given, np.int64(100))):
        np.testing.assert_array_equal(got[0], toy_outputs(x, k)[0])


def test_bind_runs_on_the_buffers(module: Module) -> None:
    x, k = toy_inputs(1)
    y, n = np.zeros((4, 8), np.float32), np.zeros((), np.int64)
    step = module.bind({"x": x, "k": k}, {"n": n, "y": y})
    step()
    np.testing.assert_array_equal(y, toy_outputs(x, k)[0])
    x += 1
    step()
    np.testing.assert_array_equal(y, toy_outputs(x, k)[0])
    assert n == toy_outputs(x, k)[1]
    module.close()
    with pytest.raises(OptionError, match="closed; load it again"):
        step()


def test_bound_buffers_must_be_as_they_are(module: Module) -> None:
    x, k = toy_inputs()
    y, n = np.zeros((4, 8), np.float32), np.zeros((), np.int64)
    frozen = y.copy()
    frozen.flags.writeable = False
    for inputs, outputs, says in (
        ([np.asfortranarray(x), k], [y, n], "'x': bind needs a dense"), ([x, k], [unaligned(y), n], "'y': bind needs a dense"),
        ([x, k], [frozen, n], "'y': the array is read-only"), ([x, k], [y], "expected 2 arrays .*got 1"),
        ([x, k], [y.astype(np.float64), n], "expected element type f32"), ([OnlyArray(x), k], [y, n], "'x': expected an array"),
    ):
        with pytest.raises(OptionError, match=says):
            module.bind(inputs, outputs)


@pytest.mark.parametrize("change, says", [
    (lambda x, k: (x,), r"inputs: expected 2 arrays \('x', 'k'\), got 1"),
    (lambda x, k: (x.astype(np.float64), k), r"input 'x': expected element type f32 \(float32\), got float64; convert"),
    (lambda x, k: (x, k.astype(np.int32)), "input 'k': expected element type i64"),
    (lambda x, k: (x, 3), "input 'k': expected an array .* got int"),
    (lambda x, k: (x.tolist(), k), "input 'x': expected an array .* got list"),
    (lambda x, k: (x[:2], k), r"input 'x': expected shape \[4, 8\], got \[2, 8\]; compile the model for this shape"),
    (lambda x, k: (x[0], k), r"input 'x': expected shape \[4, 8\], got \[8\]; reshape it"),
    (lambda x, k: ({"x": x, "q": k},), "names 'x', 'k'; missing 'k' and unknown 'q'"),
    (lambda x, k: (x.astype(object), k), "expected element type f32"),
])
def test_wrong_inputs(module: Module, change: object, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        module(*change(*toy_inputs()))  # type: ignore[operator]


def test_close(saved: Path) -> None:
    with tilewright.load(saved, threads=2) as module:
        pass
    module.close()
    assert module.threads == 0
    with pytest.raises(OptionError, match="closed"):
        module(*toy_inputs())


@pytest.mark.parametrize("threads", [0, -1, 2.0, True, "2"])
def test_wrong_thread_count(saved: Path, threads: object) -> None:
    with pytest.raises(OptionError, match="threads: expected a positive number"):
        tilewright.load(saved, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="expected threads from 0 to 4096"):
        tilewright.load(saved, threads=100000)


def test_busy_instance_refuses_a_second_thread() -> None:
    slow = package([toy_object("-DSLOW_ITERATIONS=100000")], toy_program("slow"), toy_machine()).load(threads=1)
    x, k = toy_inputs()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with suppress(OptionError):  # refused while the other thread is inside
                slow(x, k)

    worker = threading.Thread(target=work)
    worker.start()
    says = ""
    for _ in range(1000):
        try:
            slow(x, k)
        except OptionError as error:
            says = str(error)
            with pytest.raises(OptionError, match="cannot be closed while"):
                slow.close()
            break
    stop.set()
    worker.join()
    assert "another thread is running it; load one module per thread" in says
    np.testing.assert_array_equal(slow(x, k)[0], toy_outputs(x, k)[0])


def test_bfloat16_with_and_without_ml_dtypes(saved: Path) -> None:
    sides = (("b", TensorType("bf16", (2,))), ("k", TensorType("i64", ())))
    module = package([toy_object()], toy_program("half", sides, sides), toy_machine()).load(threads=1)
    assert module.inputs[0].numpy == np.dtype(ml_dtypes.bfloat16)
    assert module.inputs[0].accepts(np.dtype(np.uint16)) and not module.inputs[0].accepts(np.dtype(np.float16))
    with pytest.raises(OptionError, match="expected element type bf16"):
        module(np.zeros(2, np.float32), np.array(0))


def copy_with(saved: Path, place: Path, **changes: object) -> Path:
    place.mkdir()
    for file in saved.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((saved / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return place


def test_damaged_artifacts(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not exist; give what compile wrote"):
        tilewright.load(tmp_path / "nothing")
    with pytest.raises(OptionError, match="has no manifest"):
        tilewright.load(tmp_path)
    with pytest.raises(OptionError, match="is a file"):
        tilewright.load(saved / "toy.h")
    with pytest.raises(OptionError, match=rf"interface version {ABI_VERSION}, got tilewright 1 with interface version 77"):
        tilewright.load(copy_with(saved, tmp_path / "abi", abi_version=77))
    with pytest.raises(TargetError, match="compiled for riscv64, this machine is"):
        tilewright.load(copy_with(saved, tmp_path / "arch", machine={"arch": "riscv64"}))
    with pytest.raises(OptionError, match="does not belong to the manifest"):
        tilewright.load(copy_with(saved, tmp_path / "mixed", model_sha256="other"))
    for index, text in enumerate(("", "{", "[]", '{"format": "tilewright"}', "\udcff".encode("utf-8", "surrogatepass"))):
        place = copy_with(saved, tmp_path / f"damaged{index}")
        (place / "manifest.json").write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(OptionError, match="is not a manifest or is damaged"):
            tilewright.load(place)
    place = copy_with(saved, tmp_path / "cut")
    (place / "libtoy.so").write_bytes((saved / "libtoy.so").read_bytes()[:1000])
    with pytest.raises(OptionError, match=r"expected [0-9]+ bytes, got 1000; the artifact is incomplete"):
        tilewright.load(place)
    (place / "libtoy.so").unlink()
    with pytest.raises(OptionError, match="got no file"):
        tilewright.load(place)
    (place / "libtoy.so").write_bytes(bytes((saved / "libtoy.so").stat().st_size))
    with pytest.raises(TargetError, match="the system refuses the library"):
        tilewright.load(place)


def test_new_library_at_the_place_of_a_loaded_one(tmp_path: Path) -> None:
    x, k = toy_inputs()
    old = tilewright.load(toy_artifact().save(tmp_path / "out"), threads=1)
    toy_artifact(model_sha256="another model").save(tmp_path / "out")
    new = tilewright.load(tmp_path / "out", threads=1)
    assert old.manifest["model_sha256"] == "" and new.manifest["model_sha256"] == "another model"
    np.testing.assert_array_equal(old(x, k)[0], new(x, k)[0])


LONELY = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("llvmlite", "onnx", "ml_dtypes", "jinja2", "platformdirs", "filelock", "rich"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, os
import tilewright
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
module = tilewright.load(sys.argv[1])
assert module.threads == 1, module.threads
y, n = module(np.ones((4, 8), np.float32), np.array(1))
assert n == 33 and y[0, 7] == 9
half = tilewright.load(sys.argv[2], threads=1)
assert half.inputs[0].numpy == np.uint16
assert not {"llvmlite", "onnx", "ml_dtypes"} & set(sys.modules)
ours = sorted(m for m in sys.modules if m.startswith("tilewright"))
print(*ours)
"""


def test_fresh_process_without_the_compiler(saved: Path, tmp_path: Path) -> None:
    """NumPy and ctypes alone; one allowed processor means one thread."""
    sides = (("b", TensorType("bf16", (2,))),)
    half = package([toy_object()], toy_program("half", sides, sides), toy_machine()).save(tmp_path / "half")
    done = subprocess.run([sys.executable, "-c", LONELY, str(saved), str(half)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "tilewright", "tilewright.ir", "tilewright.ir.errors", "tilewright.targets", "tilewright.targets.arrays",
        "tilewright.targets.interrupt", "tilewright.targets.loader", "tilewright.targets.profile",
        "tilewright.targets.shapes", "tilewright.targets.temporary",
    ]


def test_default_threads_follow_the_affinity_mask(saved: Path) -> None:
    granted = len(os.sched_getaffinity(0))
    assert 1 <= tilewright.load(saved).threads <= granted
