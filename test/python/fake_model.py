"""A model around a stand-in for the machine code whose answers are known: the successor of the last token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepseek.buffers import aligned_zeros
from deepseek.model import Model

VOCABULARY = 50
CONTEXT = 300
END = 49


class Successor:
    """Answers token t with t + 1, writes each position's token into the cache, and checks what it held before."""

    manifest = {
        "target": "cpu:test",
        "main": {
            "args": [
                {"tied": False},
                {"tied": False},
                {"tied": True, "shape": ["b", 2, 1, "c", 1], "dtype": "f32"},
                {"tied": True, "shape": ["b", 2, 1, "c", 1], "dtype": "f32"},
            ]
        },
    }
    context = SimpleNamespace(threads=1)

    def __init__(self) -> None:
        self.history: list[np.ndarray] = []  # what row 0 held after each call
        self.shapes: list[tuple[int, int]] = []  # of ids
        self.poisoned = VOCABULARY  # from this token on, the answers are not numbers

    def bind_weights(self, weights: Any) -> None:
        """There are none."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return aligned_zeros(shape, dtype)

    def __call__(
        self, ids: np.ndarray, lengths: np.ndarray, *caches: np.ndarray, out: None = None
    ) -> tuple[np.ndarray, ...]:
        assert ids.dtype == lengths.dtype == np.int32
        b, s = ids.shape
        for cache in caches:
            assert cache.shape[:3] == (b, 2, 1)
            assert cache.flags.c_contiguous
            for row in range(b):
                held = cache[row, :, 0, : lengths[row] - s, 0]
                # Every position that is in use was written.
                assert held.all() and (held[0] == held[1]).all()
                cache[row, :, 0, lengths[row] - s : lengths[row], 0] = ids[row] + 1
        self.history.append(caches[0][0, 0, 0, : lengths[0], 0].copy())
        self.shapes.append((b, s))
        logits = np.zeros((b, VOCABULARY), np.float32)
        last = ids[:, -1]
        logits[np.arange(b), (last + 1) % VOCABULARY] = np.where(last >= self.poisoned, np.nan, 9)
        return logits, *caches


class Letters:
    """A tokenizer whose ids are the code points above 'A'; 49 ('r') ends a text."""

    stop_ids = frozenset({END})

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        return [ord(letter) - 65 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(65 + token) for token in ids if token != END)

    def chat(self, messages: list[dict[str, str]]) -> str:
        turns = (f"{message['role'][0].upper()}{message['content']}{chr(65 + END)}" for message in messages)
        return "".join(turns) + "A"

    def stream(self) -> Any:
        return SimpleNamespace(push=lambda token: self.decode([token]), finish=lambda: "")


def make_model(monkeypatch: pytest.MonkeyPatch, kind: str = "decoder") -> Model:
    """The model; its `executable` is a `Successor`."""
    monkeypatch.setattr("deepseek.executable.Executable", lambda *_, **__: Successor())
    info = SimpleNamespace(name="successor", kind=kind, context=CONTEXT, vocabulary=VOCABULARY, weight_bytes=1)
    code = SimpleNamespace(object=b"", manifest={}, compile_s=0.0, cache_hit=True)
    nothing: Any = lambda: None  # noqa: E731
    model = Model(
        SimpleNamespace(safer=None, info=info, code=code, weights={}, file_bytes=1, release=nothing, tokenizer=nothing)  # type: ignore[arg-type]
    )
    model.__dict__["tokenizer"] = Letters()
    return model
