"""Texts that calibration reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepseek.errors import InputError

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.frontend.checkpoint.tokenizer import Tokenizer
    from deepseek.model import Model

__all__ = ["SAMPLED_LENGTH", "paragraph_ids", "paragraphs_of", "read_text", "sampled_ids", "text_ids"]

SAMPLED_LENGTH = 128
"""Tokens of each text that a model writes for its calibration."""

_SHORTEST_PARAGRAPH = 40  # characters
_LONGEST_PARAGRAPH = 64  # tokens
_CHARACTERS_PER_TOKEN = 8  # more than any text has: what is read for a number of tokens


def read_text(path: str | Path) -> str:
    """A text file. Raises `InputError`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {getattr(error, 'strerror', None) or error}") from None


def sampled_ids(
    model: Model, tokens: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[int]:
    """Token ids that the model itself writes: many short texts from random first tokens, at temperature 1.

    It is what the model finds likely, whatever its language and domain; a foreign text of low entropy shows too little
    (SmolLM2 rounded to 8-bit floats on Python's documentation is 1.6 times as far from itself on prose as when rounded
    on its own text). The same ids for the same model and seed.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    length = min(SAMPLED_LENGTH, model.context)
    batch = -(-tokens // length)
    session = model.session(batch)
    ids = generator.integers(0, model.vocabulary, (batch, 1)).astype(np.int32)
    texts = [ids]
    for step in range(1, length):
        logits = session.forward(ids)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        sums = np.cumsum(weights, -1, dtype=np.float64)
        drawn = generator.random((batch, 1)) * sums[:, -1:]
        ids = (sums <= drawn).sum(-1, keepdims=True).clip(max=model.vocabulary - 1).astype(np.int32)
        texts.append(ids)
        if progress is not None:
            progress(step + 1, length)
    return np.concatenate(texts, 1).reshape(-1)[:tokens].tolist()


def text_ids(checkpoint: Checkpoint, path: str, tokens: int) -> list[int]:
    """At most `tokens` token ids of a text file, spread over it. Raises `InputError`."""
    return _spread(_tokenizer(checkpoint), read_text(path), tokens)


def paragraphs_of(text: str) -> list[str]:
    """What stands between blank lines, each on one line; headings and other scraps are left out."""
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return [part for part in parts if len(part) >= _SHORTEST_PARAGRAPH]


def paragraph_ids(checkpoint: Checkpoint, path: str | None, count: int = 288) -> tuple[str, list[list[int]]]:
    """What the text is called, and the token ids of `count` paragraphs from all over it, special tokens included.

    Without a path they are `calibration.txt`, which SmolLM2-135M-Instruct wrote from two dozen openings of prose: an
    encoder writes no text of its own.
    """
    text = read_text(Path(__file__).parent / "calibration.txt" if path is None else path)
    paragraphs = paragraphs_of(text)
    if len(paragraphs) < 3 * 16:
        raise InputError(f"the calibration text has {len(paragraphs)} paragraphs, expected at least 48")
    step = max(1, len(paragraphs) // count)
    tokenizer = _tokenizer(checkpoint)
    name = "the bundled text" if path is None else Path(path).name
    return name, [tokenizer.encode(part)[:_LONGEST_PARAGRAPH] for part in paragraphs[::step][:count]]


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from deepseek.frontend.checkpoint.tokenizer import Tokenizer

    data = checkpoint.tokenizer_data()
    if data is None:
        raise InputError(f"{checkpoint.path} has no tokenizer, so no text can be calibrated on")
    return Tokenizer(data)


def _spread(tokenizer: Tokenizer, text: str, tokens: int, parts: int = 24) -> list[int]:
    """Ids of equal parts from all over the text: one chapter is not like the whole."""
    if len(text) <= tokens * _CHARACTERS_PER_TOKEN:
        return tokenizer.encode(text, add_special=False)[:tokens]
    share = -(-tokens // parts)
    ids: list[int] = []
    for part in range(parts):
        begin = len(text) * part // parts
        ids += tokenizer.encode(text[begin : begin + share * _CHARACTERS_PER_TOKEN], add_special=False)[:share]
    return ids[:tokens]
