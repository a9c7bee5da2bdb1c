"""Finding a C compiler to link with, and what it is called with.

Order: the `cc` option, the environment variable CC, then cc, gcc and clang on the PATH (they make code for this machine
only), then zig from the ziglang package, which needs no installed toolchain and links for every target.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ...codegen.machine import Machine
from ...ir.errors import OptionError, TargetError

_NATIVE = ("cc", "gcc", "clang")
_HOST_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
# The oldest glibc that zig links for: that of Debian 10 and RHEL 8.
_ZIG_GLIBC = "2.28"


@dataclass(frozen=True)
class Toolchain:
    """A C compiler: the command with the arguments that choose the target, and a line that says what it is."""

    command: tuple[str, ...]
    description: str
    is_zig: bool = False


def host_arch() -> str:
    """This machine's architecture, by LLVM's name."""
    name = platform.machine().lower()
    return _HOST_ARCHES.get(name, name)


def find_toolchain(machine: Machine, cc: str | None = None) -> Toolchain:
    """The compiler to link code for a machine with.

    cc: a command, with arguments if need be, taken as it is.  Raises OptionError when it cannot be found, TargetError
    when there is no compiler for the machine.
    """
    asked, where = (cc, "option cc") if cc else (os.environ.get("CC"), "environment variable CC")
    native = machine.arch == host_arch() and sys.platform == "linux"
    if asked and (cc or native):  # CC of the environment means this machine's compiler
        command = tuple(shlex.split(asked))
        if not command or not shutil.which(command[0]):
            raise OptionError(f"{where}: expected a C compiler, got {asked!r}, which is not on the PATH; give its path")
        return Toolchain(command, _describe(command), "zig" in Path(command[0]).name)
    if native:
        for name in _NATIVE:
            if shutil.which(name):
                return Toolchain((name,), _describe((name,)))
    if importlib.util.find_spec("ziglang") is not None:
        return _zig(machine)
    reason = "no cc, gcc or clang is on the PATH" if native else f"the installed compilers are not for {machine.arch}"
    raise TargetError(
        f"linking for {machine.name}: expected a C compiler, but {reason}; run `pip install ziglang` for one that "
        f"needs nothing else, or name one with the option cc"
    )


def _zig(machine: Machine) -> Toolchain:
    """zig cc for the machine's system; the generated code brings its own instruction sets, so C is for the baseline."""
    arch, _, rest = machine.triple.partition("-")
    system = re.sub(r"^(unknown|pc)-", "", rest)
    target = f"{arch}-{system}" + (f".{_ZIG_GLIBC}" if system.endswith("gnu") else "")
    command = (sys.executable, "-m", "ziglang", "cc", "-target", target)
    version = subprocess.run([sys.executable, "-m", "ziglang", "version"], capture_output=True, text=True, check=False)
    return Toolchain(command, f"zig cc {version.stdout.strip()} -target {target}", True)


def _describe(command: tuple[str, ...]) -> str:
    """The compiler's own first line about itself."""
    try:
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(f"linker {shlex.join(command)}: {error}; name another with the option cc") from error
    lines = shown.stdout.splitlines()
    if shown.returncode or not lines:
        raise TargetError(f"linker {shlex.join(command)}: --version failed: {shown.stderr.strip()[:300]}; name another "
                          f"with the option cc")
    return lines[0].strip()
