"""Temporary folders that are removed as a whole, or not yet: Ctrl-C does not stop their removal half way."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from .interrupt import uninterrupted


class TemporaryFolder:
    """A new folder, removed by `cleanup`, at the end of a `with`, or with the last reference to this object.

    path: the folder.  Raises OSError where none can be made.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        with uninterrupted():
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._remove = weakref.finalize(self, _remove, self.path)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder now; nothing if that was done."""
        with uninterrupted():
            self._remove()

    def keep_for(self, user: object) -> None:
        """Remove the folder with `user` instead of with this object."""
        with uninterrupted():
            if self._remove.detach() is not None:
                weakref.finalize(user, _remove, self.path)


def _remove(folder: Path) -> None:
    with uninterrupted():
        shutil.rmtree(folder, ignore_errors=True)
