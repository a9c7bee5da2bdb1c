"""The options of one compilation, checked once, in one record.

`Options` holds what decides the bytes of the artifact (`result_key`: also the cache key) and what only decides how the
compiler works: verification, printing, parallel jobs.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Union

from ..ir.errors import OptionError
from ..targets.fpga.options import FpgaOptions, make_fpga_options

ACCURACIES = ("default", "strict")
PRECISIONS = ("f32", "tf32", "bf16", "f16")
WEIGHT_TIMES = ("compile", "create")
EMITS = ("object", "llvm-ir", "asm")
Shapes = Mapping[str, Sequence[Union[int, str]]]
Range = tuple[int, Union[int, None]]
Dims = Mapping[str, Union[int, str, Sequence[int]]]
_SHARD = re.compile(r"(data|model)=[1-9][0-9]{0,4}")
_MAX_DIM = 2**40  # beyond any memory, and far below the overflow of a 64-bit size
_WORKING_FIELDS = frozenset({"tune", "tuning_file", "verify", "print_after", "check_passes", "jobs"})


@dataclass(frozen=True)
class Options:
    """target: "cpu" (this machine) or "cpu:NAME+feature".
    shapes: input name -> dimensions, sizes or names of symbolic ones; dims: symbolic dimension -> size; sorted by name.
    buckets: symbolic dimension -> the sizes that are compiled into one artifact.  specialize: the same, beside code for all
    sizes, on the CPU.
    ranges: symbolic dimension that stays open -> its least and largest size.
    name: the C symbol prefix; empty: from the model's file name.
    accuracy: "default", or "strict": no transformed convolution or product and no reassociation beyond a register tile.
    transform_weights: of WEIGHT_TIMES, when the weights of Winograd convolutions and halved products are transformed: at
    compile time they make the artifact larger, at create time they make the memory larger and the start slower.
    precision: of PRECISIONS, what intermediate values and weights of products are stored in; sums are always f32.  tf32 (GPUs
    only): stored in f32, rounded to 10 bits where tensor cores multiply.
    tune: seconds to search for faster numbers of kernels by measurement, 0: none.  tuning_file: the database of what
    was found, empty: the user's own.  tuned: hash of the measured numbers in use, which the driver finds out.
    profile: the artifact records the time of every step.
    debug_bounds: generated code compares every index with the size of its buffer before it reads or writes memory.
    emit: what the artifact holds beside the library, of EMITS.
    cc: the C compiler to link with, as a command; empty: found.  embed_limit: bytes of weights above which they go to a
    file beside the library, None: the target's own limit.
    shard: how a TPU's chips share the work: "data=N" splits the batch, "model=N" the large weights; empty: one chip.
    fpga: what only the FPGA target is asked.
    verify: check the graph after every pass.  print_after: passes whose result is printed, "all" for every one.
    check_passes: run the interpreter around every pass.  jobs: processes for machine code, 0: one per core.
    """

    target: str = "cpu"
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...] = ()
    dims: tuple[tuple[str, int], ...] = ()
    buckets: tuple[tuple[str, tuple[int, ...]], ...] = ()
    specialize: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ranges: tuple[tuple[str, tuple[int, int | None]], ...] = ()
    name: str = ""
    accuracy: str = "default"
    precision: str = "f32"
    transform_weights: str = "compile"
    profile: bool = False
    debug_bounds: bool = False
    tune: float = 0.0
    tuning_file: str = ""
    tuned: str = ""
    emit: tuple[str, ...] = ()
    cc: str = ""
    embed_limit: int | None = None
    shard: str = ""
    fpga: FpgaOptions = field(default_factory=FpgaOptions)
    verify: bool = True
    print_after: tuple[str, ...] = ()
    check_passes: bool = False
    jobs: int = 0

    def result_key(self) -> tuple[tuple[str, Any], ...]:
        """The options that the artifact depends on."""
        return tuple((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in _WORKING_FIELDS)

    def recorded(self) -> dict[str, Any]:
        """What the manifest says about the options: those that are not as by default, as JSON values."""
        shapes = {name: list(shape) for name, shape in self.shapes}
        default = Options()
        words = {n: getattr(self, n) for n in ("precision", "transform_weights") if getattr(self, n) != getattr(default, n)}
        dims = {**dict(self.dims), **{n: list(sizes) for n, sizes in self.buckets}}
        ranges = {name: list(r) for name, r in self.ranges}
        versions = {name: list(sizes) for name, sizes in self.specialize}
        values = {"shapes": shapes, "dims": dims, "ranges": ranges, "specialize": versions, "accuracy": self.accuracy,
                  "shard": self.shard, **words, "emit": list(self.emit),
                  "fpga": self.fpga.recorded(), "embed_limit": self.embed_limit, "profile": self.profile or None,
                  "debug_bounds": self.debug_bounds or None,
                  "tuned": self.tuned}
        return {name: value for name, value in values.items() if value not in ({}, [], None, "", "default")}


def make_options(
    target: str = "cpu",
    *,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    specialize: Mapping[str, int | Sequence[int]] | None = None,
    name: str | None = None,
    accuracy: str = "default",
    precision: str = "f32",
    transform_weights: str = "compile",
    profile: bool = False,
    debug_bounds: bool = False,
    tune: float | None = None,
    tuning_file: str | os.PathLike[str] | None = None,
    emit: str | Sequence[str] = (),
    cc: str | None = None,
    embed_limit: int | None = None,
    shard: str = "",
    fpga: Mapping[str, Any] | None = None,
    verify: bool = True,
    print_after: str | Sequence[str] = (),
    check_passes: bool = False,
    jobs: int | None = None,
    known_stages: Sequence[str] = (),
) -> Options:
    """Options from what a caller wrote.  Raises OptionError, with the nearest known word, for a wrong value."""
    emits = _words("emit", emit, EMITS)
    prints = _words("print_after", print_after, (*known_stages, "all"))
    one_of("accuracy", accuracy, ACCURACIES)
    one_of("precision", precision, PRECISIONS)
    one_of("transform_weights", transform_weights, WEIGHT_TIMES)
    if name is not None and not _is_symbol(name):
        raise OptionError(f"name: expected a C identifier, got {name!r}; use letters, digits and _, a letter first")
    if embed_limit is not None and (not isinstance(embed_limit, int) or embed_limit < 0):
        raise OptionError(f"embed_limit: expected a number of bytes, got {embed_limit!r}")
    if shard and not _SHARD.fullmatch(str(shard)):
        raise OptionError(f"shard: expected data=N or model=N with N chips, got {shard!r}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise OptionError(f"jobs: expected a positive number of processes, got {jobs!r}")
    if tune is not None and (isinstance(tune, bool) or not isinstance(tune, (int, float)) or not 0 < tune < 1e9):
        raise OptionError(f"tune: expected a number of seconds above 0, got {tune!r}")
    for option, given in (("shapes", shapes), ("dims", dims), ("specialize", specialize), ("fpga", fpga)):
        if given is not None and not isinstance(given, Mapping):
            raise OptionError(f"{option}: expected a dict by name, got {given!r}")
    one = {n: size for n, size in (dims or {}).items() if isinstance(size, str) or not isinstance(size, Sequence)}
    several = {n: size for n, size in (dims or {}).items() if n not in one}
    sizes, ranges = _checked_dims(one)
    versions = {n: (size,) if isinstance(size, int) else size for n, size in (specialize or {}).items()}
    twice = sorted({*versions} & {n for n in (dims or {}) if not isinstance((dims or {})[n], str)})
    if twice:
        raise OptionError(f"specialize: {twice[0]} has a size in dims; give it in one of the two")
    return Options(
        target=target, shapes=_checked_shapes(shapes or {}), dims=sizes, ranges=ranges,
        buckets=_checked_buckets("dims", several),  # type: ignore[arg-type]
        specialize=_checked_buckets("specialize", versions), name=name or "",
        accuracy=accuracy, precision=precision, transform_weights=transform_weights, profile=profile, debug_bounds=debug_bounds,
        tune=float(tune or 0.0),
        tuning_file="" if tuning_file is None else os.fspath(tuning_file), emit=emits, cc=cc or "", embed_limit=embed_limit,
        shard=shard, fpga=make_fpga_options(fpga or {}), verify=verify, print_after=prints,
        check_passes=check_passes, jobs=jobs or 0,
    )


def one_of(option: str, value: object, known: Iterable[str]) -> None:
    """Raises OptionError unless the value is one of the known words."""
    words = tuple(known)
    if value not in words:
        near = nearest(str(value), words)
        raise OptionError(f"{option}: expected one of {', '.join(words)}, got {value!r}" + near)


def nearest(word: str, known: Iterable[str]) -> str:
    """"; did you mean X?" for the known word that looks most like this one, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _is_symbol(text: str) -> bool:
    return isinstance(text, str) and text.isascii() and text.isidentifier()


