"""Run this model: python run.py --input x.npz [--output y.npz] [--repeat 100].  Needs jax (on a TPU VM: jax[tpu]).

    from run import Model
    model = Model(); outputs = model(image)          # NumPy or jax arrays in the order of the manifest, or by name

Weights are put on the device once.  Inputs that are donated (state, such as a cache) give their memory to the output of
the same name: feed that output back as the next input, and do not use the old array again.
"""

# pyright: reportMissingImports=false
# jax is optional, and not for every Python: checked against where it is installed.

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxlib import xla_client
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy, stablehlo

HERE = Path(__file__).resolve().parent
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
         "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool"}


class Model:
    """The compiled model on the devices of this machine, in all sizes that it was compiled for.  manifest: names, types and
    shapes of everything."""

    def __init__(self, folder: Path = HERE, platform: str | None = None) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.inputs = [entry["name"] for entry in self.manifest["inputs"]]
        self.outputs = [entry["name"] for entry in self.manifest["outputs"]]
        weights: dict[str, jax.Array] = {}
        folders = [bucket["folder"] for bucket in self.manifest.get("buckets", {"sizes": [{"folder": "."}]})["sizes"]]
        self.sizes = [Size(folder / name, platform, weights) for name in folders]
        self.devices = self.sizes[0].devices

    def put(self, entry: dict, array: object) -> jax.Array:
        return self.sizes[0].put(entry, array)

    def __call__(self, *arrays: Any, **named: Any) -> list[Any]:
        given = list(arrays) or [named[name] for name in self.inputs]
        if "buckets" not in self.manifest:
            return self.sizes[0].run(given)
        from buckets import run_in_buckets  # it lies beside this file

        return run_in_buckets(self.manifest["buckets"], given, lambda number, part: self.sizes[number].run(part))


class Size:
    """The model compiled for known sizes.  weights: those on the devices by name, which is added to."""

    def __init__(self, folder: Path, platform: str | None, weights: dict[str, jax.Array]) -> None:
        jax.config.update("jax_enable_x64", True)
        self.manifest = json.loads((folder / "manifest.json").read_text())
        machine = self.manifest["machine"]
        self.devices = jax.devices(platform or machine["platform"])[: machine.get("chips", 1)]
        if len(self.devices) < machine.get("chips", 1):
            raise SystemExit(f"this model is for {machine['chips']} chips, this machine has {len(self.devices)}")
        self.mesh = jax.sharding.Mesh(np.array(self.devices), (machine.get("axis", "data"),))
        self.executable = self._executable(folder)
        missing = [entry for entry in self.manifest["weights"] if entry["name"] not in weights]
        tensors = read_safetensors(folder / self.manifest["weights_file"]) if missing else {}
        weights.update((entry["name"], self.put(entry, tensors[entry["name"]])) for entry in missing)
        self.weights = [weights[entry["name"]] for entry in self.manifest["weights"]]

    def _executable(self, folder: Path) -> object:
        """The executable that was made ahead of time if this libtpu takes it, else compiled now."""
        options = xla_client.CompileOptions()
        count = len(self.devices)
        options.num_replicas, options.num_partitions = 1, count
        build = options.executable_build_options
        build.num_replicas, build.num_partitions = 1, count
        build.use_spmd_partitioning, build.use_shardy_partitioner = count > 1, count > 1
        build.device_assignment = xla_client.DeviceAssignment.create(np.array([[d.id for d in self.devices]]))
        client, devices = self.devices[0].client, xla_client.DeviceList(tuple(self.devices))
        ready = self.manifest.get("executable")
        if ready and self.devices[0].platform == "tpu":
            try:
                return client.deserialize_executable((folder / ready).read_bytes(), devices, options)
            except Exception as error:  # made by another libtpu: it is a cache, the module is the truth
                print(f"compiling again: {str(error).splitlines()[0]}")
        context = ir.Context()
        for dialect in (stablehlo, sdy):
            dialect.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, (folder / self.manifest["library"]).read_bytes())
        return client.compile_and_load(module, devices, options)

    def put(self, entry: dict, array: object) -> jax.Array:
        """An array on the devices, split as the manifest says."""
        split = jax.sharding.PartitionSpec(*entry.get("sharding", ()))
        return jax.device_put(array, jax.sharding.NamedSharding(self.mesh, split))

    def run(self, given: list[Any]) -> list[jax.Array]:
        placed = [self.put(entry, a) for entry, a in zip(self.manifest["inputs"], given, strict=True)]
        results = self.executable.execute_sharded([*placed, *self.weights])  # type: ignore[attr-defined]
        parts = results.disassemble_into_single_device_arrays()
        return [self._joined(entry, p) for entry, p in zip(self.manifest["outputs"], parts, strict=True)]

    def _joined(self, entry: dict, parts: list[jax.Array]) -> jax.Array:
        if len(parts) == 1:
            return parts[0]
        split = jax.sharding.PartitionSpec(*entry.get("sharding", ()))
        sharding = jax.sharding.NamedSharding(self.mesh, split)
        return jax.make_array_from_single_device_arrays(tuple(entry["shape"]), sharding, parts)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.fromfile(path, np.uint8, offset=8 + length)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            found[name] = data[begin:end].view(jax.numpy.dtype(TYPES[entry["dtype"]])).reshape(entry["shape"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help=".npz with an array per input name")
    parser.add_argument("--output", help=".npz to write")
    parser.add_argument("--repeat", type=int, default=1, help="timed runs, after one to warm up")
    parser.add_argument("--platform", help="device to run on (default: the one it was compiled for)")
    arguments = parser.parse_args()
    model = Model(platform=arguments.platform)
    with np.load(arguments.input) as file:
        inputs = {name: file[name] for name in model.inputs}
    outputs = model(**inputs)
    times = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        jax.block_until_ready(model(**inputs))
        times.append(time.perf_counter() - start)
    for name, array in zip(model.outputs, outputs, strict=True):
        print(f"{name}: {array.dtype}{list(array.shape)} {np.asarray(array).reshape(-1)[:4].tolist()}")
    print(f"median {statistics.median(times) * 1e3:.3f} ms of {arguments.repeat} runs, with inputs from the host")
    if arguments.output:
        arrays: dict[str, Any] = dict(zip(model.outputs, map(np.asarray, outputs), strict=True))
        np.savez(arguments.output, **arrays)


if __name__ == "__main__":
    main()
