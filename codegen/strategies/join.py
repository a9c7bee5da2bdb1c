"""Several kernels in one: their bodies follow each other."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.kernel import For, Kernel, Param, Stmt, axis, walk_block


def join_kernels(name: str, kernels: Sequence[Kernel]) -> Kernel:
    """Parameters of the same name are the same.  Requires that no kernel reads what an earlier one writes.  If one has
    parallel loops, those without become parallel loops of one iteration: one thread runs them."""
    params: dict[str, Param] = {}
    for k in kernels:
        for p in k.params:
            params[p.name] = p
    shared = [_is_parallel(k) for k in kernels]
    body: list[Stmt] = []
    for n, k in enumerate(kernels):
        alone = any(shared) and not shared[n] and k.body
        body += [For(axis(f"once{n}", 1), k.body, "parallel")] if alone else k.body
    return Kernel(name, tuple(params.values()), tuple(body))


def _is_parallel(kernel: Kernel) -> bool:
    return any(isinstance(s, For) and s.kind == "parallel" for s in walk_block(kernel.body))
