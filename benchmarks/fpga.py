"""The loop of the FPGA target beside hls4ml: convert, compile the C++, simulate; seconds and the largest error.

    python benchmarks/fpga.py MODEL_FOLDER... [--hls4ml PYTHON]

A folder holds model.onnx and io.npz (input_0, output_0).  PYTHON: of an environment with hls4ml==1.3.0, qonnx==1.0.0 and
onnx==1.19.1.  hls4ml is given what its documentation asks for (cleanup, channels last, GemmToMatMul) and rounding, saturating
16-bit types, which are its better ones; failures are shown as it words them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HLS4ML = r'''
import json, sys, time, tempfile
import numpy as np
folder = sys.argv[1]
start = time.time()
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model
from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
from qonnx.transformation.gemm_to_matmul import GemmToMatMul
import hls4ml
imported = time.time() - start
start = time.time()
model = cleanup_model(ModelWrapper(folder + "/model.onnx"))
model = cleanup_model(model.transform(ConvertToChannelsLastAndClean()).transform(GemmToMatMul()))
config = hls4ml.utils.config_from_onnx_model(model, granularity="name", default_precision="ap_fixed<16,6,AP_RND,AP_SAT>")
made = hls4ml.converters.convert_from_onnx_model(model, output_dir=tempfile.mkdtemp(), io_type="io_stream", backend="Vitis",
                                                 hls_config=config)
made.compile()
with np.load(folder + "/io.npz") as data:
    x, y = data["input_0"], data["output_0"]
if x.ndim == 4:
    x = x.transpose(0, 2, 3, 1)
elif x.ndim == 3:
    x = x.transpose(0, 2, 1)
found = np.asarray(made.predict(np.ascontiguousarray(x, dtype=np.float32)))
error = float(np.abs(found.ravel() - y.ravel()).max()) if found.size == y.size else float("nan")
print("\n" + json.dumps({"seconds": time.time() - start, "error": error}))
'''


def tilewright_row(folder: Path) -> dict[str, object]:
    """Everything from the file to an error that is known, in one process that is already warm."""
    import tilewright

    start = time.time()
    module = tilewright.compile(folder / "model.onnx", target="fpga:zcu104", cache=False).load()
    with np.load(folder / "io.npz") as data:
        (found,) = module(data["input_0"])
        error = float(np.abs(found - data["output_0"]).max())
    return {"seconds": time.time() - start, "error": error}


def hls4ml_row(python: str, folder: Path) -> dict[str, object]:
    done = subprocess.run([python, "-c", HLS4ML, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["nothing said"])[-1][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--hls4ml", metavar="PYTHON", help="Python of an environment with hls4ml")
    a = parser.parse_args()
    for folder in a.folders:
        rows = {"tilewright": tilewright_row(folder)}
        if a.hls4ml:
            rows["hls4ml"] = hls4ml_row(a.hls4ml, folder.resolve())
        sys.stdout.write(json.dumps({"model": folder.name, **rows}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
