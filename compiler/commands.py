"""What the commands of the command line do: each is a function of the parsed arguments that returns an exit code."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ir.errors import InternalError, OptionError, TilewrightError
from ..targets.interrupt import Interrupted, is_interrupt
from .cli import FPGA_OPTIONS, INTERNAL, OK, USER_ERROR, make_parser
from .faults import write_fault
from .summary import bytes_text, printable, table

Arguments = argparse.Namespace


def run_command(arguments: Arguments) -> int:
    """Run the chosen command.  Every error becomes one message on standard error and an exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            return COMMANDS[arguments.command](arguments)
        except BrokenPipeError:  # the reader of our output has left: what it wanted is done
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK
        except MemoryError as error:
            return _fail(arguments, "MemoryError", f"not enough memory {error}".rstrip(), USER_ERROR, error)
        except (TilewrightError, OSError) as error:
            if isinstance(error, InternalError):
                return _fail_internal(arguments, error)
            return _fail(arguments, type(error).__name__, str(error), USER_ERROR, error)
        except Exception as error:
            return _fail_internal(arguments, error)


def _fail_internal(arguments: Arguments, error: Exception) -> int:
    """Raises KeyboardInterrupt if one is behind the error."""
    if is_interrupt(error):
        raise Interrupted from error
    try:
        where = f"what is needed to repeat it: {write_fault(error, sys.argv)}"
    except OSError as full:
        where = f"what is needed to repeat it cannot be written ({full}); --debug shows where it failed"
    message = f"this is a bug of tilewright: {error}\n{where}"
    return _fail(arguments, "InternalError", message, INTERNAL, error)


