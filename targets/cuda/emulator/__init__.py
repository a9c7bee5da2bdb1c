"""Emitted CUDA C++ on this machine's processor, without a GPU: every barrier, index and race checked.

    build.py    the kernels' text and the run time become a library, by g++ or clang++
    run.py      programs and single kernels on NumPy arrays
    *.h, *.cpp  the run time: emulator (blocks, threads, warps), memory_check, instructions (copies, matrix products)
"""

from .run import EmulatedProgram, EmulationError, emulate_kernel

__all__ = ["EmulatedProgram", "EmulationError", "emulate_kernel"]
