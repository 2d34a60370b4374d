"""The tokenizer stored in a GGUF file: text to ids through `tokenizers`, ids to text by our own byte tables.

Decoding works on bytes, so that streaming and decoding at once give the same text even when a character is
spread over several tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from deepseek.errors import CheckpointError, DeepseekError, InputError
from deepseek.frontend.checkpoint.gguf import GGUFFile

__all__ = ["StreamDecoder", "Tokenizer"]

# tokenizer.ggml.token_type (llama.h, enum llama_token_type)
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

# Split patterns of the pre-tokenizers, as their publishers' tokenizer.json have them.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PRE_TOKENIZERS = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2")
_SPACE = "\u2581"  # sentencepiece's visible space


class Tokenizer:
    """Encodes and decodes with the vocabulary of a GGUF file.

    `bos`, `eos` are ids or None; `stop_ids` end a generation. Raises `CheckpointError` when the metadata is
    incomplete, contradictory or of a kind that is not supported.
    """

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self.model = file.require("tokenizer.ggml.model", str)
        if self.model not in ("gpt2", "llama"):
            raise file.error(f"tokenizer.ggml.model is {self.model!r}, expected one of gpt2, llama")
        tokens = file.array("tokenizer.ggml.tokens", str)
        if not tokens:
            raise file.error("metadata key tokenizer.ggml.tokens is missing or empty, expected the vocabulary")
        self.tokens: list[str] = tokens
        types = file.array("tokenizer.ggml.token_type", int)
        self.types: list[int] = [_NORMAL] * len(tokens) if types is None else types.tolist()
        self._same_length("token_type", self.types)
        self.pre = file.get("tokenizer.ggml.pre", str, "default")
        if self.model == "gpt2" and self.pre not in _PRE_TOKENIZERS:
            raise file.error(f"tokenizer.ggml.pre is {self.pre!r}, expected one of {', '.join(_PRE_TOKENIZERS)}")
        self.bos = self._special("bos_token_id")
        self.eos = self._special("eos_token_id")
        stops = (self.eos, self._special("eot_token_id"))
        self.stop_ids = frozenset(token for token in stops if token is not None)
        # llama.cpp's defaults where the file does not say.
        begins = self.model == "llama" or self.pre == "llama-bpe"
        self.add_bos = file.get("tokenizer.ggml.add_bos_token", bool, begins) and self.bos is not None
        self.add_eos = file.get("tokenizer.ggml.add_eos_token", bool, False) and self.eos is not None
        self.add_space_prefix = self.model == "llama" and file.get("tokenizer.ggml.add_space_prefix", bool, True)
        self.chat_template: str | None = file.get("tokenizer.chat_template", str)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of `text`; with `add_special` the begin and end tokens that the file's flags ask for."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not valid Unicode: {error.reason} at character {error.start}") from None
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if not add_special:
            return ids
        return [self.bos] * self.add_bos + ids + [self.eos] * self.add_eos

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises `InputError` for an id out of range."""
        stream = self.stream(skip_special)
        return "".join(stream.push(token) for token in ids) + stream.finish()

    def stream(self, skip_special: bool = True) -> StreamDecoder:
        """A decoder to push ids into one by one."""
        return StreamDecoder(self, skip_special)

    def piece(self, token: int) -> bytes:
        """The bytes that one id stands for."""
        if not 0 <= token < len(self.tokens):
            raise InputError(f"token id {token} is not in the vocabulary of {len(self.tokens)} tokens")
        text, kind = self.tokens[token], self.types[token]
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            return text.encode()
        if self.model == "gpt2":
            table = _byte_of_character()
            try:
                return bytes([table[character] for character in text])
            except KeyError:  # not written in the byte alphabet: it stands for itself
                return text.encode()
        if kind == _BYTE and (match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text)):
            return bytes([int(match[1], 16)])
        return text.replace(_SPACE, " ").encode()

    def is_special(self, token: int) -> bool:
        """Whether decoding leaves the token out."""
        return self.types[token] in (_UNKNOWN, _CONTROL)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, by the file's chat template, ready for the assistant's answer."""
        if self.chat_template is None:
            raise self._file.error("has no tokenizer.chat_template, so chat is not possible; give a raw prompt")
        try:
            from jinja2.exceptions import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise DeepseekError("chat templates need jinja2: pip install deepseek-runtime[model]") from None

        def raise_exception(message: str) -> None:
            raise TemplateError(message)

        # The settings that Hugging Face renders chat templates with, which the templates are written for.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = raise_exception
        try:
            return environment.from_string(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=True,
                bos_token="" if self.bos is None else self.tokens[self.bos],
                eos_token="" if self.eos is None else self.tokens[self.eos],
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise self._file.error(f"the chat template cannot be rendered: {error}") from None

    def _same_length(self, key: str, values: Sequence[Any]) -> None:
        if len(values) != len(self.tokens):
            raise self._file.error(
                f"tokenizer.ggml.{key} has {len(values)} entries, expected {len(self.tokens)}, one for each token"
            )

    def _special(self, key: str) -> int | None:
        token = self._file.get(f"tokenizer.ggml.{key}", int)
        if token is not None and not 0 <= token < len(self.tokens):
            raise self._file.error(f"tokenizer.ggml.{key} is {token}, expected an id below {len(self.tokens)}")
        return token

    @cached_property
    def _backend(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise DeepseekError("text needs the tokenizers package: pip install deepseek-runtime[model]") from None
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        try:
            build = self._byte_level if self.model == "gpt2" else self._sentencepiece
            backend = build(tokenizers, vocabulary)
        except CheckpointError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise self._file.error(f"the tokenizer cannot be built from the metadata: {error}") from None
        special, literal = [], []
        for token, kind in zip(self.tokens, self.types, strict=True):
            if token and kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
                group = literal if kind == _USER_DEFINED else special
                group.append(tokenizers.AddedToken(token, normalized=False, special=kind != _USER_DEFINED))
        backend.add_special_tokens(special)
        backend.add_tokens(literal)
        return backend

    def _byte_level(self, tokenizers: Any, vocabulary: dict[str, int]) -> Any:
        lines = self._file.array("tokenizer.ggml.merges", str)
        if lines is None:
            raise self._file.error("metadata key tokenizer.ggml.merges is missing, expected the merges of gpt2 BPE")
        merges = []
        for index, line in enumerate(lines):
            left, space, right = line.partition(" ")
            if not space or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
                raise self._file.error(
                    f"tokenizer.ggml.merges entry {index} is {line!r}, expected two tokens whose union is a token"
                )
            merges.append((left, right))
        # Llama 3's publisher sets this, for words that no sequence of merges reaches.
        model = tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=self.pre == "llama-bpe")
        backend = tokenizers.Tokenizer(model)
        pre = tokenizers.pre_tokenizers
        if self.pre == "smollm":
            steps = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
        elif self.pre in ("llama-bpe", "qwen2"):
            pattern = tokenizers.Regex(_LLAMA3 if self.pre == "llama-bpe" else _QWEN2)
            steps = [pre.Split(pattern, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
        else:
            steps = [pre.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = pre.Sequence(steps)
        if self.pre == "qwen2":
            backend.normalizer = tokenizers.normalizers.NFC()
        return backend

    def _sentencepiece(self, tokenizers: Any, vocabulary: dict[str, int]) -> Any:
        scores = self._file.array("tokenizer.ggml.scores", float)
        if scores is None:
            raise self._file.error(
                "metadata key tokenizer.ggml.scores is missing, expected those of the llama vocabulary"
            )
        self._same_length("scores", scores)
        unknown = next((t for t, kind in zip(self.tokens, self.types, strict=True) if kind == _UNKNOWN), None)
        backend = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab=vocabulary,
                merges=_merges_by_score(self.tokens, self.types, scores.tolist()),
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        norm = tokenizers.normalizers
        replace = norm.Replace(" ", _SPACE)
        backend.normalizer = norm.Sequence([norm.Prepend(_SPACE), replace]) if self.add_space_prefix else replace
        return backend


class StreamDecoder:
    """Turns ids into text piece by piece and holds back the bytes of a character until it is complete."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strip = tokenizer.add_space_prefix
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became complete with `token`, possibly empty."""
        data = self._tokenizer.piece(token)
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        if self._strip and data:
            # Encoding put one space before the text; the first piece of an answer carries its counterpart.
            data, self._strip = data.removeprefix(b" "), False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What is left: U+FFFD for an incomplete character, else nothing."""
        return self._utf8.decode(b"", final=True)


_BYTES: dict[str, int] = {}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the others follow from U+0100 on."""
    if not _BYTES:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        table = {chr(byte): byte for byte in printable}
        table.update({chr(256 + index): byte for index, byte in enumerate(others)})
        _BYTES.update(table)
    return _BYTES


def _merges_by_score(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Sentencepiece joins the neighbours whose union scores best: as BPE merges, best first."""
    usable = {token: index for index, token in enumerate(tokens) if types[index] in (_NORMAL, _USER_DEFINED, _UNUSED)}
    ranked = []
    for token, index in usable.items():
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in splits if pair[0] in usable and pair[1] in usable]
        pairs.sort(key=lambda pair: (usable[pair[0]], usable[pair[1]]))
        ranked += [(-scores[index], pair) for pair in pairs]
    ranked.sort(key=lambda entry: entry[0])
    return [pair for _, pair in ranked]
