"""Text to ids through the `tokenizers` library, ids to text by our own byte tables.

Decoding works on bytes, so that streaming and decoding at once give the same text even when a character is
spread over several tokens.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from deepseek.errors import CheckpointError, DeepseekError, InputError
from deepseek.heap import trim_heap

__all__ = ["StreamDecoder", "Tokenizer", "TokenizerData"]

# Kinds of tokens, numbered as in llama.h (enum llama_token_type).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
ROLES = ("system", "user", "assistant")
KINDS = ("bpe-bytes", "sentencepiece", "wordpiece")
_SPACE = "\u2581"  # sentencepiece's visible space
_INTEGERS = ("types", "stop_ids", "prefix_ids", "suffix_ids")
# What the decoder of WordPiece vocabularies joins to the word before (tokenizers, decoders/wordpiece.rs, cleanup).
_JOINED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


@dataclass(frozen=True)
class TokenizerData:
    """All that a tokenizer consists of, as plain data.

    `kind`: how tokens stand for bytes, one of "bpe-bytes", "sentencepiece", "wordpiece". `backend`: a
    tokenizer.json text for encoding, which adds no special tokens. `tokens` and `types` (1 normal, 2 unknown,
    3 control, 4 user defined, 5 unused, 6 byte) by id. `stop_ids` end a generation; `prefix_ids` and `suffix_ids`
    stand around an encoded text. `add_space_prefix`: encoding puts a space before the text. Raises
    `CheckpointError` for ids outside the vocabulary.
    """

    kind: str
    backend: str
    tokens: list[str]
    types: list[int]
    bos: int | None
    eos: int | None
    unk: int | None
    stop_ids: list[int]
    prefix_ids: list[int]
    suffix_ids: list[int]
    add_space_prefix: bool
    chat_template: str | None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CheckpointError(f"the kind of tokenizer is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if len(self.types) != len(self.tokens):
            raise CheckpointError(
                f"the tokenizer has {len(self.types)} token types, expected {len(self.tokens)}, one for each token"
            )
        try:
            for text in (*self.tokens, self.chat_template or ""):
                text.encode()
        except UnicodeEncodeError:
            raise CheckpointError(f"the tokenizer holds {text!r:.80}, which is not valid Unicode") from None
        special = [token for token in (self.bos, self.eos, self.unk) if token is not None]
        for token in (*special, *self.stop_ids, *self.prefix_ids, *self.suffix_ids):
            if not 0 <= token < len(self.tokens):
                raise CheckpointError(f"the tokenizer names token id {token}, expected one below {len(self.tokens)}")

    def to_json(self) -> str:
        """The data as one JSON object; the same data gives the same text."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TokenizerData:
        """The inverse of `to_json`. Raises `CheckpointError` for anything else."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the tokenizer is not valid JSON: {error}") from None
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != names:
            raise CheckpointError(f"the tokenizer is not an object with exactly the keys {', '.join(sorted(names))}")
        lists = {"tokens": str} | dict.fromkeys(_INTEGERS, int)
        for name, value in found.items():
            if name in lists:
                good = isinstance(value, list) and all(type(item) is lists[name] for item in value)
            elif name in ("bos", "eos", "unk"):
                good = value is None or type(value) is int
            elif name == "add_space_prefix":
                good = type(value) is bool
            else:
                good = isinstance(value, str) or (value is None and name == "chat_template")
            if not good:
                raise CheckpointError(f"the tokenizer's {name} has a value of the wrong type")
        return cls(**found)


class Tokenizer:
    """Encodes and decodes with one vocabulary.

    `bos`, `eos` are ids or None; `stop_ids` end a generation; `prefix_ids`, `suffix_ids` stand around a text. Decoding
    needs this package only, `encode` the package tokenizers, `chat` the package jinja2.
    """

    def __init__(self, data: TokenizerData) -> None:
        self.kind = data.kind
        self.tokens = _Texts(data.tokens)
        self.types = data.types
        self.bos = data.bos
        self.eos = data.eos
        self.unk = data.unk
        self.stop_ids = frozenset(data.stop_ids)
        self.prefix_ids = tuple(data.prefix_ids)
        self.suffix_ids = tuple(data.suffix_ids)
        self.add_space_prefix = data.add_space_prefix
        self.chat_template = data.chat_template
        self._backend_text = data.backend  # until the backend is built
        self._building = threading.Lock()

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of `text`; with `add_special` between `prefix_ids` and `suffix_ids`, which the model expects around it.

        Raises `InputError` for text that is not Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not valid Unicode: {error.reason} at character {error.start}") from None
        with self._building:
            backend = self._backend
            self._backend_text = ""
        with _tokenizers_errors("the text cannot be encoded"):
            ids = backend.encode(text, add_special_tokens=False).ids
        if max(ids, default=0) >= len(self.tokens):  # what encodes and what decodes are stored apart
            raise CheckpointError(f"the tokenizer makes token id {max(ids)}, expected one below {len(self.tokens)}")
        return [*self.prefix_ids, *ids, *self.suffix_ids] if add_special else ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises `InputError` for an id out of range."""
        stream = self.stream(skip_special)
        return "".join(stream.push(token) for token in ids) + stream.finish()

    def stream(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder to push ids into one by one."""
        return StreamDecoder(self, skip_special)

    def piece(self, token: int, first: bool = False) -> bytes:
        """The bytes that one id stands for; `first`: at the beginning of a text, where WordPiece puts no space."""
        if not 0 <= token < len(self.tokens):
            raise InputError(f"token id {token} is not in the vocabulary of {len(self.tokens)} tokens")
        text, kind = self.tokens[token], self.types[token]
        if self.kind == "wordpiece":
            return _wordpiece(text, first).encode()
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            return text.encode()
        if self.kind == "bpe-bytes":
            table = byte_of_character()
            try:
                return bytes([table[character] for character in text])
            except KeyError:  # not written in the byte alphabet: it stands for itself
                return text.encode()
        if kind == BYTE and (match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text)):
            return bytes([int(match[1], 16)])
        return text.replace(_SPACE, " ").encode()

    def is_special(self, token: int) -> bool:
        """Whether decoding leaves the token out."""
        return self.types[token] in (UNKNOWN, CONTROL)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, by the model's chat template, ready for the assistant's answer.

        Raises `InputError` for messages without role and content, `CheckpointError` for a template that fails.
        """
        if self.chat_template is None:
            raise CheckpointError("the model has no chat template, so chat is not possible; give a raw prompt")
        for message in messages:
            if not isinstance(message, dict) or message.get("role") not in ROLES:
                raise InputError(f"a message is {message!r:.80}, expected role (one of {', '.join(ROLES)}) and content")
            if not isinstance(message.get("content"), str):
                raise InputError(f"the content of a message is {message.get('content')!r:.80}, expected a text")
        from deepseek.frontend.checkpoint.chat_template import render_chat

        special = {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self.unk}
        variables = {name: self.tokens[token] for name, token in special.items() if token is not None}
        return render_chat(self.chat_template, variables | {"messages": list(messages), "add_generation_prompt": True})

    @cached_property
    def _backend(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise DeepseekError("text needs the tokenizers package: pip install tokenizers") from None
        with _tokenizers_errors("the tokenizer cannot be built"):
            backend = tokenizers.Tokenizer.from_str(self._backend_text)
        trim_heap()
        return backend


class _Texts:
    """Strings in one piece of UTF-8: as objects they take four times the memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._data = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._data[self._ends[index] : self._ends[index + 1]].decode()


class StreamDecoder:
    """Turns ids into text piece by piece and holds back the bytes of a character until it is complete."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._first = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became complete with `token`, possibly empty."""
        data = self._tokenizer.piece(token, self._first)
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        if self._first and data:
            # Encoding may have put one space before the text; the first piece carries its counterpart.
            data, self._first = data.removeprefix(b" " if self._tokenizer.add_space_prefix else b""), False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What is left: U+FFFD for an incomplete character, else nothing."""
        return self._utf8.decode(b"", final=True)


@contextmanager
def _tokenizers_errors(what: str) -> Iterator[None]:
    """Makes `CheckpointError` of the bare exceptions and the panics (a BaseException) of the package tokenizers."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise CheckpointError(f"{what}: {error}") from None


def pad_tokens(tokens: list[str], types: list[int], count: int) -> tuple[list[str], list[int]]:
    """Both lists with unused tokens up to `count`: a model may have more logits than its tokenizer has tokens."""
    missing = max(count - len(tokens), 0)
    return tokens + [""] * missing, types + [UNUSED] * missing


def _wordpiece(token: str, first: bool) -> str:
    """A token as the decoder of `tokenizers` joins it to the text before."""
    if not first and token:
        token = token[2:] if token.startswith("##") else f" {token}"
    for apart, joined in _JOINED:
        token = token.replace(apart, joined)
    return token


_BYTES: dict[str, int] = {}


def byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on."""
    if not _BYTES:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        table = {chr(byte): byte for byte in printable}
        table.update({chr(256 + index): byte for index, byte in enumerate(others)})
        _BYTES.update(table)
    return _BYTES