def _fail(arguments: Arguments, kind: str, message: str, code: int, error: Exception) -> int:
    if arguments.debug:
        traceback.print_exception(error)
    if getattr(arguments, "json", False):
        print(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code}}))
    print(f"tilewright {arguments.command}: {printable(message)}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"warning: {printable(str(message))}", file=sys.stderr)


def parse_bindings(option: str, texts: list[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dict; the name may hold `=`, as some exporters write.  Raises OptionError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise OptionError(f"--{option} {text!r}: expected NAME=VALUE")
        if found.setdefault(name, value) != value:
            raise OptionError(f"--{option}: {name!r} is given twice, as {found[name]} and {value}")
    return found


def parse_shape(name: str, text: str) -> tuple[int | str, ...]:
    """1x3x224x224, or with commas where a dimension is a name: batch,3,224.  "scalar" has no dimensions."""
    if text == "scalar":
        return ()
    words = text.split(",") if "," in text else text.split("x")
    if not all(words):
        raise OptionError(f"--shape {name}={text}: expected dimensions as in 1x3x224x224, or batch,3,224")
    return tuple(int(w) if w.isdecimal() else w for w in words)


def parse_dim(name: str, text: str) -> int | str | tuple[int, ...]:
    """4, 1..64 or 1.. for a dimension that stays open, or 1,8,32 for several sizes in one artifact."""
    if re.fullmatch(r"\d+\.\.\d*", text):
        return text
    words = text.split(",")
    if not all(w.isdecimal() for w in words):
        raise OptionError(f"--dim {name}={text}: expected a size, a number that is 0 or more, or a range, 1..64 or 1..")
    return int(text) if len(words) == 1 else tuple(map(int, words))


def _shapes(arguments: Arguments) -> dict[str, tuple[int | str, ...]]:
    return {n: parse_shape(n, t) for n, t in parse_bindings("shape", arguments.shape).items()}


def _dims(arguments: Arguments) -> dict[str, int | str | tuple[int, ...]]:
    return {n: parse_dim(n, t) for n, t in parse_bindings("dim", arguments.dim).items()}


def _specialize(arguments: Arguments) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, text in parse_bindings("specialize", arguments.specialize).items():
        if not all(word.isdecimal() for word in text.split(",")):
            raise OptionError(f"--specialize {name}={text}: expected a size or several, such as {name}=1,8")
        found[name] = tuple(map(int, text.split(",")))
    return found


def compile_command(a: Arguments) -> int:
    from .api import compile_with
    from .progress import show_progress
    from .summary import summary_json, summary_rows
    from .writing import check_writable

    check_writable(Path(a.output), "-o", folder=True)
    if a.report:
        check_writable(Path(a.report), "--report")
    with show_progress(a.quiet or a.json) as progress:
        done = compile_with(
            a.model, a.target, shapes=_shapes(a), dims=_dims(a), specialize=_specialize(a), name=a.name,
            accuracy=a.accuracy, precision=a.precision,
            transform_weights=a.transform_weights,
            profile=a.profile, debug_bounds=a.debug_bounds,
            tune=a.tune, tuning_file=a.tuning_file, emit=_words(a.emit), cc=a.cc,
            embed_limit=a.embed_limit, shard=a.shard, fpga=_fpga(a), cache=not a.no_cache, verify=not a.no_verify,
            print_after=_words(a.print_after), check_passes=a.check_passes, jobs=a.jobs, report=a.report,
            progress=progress,
        )
        progress("write", 0, 0)
        done.artifact.save(a.output)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    files = sorted(p for p in Path(a.output).iterdir() if p.is_file())
    if a.json:
        print(json.dumps({
            "artifact": str(a.output), "files": {p.name: p.stat().st_size for p in files}, "report": a.report,
            "target": done.machine.name, "summary": summary_json(done.summary), "seconds": done.seconds,
            "cached": done.cached, "notes": list(done.notes),
        }))
    elif not a.quiet:
        rows = summary_rows(done.summary, done.seconds, done.cached)
        rows += [("wrote", f"{p}  ({bytes_text(p.stat().st_size)})") for p in files]
        rows += [("report", a.report)] if a.report else []
        print(table(rows))
    return OK


def _fpga(a: Arguments) -> dict[str, Any]:
    given = {name: getattr(a, name) for name in FPGA_OPTIONS}
    if given["bits"] is not None and given["bits"] != "auto":
        given["bits"] = int(given["bits"]) if given["bits"].isdecimal() else given["bits"]
    return given


def _words(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


def check_command(a: Arguments) -> int:
    from .checking import check

    sizes = {n: size[-1] if isinstance(size, tuple) else size for n, size in _dims(a).items()}
    return check(a.model, _shapes(a), {n: size for n, size in sizes.items() if isinstance(size, int)}, a.json)


def run_module_command(a: Arguments) -> int:
    from .profiling import profiling
    from .running import run

    wanted = profiling(a.profile, a.trace, a.report)
    return run(Path(a.artifact), a.input, a.output, a.threads, a.repeat, a.json, wanted)


def inspect_command(a: Arguments) -> int:
    from .inspecting import inspect

    return inspect(Path(a.artifact), a.json)


def targets_command(a: Arguments) -> int:
    from .targets import TARGETS

    if a.json:
        described = {t.name: {"machines": dict(t.machines), "features": list(t.features)} for t in TARGETS.values()}
        print(json.dumps({"targets": described}))
        return OK
    for target in TARGETS.values():
        here = target.machine(target.name).name
        print(f"{target.name}: {target.description} ({here})")
        print(table([(f"  {target.name}:{name}", about) for name, about in target.machines.items()]))
        if target.features:
            print("  features that may follow with +:", ", ".join(target.features))
    return OK


def cache_command(a: Arguments) -> int:
    from .cache import open_cache

    cache = open_cache()
    if a.action == "clear":
        removed = cache.clear()
        print(json.dumps({"removed": removed}) if a.json else f"removed {removed} entries from {cache.directory}")
        return OK
    stats = cache.stats()
    rows = [("folder", stats.directory), ("entries", str(stats.entries)), ("size", bytes_text(stats.size)),
            ("limit", bytes_text(stats.limit))]
    print(json.dumps(vars(stats)) if a.json else table(rows))
    return OK


def completion_command(a: Arguments) -> int:
    import shtab

    print(shtab.complete(make_parser(), shell=a.shell))
    return OK


def quantize_command(a: Arguments) -> int:
    from .quantize.command import quantize_command as run

    return run(a)


def prune_command(a: Arguments) -> int:
    from .prune.command import prune_command as run

    return run(a)


COMMANDS: dict[str, Callable[[Any], int]] = {
    "prune": prune_command,
    "compile": compile_command, "check": check_command, "run": run_module_command, "inspect": inspect_command,
    "quantize": quantize_command,
    "targets": targets_command, "cache": cache_command, "completion": completion_command,
}
