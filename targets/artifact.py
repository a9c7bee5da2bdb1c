"""What a compilation gives: named files and a manifest, saved as one folder or loaded at once.  A name with / is in a
folder of its own.

A folder appears whole or not at all: it is written beside its place and renamed into it.  Large files are not held in
memory: a `ConstantFile` writes itself from the arrays, a path is copied by the system.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import numpy as np

from ..ir.errors import OptionError, TargetError
from .loader import MANIFEST_NAME, Module, load
from .temporary import TemporaryFolder

_BLOCK = 1 << 20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


@dataclass(frozen=True)
class ConstantFile:
    """A file of `size` bytes made of arrays at increasing offsets, zeros between them, and `trailer` after the end."""

    parts: tuple[tuple[int, np.ndarray], ...]
    size: int
    trailer: bytes = b""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The bytes before the trailer, in order; arrays are not copied."""
        at = 0
        for offset, array in self.parts:
            yield from _zeros(offset - at)
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            yield data.data
            at = offset + data.size
        yield from _zeros(self.size - at)

    def digest(self) -> bytes:
        """SHA-256 of the bytes before the trailer."""
        state = hashlib.sha256()
        for chunk in self.chunks():
            state.update(chunk)
        return state.digest()

    def write_to(self, path: Path) -> None:
        """Writes the file once; runs of zeros become holes where the file system has them."""
        with open(path, "wb") as file:
            for offset, array in self.parts:
                file.seek(offset)
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.truncate(self.size)
            file.seek(self.size)
            file.write(self.trailer)


FileContent = Union[bytes, Path, ConstantFile]


@dataclass(frozen=True)
class Artifact:
    """target: what it runs on, as the `target` option names it.  name: the prefix of the C functions.
    files: name -> content; a path is a file that `owner` keeps alive.  manifest: what made it, as JSON values.
    timings: seconds per stage of the build; not saved, since they differ from run to run.  notes: what the user should
    know about the build and is no error."""

    target: str
    name: str
    files: Mapping[str, FileContent]
    manifest: Mapping[str, Any]
    timings: Mapping[str, float] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    owner: object = field(default=None, compare=False, repr=False)

    @cached_property
    def manifest_text(self) -> str:
        """What is saved as manifest.json: the manifest with size and SHA-256 of every file."""
        entries = {name: _entry(content) for name, content in sorted(self.files.items())}
        return json.dumps({**self.manifest, "files": entries}, indent=1, sort_keys=True) + "\n"

    def read(self, name: str) -> bytes:
        """The content of one file.  Raises OptionError for a name that the artifact does not have."""
        if name == MANIFEST_NAME:
            return self.manifest_text.encode()
        if name not in self.files:
            raise OptionError(f"artifact {self.name}: expected one of {', '.join(self.files)}, got {name!r}")
        content = self.files[name]
        if isinstance(content, ConstantFile):
            return b"".join(content.chunks()) + content.trailer
        return content.read_bytes() if isinstance(content, Path) else content

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the artifact as a folder and returns its path.

        An artifact that is there is replaced at once; anything else that is there is kept and an OptionError raised.
        On every failure the place is as it was.  Raises OptionError for a path that cannot be written, TargetError when
        the disk is full.
        """
        place = Path(os.path.realpath(directory))
        aside = place.parent / f".{place.name[:60]}.{secrets.token_hex(8)}"
        try:
            exists = _check_replaceable(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.mkdir()
                for name, content in self.files.items():
                    _write(content, aside / name)
                (aside / MANIFEST_NAME).write_text(self.manifest_text, encoding="utf-8")
                _put_in_place(aside, place, exists)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise _save_error(place, error) from error
        return place

    def load(self, threads: int | None = None) -> Module:
        """The artifact as a module of this process, without saving it; its folder is removed with the module."""
        folder = TemporaryFolder("tilewright-")
        try:
            module = load(self.save(folder.path / self.name), threads)
        except BaseException:
            folder.cleanup()
            raise
        folder.keep_for(module)
        return module


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _BLOCK))
        count -= _BLOCK


def _entry(content: FileContent) -> dict[str, Any]:
    state, size = hashlib.sha256(), 0
    for chunk in _chunks(content):
        state.update(chunk)
        size += len(chunk)
    return {"bytes": size, "sha256": state.hexdigest()}


def _chunks(content: FileContent) -> Iterator[bytes | memoryview]:
    if isinstance(content, ConstantFile):
        yield from content.chunks()
        yield content.trailer
    elif isinstance(content, Path):
        with open(content, "rb") as file:
            while block := file.read(_BLOCK):
                yield block
    else:
        yield content


def _write(content: FileContent, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, ConstantFile):
        content.write_to(path)
    elif isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)


def _check_replaceable(place: Path) -> bool:
    """Whether an artifact is at the place that may be replaced.  Raises OptionError for anything else that is there."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    advice = "choose another folder"
    if not place.is_dir():
        raise OptionError(f"save: expected a folder to write, got {place}, which is a file; {advice}")
    try:
        described = json.loads((place / MANIFEST_NAME).read_text(encoding="utf-8"))
        ours = {*described["files"], MANIFEST_NAME} if described["format"] == "tilewright" else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if not ours:
        raise OptionError(f"save: {place} exists and is not an artifact; {advice}")
    foreign = sorted({entry.relative_to(place).as_posix() for entry in place.rglob("*") if not entry.is_dir()} - ours)
    if foreign:
        raise OptionError(
            f"save: {place} holds files that are not of the artifact ({', '.join(foreign[:5])}); move them or {advice}"
        )
    return True


def _put_in_place(aside: Path, place: Path, exists: bool) -> None:
    """Renames aside to place.  What was there is exchanged in one step where the system can, and left at aside."""
    if not exists:
        os.rename(aside, place)  # replaces an empty folder
        return
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        exchange = None
    if exchange is not None:
        if exchange(_AT_FDCWD, os.fsencode(aside), _AT_FDCWD, os.fsencode(place), _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    old = aside.with_name(aside.name + ".old")
    os.rename(place, old)
    try:
        os.rename(aside, place)
    except OSError:
        os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _save_error(place: Path, error: OSError) -> OptionError | TargetError:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return TargetError(f"save: cannot write {place}: {reason}; free space there or choose another folder")
    return OptionError(f"save: cannot write {place}: {reason}; choose a folder that can be written")
