"""Loading and running an artifact with NumPy and ctypes alone.

    module = tilewright.load("out")
    logits, = module(image)                        # arrays in, list of arrays out
    step = module.bind([image], [logits]); step()  # the same on fixed buffers, without copies or allocation
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Union

import numpy as np

from ..ir.errors import OptionError, TargetError
from .arrays import TensorSpec, as_input, as_output, as_texts, empty_output
from .profile import NO_PROFILE, ProfileRow, no_profile, read_profile
from .shapes import OpenShapes
from .temporary import TemporaryFolder

MANIFEST_NAME = "manifest.json"
FORMAT, FORMAT_VERSION, ABI_VERSION = "tilewright", 1, 1
_BUSY, _NO_MEMORY = 12, 10
Arrays = Union[Sequence[Any], Mapping[str, Any]]  # in the model's order, or by name
# The loaders of artifacts that run in another way than by a processor's library.
RUNTIMES = {
    "buckets": ".bucket_module", "cuda": ".cuda.loader", "fpga": ".fpga.loader", "tvm": ".tvm.loader", "xla": ".xla.loader",
}
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


class _Pool(ctypes.Structure):
    _fields_ = [("context", ctypes.c_void_p), ("run", ctypes.c_void_p)]


class _Options(ctypes.Structure):
    """tw_options of the C header."""

    _fields_ = [
        ("size", ctypes.c_uint32), ("abi_version", ctypes.c_uint32), ("threads", ctypes.c_int32),
        ("flags", ctypes.c_uint32), ("workspace", ctypes.c_void_p), ("workspace_bytes", ctypes.c_uint64),
        ("pool", _Pool), ("weights_path", ctypes.c_char_p), ("message", ctypes.c_void_p), ("message_bytes", ctypes.c_uint64),
    ]


def load(directory: str | os.PathLike[str], threads: int | None = None) -> Module:
    """The artifact in a folder as a callable module.

    threads: how many run it, the caller's included; None: the processors that this process may use, but no more than
    the compiler expects to be of use (`threads` in the manifest; one for a small model).
    Raises OptionError for a folder that is no artifact or a wrong number of threads, TargetError when this machine
    cannot run it.
    """
    place = Path(directory)
    runtime = read_manifest(place).get("runtime")
    if runtime is None:
        return Module(place, threads)
    if runtime not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        raise OptionError(f"load {place}: it needs the runtime {runtime!r}, this Tilewright has {known}; load it with the "
                          "Tilewright that made it")
    return import_module(RUNTIMES[runtime], __package__).open_module(place, threads)


class Module:
    """One instance of a compiled model.  One thread at a time runs it; load it once per thread to run it in several.

    inputs, outputs: a `TensorSpec` (name, dtype, shape) each, in the model's order.  manifest: what made the artifact.
    """

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        self._handle = ctypes.c_void_p()
        manifest = read_manifest(directory)
        self.manifest: Mapping[str, Any] = manifest
        self.inputs = tuple(map(TensorSpec.from_json, manifest["inputs"]))
        self.outputs = tuple(map(TensorSpec.from_json, manifest["outputs"]))
        self._prefix = str(manifest["name"])
        self._library = _open_library(directory, manifest)
        self._run = self._function("run", ctypes.c_int32)
        self._open = OpenShapes(self._resize, self._output_shapes) if "dims" in manifest else None
        self._create(directory, threads)

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._library, f"{self._prefix}_{name}")
        function.restype = result
        if arguments:
            function.argtypes = arguments
        return function

    def _create(self, directory: Path, threads: int | None) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise OptionError(f"load: threads: expected a positive number or None, got {threads!r}")
        weights = self.manifest.get("weights_file")
        message = ctypes.create_string_buffer(512)
        options = _Options(
            ctypes.sizeof(_Options), ABI_VERSION, threads or 0, 0, None, 0, _Pool(None, None),
            os.fsencode(directory / weights) if weights else None, ctypes.addressof(message), len(message),
        )
        status = self._make(options)
        if status:
            text = f"load {directory}: {message.value.decode(errors='replace') or self._status_text(status)}"
            raise MemoryError(text) if status == _NO_MEMORY else TargetError(text)

    def _make(self, options: _Options) -> int:
        return self._function("create", ctypes.c_int32)(ctypes.byref(options), ctypes.byref(self._handle))

    @property
    def threads(self) -> int:
        """How many threads run the module; 0 when it is closed."""
        return self._function("thread_count", ctypes.c_int32)(self._handle)

    def __call__(self, *arrays: Any) -> list[np.ndarray]:
        """Runs the model on arrays in the order of its inputs, or on one mapping from names to arrays.

        The items of a sequence are inputs of their own, NAME.0, NAME.1, ...; in a mapping, NAME may be a list of them.
        Takes anything with `__dlpack__` or NumPy's array protocols; copies only what is not dense.  Element types and
        shapes must be those of `inputs` (open dimensions may have any size that the model takes): OptionError otherwise.
        Returns new arrays in the order of `outputs`.
        """
        ready = [as_input(spec, value) for spec, value in zip(self.inputs, self._in_order(arrays), strict=True)]
        if self._open is None:
            results = [empty_output(spec) for spec in self.outputs]
        else:
            results = [empty_output(s, shape) for s, shape in zip(self.outputs, self._open.set(ready), strict=True)]
        status = self._run(self._handle, _pointers(ready), _pointers(results))
        if status:
            self._fail(status)
        for n, spec in enumerate(self.outputs):
            if spec.run_time_axes:
                results[n] = self._valid(n, results[n])
            if spec.dtype == "str":
                results[n] = as_texts(results[n])
        return results

    def _valid(self, index: int, array: np.ndarray) -> np.ndarray:
        """The part of an output's buffer that the run filled, in its shape."""
        shape = self.output_shape(index)
        return array.reshape(-1)[: math.prod(shape)].reshape(shape).copy()

    def output_shape(self, index: int) -> tuple[int, ...]:
        """The shape that an output had in the last run: its elements are the first ones of the buffer, dense."""
        rank = len(self.outputs[index].shape)
        shape = (ctypes.c_int64 * max(1, rank))()
        function = self._function("output_shape", ctypes.c_int32)
        status = function(self._handle, ctypes.c_size_t(index), shape, ctypes.c_size_t(rank))
        if status:
            self._fail(status)
        return tuple(shape[:rank])

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A function of no arguments that runs the model on these buffers, without copies or allocation.

        The buffers must be dense and of the right types and shapes, the outputs writable: OptionError otherwise.  The
        function keeps them alive; their contents at the time of each call count.  `output_shape` says after a run what is
        valid of an output with `run_time_axes`.
        """
        given = [inputs] if isinstance(inputs, Mapping) else inputs
        sources = self._in_order(given)
        ready = [as_input(spec, value, copy=False) for spec, value in zip(self.inputs, sources, strict=True)]
        places = ordered("output", self.outputs, [outputs] if isinstance(outputs, Mapping) else outputs)
        shapes = [None for _ in self.outputs] if self._open is None else self._open.set(ready)
        results = [as_output(spec, value, shape) for spec, value, shape in zip(self.outputs, places, shapes, strict=True)]
        run, fail, handle = self._run, self._fail, self._handle  # the handle is emptied by close: then run refuses
        in_pointers, out_pointers = _pointers(ready), _pointers(results)
        keep = (ready, results)
        opened = self._open

        def step() -> None:
            if opened is not None:
                opened.set(ready)  # another call may have set other shapes
            status = run(handle, in_pointers, out_pointers)
            if status:
                fail(status)

        step.buffers = keep  # type: ignore[attr-defined]
        return step

    def _resize(self, shapes: object) -> None:
        status = self._function("resize", ctypes.c_int32)(self._handle, shapes)
        if status:
            self._fail(status)

    def _output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(self.output_shape(n) for n in range(len(self.outputs)))

    def profile(self) -> list[ProfileRow]:
        """The times of every step since the module was loaded, or since `reset_profile`, in the order of the program.  With
        versions for some sizes: the steps of all of them, of which those that ran have a count (`ProfileRow.version`).

        Raises OptionError unless the artifact was compiled with the option profile, and during a run.
        """

        def read(thread: int, records: Any, count: int) -> None:
            function = self._function("profile", ctypes.c_int32)
            self._check_profile(function(self._handle, ctypes.c_int32(thread), records, ctypes.c_size_t(count)))

        return read_profile(self.manifest, max(1, self.threads), read, self._sizes())

    def _sizes(self) -> dict[str, int]:
        """The sizes of the open dimensions in the last run."""
        shapes = self._open.inputs if self._open is not None else ()
        sides = zip(self.inputs, shapes, strict=False)
        dims = [(d, n) for spec, shape in sides for d, n in zip(spec.shape, shape, strict=True)]
        return {d: n for d, n in dims if isinstance(d, str) and d in self.manifest["dims"]}

    def reset_profile(self) -> None:
        """Starts the times again from zero, for example after runs to warm up.  Raises what `profile` raises."""
        self._check_profile(self._function("reset_profile", ctypes.c_int32)(self._handle))

    def _check_profile(self, status: int) -> None:
        if status == NO_PROFILE and self._handle:
            raise no_profile(self._prefix)
        if status:
            self._fail(status)

    def _in_order(self, arrays: Sequence[Any]) -> Sequence[Any]:
        return ordered("input", self.inputs, arrays)

    def _status_text(self, status: int) -> str:
        return self._function("status_text", ctypes.c_char_p, ctypes.c_int32)(status).decode(errors="replace")

    def _fail(self, status: int) -> None:
        """Raises what a status of a run means.  After "busy" the message belongs to another thread."""
        if not self._handle:
            raise OptionError(f"module {self._prefix}: it is closed; load it again")
        if status == _BUSY:
            raise OptionError(f"module {self._prefix}: another thread is running it; load one module per thread")
        text = self._function("error_message", ctypes.c_char_p)(self._handle) or b""
        raise OptionError(f"module {self._prefix}: {text.decode(errors='replace') or self._status_text(status)}")

    def close(self) -> None:
        """Stops the threads and frees the memory; later runs raise OptionError.  Raises OptionError during a run."""
        if self._handle:
            if self._function("destroy", ctypes.c_int32)(self._handle):
                raise OptionError(f"module {self._prefix}: cannot be closed while another thread is running it")
            self._handle.value = None

    def __enter__(self) -> Module:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def __repr__(self) -> str:
        def sides(specs: Sequence[TensorSpec]) -> str:
            return ", ".join(map(str, specs))

        return f"Module {self._prefix}({sides(self.inputs)}) -> ({sides(self.outputs)})"


def _pointers(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * max(1, len(arrays)))(*[_address(a) for a in arrays])


def _address(array: np.ndarray) -> int:
    """Where the elements lie.  `array.ctypes` knows it for every array, but takes three times as long."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]  # a NumPy array is a buffer
    except (TypeError, ValueError):  # read-only or empty
        return array.ctypes.data


