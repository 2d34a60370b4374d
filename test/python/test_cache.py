"""The disk cache: round trip, damage, concurrency, eviction, folders that cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import deepseek
from deepseek import cache

KEY = "a" * 64
METADATA = {"manifest": {"version": 1, "symbols": ["b", "ü"]}, "compile_s": 0.25}
OBJECT = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DEEPSEEK_CACHE_MAX_BYTES", raising=False)
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path / "deepseek" / "objects"


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = str(Path(deepseek.__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {path!r})\n{script}"
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(folder: Path) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, OBJECT, METADATA)
    assert cache.get(KEY) == {"object": OBJECT, "metadata": METADATA}
    cache.put(KEY, b"", {})
    assert cache.get(KEY) == {"object": b"", "metadata": {}}
    assert names(folder) == [f"{KEY}.bin"]
    assert folder.stat().st_mode & 0o077 == 0  # code that we run: others may not replace it


def test_same_input_same_bytes(folder: Path) -> None:
    cache.put(KEY, OBJECT, {"a": 1, "b": 2})
    first = (folder / f"{KEY}.bin").read_bytes()
    cache.put(KEY, OBJECT, {"b": 2, "a": 1})
    assert (folder / f"{KEY}.bin").read_bytes() == first


@pytest.mark.parametrize("key", ["", "../x", "a/b", "a.b", "a\n", "x" * 129])
def test_bad_keys(key: str) -> None:
    for call in (lambda: cache.get(key), lambda: cache.put(key, b"", {})):
        with pytest.raises(ValueError, match="a cache key is 1 to 128 letters"):
            call()


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.directory() == tmp_path / "home" / ".cache" / "deepseek" / "objects"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.directory() == tmp_path / "home" / ".cache" / "deepseek" / "objects"


def test_damage_is_a_miss(folder: Path) -> None:
    cache.put(KEY, OBJECT, METADATA)
    path = folder / f"{KEY}.bin"
    intact = path.read_bytes()
    flipped = [bytearray(intact) for _ in range(0, len(intact), 41)]
    for index, content in enumerate(flipped):
        content[index * 41] ^= 1
    truncated = [intact[:length] for length in range(0, len(intact), 41)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in [*flipped, *truncated, intact + b"\0", b""]:
            path.write_bytes(content)
            assert cache.get(KEY) is None
            assert not path.exists()
    cache.put(KEY, OBJECT, METADATA)
    assert cache.get(KEY) == {"object": OBJECT, "metadata": METADATA}


def test_an_entry_of_another_key_is_a_miss(folder: Path) -> None:
    cache.put(KEY, OBJECT, METADATA)
    (folder / f"{KEY}.bin").rename(folder / "other.bin")
    assert cache.get("other") is None


def warned_once(action: Callable[[], object]) -> str:
    """Run `action` three times; return the text of the one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            action()
    assert [warning.category for warning in caught] == [RuntimeWarning]
    return str(caught[0].message)


def test_read_only_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By error number: root, under whom tests may run, can write to any folder.
    cache.put(KEY, OBJECT, METADATA)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "unlink", "utime"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    text = warned_once(lambda: cache.put("other", OBJECT, METADATA))
    assert "Read-only file system" in text
    assert "XDG_CACHE_HOME" in text
    assert cache.get(KEY) == {"object": OBJECT, "metadata": METADATA}


def test_folder_that_cannot_exist(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    text = warned_once(lambda: [cache.get(KEY), cache.put(KEY, OBJECT, METADATA)])
    assert "Not a directory" in text


def test_write_error_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("before", OBJECT, METADATA)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    assert "No space left on device" in warned_once(lambda: cache.put(KEY, OBJECT, METADATA))
    assert names(folder) == ["before.bin"]
    assert cache.get("before") == {"object": OBJECT, "metadata": METADATA}


def test_full_disk(folder: Path) -> None:
    # A real failing write: files of this process may not grow beyond 4 KiB.
    script = """
import resource, signal, warnings
from deepseek import cache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        cache.put("large", bytes(100_000), {})
    cache.put("small", bytes(1000), {})
print(len(caught), cache.get("large"), len(cache.get("small")["object"]))
"""
    result = run_python(script)
    assert result.stdout == "1 None 1000\n", result.stderr
    assert names(folder) == ["small.bin"]


def test_concurrent_writers(folder: Path) -> None:
    # Four processes write and read the same keys; a reader sees a whole entry or none.
    script = """
import sys
from deepseek import cache
me = int(sys.argv[1])
for i in range(60):
    key = f"key{i % 3}"
    cache.put(key, bytes([me]) * 50_000, {"writer": me})
    entry = cache.get(key)
    assert entry["object"] == bytes([entry["metadata"]["writer"]]) * 50_000
print("done")
"""
    path = str(Path(deepseek.__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {path!r})\n{script}"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(4)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert output == b"done\n", errors
    assert names(folder) == ["key0.bin", "key1.bin", "key2.bin"]


def age(folder: Path, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / name, (then, then))


def test_least_recently_used_entries_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("size", bytes(10_000), {})
    entry = (folder / "size.bin").stat().st_size
    (folder / "size.bin").unlink()
    monkeypatch.setenv("DEEPSEEK_CACHE_MAX_BYTES", str(3 * entry))
    for index, key in enumerate("abc"):
        cache.put(key, bytes(10_000), {})
        age(folder, f"{key}.bin", 300 - 100 * index)
    assert cache.get("a") is not None  # now the most recently used
    cache.put("d", bytes(10_000), {})
    assert names(folder) == ["a.bin", "c.bin", "d.bin"]
    age(folder, "a.bin", 10)
    age(folder, "c.bin", 20)
    cache.put("e", bytes(2 * 10_000 - 1000), {})  # two go for it
    assert names(folder) == ["d.bin", "e.bin"]


def test_an_entry_above_the_limit_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("small", b"", {})
    monkeypatch.setenv("DEEPSEEK_CACHE_MAX_BYTES", "500")
    cache.put(KEY, bytes(1000), {})
    assert names(folder) == ["small.bin"]


def test_limit_zero_turns_the_cache_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, OBJECT, METADATA)
    monkeypatch.setenv("DEEPSEEK_CACHE_MAX_BYTES", "0")
    assert cache.get(KEY) is None
    cache.put("other", OBJECT, METADATA)
    assert names(folder) == [f"{KEY}.bin"]


def test_a_bad_limit_warns_and_counts_as_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE_MAX_BYTES", "4GiB")
    text = warned_once(lambda: cache.put(KEY, OBJECT, METADATA))
    assert "DEEPSEEK_CACHE_MAX_BYTES must be a number of bytes, got '4GiB'" in text
    assert cache.get(KEY) is not None


def test_abandoned_temporary_files_are_removed(folder: Path) -> None:
    cache.put(KEY, OBJECT, METADATA)
    for name in (".old.tmp", ".new.tmp"):
        (folder / name).write_bytes(b"half")
    age(folder, ".old.tmp", 7200)
    cache.put("other", OBJECT, METADATA)
    assert names(folder) == [".new.tmp", f"{KEY}.bin", "other.bin"]
