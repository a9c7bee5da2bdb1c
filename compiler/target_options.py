"""Options that only some targets have: given to another one they are refused, never ignored."""

from __future__ import annotations

from ..ir.errors import OptionError
from .options import Options

_TAKEN_BY: dict[str, tuple[str, ...]] = {
    "transform_weights": ("cpu",),
    "emit": ("cpu", "cuda"),
    "cc": ("cpu", "cuda"),
    "embed_limit": ("cpu", "cuda"),
    "precision": ("cpu", "cuda", "xla", "tpu", "tvm"),
    "shard": ("tpu",),
}


def check_target_options(options: Options, target: str) -> None:
    """Raises OptionError, with the targets that have it, for an option that the target would not look at."""
    default = Options()
    given = {name: taken for name, taken in _TAKEN_BY.items() if getattr(options, name) != getattr(default, name)}
    given |= dict.fromkeys(options.fpga.recorded(), ("fpga",))
    for name, taken in given.items():
        if target not in taken:
            raise OptionError(f"{name}: target {target} has no such option (it is for {', '.join(taken)}); leave it out")
