"""The tokenizer against transformers on the same GGUF, and on small vocabularies with known answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers

from deepseek.errors import CheckpointError, InputError
from deepseek.frontend.checkpoint.gguf import GGUFFile
from deepseek.frontend.checkpoint.gguf_tokenizer import read_tokenizer
from deepseek.frontend.checkpoint.tokenizer import Tokenizer, TokenizerData, byte_of_character

TEXTS = [
    "",
    " ",
    "\n",
    "The quick brown fox jumps over the lazy dog.",
    "  hi  there\n\n  x   \t\tend  ",
    "def f(x):\n    return x**2 + 3.14\n\n\n\treturn {'a': [1, 2]}  # ok",
    "don't we'll I'M you've '' 's",
    "The year 2018, 1234567 and 3.14159e-10",
    "日本語テスト 中文 한국어 ñandú Ελληνικά русский العربية",
    "👩‍👩‍👧 🇩🇪 e\u0301 a\u0308",
    "\u00a0a\u3000b \r\n\r\n c\u200b\ufeff",
    "\x00\x01\x7f\x80",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> <|not_special|>",
    "https://example.org/a?b=c&d=%20#frag  --long-option=/usr/bin",
    "a" * 300,
]
# Runs of white space or fractions before digits: see the fixture.
DIGIT_TEXTS = ["a  12", "x\n\n1. one\n\n2. two", "½ ² ٣ ४", "if x:\n    7\n        8", "\t\t3"]


@pytest.fixture(scope="module")
def ours(smollm2_path: Path) -> Tokenizer:
    return Tokenizer(read_tokenizer(GGUFFile(smollm2_path)))


@pytest.fixture(scope="module")
def theirs(smollm2_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)


def test_greedy_records(ours: Tokenizer) -> None:
    for record in json.loads((Path(__file__).parent / "smollm2_greedy.json").read_text()):
        assert ours.encode(record["prompt"]) == record["prompt_ids"]
        assert ours.decode(record["new_ids"]) == record["text"]


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids
    assert ours.decode(ids, skip_special=False) == text
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", DIGIT_TEXTS + TEXTS)
def test_digits_are_split_as_the_file_says(ours: Tokenizer, theirs: Any, text: str) -> None:
    """transformers ignores tokenizer.ggml.pre = smollm, which splits digits first; its tokenizer with that step."""
    pre = tokenizers.pre_tokenizers
    backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    assert ours.encode(text) == backend.encode(text).ids


def test_random_ids_decode_like_transformers(ours: Tokenizer, theirs: Any) -> None:
    """Random tokens are mostly broken UTF-8 at the seams."""
    draw = random.Random(3)
    for _ in range(500):
        ids = [draw.randrange(len(ours)) for _ in range(draw.randrange(12))]
        expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == expected


def test_stream_holds_back_partial_characters(ours: Tokenizer) -> None:
    text = "smile 👩‍👩‍👧 日本"
    ids, stream = ours.encode(text), ours.stream()
    pieces = [stream.push(token) for token in ids] + [stream.finish()]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert "" in pieces[:-1]
    cut = ours.stream()
    emoji = ours.encode("👩")
    assert len(emoji) > 1
    assert "".join(cut.push(token) for token in emoji[:-1]) + cut.finish() == "\ufffd"


def test_chat_equals_transformers(ours: Tokenizer, theirs: Any) -> None:
    messages = [{"role": "user", "content": "Name three colors."}]
    text = ours.chat(messages)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.encode(text, add_special=False)[0] == ours.bos


def test_invalid_calls(ours: Tokenizer) -> None:
    with pytest.raises(InputError, match="token id 49152 is not in the vocabulary of 49152 tokens"):
        ours.decode([1, 49152])
    with pytest.raises(InputError, match="token id -1"):
        ours.decode([-1])
    with pytest.raises(InputError, match="not valid Unicode: surrogates not allowed at character 1"):
        ours.encode("a\ud800")


def write(path: Path, model: str, **fields: Any) -> TokenizerData:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    for key, value in fields.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}[
            type(value)
        ]
        add("tokenizer.chat_template" if key == "chat_template" else f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_tokenizer(GGUFFile(path))


LLAMA = {
    "tokens": [
        "<unk>",
        "<s>",
        "</s>",
        "<0x41>",
        "<0xC3>",
        "<0xA9>",
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
        "<user>",
    ],
    "scores": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -2.0, -1.0, -3.0, 0.0],
    "token_type": [2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 4],
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def test_sentencepiece(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path / "t.gguf", "llama", **LLAMA))
    # Best score first: "ab" (-1) wins over "▁a" (-2), then "▁" + "ab" joins (-3).
    assert tokenizer.encode("ab") == [1, 11]
    assert tokenizer.encode("ab a", add_special=False) == [11, 9]
    assert tokenizer.encode("aé", add_special=False) == [9, 4, 5]  # byte fallback
    assert tokenizer.encode("<user>", add_special=False)[-1] == 12
    assert tokenizer.decode([1, 11, 9, 2]) == "ab a"
    assert tokenizer.decode([9, 4, 5, 3]) == "aéA"
    assert tokenizer.decode([9, 4]) == "a\ufffd"
    both = Tokenizer(write(tmp_path / "u.gguf", "llama", **LLAMA, add_bos_token=False, add_eos_token=True))
    assert both.encode("ab") == [11, 2]


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2", "default", "smollm"])
def test_byte_level_round_trip(tmp_path: Path, pre: str) -> None:
    alphabet = list(byte_of_character())
    file = write(
        tmp_path / "t.gguf",
        "gpt2",
        pre=pre,
        tokens=[*alphabet, "12", "123", "Ġ1", "<s>"],
        token_type=[1] * 259 + [3],
        merges=["1 2", "12 3", "Ġ 1"],
        bos_token_id=259,
    )
    tokenizer = Tokenizer(file)
    assert tokenizer.decode(tokenizer.encode("héllo\n wörld é <s>"), skip_special=False).endswith("héllo\n wörld é <s>")
    ids = tokenizer.encode("123", add_special=False)
    # One token for up to three digits, or each digit alone.
    assert [tokenizer.tokens[token] for token in ids] == (
        ["123"] if pre in ("llama-bpe", "gpt-2", "default") else ["1", "2", "3"]
    )
    assert tokenizer.encode("")[:1] == ([259] if pre == "llama-bpe" else [])


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ("llama", {"tokens": []}, "tokenizer.ggml.tokens is missing or empty"),
        ("llama", {"scores": [0.0]}, "tokenizer.ggml.scores has 1 entries, expected 13"),
        ("llama", {"token_type": [1, 1]}, "tokenizer.ggml.token_type has 2 entries, expected 13"),
        ("llama", {"bos_token_id": 99}, "tokenizer.ggml.bos_token_id is 99, expected an id below 13"),
        ("rwkv", {}, "tokenizer.ggml.model is 'rwkv', expected one of gpt2, llama"),
        (
            "gpt2",
            {"pre": "mystery"},
            "tokenizer.ggml.pre is 'mystery', expected one of default, gpt-2, smollm",
        ),
        ("gpt2", {}, "tokenizer.ggml.merges is missing"),
        ("gpt2", {"merges": ["a b", "ab"]}, "tokenizer.ggml.merges entry 1 is 'ab', expected two tokens"),
        ("gpt2", {"merges": ["b a"]}, "tokenizer.ggml.merges entry 0 is 'b a', expected two tokens"),
    ],
)
def test_bad_metadata(tmp_path: Path, model: str, change: dict[str, Any], message: str) -> None:
    fields = {key: value for key, value in (LLAMA | change).items() if value != []}
    with pytest.raises(CheckpointError, match=message):
        Tokenizer(write(tmp_path / "t.gguf", model, **fields)).encode("a")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "cannot be rendered"),
        ("{{ ''.__class__.__mro__ }}{{ messages.append(1) }}", "cannot be rendered"),
    ],
)
def test_bad_chat_template(tmp_path: Path, template: str, message: str) -> None:
    tokenizer = Tokenizer(write(tmp_path / "t.gguf", "llama", **LLAMA, chat_template=template))
    with pytest.raises(CheckpointError, match=message):
        tokenizer.chat([{"role": "user", "content": "x"}])


def test_chat_needs_a_template(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no chat template"):
        Tokenizer(write(tmp_path / "t.gguf", "llama", **LLAMA)).chat([])
