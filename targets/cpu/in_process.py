"""Machine code in this process: object files linked in memory, for measurements and tests.

JITLink puts all sections of an object into one piece of memory.  The older MCJIT asks for them one by one; in a process that
has used much of its address space they may lie too far apart for relocations of 32 bits, which ends the process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import llvmlite.binding as llvm


@functools.cache
def _prepare() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


class InProcess:
    """Object files, linked with each other, with this process's libraries and with given symbols (name -> address).
    Their functions live as long as this."""

    def __init__(self, objects: Sequence[bytes], symbols: Mapping[str, int] | None = None) -> None:
        _prepare()
        target = llvm.Target.from_default_triple().create_target_machine(jit=True)
        self._engine = llvm.create_lljit_compiler(target, use_jit_link=True)
        builder = llvm.JITLibraryBuilder().add_current_process()
        for data in objects:
            builder.add_object_img(data)
        for name, address in (symbols or {}).items():
            builder.import_symbol(name, address)
        self._library = builder.link(self._engine, "objects")
        self._found: dict[str, llvm.ResourceTracker] = {}  # one that is dropped takes the code with it

    def get_function_address(self, name: str) -> int:
        if name not in self._found:
            self._found[name] = self._engine.lookup("objects", name)
        return self._found[name][name]
