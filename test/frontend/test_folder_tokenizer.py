"""Tokenizers of Hugging Face folders against transformers' AutoTokenizer on the same files."""

from __future__ import annotations

import json
import random
import re
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.folder import FolderCheckpoint
from deepseek.frontend.checkpoint.tokenizer import Tokenizer, TokenizerData

TEXTS = [
    "",
    " ",
    "\n",
    "The quick brown fox jumps over the lazy dog.",
    "  hi  there\n\n  x   \t\tend  ",
    "def f(x):\n    return x**2 + 3.14\n\n\n\treturn {'a': [1, 2]}  # ok",
    "don't we'll I'M you've '' 's , . ! ? do not",
    "The year 2018, 1234567 and 3.14159e-10",
    "日本語テスト 中文 한국어 ñandú Ελληνικά русский العربية हिन्दी ไทย",
    "👩‍👩‍👧 🇩🇪 e\u0301 a\u0308 ﬁ",
    "\u00a0a\u3000b \r\n\r\n c\u200b\ufeff",
    "\x00\x01\x7f\x80",
    "<s>user\nhi</s>\n<|im_start|> <|not_special|> [CLS] [MASK] <unk>",
    "https://example.org/a?b=c&d=%20#frag  --long-option=/usr/bin",
    "a" * 300,
    "unbelievable antidisestablishmentarianism " * 3,
]
# A text to learn merges from; what it lacks is spelled in bytes.
CORPUS = [text for text in TEXTS if "<s>" not in text] + ["the cat and the dog and the bird " * 5]


