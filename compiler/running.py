"""`tilewright run`: a compiled model on arrays from a file, with what came out and how long it took."""

from __future__ import annotations

import io
import json
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ..ir.errors import OptionError
from ..targets.loader import Module, load
from .profiling import Profiling, profile_json, rows_that_ran, show_profile
from .summary import printable, seconds_text, table
from .writing import check_writable, write_whole

_SHOWN = 6  # values of each output


def run(
    artifact: Path, inputs: str | None, output: str | None, threads: int | None, repeat: int, as_json: bool,
    profiling: Profiling | None = None,
) -> int:
    """Run and print.  Raises OptionError for inputs that the model does not have, and for profiling an artifact that
    records no times; and what `load` raises."""
    if repeat < 1:
        raise OptionError(f"--repeat: expected 1 or more, got {repeat}")
    if threads is not None and threads < 1:
        raise OptionError(f"--threads: expected 1 or more, got {threads}")
    if output:
        check_writable(Path(output), "--output")
    if profiling:
        profiling.check()
    module = load(artifact, threads=threads)
    arrays = read_arrays(inputs, module)
    outputs = module(arrays)
    call = _again(module, arrays, outputs)
    if profiling:
        module.reset_profile()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    named = {t.name: array for t, array in zip(module.outputs, outputs, strict=True)}
    if output:
        write_arrays(Path(output), named)
    timing = {"runs": repeat, "median": statistics.median(times), "fastest": min(times), "slowest": max(times)}
    rows = rows_that_ran(module.profile()) if profiling else []
    if profiling:
        profiling.write(module, rows, timing["median"])
    if as_json:
        told = {"outputs": {n: _facts(a) for n, a in named.items()}, "seconds": timing, "written": output}
        print(json.dumps(told | ({"profile": profile_json(rows, module.threads)} if profiling else {})))
        return 0
    print(table([_row(n, a) for n, a in named.items()], ("output", "type", "first values", "largest at")))
    print(f"\n{_timing_line(timing, repeat, module)}")
    if profiling:
        print()
        show_profile(rows, module.threads, timing["median"])
    for path in ([output] if output else []) + (profiling.written() if profiling else []):
        print(f"wrote {path}")
    return 0


def _timing_line(timing: Mapping[str, float], repeat: int, module: Module) -> str:
    threads = f" on {module.threads} thread{'s' if module.threads != 1 else ''}"
    on = "" if "runtime" in module.manifest else threads  # another runtime has threads of its own
    if repeat == 1:
        return f"{seconds_text(timing['median'])} for one run{on}, after one to warm up; --repeat N measures more"
    return (f"median {seconds_text(timing['median'])} of {repeat} runs{on}, after one to warm up; "
            f"fastest {seconds_text(timing['fastest'])}, slowest {seconds_text(timing['slowest'])}")


def _again(module: Module, arrays: dict[str, np.ndarray], outputs: list[np.ndarray]) -> Callable[[], object]:
    """A run on the same buffers; strings, and outputs that are as large as their data says, have none."""
    if any(t.dtype == "str" or t.run_time_axes for t in (*module.inputs, *module.outputs)):
        return partial(module, arrays)
    return module.bind(arrays, outputs)


def read_arrays(path: str | None, module: Module) -> dict[str, np.ndarray]:
    """The inputs by name.  Raises OptionError, naming what is missing and what is there."""
    names = [t.name for t in module.inputs]
    if path is None:
        if names:
            raise OptionError(f"--input: the model has the inputs {', '.join(names)}; give a file with these arrays")
        return {}
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise OptionError(f"--input {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):  # NumPy's message for any other file speaks of pickles
        raise OptionError(f"--input {path}: not an .npz or .npy file, or damaged; numpy.savez writes one") from None
    if isinstance(loaded, np.ndarray):
        if len(names) != 1:
            raise OptionError(f"--input {path}: one array, but the inputs are {', '.join(names)}; use an .npz")
        return {names[0]: loaded}
    with loaded:
        missing = [n for n in names if n not in loaded.files]
        if missing:
            raise OptionError(
                f"--input {path}: no array is called {', '.join(map(repr, missing))}; the file has "
                f"{', '.join(loaded.files) or 'none'}, the model needs {', '.join(names)}"
            )
        return {n: loaded[n] for n in names}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz of the arrays under any names (`numpy.savez` takes no array that is called "file")."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                plain = array.astype(np.str_) if array.dtype == object else np.asarray(array)  # strings
                np.lib.format.write_array(member, plain, allow_pickle=False)
    write_whole(path, buffer.getvalue())


def _row(name: str, array: np.ndarray) -> tuple[str, str, str, str]:
    flat = array.reshape(-1)
    shown = (printable(v) if isinstance(v, str) else f"{v:.5g}" for v in flat[:_SHOWN].tolist())
    values = ", ".join(shown) + (", ..." if flat.size > _SHOWN else "")
    return name, f"{array.dtype}[{', '.join(map(str, array.shape))}]", values, str(_largest(array))


def _largest(array: np.ndarray) -> list[int]:
    """The index of the largest element; [] for an empty array."""
    return [int(i) for i in np.unravel_index(int(array.argmax()), array.shape)] if array.size and array.dtype != object else []


def _facts(array: np.ndarray) -> dict[str, object]:
    first = [v if isinstance(v, str) else float(v) for v in array.reshape(-1)[:_SHOWN]]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "first": first, "argmax": _largest(array)}
