"""Turns LLVM IR text into object files or assembly, in this process or as a worker of its own.

As a script it serves requests on standard input until that closes.  It imports nothing of the package, so that a worker
starts quickly and needs no guard in the program that started it.  A request is a JSON header (settings and the number of
bytes of text) on one line and the text; the answer is a JSON header (`ok`, `size`) on one line and the bytes of the result
or of the error message.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
from typing import Any, TypedDict

import llvmlite.binding as llvm


class Settings(TypedDict):
    """triple, cpu, features: for LLVM.  passes: level of the module optimisation pipeline, 0 for none.  assembly: give
    the assembly text instead of an object file."""

    triple: str
    cpu: str
    features: str
    passes: int
    assembly: bool


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@functools.cache
def _target_machine(triple: str, cpu: str, features: str) -> Any:
    _initialize()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small")


def compile_module(text: str, settings: Settings) -> bytes:
    """An object file, or assembly.  Raises RuntimeError with LLVM's message for text that it does not accept."""
    machine = _target_machine(settings["triple"], settings["cpu"], settings["features"])
    module = llvm.parse_assembly(text)
    module.triple = settings["triple"]
    module.data_layout = str(machine.target_data)
    module.verify()
    if settings["passes"]:
        tuning = llvm.create_pipeline_tuning_options(speed_level=settings["passes"])
        llvm.create_pass_builder(machine, tuning).getModulePassManager().run(module, None)
    return machine.emit_assembly(module).encode() if settings["assembly"] else machine.emit_object(module)


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the program that started us decides
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        header = json.loads(line)
        text = requests.read(header["size"]).decode()
        try:
            ok, result = True, compile_module(text, header["settings"])
        except RuntimeError as error:
            ok, result = False, str(error).encode()
        answers.write(json.dumps({"ok": ok, "size": len(result)}).encode() + b"\n" + result)
        answers.flush()


if __name__ == "__main__":
    _serve()
