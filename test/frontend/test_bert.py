"""BERT encoders against sentence-transformers, and against transformers with the published pooling formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.errors import CheckpointError, InputError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import bert, find_family
from deepseek.frontend.checkpoint.tokenizer import Tokenizer

COSINE = 1e-5  # 1 - cos
TEXTS = [
    "a",
    "",
    "A cat sat on the mat.",
    "Die Katze saß auf der Matte; naïve café 日本語 👍",
    "An unequal batch has rows of different lengths, whose padding must not count. " * 3,
    "More than two hundred and fifty-six tokens are cut. " * 60,
]


def distance(ours: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 - cos of each row, in float64."""
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    return 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.fixture(scope="module")
def minilm(minilm_path: Path, runner: Any) -> Any:
    return runner(minilm_path)


@pytest.fixture(scope="module")
def sentences(minilm_path: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_path), device="cpu")


def rows_of(checkpoint: Any, texts: list[str], context: int) -> list[list[int]]:
    """Ids as `Model.embed` makes them: the end of a long text is lost, not the special ids."""
    tokenizer = Tokenizer(checkpoint.tokenizer_data())
    room = context - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    return [
        [*tokenizer.prefix_ids, *tokenizer.encode(text, add_special=False)[:room], *tokenizer.suffix_ids]
        for text in texts
    ]


def test_minilm_equals_sentence_transformers(minilm: Any, sentences: Any) -> None:
    """In one batch, and each text alone."""
    expected = sentences.encode(TEXTS)
    rows = rows_of(minilm.checkpoint, TEXTS, minilm.config.context)
    assert [len(row) for row in rows][:2] == [3, 2] and len(rows[-1]) == sentences.max_seq_length == 256
    ours = minilm.vectors(rows)
    assert ours.shape == (len(TEXTS), 384)
    assert distance(ours, expected).max() <= COSINE
    assert np.abs(ours - expected).max() <= 1e-5  # both of length 1
    alone = np.concatenate([minilm.vectors([row]) for row in rows])
    assert distance(alone, expected).max() <= COSINE


def test_model_embed(minilm_path: Path, sentences: Any) -> None:
    from deepseek.model import Model

    model = Model.from_pretrained(minilm_path)
    assert distance(model.embed(TEXTS), sentences.encode(TEXTS)).max() <= COSINE


def test_minilm_config(minilm: Any) -> None:
    config = minilm.config
    assert (config.kind, config.layers, config.hidden, config.heads, config.head_dim) == ("encoder", 6, 384, 12, 32)
    assert (config.vocabulary, config.context, config.feed_forward) == (30522, 256, 1536)
    assert config.pooling == bert.Pooling("mean", True, 256)
    assert config.elements == 22_713_216 - 384 * 384 - 384  # as published, without the pooler
    with pytest.raises(InputError, match="all_logits asks for logits of every position"):
        bert.build_graph(config, all_logits=True)
    with pytest.raises(InputError, match="precision is 'int3'"):
        bert.build_graph(config, "int3")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT for masked language modelling, so that names begin with bert. and there are further tensors."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("bert") / "model"
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=24, initializer_range=0.3)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "model"))


def sentence_files(folder: Path, modules: list[str], pooling: dict[str, Any], **limits: Any) -> Path:
    """Writes what sentence-transformers keeps beside a model."""
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    entries = [{"idx": i, "type": f"a.b.{name}", "path": paths.get(name, "3")} for i, name in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits))
    return folder


def hidden_states(folder: Path, ids: list[int]) -> np.ndarray:
    """[s, hidden] of transformers in f32."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize(
    ("modules", "pooling", "mode", "normalized"),
    [
        (None, None, "mean", False),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True}, "cls", False),
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode": "cls"}, "cls", True),
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode": ["mean"], "embedding_dimension": 32}, "mean", True),
    ],
)
def test_pooling(copied: Path, runner: Any, modules: Any, pooling: Any, mode: str, normalized: bool) -> None:
    if modules is not None:
        sentence_files(copied, modules, pooling)
    small = runner(copied)
    assert small.config.context == 24
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11], [12]]
    ours = small.vectors(rows)
    for row, vector in zip(rows, ours, strict=True):
        states = hidden_states(copied, row).astype(np.float64)
        expected = states.mean(axis=0) if mode == "mean" else states[0]
        if normalized:
            expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def failure(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint = open_checkpoint(folder)
        find_family(checkpoint).read_config(checkpoint)
    assert str(caught.value).startswith(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (["Transformer", "Pooling", "Dense"], {}, "modules.json lists Transformer, Pooling, Dense, expected"),
        (["Transformer"], {}, "modules.json lists Transformer, expected"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, "1_Pooling/config.json: pooling is max, expected one of mean, cls"),
        (["Transformer", "Pooling"], {"pooling_mode": ["mean", "cls"]}, "pooling is mean + cls"),
        (["Transformer", "Pooling"], {"word_embedding_dimension": 64}, "word_embedding_dimension is 64, expected the hidden size 32"),
    ],
)  # fmt: skip
def test_bad_pooling(copied: Path, modules: list[str], pooling: dict[str, Any], message: str) -> None:
    assert message in failure(sentence_files(copied, modules, pooling))


def test_bad_sentence_files(copied: Path) -> None:
    sentence_files(copied, ["Transformer", "Pooling"], {}, max_seq_length=0)
    assert "sentence_bert_config.json: max_seq_length is 0, expected a positive" in failure(copied)
    sentence_files(copied, ["Transformer", "Pooling"], {}, max_seq_length=9)
    checkpoint = open_checkpoint(copied)
    assert find_family(checkpoint).read_config(checkpoint).context == 9
    (copied / "modules.json").write_text("[3]")
    assert "modules.json holds 3, expected objects with type and path" in failure(copied)
    (copied / "modules.json").write_text("[")
    assert "modules.json cannot be read" in failure(copied)
    entries = [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "../x"}]
    (copied / "modules.json").write_text(json.dumps(entries))
    assert "modules.json has the pooling in '../x', expected a folder's name" in failure(copied)
    entries[1]["path"] = "absent"
    (copied / "modules.json").write_text(json.dumps(entries))
    assert "there is no absent/config.json" in failure(copied)
    entries[0]["path"] = "0_Transformer"
    (copied / "modules.json").write_text(json.dumps(entries))
    assert "has the transformer in 0_Transformer, expected it in the folder itself" in failure(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', which is not supported; expected 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"num_attention_heads": 5}, "hidden_size is 32, expected a multiple of num_attention_heads, which is 5"),
        ({"num_hidden_layers": 3}, "tensor bert.encoder.layer.2.attention.self.query.weight is missing"),
        ({"num_hidden_layers": 1}, "does not use: bert.encoder.layer.1."),
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers"),
        ({"type_vocab_size": 3}, "token_type_embeddings.weight has shape [2, 32], expected [3, 32]"),
        ({"layer_norm_eps": 2.0}, "layer_norm_eps is 2.0"),
    ],
)
def test_bad_config(copied: Path, changes: dict[str, Any], message: str) -> None:
    values = json.loads((copied / "config.json").read_text()) | changes
    (copied / "config.json").write_text(json.dumps(values))
    assert message in failure(copied)


def test_gguf_is_refused(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "is a BERT model in GGUF, which is not supported" in failure(tmp_path / "b.gguf")
