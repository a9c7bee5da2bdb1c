"""A store of whole artifacts, found by a hash of everything they depend on.

    DIRECTORY/ab/abcdef.../entry.json       sizes and hashes of the files, written last
                           /files/NAME      what the artifact holds
    DIRECTORY/locks/abcdef....lock          held while one process builds that artifact: others wait, then find it
    DIRECTORY/incoming/...                  an entry being written, renamed into its place when it is whole; and links
                                            to the files of entries in use, which so survive their removal

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from ..ir.errors import OptionError
from ..targets.temporary import TemporaryFolder

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


@dataclass(frozen=True)
class Held:
    """The files of an entry in a folder that stays as long as `owner` lives."""

    folder: Path
    owner: object


def hash_of(parts: Iterable[str | bytes | memoryview]) -> str:
    """A hash of a sequence of texts and byte strings; where one part ends matters."""
    digest = hashlib.blake2b(digest_size=24)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _hash_of_file(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=24)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
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

    def problem(self) -> str:
        """Why the cache cannot be used, in a sentence, or ""."""
        try:
            self._folder("locks")
            self._folder("incoming")
        except OSError as error:
            return f"the cache {self.directory} is not used: {error.strerror or error}"
        writable = os.access(self.directory / "incoming", os.W_OK) and os.access(self.directory / "locks", os.W_OK)
        return "" if writable else f"the cache {self.directory} is not used: it cannot be written"

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Only one process at a time is inside for one key."""
        with FileLock(self._folder("locks") / f"{key}.lock"):
            yield

    def get(self, key: str) -> Held | None:
        """The files of an entry, or None if there is none that is whole.  Marks it as used now."""
        entry = self._entry(key)
        held = TemporaryFolder("held-", self._folder("incoming"))
        try:
            described = json.loads((entry / "entry.json").read_bytes())["files"]
            for name, expected in described.items():
                link = held.path / name
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(entry / "files" / name, link)
                if _hash_of_file(link) != expected:
                    raise ValueError(f"{name} is damaged")
            os.utime(entry / "entry.json")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not as it was written
            held.cleanup()
            shutil.rmtree(entry, ignore_errors=True)
            return None
        return Held(held.path, held)

    def put(self, key: str, write: Callable[[Path], object]) -> None:
        """Store what `write` puts into the folder it is given, then make room.  Raises OSError if that fails."""
        incoming = self._folder("incoming") / uuid.uuid4().hex
        try:
            (incoming / "files").mkdir(parents=True)
            write(incoming / "files")
            paths = sorted(p for p in (incoming / "files").rglob("*") if p.is_file())
            described = {str(p.relative_to(incoming / "files")): _hash_of_file(p) for p in paths}
            size = sum(p.stat().st_size for p in paths)
            (incoming / "entry.json").write_text(json.dumps({"size": size, "files": described}))
            if size <= self.limit:
                self._publish(incoming, self._entry(key))
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        self._evict()

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

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
        for _, _, folder in entries:
            shutil.rmtree(folder, ignore_errors=True)
        return len(entries)
