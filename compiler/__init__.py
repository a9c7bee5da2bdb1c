"""The driver: what runs in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..targets.tvm.relax import to_tvm

__all__ = ["to_tvm"]


def __getattr__(name: str) -> Any:
    """`to_tvm`, on first use: it needs TVM."""
    if name != "to_tvm":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..targets.tvm.build import require_tvm

    require_tvm()
    from ..targets.tvm.relax import to_tvm

    return to_tvm
