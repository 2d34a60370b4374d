"""The tokenizer in a Hugging Face folder, as `TokenizerData`: tokenizer.json and the files around it."""

from __future__ import annotations

import json
import re
from typing import Any

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.folder import FolderCheckpoint
from deepseek.frontend.checkpoint.settings import Settings, read_json, shorten
from deepseek.frontend.checkpoint.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    TokenizerData,
    pad_tokens,
)

__all__ = ["read_tokenizer"]

_MAX_TOKENS = 1 << 20  # the largest vocabularies published have 262,144
_SPACE = "\u2581"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer(checkpoint: FolderCheckpoint) -> TokenizerData:
    """The tokenizer of the folder. Raises `CheckpointError` for files that are damaged or of another kind."""
    return _Reader(checkpoint).read()


class _Reader:
    """tokenizer.json (`spec`), tokenizer_config.json (`config`), and the vocabulary with the added tokens."""

    def __init__(self, checkpoint: FolderCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.spec = Settings(read_json(checkpoint.path / "tokenizer.json"), "tokenizer.json:", checkpoint.error)
        self.model = Settings(self.spec.require("model", dict), "tokenizer.json: model", checkpoint.error)
        self.config = checkpoint.json("tokenizer_config.json") or Settings({}, "", checkpoint.error)
        self.vocabulary = self._vocabulary()
        self.named = self._named_tokens()
        self.added = self._added_tokens()

    def error(self, text: str) -> CheckpointError:
        return self.checkpoint.error(text)

    def read(self) -> TokenizerData:
        kind = self._kind()
        ids = self.vocabulary | {entry["content"]: entry["id"] for entry in self.added}
        tokens = [""] * (max(ids.values(), default=-1) + 1)
        types = [UNUSED] * len(tokens)
        for token, index in ids.items():
            is_byte = kind == "sentencepiece" and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token)
            tokens[index], types[index] = token, BYTE if is_byte else NORMAL
        unknown = self.named.get("unk_token") or self.model.get("unk_token", str)
        for entry in self.added:
            special = UNKNOWN if entry["content"] == unknown else CONTROL
            types[entry["id"]] = special if entry["special"] else USER_DEFINED
        found = {name: ids.get(self.named[name]) if name in self.named else None for name in ("bos_token", "eos_token")}
        prefix, suffix = self._around()
        vocabulary = self.checkpoint.config.get("vocab_size", int, 0)
        tokens, types = pad_tokens(tokens, types, min(vocabulary, _MAX_TOKENS))
        backend = self.spec.values | {
            "added_tokens": self.added,
            "normalizer": self._normalizer(),
            "post_processor": None,
            "truncation": None,
            "padding": None,
        }
        return TokenizerData(
            kind=kind,
            backend=json.dumps(backend, ensure_ascii=False),
            tokens=tokens,
            types=types,
            bos=found["bos_token"],
            eos=found["eos_token"],
            unk=ids.get(unknown),
            stop_ids=self._stop_ids(found["eos_token"], len(tokens)),
            prefix_ids=prefix,
            suffix_ids=suffix,
            add_space_prefix=kind == "sentencepiece" and self._strips_space(),
            chat_template=self._chat_template(),
        )

    def _vocabulary(self) -> dict[str, int]:
        kind = self.model.get("type", str, "BPE" if "merges" in self.model.values else "unknown")
        if kind not in ("BPE", "WordPiece"):
            raise self.error(f"tokenizer.json has a model of type {kind}, expected one of BPE, WordPiece")
        vocabulary = self.model.require("vocab", dict)
        bad = next((item for item in vocabulary.items() if not _is_id(item[1])), None)
        if bad is not None:
            raise self.error(
                f"tokenizer.json gives token {shorten(bad[0])} the id {shorten(bad[1])}, expected a number"
            )
        if len(set(vocabulary.values())) < len(vocabulary):
            raise self.error("tokenizer.json gives one id to several tokens, expected unique ids")
        return vocabulary

    def _named_tokens(self) -> dict[str, str]:
        """The texts of bos_token and so on."""
        named = {}
        older = self.checkpoint.json("special_tokens_map.json") or Settings({}, "", self.checkpoint.error)
        for name in _NAMED:
            for settings in (self.config, older):
                value = settings.values.get(name)
                value = value.get("content") if isinstance(value, dict) else value
                if isinstance(value, str):
                    named.setdefault(name, value)
        return named

    def _added_tokens(self) -> list[dict[str, Any]]:
        """The entries of tokenizer.json, then the tokens that tokenizer_config.json adds to them."""
        added = list(self.spec.get("added_tokens", list, []))
        for entry in added:
            good = isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("content"), str)
            if not good or type(entry.get("special")) is not bool:
                raise self.error(
                    f"tokenizer.json has the added token {shorten(entry)}, expected id, content and special"
                )
        contents = {entry["content"] for entry in added}
        extra = self.config.get("added_tokens_decoder", dict, {})
        for text, entry in extra.items():
            index = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else -1
            content = entry.get("content") if isinstance(entry, dict) else None
            if not _is_id(index) or not isinstance(content, str):
                raise self.error(
                    f"tokenizer_config.json adds token {shorten(text)}: {shorten(entry)}, expected an id and content"
                )
            if content not in contents and self.vocabulary.get(content, index) == index:
                contents.add(content)
                added.append(_added(index, content, entry))
        # Named tokens are special even where tokenizer.json does not say so.
        for content in self.named.values():
            if content in self.vocabulary and content not in contents:
                contents.add(content)
                added.append(_added(self.vocabulary[content], content, {}))
        added.sort(key=lambda entry: entry["id"])
        following = len(self.vocabulary)
        for entry in added:
            # The library numbers tokens that the model's vocabulary lacks itself (added_vocabulary.rs, add_tokens).
            expected = self.vocabulary.get(entry["content"], following)
            if entry["id"] != expected:
                raise self.error(
                    f"adds token {shorten(entry['content'])} with id {entry['id']}, expected {expected}, the next free id"
                )
            following = max(following, expected + 1)
        return added

    def _kind(self) -> str:
        if "merges" not in self.model.values:
            decoder = self.spec.get("decoder", dict, {})
            if (decoder.get("type"), decoder.get("prefix"), decoder.get("cleanup")) != ("WordPiece", "##", True):
                raise self.error(
                    f"tokenizer.json has the decoder {shorten(decoder)}, expected WordPiece with ## and cleanup"
                )
            return "wordpiece"
        kinds = {str(step.get("type")) for step in self._steps("decoder", "decoders")}
        if "ByteLevel" in kinds:
            return "bpe-bytes"
        if kinds & {"ByteFallback", "Metaspace"} or self.model.get("byte_fallback", bool, False):
            return "sentencepiece"
        raise self.error(
            f"tokenizer.json has the decoder {shorten(self.spec.values.get('decoder'))}, "
            "expected one of ByteLevel, ByteFallback, Metaspace"
        )

    def _steps(self, key: str, parts: str) -> list[dict[str, Any]]:
        """The steps of a part of tokenizer.json, which is one step, a sequence of them, or null."""
        value = self.spec.get(key, dict)
        if value is None:
            return []
        steps = value.get(parts) if value.get("type") == "Sequence" else [value]
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise self.error(f"tokenizer.json has the {key} {shorten(value)}, expected objects")
        return steps

    def _strips_space(self) -> bool:
        """Whether decoding removes the space that encoding put before the text."""
        for step in self._steps("decoder", "decoders"):
            if step.get("type") == "Strip" and step.get("start") == 1:
                return True
            if step.get("type") == "Metaspace":
                scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
                return scheme != "never"
        return False

    def _normalizer(self) -> Any:
        normalizer = self.spec.values.get("normalizer")
        sentences = self.checkpoint.json("sentence_bert_config.json")
        if sentences is None or not sentences.get("do_lower_case", bool, False):
            return normalizer
        steps = [{"type": "Lowercase"}] + ([] if normalizer is None else [normalizer])
        return {"type": "Sequence", "normalizers": steps}

    def _around(self) -> tuple[list[int], list[int]]:
        """The ids before and after a text, by the post-processor.

        transformers 5 reads add_bos_token and add_eos_token of tokenizer_config.json only where there is no
        tokenizer.json (tokenization_utils_base.py, _from_pretrained).
        """
        prefix: list[int] = []
        suffix: list[int] = []
        for step in self._steps("post_processor", "processors"):
            before, after = self._around_of(step)
            prefix, suffix = before + prefix, suffix + after
        return prefix, suffix

    def _around_of(self, step: dict[str, Any]) -> tuple[list[int], list[int]]:
        kind = step.get("type")
        try:
            if kind == "ByteLevel":
                return [], []
            if kind in ("BertProcessing", "RobertaProcessing"):
                return [_checked(step["cls"][1])], [_checked(step["sep"][1])]
            if kind == "TemplateProcessing":
                items = [next(iter(item.items())) for item in step["single"]]
                at = [name for name, _ in items].index("Sequence")
                ids = [
                    [] if name == "Sequence" else [_checked(n) for n in step["special_tokens"][item["id"]]["ids"]]
                    for name, item in items
                ]
                return sum(ids[:at], []), sum(ids[at + 1 :], [])
        except (AttributeError, KeyError, IndexError, StopIteration, TypeError, ValueError):
            raise self.error(f"tokenizer.json has the damaged post-processor {shorten(step)}") from None
        raise self.error(f"tokenizer.json has a post-processor of type {kind}, expected TemplateProcessing")

    def _stop_ids(self, eos: int | None, count: int) -> list[int]:
        """Every id that one of the files calls the end of a text; ids beyond the vocabulary cannot come up."""
        found = {eos}
        for name in ("generation_config.json", "config.json"):
            settings = self.checkpoint.json(name)
            value = None if settings is None else settings.values.get("eos_token_id")
            for item in value if isinstance(value, list) else [value]:
                if item is not None and type(item) is not int:
                    raise self.error(
                        f"{name} has the eos_token_id {shorten(value)}, expected a number or a list of them"
                    )
                found.add(item)
        return sorted(token for token in found if token is not None and 0 <= token < count)

    def _chat_template(self) -> str | None:
        path = self.checkpoint.path / "chat_template.jinja"
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise self.error(f"chat_template.jinja cannot be read: {error}") from None
        template = self.config.values.get("chat_template")
        if isinstance(template, list):  # several, by name
            entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = entries[0].get("template") if entries else None
        if template is not None and not isinstance(template, str):
            raise self.error("tokenizer_config.json has a chat_template that is not a text")
        return template


def _added(index: int, content: str, flags: dict[str, Any]) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content} | {key: bool(flags.get(key, value)) for key, value in plain.items()}


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_TOKENS


def _checked(value: Any) -> int:
    if not _is_id(value):
        raise ValueError(value)
    return value
