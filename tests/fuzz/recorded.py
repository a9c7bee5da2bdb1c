"""Models that tests import, as files: more seeds for damaged files, of operators that the standard's node tests have not.

    python tests/fuzz/recorded.py DIR tests/frontend            (PYTHONPATH must hold tests/; the rest is pytest's)
    python tests/fuzz/damaged.py --models DIR --count 20000

Tests run in this process.  A model that is larger than a seed is left out, and one that was recorded before.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from tilewright.frontend.onnx import reader

from fuzz.seeds import LARGEST


class Recorder:
    """A pytest plugin: what is read while tests run is written to a folder, named by its content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._original = reader.ModelFile

    def pytest_sessionstart(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        reader.ModelFile = self._recorded  # type: ignore[assignment, misc]

    def pytest_sessionfinish(self) -> None:
        reader.ModelFile = self._original  # type: ignore[misc]

    def _recorded(self, name: str, proto: Any, *rest: Any) -> reader.ModelFile:
        data = proto.SerializeToString(deterministic=True) if proto.ByteSize() <= LARGEST else b""
        if data:
            (self.folder / f"{hashlib.sha256(data).hexdigest()[:20]}.onnx").write_bytes(data)
        return self._original(name, proto, *rest)


if __name__ == "__main__":
    sys.exit(pytest.main([*sys.argv[2:], "-p", "no:cacheprovider"], [Recorder(Path(sys.argv[1]))]))
