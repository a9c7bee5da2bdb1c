"""Compiles one module for a TPU in a process of its own, because libtpu may crash or hang: python worker.py FOLDER

FOLDER holds job.json (`topology`, `devices`, `accelerator`, `effort`) and module.stablehlo; on success result.json and
executable.bin are written there.  It imports nothing of the package.
"""

# pyright: reportMissingImports=false
# jax is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r"%?([\w.-]+) = ")
_ORIGIN = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_COLLECTIVE = re.compile(r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_MOST_ROWS = 200


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE=job["accelerator"],
        JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="2", ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # there is no TPU to fight for
    )
    started = time.perf_counter()
    executable = compile_module((folder / "module.stablehlo").read_bytes(), job)
    seconds = time.perf_counter() - started
    (folder / "executable.bin").write_bytes(executable.serialize())
    result = {**facts(executable), "seconds": seconds}
    result["peak_bytes"] = peak_bytes()
    (folder / "result.json").write_text(json.dumps(result))


def peak_bytes() -> int:
    """The most memory that this process had at once.  The kernel's count of resource usage includes that of the process it
    was forked from."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def compile_module(portable: bytes, job: dict[str, Any]) -> Any:
    """The executable for the first `devices` of the topology."""
    import numpy as np
    from jax.experimental import topologies
    from jaxlib import xla_client
    from jaxlib.mlir import ir
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext
    from jaxlib.mlir.dialects import sdy, stablehlo

    context = ir.Context()
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    for dialect in (stablehlo, sdy):
        dialect.register_dialect(context)
    module = stablehlo.deserialize_portable_artifact(context, portable)
    count = job["devices"]
    known = topologies.get_topology_desc(platform="tpu", topology_name=job["topology"]).devices
    if len(known) < count:
        raise ValueError(f"{job['topology']} has {len(known)} devices, {count} are needed")
    devices = known[:count]
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = 1, count
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = 1, count
    build.use_spmd_partitioning, build.use_shardy_partitioner = True, True
    build.exec_time_optimization_effort = job["effort"]
    build.device_assignment = xla_client.DeviceAssignment.create(np.array([[d.id for d in devices]]))
    client = devices[0].client
    return client.compile(module, executable_devices=xla_client.DeviceList(tuple(devices)), compile_options=options)


def facts(executable: Any) -> dict[str, Any]:
    """What the compiler says about its result, per device."""
    text = executable.hlo_modules()[0].to_string()
    fusions, collectives = [], {}
    for line in text.splitlines():
        found = _COLLECTIVE.search(line)
        if found:
            collectives[found[1]] = collectives.get(found[1], 0) + 1
        cycles, name, origin = _CYCLES.search(line), _NAME.search(line), _ORIGIN.search(line)
        if cycles and name:
            fusions.append((name[1], origin[1] if origin else "", int(cycles[1])))
    costs = executable.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    memory = executable.get_compiled_memory_stats()
    return {
        "estimated_cycles": sum(c for _, _, c in fusions), "costed": len(fusions),
        "fusions": sorted(fusions, key=lambda f: -f[2])[:_MOST_ROWS], "collectives": collectives,
        "flops": float(costs.get("flops", 0)), "bytes_accessed": float(costs.get("bytes accessed", 0)),
        "memory": {
            "arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
            "temporary": memory.temp_size_in_bytes, "aliased": memory.alias_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
