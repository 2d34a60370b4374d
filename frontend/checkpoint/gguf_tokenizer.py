"""The tokenizer in a GGUF file's metadata, as `TokenizerData`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from deepseek.frontend.checkpoint.gguf import GGUFFile
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

# Split patterns of the pre-tokenizers, as their publishers' tokenizer.json have them.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PRE_TOKENIZERS = ("default", "gpt-2", "smollm", "llama-bpe", "qwen2")
_SPACE = "\u2581"  # sentencepiece's visible space


def read_tokenizer(file: GGUFFile) -> TokenizerData:
    """The tokenizer of `file`. Raises `CheckpointError` for metadata that is incomplete or not supported."""
    model = file.settings.require("tokenizer.ggml.model", str)
    if model not in ("gpt2", "llama"):
        raise file.error(f"tokenizer.ggml.model is {model!r}, expected one of gpt2, llama")
    tokens = file.array("tokenizer.ggml.tokens", str)
    if not tokens:
        raise file.error("metadata key tokenizer.ggml.tokens is missing or empty, expected the vocabulary")
    types = file.array("tokenizer.ggml.token_type", int)
    types = [NORMAL] * len(tokens) if types is None else types.tolist()
    _same_length(file, "token_type", types, tokens)
    bad = next((kind for kind in types if kind not in range(NORMAL, BYTE + 1)), None)
    if bad is not None:
        raise file.error(f"tokenizer.ggml.token_type holds {bad}, expected numbers from {NORMAL} to {BYTE}")
    pre = file.settings.get("tokenizer.ggml.pre", str, "default")
    if model == "gpt2" and pre not in _PRE_TOKENIZERS:
        raise file.error(f"tokenizer.ggml.pre is {pre!r}, expected one of {', '.join(_PRE_TOKENIZERS)}")
    special = {key: _special(file, f"{key}_token_id", tokens) for key in ("bos", "eos", "unknown", "eot")}
    # llama.cpp's defaults where the file does not say.
    begins = model == "llama" or pre == "llama-bpe"
    add_bos = file.settings.get("tokenizer.ggml.add_bos_token", bool, begins)
    add_eos = file.settings.get("tokenizer.ggml.add_eos_token", bool, False)
    add_space_prefix = model == "llama" and file.settings.get("tokenizer.ggml.add_space_prefix", bool, True)
    if model == "gpt2":
        backend = _byte_level(file, tokens, pre)
    else:
        backend = _sentencepiece(file, tokens, types, add_space_prefix)
    backend["added_tokens"] = [
        {"id": index, "content": token, "special": kind != USER_DEFINED}
        | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if token and kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    embedding = file.tensors.get("token_embd.weight")
    tokens, types = pad_tokens(tokens, types, embedding.shape[0] if embedding is not None else 0)
    return TokenizerData(
        kind="bpe-bytes" if model == "gpt2" else "sentencepiece",
        backend=json.dumps({"version": "1.0"} | backend, ensure_ascii=False),
        tokens=tokens,
        types=types,
        bos=special["bos"],
        eos=special["eos"],
        unk=special["unknown"],
        stop_ids=sorted({token for token in (special["eos"], special["eot"]) if token is not None}),
        prefix_ids=[special["bos"]] if add_bos and special["bos"] is not None else [],
        suffix_ids=[special["eos"]] if add_eos and special["eos"] is not None else [],
        add_space_prefix=add_space_prefix,
        chat_template=file.settings.get("tokenizer.chat_template", str),
    )


def _same_length(file: GGUFFile, key: str, values: Sequence[Any], tokens: list[str]) -> None:
    if len(values) != len(tokens):
        raise file.error(f"tokenizer.ggml.{key} has {len(values)} entries, expected {len(tokens)}, one for each token")


def _special(file: GGUFFile, key: str, tokens: list[str]) -> int | None:
    token = file.settings.get(f"tokenizer.ggml.{key}", int)
    if token is not None and not 0 <= token < len(tokens):
        raise file.error(f"tokenizer.ggml.{key} is {token}, expected an id below {len(tokens)}")
    return token


def _byte_level(file: GGUFFile, tokens: list[str], pre: str) -> dict[str, Any]:
    lines = file.array("tokenizer.ggml.merges", str)
    if lines is None:
        raise file.error("metadata key tokenizer.ggml.merges is missing, expected the merges of gpt2 BPE")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = []
    for index, line in enumerate(lines):
        left, space, right = line.partition(" ")
        if not space or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise file.error(
                f"tokenizer.ggml.merges entry {index} is {line!r}, expected two tokens whose union is a token"
            )
        merges.append([left, right])
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    steps = [to_bytes]
    if pre == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, to_bytes]
    elif pre in ("llama-bpe", "qwen2"):
        pattern = {"Regex": _LLAMA3 if pre == "llama-bpe" else _QWEN2}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        steps = [split, to_bytes | {"use_regex": False}]
    return {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        # Llama 3's publisher sets ignore_merges, for words that no sequence of merges reaches.
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": pre == "llama-bpe"},
    }


def _sentencepiece(file: GGUFFile, tokens: list[str], types: list[int], add_space_prefix: bool) -> dict[str, Any]:
    scores = file.array("tokenizer.ggml.scores", float)
    if scores is None:
        raise file.error("metadata key tokenizer.ggml.scores is missing, expected those of the llama vocabulary")
    _same_length(file, "scores", scores, tokens)
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]
    if add_space_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": _SPACE})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": _merges_by_score(tokens, types, scores.tolist()),
            "unk_token": next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None),
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _merges_by_score(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Sentencepiece joins the neighbours whose union scores best: as BPE merges, best first."""
    usable = {token: index for index, token in enumerate(tokens) if types[index] in (NORMAL, USER_DEFINED, UNUSED)}
    ranked = []
    for token, index in usable.items():
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in splits if pair[0] in usable and pair[1] in usable]
        pairs.sort(key=lambda pair: (usable[pair[0]], usable[pair[1]]))
        ranked += [(-scores[index], pair) for pair in pairs]
    ranked.sort(key=lambda entry: entry[0])
    return [pair for _, pair in ranked]