def _with_items(names: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """With NAME.0, NAME.1, ... for a list or tuple that is given for a sequence."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        if name not in names and isinstance(value, (list, tuple)) and (f"{name}.0" in names or not value):
            made |= {f"{name}.{n}": item for n, item in enumerate(value)}
        else:
            made[name] = value
    return made


def ordered(kind: str, specs: Sequence[TensorSpec], given: Sequence[Any]) -> Sequence[Any]:
    """The values in the order of the specs: they came so, or as one mapping.  Raises OptionError if some do not fit."""
    names = [spec.name for spec in specs]
    if len(given) == 1 and isinstance(given[0], Mapping):
        mapping = _with_items(names, given[0])
        missing, unknown = [n for n in names if n not in mapping], [n for n in mapping if n not in names]
        if missing or unknown:
            wrong = (("missing", missing), ("unknown", unknown))
            parts = " and ".join(f"{word} {', '.join(map(repr, found))}" for word, found in wrong if found)
            raise OptionError(f"{kind}s: expected the names {', '.join(map(repr, names))}; {parts}")
        return [mapping[name] for name in names]
    if len(given) != len(names):
        raise OptionError(
            f"{kind}s: expected {len(names)} arrays ({', '.join(map(repr, names)) or 'none'}), got {len(given)}"
        )
    return given


def read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_NAME
    if not path.is_file():
        what = "has no manifest.json" if directory.is_dir() else "is a file" if directory.exists() else "does not exist"
        raise OptionError(f"load: expected the folder of an artifact, but {directory} {what}; give what compile wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kind, version, abi = manifest["format"], manifest["format_version"], manifest["abi_version"]
        for key in ("name", "library", "inputs", "outputs", "machine", "files"):
            manifest[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"load: {path} is not a manifest or is damaged ({error}); compile again") from error
    if kind != FORMAT or version != FORMAT_VERSION or abi != ABI_VERSION:
        raise OptionError(
            f"load: {path}: expected format {FORMAT} {FORMAT_VERSION} with interface version {ABI_VERSION}, got {kind} "
            f"{version} with interface version {abi}; compile again, or load it with the Tilewright that made it"
        )
    return manifest


def check_files(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises OptionError unless the files of the manifest are there with their sizes."""
    for name, entry in manifest["files"].items():
        size = (directory / name).stat().st_size if (directory / name).is_file() else None
        if size != entry["bytes"]:
            got = "no file" if size is None else size
            raise OptionError(f"load: {directory / name}: expected {entry['bytes']} bytes, got {got}; the artifact is "
                              f"incomplete: copy the whole folder")


def _open_library(directory: Path, manifest: Mapping[str, Any]) -> ctypes.CDLL:
    """The shared library of the artifact, checked to be the one that the manifest describes."""
    arch = _ARCHES.get(platform.machine().lower(), platform.machine().lower())
    if manifest["machine"]["arch"] != arch:
        raise TargetError(f"load {directory}: compiled for {manifest['machine']['arch']}, this machine is {arch}; "
                          f"compile for this machine, or run it there")
    check_files(directory, manifest)
    path = Path(os.path.abspath(directory / manifest["library"]))
    library = _dlopen(path)
    if _built_from(library, manifest):
        return library
    # The system gives a library that was loaded from this path before, although the file is new: use another name.
    with TemporaryFolder("tilewright-") as folder:
        link = folder / path.name
        link.symlink_to(path)
        library = _dlopen(link)
    if not _built_from(library, manifest):
        raise OptionError(f"load: {path} does not belong to the manifest beside it; compile again")
    return library


def _dlopen(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        raise TargetError(f"load {path}: the system refuses the library: {error}") from error


def _built_from(library: ctypes.CDLL, manifest: Mapping[str, Any]) -> bool:
    """Whether the library carries this manifest.  Raises TargetError for another interface version."""
    try:
        version = getattr(library, f"{manifest['name']}_abi_version")
        text = getattr(library, f"{manifest['name']}_manifest")
    except AttributeError:
        return False
    version.restype, text.restype = ctypes.c_uint32, ctypes.c_char_p
    if version() != ABI_VERSION:
        raise TargetError(f"load: this Tilewright knows interface version {ABI_VERSION}, the library has {version()}; "
                          f"compile again, or load it with the Tilewright that made it")
    return json.loads(text()) == {key: value for key, value in manifest.items() if key != "files"}
