"""A store of whole artifacts, found by a hash of everything they depend on.

    DIRECTORY/ab/abcdef.../entry.json       sizes and hashes of the files, written last
                           /files/NAME      what the artifact holds
    DIRECTORY/locks/abcdef....lock          held while one process builds that artifact: others wait, then find it
    DIRECTORY/incoming/...                  an entry being written; it is renamed into its place when it is whole

An entry is used only if every byte of it has the hash that `entry.json` says; a damaged one is removed and built again.
When the store outgrows its limit, the entries used longest ago go first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from ..ir.errors import OptionError

DEFAULT_LIMIT = 5 * 10**9
DIRECTORY_VARIABLE, LIMIT_VARIABLE = "TILEWRIGHT_CACHE_DIR", "TILEWRIGHT_CACHE_LIMIT"
_ABANDONED = 24 * 3600.0  # seconds after which an unfinished entry belongs to a process that died


@dataclass(frozen=True)
class CacheStats:
    """What `tilewright cache stats` tells; sizes in bytes."""

    directory: str
    entries: int
    size: int
    limit: int


def hash_of(parts: Iterable[str | bytes | memoryview]) -> str:
    """A hash of a sequence of texts and byte strings; where one part ends matters."""
    digest = hashlib.blake2b(digest_size=24)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def open_cache() -> Cache:
    """The user's cache.  Raises OptionError if the environment gives it a limit that is no number of bytes."""
    directory = os.environ.get(DIRECTORY_VARIABLE) or platformdirs.user_cache_dir("tilewright", appauthor=False)
    text = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT))
    if not text.isdigit():
        raise OptionError(f"environment {LIMIT_VARIABLE}: expected a number of bytes, got {text!r}")
    return Cache(Path(directory) / "artifacts", int(text))


class Cache:
    """Artifacts by key.  Safe for any number of processes; every method may be interrupted at any point."""

    def __init__(self, directory: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.directory, self.limit = directory, limit

    def _entry(self, key: str) -> Path:
        return self.directory / key[:2] / key

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Only one process at a time is inside for one key."""
        locks = self.directory / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{key}.lock"):
            yield

    def get(self, key: str) -> dict[str, bytes] | None:
        """The files of an entry, or None if there is none that is whole.  Marks it as used now."""
        entry = self._entry(key)
        try:
            described = json.loads((entry / "entry.json").read_bytes())["files"]
            files = {name: (entry / "files" / name).read_bytes() for name in described}
            whole = all(hash_of([files[name]]) == expected for name, expected in described.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not as it was written
            whole, files = False, {}
        if not whole:
            shutil.rmtree(entry, ignore_errors=True)
            return None
        os.utime(entry / "entry.json")
        return files

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        """Store an entry, then make room.  Names are plain file names.  Raises OSError if it cannot be written."""
        size = sum(map(len, files.values()))
        if size > self.limit:
            return
        incoming = self.directory / "incoming" / uuid.uuid4().hex
        try:
            (incoming / "files").mkdir(parents=True)
            for name, data in files.items():
                (incoming / "files" / name).write_bytes(data)
            described = {name: hash_of([data]) for name, data in files.items()}
            (incoming / "entry.json").write_text(json.dumps({"size": size, "files": described}))
            self._publish(incoming, self._entry(key))
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        self._evict()

    @staticmethod
    def _publish(incoming: Path, entry: Path) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(incoming, entry)
        except OSError:
            if not entry.is_dir():  # another process that stored the same artifact first is no failure
                raise

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, size, folder) of every entry; one that vanishes meanwhile is left out."""
        found = []
        for description in self.directory.glob("??/*/entry.json"):
            try:
                size = int(json.loads(description.read_bytes())["size"])
                found.append((description.stat().st_mtime, size, description.parent))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):
                found.append((0.0, 0, description.parent))  # damaged: the first to go
        return sorted(found, key=lambda e: (e[0], str(e[2])))

    def _evict(self) -> None:
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        for _, size, entry in entries:
            if total <= self.limit:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= size
        for abandoned in (self.directory / "incoming").glob("*"):
            try:
                old = time.time() - abandoned.stat().st_mtime > _ABANDONED
            except FileNotFoundError:
                continue
            if old:
                shutil.rmtree(abandoned, ignore_errors=True)

    def stats(self) -> CacheStats:
        entries = self._entries()
        return CacheStats(str(self.directory), len(entries), sum(size for _, size, _ in entries), self.limit)

    def clear(self) -> int:
        """Remove every entry; how many there were."""
        entries = self._entries()
        for folder in [entry for _, _, entry in entries] + list((self.directory / "incoming").glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        return len(entries)
