"""The command line: arguments and exit codes.  What the commands do is in `commands.py`.

Exit codes: 0 done, 1 the model, an option or the target is at fault, 2 wrong usage, 3 a bug of the compiler,
130 interrupted.  Nothing is imported here that takes time, so that Ctrl-C is answered at any moment.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..targets.interrupt import interruptible

FPGA_OPTIONS = ("bits", "max_error", "calibration", "input_range", "fps", "max_dsp", "max_lut", "max_bram", "interface",
                "reloadable")
OK, USER_ERROR, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 130

_MAIN = """\
Compile ONNX models to self-contained native libraries.

  tilewright check model.onnx                        say what can be compiled, without compiling
  tilewright compile model.onnx -o out               write out/: library, C header, manifest
  tilewright run out --input x.npz                   run it on real input
  tilewright quantize model.onnx --data s/ -o out    turn a float model into integers
  tilewright prune model.onnx --data s/ -o out       put zeros into its weights
"""
_COMPILE = """\
Compile a model to a folder with a shared library (code, weights, thread pool), a C header and a manifest.

  tilewright compile model.onnx -o out
  tilewright compile model.onnx -o out --shape input=1x3x224x224 --dim batch=4
  tilewright compile model.onnx -o out --target cpu:x86-64-v3        for another machine
  tilewright compile model.onnx -o out --report report.html          and see what was made of the model
"""
_RUN = """\
Run a compiled model.  Inputs are the arrays of an .npz file, by name; a model with one input takes an .npy file too.

  tilewright run out --input x.npz                       names, shapes, first values, largest element, time
  tilewright run out --input x.npz --output y.npz        keep the outputs
  tilewright run out --input x.npz --repeat 100          median, fastest and slowest of 100 runs
  tilewright run out --input x.npz --profile             and where the time goes (compile with --profile)
"""
_CHECK = """\
List the operators of a model and say which of them cannot be compiled, without compiling.

  tilewright check model.onnx
"""
_QUANTIZE = """\
Turn a float model into integers, by samples, and check the accuracy on samples that were held out.

  tilewright quantize model.onnx --data samples/ -o out
  tilewright quantize model.onnx --data samples/ -o out --max-drop 0.5% --report blame.html

Writes a standard QDQ file and the artifact.  Exit code 1: the contract does not hold, the best that was found is written.
"""
_INSPECT = """\
Print what a compiled folder holds: inputs, outputs, sizes, target, and what made it.

  tilewright inspect out
"""
_TARGETS = "List the machines that code can be made for, and the features that may be added: cpu:NAME+FEATURE+...\n"
_CACHE = """\
Compiled artifacts are kept, and found again by the content of model, options and compiler.

  tilewright cache stats       where it is, how many entries, how large
  tilewright cache clear       remove all entries

TILEWRIGHT_CACHE_DIR moves it, TILEWRIGHT_CACHE_LIMIT (bytes, default 5 GB) bounds it.
"""
_COMPLETION = """\
Print a script that completes commands and options in your shell.

  tilewright completion bash > ~/.local/share/bash-completion/completions/tilewright
  tilewright completion zsh > ~/.zfunc/_tilewright
