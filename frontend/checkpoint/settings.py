"""Keys with typed values, as GGUF metadata and Hugging Face's JSON files have them, and a JSON reader for the latter."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from deepseek.errors import CheckpointError

__all__ = ["Settings", "describe", "parse_json", "read_json", "shorten"]

_MAX_JSON_BYTES = 256 << 20  # the largest tokenizer.json published is about 35 MB


class Settings:
    """Typed access to `values`; `noun` ("metadata key") precedes a key in messages, which `error` makes.

    A value of None counts as absent: JSON files say so where a default is meant.
    """

    def __init__(self, values: dict[str, Any], noun: str, error: Callable[[str], CheckpointError]) -> None:
        self.values = values
        self.noun = noun
        self.error = error

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of `key` as `kind` (int, float, bool, str, list, dict), or `default` when it is absent.

        Raises `CheckpointError` when the value is of another kind.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if kind is float and type(value) is int and abs(value) < 1 << 64:
            return float(value)
        if type(value) is not kind:
            raise self.error(f"{self.noun} {key} is {describe(value)}, expected {kind.__name__}")
        return value

    def require(self, key: str, kind: type) -> Any:
        """Like `get`, but an absent key is an error."""
        if self.values.get(key) is None:
            raise self.error(f"{self.noun} {key} is missing, expected one of type {kind.__name__}")
        return self.get(key, kind)

    def positive(self, key: str, default: int | None = None) -> int:
        """A size: the value of `key` (or `default`, if given), which must be positive and fit into 32 bits."""
        value = self.require(key, int) if default is None else self.get(key, int, default)
        if not 0 < value < 2**31:
            raise self.error(f"{self.noun} {key} is {value}, expected a positive 32-bit number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number: the value of `key`, or `default`, if given."""
        value = self.require(key, float) if default is None else self.get(key, float, default)
        if not abs(value) < float("inf"):
            raise self.error(f"{self.noun} {key} is {value}, expected a finite number")
        return value

    def refuse_unless(self, neutral: dict[str, Any]) -> None:
        """Raises `CheckpointError` for a key that is there with another value than the one in `neutral`."""
        for key, expected in neutral.items():
            value = self.values.get(key)
            if value is not None and not np.array_equal(value, expected):
                shown = "no such key" if expected is None else f"{expected!r} or no such key"
                raise self.error(f"{self.noun} {key} is {shorten(value)}, which is not supported; expected {shown}")


def describe(value: Any) -> str:
    """The kind of a value, for messages."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if isinstance(value, dict):
        return "an object"
    return "an array" if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else type(value).__name__


def shorten(value: Any) -> str:
    """The beginning of a value, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises `ValueError`, also for what Python's reader lets pass: keys that appear twice, NaN and infinities, and
    halves of surrogate pairs, which no message could print.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"the key {shorten(twice)} appears twice in one object")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")

    try:
        if isinstance(text, bytes):
            text = text.decode()
        found = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half of a surrogate pair, {error.object[error.start]!r}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file at `path`. Raises `CheckpointError`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is not a regular file, expected a JSON file")
        if status.st_size > _MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path}: has {status.st_size} bytes, expected a JSON file of at most {_MAX_JSON_BYTES}"
            )
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds {describe(found)}, expected a JSON object")
    return found
