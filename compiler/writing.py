"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..ir.errors import OptionError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of the mode that a new one has.  Raises OSError, leaving what was there before and nothing else."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: Path, option: str, folder: bool = False) -> None:
    """Raises OptionError if a file (or folder) could not be made at this path, before any work is done for it."""
    if path.exists() and path.is_dir() != folder:
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise OptionError(f"{option} {path}: expected a {wanted}, but there is a {found} of this name; choose another")
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    if existing != path.absolute() and not existing.is_dir():
        raise OptionError(f"{option} {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise OptionError(f"{option} {path}: no permission to write in {existing}")