def _words(option: str, value: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    for word in words:
        one_of(option, word, known)
    return tuple(w for w in known if w in words)  # one order, so that equal requests have equal keys


def _checked_dims(dims: Mapping[str, Any]) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, Range], ...]]:
    """Sizes, and ranges of dimensions that stay open: "1..64" or "1..".  Both sorted by name."""
    sizes: list[tuple[str, int]] = []
    ranges: list[tuple[str, Range]] = []
    for name, given in sorted(dims.items()):
        where = f"dims[{name!r}]"
        if isinstance(given, str):
            ranges.append((name, _checked_range(where, given)))
        else:
            _check_dim(where, given)
            sizes.append((name, given))
    return tuple(sizes), tuple(ranges)


def _checked_range(where: str, given: str) -> Range:
    found = re.fullmatch(r"(\d+)\.\.(\d*)", given)
    if found is None:
        raise OptionError(f'{where}: expected a size such as 4 or a range such as "1..64" or "1..", got {given!r}')
    low, high = int(found[1]), int(found[2]) if found[2] else None
    if not 1 <= low <= (low if high is None else high) <= _MAX_DIM:
        raise OptionError(f"{where}: a range goes from 1 or more to {_MAX_DIM} or less, got {given}")
    return low, high


def _checked_buckets(option: str, buckets: Mapping[str, Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    for name, sizes in buckets.items():
        if isinstance(sizes, str) or not isinstance(sizes, Sequence) or not sizes:
            raise OptionError(f"{option}[{name!r}]: expected a size or several, got {sizes!r}")
        for size in sizes:
            _check_dim(f"{option}[{name!r}]", size)
    return tuple(sorted((name, tuple(sorted(set(sizes)))) for name, sizes in buckets.items()))


def _checked_shapes(shapes: Shapes) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
    for name, shape in shapes.items():
        if isinstance(shape, str) or not isinstance(shape, Sequence):
            raise OptionError(f"shapes[{name!r}]: expected dimensions such as (1, 3, 224, 224), got {shape!r}")
        for axis, size in enumerate(shape):
            if not isinstance(size, str):
                _check_dim(f"shapes[{name!r}][{axis}]", size)
    return tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))


def _check_dim(where: str, size: object) -> None:
    whole = isinstance(size, int) and not isinstance(size, bool)
    if not whole or not 0 <= size <= _MAX_DIM:  # type: ignore[operator]
        raise OptionError(f"{where}: expected a dimension from 0 to 2^40, got {size!r}")