"""


class _Parser(argparse.ArgumentParser):
    """A wrong command line gives one message, not the list of all options, with the nearest option there is."""

    as_json = False  # an error is a JSON object on standard output, too

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """Also of a command: what it does not know is refused there, where its options are known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument: {' '.join(unknown)}{self._nearest(unknown[0])}")
        return found, unknown

    def _nearest(self, word: str) -> str:
        from .options import nearest  # only for this message: it imports what takes time

        return nearest(word.partition("=")[0], self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        message = f"{message}\n`{self.prog} --help` explains its arguments"
        if self.as_json:
            print(json.dumps({"error": {"kind": "usage", "message": message, "exit_code": USAGE}}))
        self.exit(USAGE, f"{self.prog}: {message}\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """The description, which has the examples, keeps its lines; options are aligned in a wide column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def make_parser(as_json: bool = False) -> argparse.ArgumentParser:
    """The whole command line; also what shell completion is made of.  as_json: errors, too."""
    from .. import __version__

    parser = _Parser("tilewright", description=_MAIN, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"tilewright {__version__}")
    parser.as_json = as_json
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, description: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=description, formatter_class=_Help)
        sub.as_json = as_json
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name != "completion":
            sub.add_argument("--json", action="store_true", help="one JSON object on standard output")
        return sub

    from .prune import command as prune
    from .quantize.command import add_arguments

    _add_model(command("check", _CHECK, "say what can be compiled"))
    _add_compile(command("compile", _COMPILE, "compile a model to a folder"))
    _add_run(command("run", _RUN, "run a compiled model"))
    add_arguments(command("quantize", _QUANTIZE, "turn a float model into integers"), _completed)
    prune.add_arguments(command("prune", prune.HELP, "put zeros into a trained model"), _completed)
    command("inspect", _INSPECT, "print what a compiled folder holds").add_argument("artifact", metavar="DIR")
    command("targets", _TARGETS, "list the machines")
    cache = command("cache", _CACHE, "show or clear the cache of compiled artifacts")
    cache.add_argument("action", choices=("stats", "clear"))
    completion = command("completion", _COMPLETION, "print a completion script for a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def _add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    _completed(parser.add_argument("model", metavar="MODEL", help="an .onnx file"), "FILE")
    bind = parser.add_argument_group("shapes")
    bind.add_argument("--shape", action="append", default=[], metavar="NAME=1x3x224x224", help="dimensions of an input")
    bind.add_argument(
        "--dim", action="append", default=[], metavar="NAME=4",
        help="size of an open dimension; 1..64: a range; 1,8: several sizes",
    )
    return bind


def _add_compile(parser: argparse.ArgumentParser) -> None:
    shapes = _add_model(parser)
    shapes.add_argument("--specialize", nargs="+", action="extend", default=[], metavar="NAME=1,8",
                        help="sizes with code of their own, beside that for any size")
    out = parser.add_argument_group("output")
    folder = out.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder to write; an artifact that is there is replaced"
    )
    _completed(folder, "DIRECTORY")
    out.add_argument("--name", help="prefix of the C symbols (default: from the file name)")
    out.add_argument("--emit", default="", metavar="KIND,...", help="write too: object, llvm-ir, asm")
    out.add_argument("--report", metavar="FILE.html", help="write a page about the graph, kernels, memory and times")
    out.add_argument("--quiet", action="store_true", help="no progress and no summary")
    code = parser.add_argument_group("code")
    code.add_argument(
        "--target", default="cpu", help="machine to compile for (default: this one): `tilewright targets`"
    )
    code.add_argument(
        "--accuracy", default="default", metavar="LEVEL",
        help="default, or strict: nothing transformed or reassociated beyond a tile",
    )
    code.add_argument(
        "--precision", default="f32", metavar="TYPE",
        help="f32, or bf16, f16: store intermediate values and weights of products in 16 bits, sum in f32; GPUs: tf32",
    )
    code.add_argument(
        "--tune", type=float, nargs="?", const=60.0, metavar="SECONDS",
        help="try variants of the kernels here (60 seconds), and keep the fastest",
    )
    _completed(code.add_argument("--tuning-file", metavar="FILE", help="where they are kept; alone: only use them"), "FILE")
    code.add_argument("--profile", action="store_true", help="record the time of every step, for tilewright run --profile")
    code.add_argument("--debug-bounds", action="store_true", help="check every index while it runs (slow)")
    code.add_argument(
        "--transform-weights", default="compile", metavar="TIME",
        help="when transformed weights are made: compile, or create (smaller)",
    )
    code.add_argument("--cc", metavar="COMMAND", help="C compiler to link with (default: cc, gcc, clang, or zig)")
    code.add_argument(
        "--embed-limit", type=int, metavar="BYTES", help="larger weights go to a file beside the library (default 1 GiB)"
    )
    code.add_argument(
        "--shard", default="", metavar="KIND=N", help="share the work of N TPU chips: data=4 (the batch) or model=4 (weights)"
    )
    code.add_argument("--bits", metavar="N", help="FPGA: of values and weights (16), or auto; more options: docs/fpga.md")
    code.add_argument("--fps", type=float, metavar="N", help="FPGA: frames a second to reach (what the board allows)")
    for name, kind in (("max-error", float), ("calibration", str), ("input-range", str), ("max-dsp", str),
                       ("max-lut", str), ("max-bram", str), ("interface", str)):
        code.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    code.add_argument("--reloadable", action="store_true", default=None, help=argparse.SUPPRESS)
    parser._negative_number_matcher = re.compile(r"-\.?\d.*")  # --input-range -4,4 is a value, not an option
    work = parser.add_argument_group("compiler")
    work.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")
    work.add_argument("--jobs", type=int, metavar="N", help="processes for machine code (default: one per core)")
    work.add_argument("--no-verify", action="store_true", help="do not verify the graph after every pass")
    work.add_argument(
        "--print-after", default="", metavar="STAGE,...",
        help="print the graph after passes (all: every one; also import, lower)",
    )
    work.add_argument(
        "--check-passes", action="store_true",
        help="run the model around every pass; name the one that changes it",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _completed(parser.add_argument("artifact", metavar="DIR", help="what `tilewright compile` wrote"), "DIRECTORY")
    parser.add_argument("--input", metavar="FILE", help=".npz with an array per input name, or .npy")
    parser.add_argument("--output", metavar="FILE.npz", help="keep the outputs, by name")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores that are worth it")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="timed runs, after one to warm up (1)")
    profile = parser.add_argument_group("profile", "for an artifact that was compiled with --profile")
    profile.add_argument("--profile", action="store_true", help="show the time of every step, the slowest first")
    profile.add_argument("--trace", metavar="FILE.json", help="write the last run for chrome://tracing or Perfetto")
    profile.add_argument("--report", metavar="FILE.html", help="write the times as a page, against the machine's limit")


def _completed(argument: argparse.Action, kind: str) -> None:
    """Let shells complete the argument with a "FILE" or a "DIRECTORY"."""
    import shtab

    argument.complete = getattr(shtab, kind)  # type: ignore[attr-defined]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.  Usage errors leave through SystemExit(2), as argparse does."""
    try:
        with interruptible():
            given = sys.argv[1:] if arguments is None else arguments
            parsed = make_parser(as_json="--json" in given).parse_args(given)
            from .commands import run_command

            return run_command(parsed)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
