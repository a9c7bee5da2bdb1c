"""The C interface of CUDA libraries on an emulated driver: runs, graphs, streams, device arrays, errors with messages."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.test_cuda import lower_graph
from tilewright.codegen.program import Program
from tilewright.ir.errors import OptionError, TargetError
from tilewright.ir.graph import Builder
from tilewright.ir.ops.contract import MatMul
from tilewright.ir.ops.control import If
from tilewright.ir.ops.elementwise import Binary, Unary
from tilewright.ir.ops.norm import Softmax
from tilewright.ir.types import TensorType
from tilewright.targets.artifact import Artifact
from tilewright.targets.cuda.loader import CudaModule, load_on

from .driven import driven_artifact, fake_driver

RNG = np.random.default_rng(5)
WEIGHTS = RNG.standard_normal((16, 12)).astype(np.float32)
X = RNG.standard_normal((4, 16)).astype(np.float32)
SHIFT = RNG.standard_normal((4, 12)).astype(np.float32)


def expected(x: np.ndarray, shift: np.ndarray) -> list[np.ndarray]:
    y = x @ WEIGHTS + shift
    e = np.exp(y - y.max(1, keepdims=True))
    return [e / e.sum(1, keepdims=True), np.tanh(y)]


def program() -> Program:
    """softmax(x @ w + shift) and tanh of the same sum."""
    b = Builder("two heads")
    x, shift = b.input("x", TensorType("f32", (4, 16))), b.input("shift", TensorType("f32", (4, 12)))
    y = b.add(Binary("add"), b.add(MatMul(), x, b.constant(WEIGHTS)), shift)
    return lower_graph(b.graph([b.add(Softmax(1), y), b.add(Unary("tanh"), y)]))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return driven_artifact(program(), name="heads")


@pytest.fixture(scope="module")
def saved(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("cuda") / "heads")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = fake_driver()
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", made.path)
    made.fake_reset()
    yield made
    made.fake_reset()


@pytest.fixture
def module(driver: Any, saved: Path) -> Iterator[CudaModule]:
    with load_on(saved, 0) as made:
        yield made


class OnDevice:
    """An array of another library in device memory."""

    def __init__(self, module: CudaModule, array: np.ndarray, **changes: Any) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.address = ctypes.c_void_p()
        allocate = module._function("device_alloc", ctypes.c_int32)
        assert allocate(module._handle, ctypes.c_uint64(array.nbytes), ctypes.byref(self.address)) == 0
        self.host[:] = array
        self.changes = changes

    @property
    def host(self) -> np.ndarray:
        count = int(np.prod(self.shape)) * self.dtype.itemsize
        memory = (ctypes.c_uint8 * count).from_address((self.address.value or 0) & ~(1 << 56))
        return np.frombuffer(memory, self.dtype).reshape(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address.value, False), "version": 3,
                "strides": None, **self.changes}


def check(got: list[np.ndarray], x: np.ndarray = X, shift: np.ndarray = SHIFT) -> None:
    for a, b in zip(got, expected(x, shift), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def host_of(array: Any) -> np.ndarray:
    count = int(np.prod(array.shape)) * 4
    memory = (ctypes.c_uint8 * count).from_address(array.address & ~(1 << 56))
    return np.frombuffer(memory, np.float32).reshape(array.shape).copy()


def test_host_arrays_run_as_one_graph_that_is_made_once(module: CudaModule, driver: Any) -> None:
    for _ in range(3):
        check(module(X, SHIFT))
    check(module({"shift": SHIFT * 2, "x": X}), X, SHIFT * 2)
    assert driver.fake_calls(b"cuGraphInstantiateWithFlags") == 1
    assert driver.fake_calls(b"cuGraphLaunch") == 4
    out = [np.zeros((4, 12), np.float32) for _ in range(2)]
    module.bind([X, SHIFT], out)()
    check(out)


def test_without_a_graph_every_kernel_is_launched(driver: Any, saved: Path) -> None:
    with load_on(saved, 0, graph=False) as module:
        check(module(X, SHIFT))
    assert driver.fake_calls(b"cuGraphLaunch") == 0
    assert driver.fake_calls(b"cuLaunchKernel") >= 2


def test_device_arrays_are_not_copied(module: CudaModule, driver: Any) -> None:
    x, shift = OnDevice(module, X), OnDevice(module, SHIFT)
    before = driver.fake_calls(b"cuMemcpyHtoDAsync_v2")
    results = module(x, shift)
    check([host_of(r) for r in results])
    assert driver.fake_calls(b"cuMemcpyHtoDAsync_v2") == before
    assert results[0].shape == (4, 12)
    assert results[0].__cuda_array_interface__["typestr"] == "<f4"
    again = module(x, shift)  # a result may be the input of another model: both protocols
    assert again[1].__dlpack_device__() == (2, 0)
    check([host_of(r) for r in again])


def test_results_go_to_other_libraries_by_dlpack(module: CudaModule) -> None:
    class Through:
        """Offers DLPack alone."""

        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    x, shift = OnDevice(module, X), OnDevice(module, SHIFT)
    heads = module(x, shift)
    check([host_of(r) for r in module(x, Through(heads[1]))], X, host_of(heads[1]))


def test_buffers_in_place_and_graphs_for_several_addresses(module: CudaModule, driver: Any) -> None:
    x, shift = OnDevice(module, X), OnDevice(module, SHIFT)
    outputs = [[OnDevice(module, np.zeros((4, 12), np.float32)) for _ in range(2)] for _ in range(6)]
    for out in outputs:
        module.run_device([x, shift], out)
        check([o.host for o in out])
    made = driver.fake_calls(b"cuGraphInstantiateWithFlags")
    assert made == 6
    step = module.bind_device([x, shift], outputs[-1])
    x.host[:] = X * 0.5
    step()
    check([o.host for o in outputs[-1]], X * 0.5)
    assert driver.fake_calls(b"cuGraphInstantiateWithFlags") == made


def test_runs_on_another_stream_wait_for_each_other(module: CudaModule, driver: Any) -> None:
    x, shift = OnDevice(module, X), OnDevice(module, SHIFT)
    out = [OnDevice(module, np.zeros((4, 12), np.float32)) for _ in range(2)]
    module.run_device([x, shift], out)
    assert driver.fake_calls(b"cuStreamWaitEvent") == 0
    stream = ctypes.c_void_p()
    driver.cuStreamCreate(ctypes.byref(stream), 0)
    module.run_device([x, shift], out, stream.value or 0)
    assert driver.fake_calls(b"cuStreamWaitEvent") == 1
    check([o.host for o in out])
    driver.cuStreamBeginCapture_v2(stream, 0)  # the caller records a graph of its own
    launched = driver.fake_calls(b"cuGraphLaunch")
    module.run_device([x, shift], out, stream.value or 0)
    graph = ctypes.c_void_p()
    driver.cuStreamEndCapture(stream, ctypes.byref(graph))
    assert driver.fake_calls(b"cuGraphLaunch") == launched


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"typestr": "<f8"}, "element type f32"), ({"shape": (4, 13)}, "shape"), ({"strides": (4, 16)}, "dense")],
)
def test_device_arrays_that_do_not_fit(module: CudaModule, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        module(OnDevice(module, X), OnDevice(module, SHIFT, **changes))


def test_the_times_of_launches(module: CudaModule, driver: Any) -> None:
    x, shift = OnDevice(module, X), OnDevice(module, SHIFT)
    outputs = [OnDevice(module, np.zeros((4, 12), np.float32)) for _ in range(2)]
    times = module.time_launches([x, shift], outputs)
    for place, wanted in zip(outputs, expected(X, SHIFT), strict=True):
        np.testing.assert_allclose(place.host, wanted, rtol=1e-5, atol=1e-6)
    assert [t.function for t in times] == [n["function"] for k in module.manifest["kernels"] for n in k["launches"]]
    assert [t.milliseconds for t in times] == [0.5] * len(times)
    assert any(t.macs == 4 * 16 * 12 for t in times)
    assert driver.fake_calls(b"cuEventCreate") == driver.fake_calls(b"cuEventDestroy_v2") + 1  # that of the instance stays


def test_times_of_a_failing_launch(module: CudaModule, driver: Any) -> None:
    arrays = [OnDevice(module, a) for a in (X, SHIFT, np.zeros((4, 12), np.float32), np.zeros((4, 12), np.float32))]
    driver.fake_fail(b"cuEventElapsedTime", 400)
    with pytest.raises(OptionError, match="time launches"):
        module.time_launches(arrays[:2], arrays[2:])


def test_mixtures_and_misaligned_addresses_are_refused(module: CudaModule) -> None:
    with pytest.raises(OptionError, match="only arrays of the host"):
        module(OnDevice(module, X), SHIFT)
    x = OnDevice(module, X)
    odd = OnDevice(module, SHIFT, data=((x.address.value or 0) + 4, False))
    with pytest.raises(OptionError, match="multiple of 16"):
        module(x, odd)


def test_no_driver_and_wrong_gpus_have_messages(driver: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.fake_gpu(0, 8, 0)
    with pytest.raises(TargetError, match="finds no GPU"):
        load_on(saved, 0)
    driver.fake_gpu(1, 7, 5)
    with pytest.raises(TargetError, match=r"Fake GPU, sm_75.*compiled for sm_80, sm_90.*--target cuda:sm_75"):
        load_on(saved, 0)
    driver.fake_gpu(1, 8, 9)  # machine code of sm_80 runs there
    load_on(saved, 0).close()
    driver.fake_gpu(1, 10, 0)  # another generation, and there is no PTX here
    with pytest.raises(TargetError, match="sm_100"):
        load_on(saved, 0)
    driver.fake_gpu(2, 8, 0)
    with pytest.raises(TargetError, match="device: expected 0 to 1, got 2"):
        load_on(saved, 2)
    driver.fake_fail(b"cuInit", 100)
    with pytest.raises(TargetError, match="does not start: CUDA_ERROR_FAKE"):
        load_on(saved, 0)
    monkeypatch.setenv("TILEWRIGHT_CUDA_DRIVER", "/nowhere/libcuda.so")
    with pytest.raises(TargetError, match=r"/nowhere/libcuda\.so. cannot be loaded; run this on a machine with an NVIDIA GPU"):
        load_on(saved, 0)


@pytest.mark.parametrize(
    "symbol", ["cuMemAlloc_v2", "cuModuleLoadData", "cuModuleGetFunction", "cuStreamCreate", "cuMemcpyHtoD_v2"]
)
def test_failures_while_an_instance_is_made_leave_nothing(driver: Any, saved: Path, symbol: str) -> None:
    held = driver.fake_allocations()
    driver.fake_fail(symbol.encode(), 2 if "Alloc" in symbol else 1)
    with pytest.raises((TargetError, MemoryError), match="CUDA_ERROR"):
        load_on(saved, 0)
    assert driver.fake_allocations() == held


def test_failures_of_a_run_are_told_and_do_not_stick(module: CudaModule, driver: Any) -> None:
    for symbol in ("cuLaunchKernel", "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuMemcpyDtoHAsync_v2"):
        driver.fake_fail(symbol.encode(), 719)
        with pytest.raises(OptionError, match="run: CUDA_ERROR_LAUNCH_FAILED"):
            module(X, SHIFT)
        driver.fake_reset()
    check(module(X, SHIFT))


def test_closing_frees_the_device(driver: Any, saved: Path) -> None:
    held = driver.fake_allocations()
    module = load_on(saved, 0)
    assert driver.fake_allocations() > held
    module.close()
    assert driver.fake_allocations() == held
    with pytest.raises(OptionError, match="closed"):
        module(X, SHIFT)


def test_weights_in_a_file(driver: Any, tmp_path: Path) -> None:
    artifact = driven_artifact(program(), name="apart", embed_limit=0)
    assert "apart.weights" in artifact.files
    with load_on(artifact.save(tmp_path / "apart"), 0) as module:
        check(module(X, SHIFT))


def test_branches_read_their_conditions_back(driver: Any, tmp_path: Path) -> None:
    def arm(fn: str) -> Any:
        b = Builder(fn)
        return b.graph([b.add(Unary(fn), b.input("v", TensorType("f32", (3, 5))))])

    b = Builder("branch")
    take, x = b.input("take", TensorType("bool", ())), b.input("x", TensorType("f32", (3, 5)))
    graph = b.graph(b.add_multi(If(arm("neg"), arm("exp")), take, x))
    with load_on(driven_artifact(lower_graph(graph), name="branch").save(tmp_path / "branch"), 0) as module:
        value = RNG.standard_normal((3, 5)).astype(np.float32)
        for flag, meant in ((True, -value), (False, np.exp(value))):
            np.testing.assert_allclose(module(np.array(flag), value)[0], meant, rtol=1e-6)
    assert driver.fake_calls(b"cuGraphLaunch") == 0


def test_the_artifact_says_what_it_is(artifact: Artifact) -> None:
    assert artifact.target == "cuda:sm_80+sm_90"
    manifest = artifact.manifest
    assert manifest["machine"]["architectures"] == ["sm_80", "sm_90"]
    assert all(call["launches"] for call in manifest["kernels"])
    header = artifact.read("heads.h").decode()
    assert "int32_t heads_run_device(heads_model *model" in header
    assert "tw_cuda_options" in header
    assert "k0" in artifact.read("heads.cu").decode()