def trained(kind: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE model."""
    import tokenizers as t

    if kind == "bytes":
        model, pre = t.models.BPE(), t.pre_tokenizers.ByteLevel(add_prefix_space=False)
        special, alphabet = [], t.pre_tokenizers.ByteLevel.alphabet()
    else:
        model = t.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        pre = t.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        special, alphabet = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))], []
    backend = t.Tokenizer(model)
    backend.pre_tokenizer = pre
    trainer = t.trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, limit_alphabet=300, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    state = json.loads(backend.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


def llama2() -> Any:
    from transformers import LlamaTokenizer

    vocabulary, merges = trained("sentencepiece")
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)


def llama2_legacy() -> Any:
    """The pipeline that conversions of Llama 2 from sentencepiece have."""
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = trained("sentencepiece")
    backend = t.Tokenizer(t.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = t.normalizers.Sequence([t.normalizers.Prepend("▁"), t.normalizers.Replace(" ", "▁")])
    steps = [t.decoders.Replace("▁", " "), t.decoders.ByteFallback(), t.decoders.Fuse(), t.decoders.Strip(" ", 1, 0)]
    backend.decoder = t.decoders.Sequence(steps)
    backend.post_processor = t.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def qwen2() -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary, merges = trained("bytes")
    tokenizer = Qwen2Tokenizer(vocab=vocabulary | {"<|endoftext|>": len(vocabulary)}, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def llama3() -> Any:
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = trained("bytes")
    vocabulary |= {"<s>": len(vocabulary), "</s>": len(vocabulary) + 1}
    backend = t.Tokenizer(t.models.BPE(vocabulary, merges, ignore_merges=True))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = t.pre_tokenizers.Sequence(
        [t.pre_tokenizers.Split(t.Regex(pattern), "isolated"), t.pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = t.decoders.ByteLevel()
    template = t.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    backend.post_processor = t.processors.Sequence([t.processors.ByteLevel(trim_offsets=False), template])
    backend.add_special_tokens(["<s>", "</s>"])
    backend.add_tokens(["<|not_special|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


KINDS = {"llama2": llama2, "llama2_legacy": llama2_legacy, "qwen2": qwen2, "llama3": llama3}


def folder_of(path: Path, **config: Any) -> Path:
    """Makes a folder with tokenizer files into one that can be opened; the weights do not matter here."""
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    header = json.dumps({"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path, smollm2_path: Path) -> dict[str, Path]:
    from transformers import AutoTokenizer

    found = {"minilm": minilm_path}
    for name, build in KINDS.items():
        path = tmp_path_factory.mktemp(name)
        build().save_pretrained(path)
        found[name] = folder_of(path)
    path = tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name).save_pretrained(path)
    return found | {"smollm2": folder_of(path)}


def ours_and_theirs(path: Path) -> tuple[Tokenizer, Any]:
    from transformers import AutoTokenizer

    return Tokenizer(FolderCheckpoint(path).tokenizer_data()), AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("name", [*KINDS, "minilm", "smollm2"])
def test_equals_transformers(folders: dict[str, Path], name: str) -> None:
    ours, theirs = ours_and_theirs(folders[name])
    assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in TEXTS:
        ids = theirs(text, truncation=False, padding=False).input_ids
        assert ours.encode(text) == ids, text
        bare = theirs(text, add_special_tokens=False, truncation=False, padding=False).input_ids
        assert ours.encode(text, add_special=False) == bare, text
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special=skip) == expected, text
        stream = ours.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)


@pytest.mark.parametrize("name", [*KINDS, "smollm2"])
def test_round_trip(folders: dict[str, Path], name: str) -> None:
    ours = Tokenizer(FolderCheckpoint(folders[name]).tokenizer_data())
    # llama2 takes a space at the beginning for its own prefix.
    texts = [text for text in TEXTS if not text.startswith(" ") and "<s>" not in text]
    for text in texts:
        expected = unicodedata.normalize("NFC", text) if name == "qwen2" else text
        assert ours.decode(ours.encode(text)) == expected


@pytest.mark.parametrize("name", ["qwen2", "llama3", "minilm"])
def test_random_ids_decode_like_transformers(folders: dict[str, Path], name: str) -> None:
    """Tokens in any order: broken UTF-8, pieces of words at the beginning, special tokens."""
    ours, theirs = ours_and_theirs(folders[name])
    draw = random.Random(5)
    for _ in range(200):
        ids = [draw.randrange(len(theirs)) for _ in range(draw.randrange(8))]
        for skip in (True, False):
            expected = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special=skip) == expected, ids


@pytest.mark.parametrize("name", [*KINDS, "minilm"])
def test_data_survives_json(folders: dict[str, Path], name: str) -> None:
    data = FolderCheckpoint(folders[name]).tokenizer_data()
    text = data.to_json()
    assert TokenizerData.from_json(text) == data
    assert TokenizerData.from_json(text).to_json() == text
    ours, again = Tokenizer(data), Tokenizer(TokenizerData.from_json(text))
    assert again.encode(TEXTS[3]) == ours.encode(TEXTS[3])


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["llama3"], tmp_path / "model"))


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def test_stop_ids_are_gathered(copied: Path) -> None:
    eos = FolderCheckpoint(copied).tokenizer_data().eos
    edit(copied, "generation_config.json", eos_token_id=[3, 5, 10**6])
    edit(copied, "config.json", eos_token_id=7)
    assert FolderCheckpoint(copied).tokenizer_data().stop_ids == sorted({3, 5, 7, eos})
    edit(copied, "generation_config.json", eos_token_id="x")
    with pytest.raises(CheckpointError, match="generation_config.json has the eos_token_id 'x', expected a number"):
        FolderCheckpoint(copied).tokenizer_data()


def test_the_post_processor_decides(copied: Path) -> None:
    """transformers 5 ignores these flags where there is a tokenizer.json; so do we."""
    for flags in ({"add_bos_token": False}, {"add_eos_token": False}):
        edit(copied, "tokenizer_config.json", **flags)
        ours, theirs = ours_and_theirs(copied)
        assert ours.encode("hi") == theirs("hi").input_ids
        assert ours.encode("hi")[0] == ours.bos and ours.encode("hi")[-1] == ours.eos
    edit(copied, "tokenizer.json", post_processor={"type": "RobertaProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]})
    assert Tokenizer(FolderCheckpoint(copied).tokenizer_data()).encode("") == [1, 2]


def test_tokens_that_only_the_configuration_knows(copied: Path) -> None:
    """Special tokens named in tokenizer_config.json, of which tokenizer.json says nothing."""
    spec = json.loads((copied / "tokenizer.json").read_text())
    count = len(spec["model"]["vocab"])
    added = {str(count): {"content": "<|new|>", "special": True, "lstrip": True}}
    edit(copied, "tokenizer.json", added_tokens=[])
    edit(copied, "tokenizer_config.json", added_tokens_decoder=added, eos_token={"content": "</s>"})
    ours = Tokenizer(FolderCheckpoint(copied).tokenizer_data())
    ids = ours.encode("a <|new|></s>", add_special=False)
    assert [ours.tokens[token] for token in ids] == ["a", "<|new|>", "</s>"]
    assert ours.decode(ids) == "a"
    edit(copied, "tokenizer_config.json", added_tokens_decoder={str(count + 1): {"content": "<|new|>"}})
    with pytest.raises(CheckpointError, match=f"with id {count + 1}, expected {count}, the next free id"):
        FolderCheckpoint(copied).tokenizer_data()


def test_more_logits_than_tokens(copied: Path) -> None:
    """Models pad their vocabulary; such an id decodes to nothing."""
    edit(copied, "config.json", vocab_size=2048)
    ours = Tokenizer(FolderCheckpoint(copied).tokenizer_data())
    assert len(ours) == 2048
    assert ours.decode([2047, *ours.encode("abc", add_special=False), 2047]) == "abc"


def test_no_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    assert FolderCheckpoint(copied).tokenizer_data() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "tokenizer.json has a model of type Unigram, expected one of BPE, WordPiece"),
        ({"model": {"type": "BPE", "vocab": [], "merges": []}}, "tokenizer.json: model vocab is an array, expected dict"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "gives token 'a' the id -1, expected a number"),
        ({"model": {"type": "BPE", "vocab": {"a": 10**12}, "merges": []}}, "gives token 'a' the id 1000000000000"),
        ({"model": {"type": "BPE", "vocab": {"a": 1, "b": 1}, "merges": []}}, "gives one id to several tokens"),
        ({"model": 3}, "tokenizer.json: model is int, expected dict"),
        ({"decoder": None}, "has the decoder None, expected one of ByteLevel"),
        ({"added_tokens": [{"id": 1}]}, "has the added token {'id': 1}, expected id, content and special"),
        ({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}]}}, "has the damaged post-processor"),
        ({"post_processor": {"type": "Magic"}}, "has a post-processor of type Magic"),
        ({"post_processor": {"type": "Sequence", "processors": 3}}, "has the post_processor"),
    ],
)  # fmt: skip
def test_bad_tokenizer_json(copied: Path, changes: dict[str, Any], message: str) -> None:
    edit(copied, "tokenizer.json", **changes)
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        FolderCheckpoint(copied).tokenizer_data()
    assert str(caught.value).startswith(str(copied))


def test_what_only_the_library_refuses(copied: Path) -> None:
    edit(copied, "tokenizer.json", pre_tokenizer={"type": "Magic"})
    tokenizer = Tokenizer(FolderCheckpoint(copied).tokenizer_data())
    assert tokenizer.decode([65]) != ""  # decoding does not need it
    with pytest.raises(CheckpointError, match="the tokenizer cannot be built: "):
        tokenizer.encode("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the tokenizer is not valid JSON"),
        ("[]", "not an object with exactly the keys"),
        (("kind", "unigram"), "the kind of tokenizer is 'unigram'"),
        (("types", [1]), "the tokenizer has 1 token types, expected"),
        (("bos", 10**9), "the tokenizer names token id 1000000000"),
        (("eos", "x"), "the tokenizer's eos has a value of the wrong type"),
        (("tokens", [1]), "the tokenizer's tokens has a value of the wrong type"),
        (("backend", None), "the tokenizer's backend has a value of the wrong type"),
    ],
)
def test_bad_data(folders: dict[str, Path], text: Any, message: str) -> None:
    if isinstance(text, tuple):
        values = json.loads(FolderCheckpoint(folders["llama3"]).tokenizer_data().to_json())
        text = json.dumps(values | {text[0]: text[1]})
    with pytest.raises(CheckpointError, match=re.escape(message)):
        TokenizerData.from_json(text)
