"""`tilewright prune`: its arguments, what it writes and what it says."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...ir.errors import OptionError
from ..summary import bytes_text, seconds_text, table

HELP = """\
Put zeros into the weights of a trained model, fitted by samples to what the model gave before, and compile it.

  tilewright prune model.onnx --data samples/ -o out                            half of all weights
  tilewright prune model.onnx --data samples/ -o out --pattern 8x1 --sparsity 0.5,0.7,0.8 --least-agreement 0.98
  tilewright prune model.onnx --data samples/ -o out --pattern channels --sparsity 0.3
  tilewright prune model.onnx --data samples/ -o out --pattern 8x1,unstructured --target-ms 5

Writes the pruned ONNX file, the artifact (DIR/artifact) and prune.json.  Of several sparsities the fastest model is kept
whose cosine with the original's outputs, on samples that were held out, is at least as asked.  Exit code 1: none is; the
nearest is written.
"""


def add_arguments(parser: argparse.ArgumentParser, completed: Callable[[argparse.Action, str], None]) -> None:
    completed(parser.add_argument("model", metavar="MODEL", help="an .onnx file"), "FILE")
    completed(parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write"), "DIRECTORY")
    completed(parser.add_argument("--data", required=True, metavar="PATH", help="samples: .npz, .npy, or a folder of them"),
              "DIRECTORY")
    parser.add_argument("--pattern", default="unstructured", metavar="KIND,...",
                        help="unstructured, 8x1 (R x 1 neighbouring outputs), 8x4 (the same in four neighbouring steps: "
                             "for int8), 2:4 (N:M), or channels")
    parser.add_argument("--sparsity", metavar="SHARE,...", help="weights (or channels) to lose (0.5)")
    parser.add_argument("--target-ms", type=float, default=0.0, metavar="MS",
                        help="time of a run on one thread: sparsities by what layers take here (instead of --sparsity)")
    parser.add_argument("--importance", default="obs", metavar="KIND", help="magnitude, wanda, obd or obs (default)")
    parser.add_argument("--allocation", default="auto", metavar="KIND", help="auto, or uniform: every layer alike")
    parser.add_argument("--no-reconstruct", action="store_true", help="leave the weights that stay as they are")
    parser.add_argument("--exclude", default="", metavar="NODE,...", help="nodes to leave alone")
    parser.add_argument("--least-agreement", type=float, default=-1.0, metavar="COSINE", help="with the original (any)")
    completed(parser.add_argument("--report", metavar="FILE.html", help="write a page: layers, and all that was tried"), "FILE")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")


def prune_command(a: argparse.Namespace) -> int:
    from ..progress import show_progress
    from ..quantize.activations import declared_inputs
    from ..writing import check_writable, write_whole
    from .report import render
    from .trials import best_of, try_all

    check_writable(Path(a.output), "-o", folder=True)
    if a.report:
        check_writable(Path(a.report), "--report")
    if a.target_ms < 0 or (a.target_ms and a.sparsity is not None):
        raise OptionError(f"--target-ms {a.target_ms:g}: expected a time, and no --sparsity with it")
    requests = [(p, s) for p in a.pattern.split(",") for s in _shares(a.sparsity or "0.5")]
    with show_progress(a.quiet or a.json) as progress:
        contest = try_all(
            a.model, a.data, requests, importance=a.importance, allocation=a.allocation, reconstruct=not a.no_reconstruct,
            exclude=[n for n in a.exclude.split(",") if n], seconds=a.target_ms / 1e3, progress=progress,
        )
    chosen, meets = best_of(contest, a.least_agreement, a.target_ms / 1e3)
    folder = Path(a.output)
    folder.mkdir(parents=True, exist_ok=True)
    onnx_file = folder / f"{Path(a.model).stem}.pruned.onnx"
    chosen.pruned.save(onnx_file)
    chosen.artifact.save(folder / "artifact")
    opened = [d for t in declared_inputs(chosen.pruned.model).values() for d in t.shape if not isinstance(d, int)]
    if opened:
        print(f"note: the artifact is for the sizes of the samples; compile {onnx_file} for others",
              file=sys.stderr)
    facts = contest.to_json() | {"chosen": contest.trials.index(chosen), "least_agreement": a.least_agreement, "meets": meets}
    write_whole(folder / "prune.json", json.dumps(facts, indent=1).encode())
    if a.report:
        write_whole(Path(a.report), render(contest, chosen).encode())
    if a.json:
        print(json.dumps(facts | {"onnx": str(onnx_file), "artifact": str(folder / "artifact"), "report": a.report}))
    elif not a.quiet:
        print(_summary(contest, chosen, onnx_file))
        if not meets and a.target_ms:
            print(f"no model of this pattern runs in {a.target_ms:g} ms and agrees as asked; the nearest was written")
        elif not meets:
            print(f"no model reaches a cosine of {a.least_agreement:g}; the nearest was written")
    return 0 if meets else 1


def _shares(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(f"--sparsity {text}: expected shares such as 0.5 or 0.3,0.5,0.8") from None


def _summary(contest: Any, chosen: Any, onnx_file: Path) -> str:
    rows = [("original", "", "", "", bytes_text(contest.bytes), seconds_text(contest.seconds), "")]
    for t in contest.trials:
        g = t.pruned.agreement
        top = "" if g.top1 is None else f"{100 * g.top1:.1f} %"
        rows.append((t.title, f"{100 * t.pruned.reached:.1f} %", f"{g.cosine:.4f}", top, bytes_text(t.bytes),
                     seconds_text(t.seconds), f"{contest.seconds / t.seconds:.2f} x" + (" *" if t is chosen else "")))
    lines = table(rows, ("model", "zeros", "cosine", "same top-1", "weights", "one thread", "speed"))
    return f"{lines}\nwrote {onnx_file} and {onnx_file.parent / 'artifact'}, the model marked *"
