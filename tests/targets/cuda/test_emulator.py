"""The emulator: hand-written kernels give NumPy's numbers, planted mistakes are found."""

from __future__ import annotations

import numpy as np
import pytest
from codegen.gpu_kernels import CASES, MISTAKES, WRONG_NUMBERS, arrays_of
from tilewright.ir.kernel_interpreter import run_kernel
from tilewright.ir.kernel_verify import verify_kernel
from tilewright.targets.cuda.emulator import EmulationError, emulate_kernel


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_right_in_the_interpreter_and_in_the_emulator(name: str) -> None:
    case = CASES[name]
    kernel = case.kernel("")
    verify_kernel(kernel, scheduled=True)
    for run in (run_kernel, emulate_kernel):
        arrays, expected = arrays_of(case)
        run(kernel, arrays)
        np.testing.assert_allclose(arrays["y"], expected, rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.parametrize(("name", "mistake", "words"), MISTAKES)
def test_mistakes_are_found(name: str, mistake: str, words: str) -> None:
    arrays, _ = arrays_of(CASES[name])
    with pytest.raises(EmulationError, match=words):
        emulate_kernel(CASES[name].kernel(mistake), arrays)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_missing_barriers_are_found_in_any_order_of_the_warps(seed: int) -> None:
    arrays, _ = arrays_of(CASES["product"])
    with pytest.raises(EmulationError, match="race"):
        emulate_kernel(CASES["product"].kernel("no barrier"), arrays, seed=seed)


@pytest.mark.parametrize(("name", "mistake"), WRONG_NUMBERS)
def test_mistakes_show_in_the_numbers(name: str, mistake: str) -> None:
    for run in (run_kernel, emulate_kernel):
        arrays, expected = arrays_of(CASES[name])
        run(CASES[name].kernel(mistake), arrays)
        assert not np.allclose(arrays["y"], expected, atol=1e-3)


def test_a_write_to_an_input_is_found() -> None:
    arrays, _ = arrays_of(CASES["transpose"])
    kernel = CASES["transpose"].kernel("")
    from tilewright.codegen.c_like import print_kernel
    from tilewright.codegen.cuda import CUDA
    from tilewright.codegen.cuda_program import Launch, module_text
    from tilewright.targets.cuda.emulator.run import Emulator

    printed = print_kernel(kernel, CUDA)
    emulator = Emulator(module_text("", {printed.name: printed.text}, [printed.name]), [printed.name])
    launch = Launch(printed.name, printed.grid, printed.block, printed.shared_bytes, 0, (0, 1))
    addresses = [int(arrays[b.name].ctypes.data) for b in kernel.buffers]
    with pytest.raises(EmulationError, match="only read"):
        emulator.launch(launch, kernel.buffers, addresses, [False, False])
