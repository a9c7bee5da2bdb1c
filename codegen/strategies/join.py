"""Several kernels in one: their bodies follow each other."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.kernel import Kernel, Param


def join_kernels(name: str, kernels: Sequence[Kernel]) -> Kernel:
    """Parameters of the same name are the same.  Requires that no kernel reads what an earlier one writes."""
    params: dict[str, Param] = {}
    for k in kernels:
        for p in k.params:
            params[p.name] = p
    return Kernel(name, tuple(params.values()), tuple(s for k in kernels for s in k.body))
