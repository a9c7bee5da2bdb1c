"""Options that only some targets have (`Target.options`): given to another one they are refused, never ignored."""

from __future__ import annotations

from dataclasses import fields

from ..ir.errors import OptionError
from .options import Options
from .targets import TARGETS, Target

_REASONS = {
    "profile": "records no times", "debug_bounds": "has no checks", "buckets": "takes one size of a dimension",
    "specialize": "has no code for open dimensions beside which it could stand",
}


def check_target_options(options: Options, target: Target) -> None:
    """Raises OptionError, with the targets that have it, for an option that the target would not look at."""
    default = Options()
    given = [f.name for f in fields(Options) if getattr(options, f.name) != getattr(default, f.name)]
    special = {name for t in TARGETS.values() for name in t.options}
    for name in given:
        if name in special and name not in target.options:
            takers = " or ".join(t.name for t in TARGETS.values() if name in t.options)
            reason = _REASONS.get(name, "has no such option")
            raise OptionError(f"{_shown(name, options)}: target {target.name} {reason}; "
                              f"{_advice(name, options, target)}, or use the target {takers}")


def _shown(name: str, options: Options) -> str:
    """The option as a caller knows it."""
    if name == "fpga":
        return ", ".join(options.fpga.recorded())
    if name in ("buckets", "specialize"):
        return f"{'dim' if name == 'buckets' else 'specialize:'} {_sizes(name, options)}"
    return name


def _sizes(name: str, options: Options) -> str:
    dim, sizes = getattr(options, name)[0]
    return f"{dim}={','.join(map(str, sizes))}"


def _advice(name: str, options: Options, target: Target) -> str:
    if name == "buckets":
        return "give one"
    return f"use --dim {_sizes(name, options)}" if name == "specialize" and "buckets" in target.options else "leave it out"
