"""The cache: whole entries or none, bounded, and safe when processes build, die or damage files at any point."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tilewright import OptionError
from tilewright.compiler.cache import Cache, hash_of, open_cache
from tilewright.compiler.driver import compile_model
from tilewright.compiler.options import make_options
from tilewright.compiler.stored import load_stored, store

FILES = {"model.so": b"code" * 1000, "include/model.h": b"header"}
KEY = hash_of(["a model"])


def writer(files: dict[str, bytes]) -> Callable[[Path], None]:
    """What `put` is given: writes these files."""

    def write(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    return write


def found(cache: Cache, key: str = KEY) -> dict[str, bytes] | None:
    """The files of an entry as bytes."""
    held = cache.get(key)
    if held is None:
        return None
    return {str(p.relative_to(held.folder)): p.read_bytes() for p in held.folder.rglob("*") if p.is_file()}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", limit=10_000)


def test_what_was_put_is_found_again(cache: Cache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, writer(FILES))
    assert found(cache) == FILES
    assert cache.get(hash_of(["another model"])) is None
    stats = cache.stats()
    assert (stats.entries, stats.size, stats.limit) == (1, 4006, 10_000)


def test_the_hash_depends_on_where_parts_end() -> None:
    assert hash_of(["ab", "c"]) != hash_of(["a", "bc"])
    assert hash_of([b"ab"]) == hash_of([memoryview(b"ab")]) == hash_of(["ab"])


DAMAGES = ("flip", "cut", "remove file", "remove entry", "garble entry", "entry of another form")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_no_entry(cache: Cache, damage: str) -> None:
    cache.put(KEY, writer(FILES))
    entry = cache.directory / KEY[:2] / KEY
    library = entry / "files" / "model.so"
    match damage:
        case "flip":
            library.write_bytes(b"C" + FILES["model.so"][1:])
        case "cut":
            library.write_bytes(FILES["model.so"][:100])
        case "remove file":
            library.unlink()
        case "remove entry":
            (entry / "entry.json").unlink()
        case "garble entry":
            (entry / "entry.json").write_bytes(b"{\x00")
        case _:
            (entry / "entry.json").write_text("[1]")
    assert cache.get(KEY) is None
    cache.put(KEY, writer(FILES))  # building it again mends the entry
    assert found(cache) == FILES


def test_the_entry_used_longest_ago_goes_first(cache: Cache) -> None:
    keys = [hash_of([str(n)]) for n in range(4)]
    for age, key in enumerate(keys[:3]):
        cache.put(key, writer({"f": bytes(3000)}))
        when = time.time() - 1000 + age
        os.utime(cache.directory / key[:2] / key / "entry.json", (when, when))
    assert cache.get(keys[0]) is not None  # used now, so the second is the oldest
    cache.put(keys[3], writer({"f": bytes(3000)}))
    assert [cache.get(k) is not None for k in keys] == [True, False, True, True]
    assert cache.stats().size <= cache.limit


def test_what_is_larger_than_the_cache_is_not_stored(cache: Cache) -> None:
    cache.put(KEY, writer({"f": bytes(10_001)}))
    assert cache.get(KEY) is None
    assert cache.stats().entries == 0


def test_an_interrupted_write_leaves_no_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cache, "_publish", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        cache.put(KEY, writer(FILES))
    monkeypatch.undo()
    assert cache.get(KEY) is None
    assert list((cache.directory / "incoming").iterdir()) == []


def test_an_entry_in_use_survives_its_removal(cache: Cache) -> None:
    cache.put(KEY, writer(FILES))
    held = cache.get(KEY)
    assert held is not None
    cache.clear()
    assert (held.folder / "model.so").read_bytes() == FILES["model.so"]


def test_what_a_dead_process_left_is_removed(cache: Cache) -> None:
    abandoned = cache.directory / "incoming" / "dead"
    recent = cache.directory / "incoming" / "alive"
    for folder in (abandoned, recent):
        folder.mkdir(parents=True)
    os.utime(abandoned, (1, 1))
    cache.put(KEY, writer(FILES))
    assert not abandoned.exists()
    assert recent.exists()


def test_clear_removes_everything(cache: Cache) -> None:
    cache.put(KEY, writer(FILES))
    assert cache.clear() == 1
    assert cache.stats().entries == 0
    assert cache.get(KEY) is None


def test_one_builder_at_a_time(cache: Cache) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def build() -> None:
        nonlocal inside, most
        with cache.building(KEY):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=build) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == 1


def test_processes_that_store_the_same_entry_agree(cache: Cache) -> None:
    program = (
        "import sys; from pathlib import Path; from tilewright.compiler.cache import Cache\n"
        f"c = Cache(Path({str(cache.directory)!r}), 10_000)\n"
        f"[c.put({KEY!r}, lambda folder: (folder / 'f').write_bytes(bytes(500))) for _ in range(20)]\n"
        f"sys.exit(c.get({KEY!r}) is None)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [p.wait() for p in running] == [0, 0]
    assert found(cache) == {"f": bytes(500)}


def test_the_environment_moves_and_bounds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("TILEWRIGHT_CACHE_LIMIT", "123")
    cache = open_cache()
    assert cache.directory.parent == tmp_path / "here"
    assert cache.limit == 123
    monkeypatch.setenv("TILEWRIGHT_CACHE_LIMIT", "many")
    with pytest.raises(OptionError, match=r"TILEWRIGHT_CACHE_LIMIT.*'many'"):
        open_cache()


def test_notes_are_told_again(tmp_path: Path) -> None:
    """What the user should know of a compilation does not depend on where the artifact comes from."""
    model = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
    done = compile_model(model, make_options())
    kept = Cache(tmp_path, limit=2**30)
    store(kept, KEY, done.artifact, done.summary, ["weights: wide"])
    stored = load_stored(kept, KEY)
    assert stored is not None and stored[1:] == (done.summary, ("weights: wide",))
