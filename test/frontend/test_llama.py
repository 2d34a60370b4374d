"""The llama family: what its configuration refuses, its graph, and its logits against transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from deepseek.errors import CheckpointError, InputError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import find_family
from deepseek.frontend.checkpoint.families.decoder import DecoderConfig
from deepseek.frontend.checkpoint.families.llama import build_graph, read_config

CHUNK = 5


def config_of(checkpoint: Any, folder: Path) -> DecoderConfig:
    opened = open_checkpoint(checkpoint.write(folder / "small.gguf"))
    return find_family(opened).read_config(opened)


def f32(*shape: int) -> tuple[np.ndarray, Kind]:
    return np.zeros(shape, np.float32), Kind.F32


def test_config_is_read(tmp_path: Path, small_llama: Any) -> None:
    config = config_of(small_llama, tmp_path)
    assert (config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim) == (2, 64, 4, 2, 16)
    assert (config.feed_forward, config.vocabulary, config.context) == (96, 50, 64)
    assert config.tied_embeddings
    assert config.elements == sum(value.size for value, _ in small_llama.tensors.values())


def test_smollm2_config(smollm2_path: Path) -> None:
    config = read_config(open_checkpoint(smollm2_path))
    assert (config.layers, config.hidden, config.heads, config.kv_heads, config.vocabulary) == (30, 576, 9, 3, 49152)
    assert 4 * config.elements == 538_060_032  # bytes at f32, tied embeddings once


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": None}, "metadata key llama.block_count is missing"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
        ({"llama.context_length": 0}, "llama.context_length is 0, expected a positive 32-bit number"),
        ({"llama.block_count": 4_000_000_000}, "llama.block_count is 4000000000, expected a positive"),
        ({"llama.block_count": 2_000_000_000}, "asks for 2000000000 layers, but has only 20 tensors"),
        ({"llama.block_count": 3}, "tensor blk.2.attn_norm.weight is missing, expected it with shape [64]"),
        ({"llama.block_count": 1}, "tensors that the llama family does not use: blk.1.attn_norm.weight"),
        ({"llama.attention.head_count": 4.0}, "llama.attention.head_count is float, expected int"),
        ({"llama.attention.head_count": [4, 4]}, "llama.attention.head_count is an array of int32, expected int"),
        ({"llama.attention.head_count_kv": 3}, "head_count is 4, expected a multiple of head_count_kv, which is 3"),
        ({"llama.attention.head_count": 6}, "embedding_length is 64, expected a multiple of head_count, which is 6"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count is 8, expected the even head size 16"),
        ({"llama.attention.key_length": 32}, "llama.rope.dimension_count is 16, expected the even head size 32"),
        ({"llama.embedding_length": 128, "llama.rope.dimension_count": 32},
         "tensor token_embd.weight has shape [50, 64], expected [50, 128]"),
        ({"llama.feed_forward_length": 95}, "tensor blk.0.ffn_gate.weight has shape [96, 64], expected [95, 64]"),
        ({"llama.rope.freq_base": 0.0}, "rope base is 0.0"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn', which is not supported"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8, which is not supported"),
        ({"llama.vocab_size": 51}, "token_embd.weight has 50 rows, expected 51"),
        (
            {"tokenizer.ggml.tokens": [f"t{i}" for i in range(52)]},
            "token_embd.weight has 50 rows, expected 52, one for each token",
        ),
    ],
)  # fmt: skip
def test_bad_metadata(tmp_path: Path, small_llama: Any, changes: dict[str, Any], message: str) -> None:
    small_llama.metadata |= changes
    small_llama.metadata = {key: value for key, value in small_llama.metadata.items() if value is not None}
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        config_of(small_llama, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "small.gguf"))


def test_neutral_values_are_accepted(tmp_path: Path, small_llama: Any) -> None:
    small_llama.metadata |= {"llama.rope.scaling.type": "none", "llama.expert_count": 0}
    assert config_of(small_llama, tmp_path).layers == 2


def test_unknown_architecture(tmp_path: Path, small_llama: Any) -> None:
    small_llama.architecture = "mamba"
    with pytest.raises(CheckpointError, match="architecture is 'mamba', expected one of: bert, llama, qwen2"):
        config_of(small_llama, tmp_path)


def test_bad_tensors(tmp_path: Path, small_llama: Any) -> None:
    whole = dict(small_llama.tensors)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"blk.0.attn_q.bias": (np.ones(64, np.float32), Kind.F32)}, "does not use: blk.0.attn_q.bias"),
        ({f"extra.{index}": f32(1) for index in range(5)}, "extra.0, extra.1, extra.2 and 2 more"),
        ({"blk.1.attn_k.weight": f32(64, 64)}, "tensor blk.1.attn_k.weight has shape [64, 64], expected [32, 64]"),
        ({"output.weight": f32(50, 32)}, "tensor output.weight has shape [50, 32], expected [50, 64]"),
        ({"rope_freqs.weight": f32(16)}, "tensor rope_freqs.weight has shape [16], expected [8]"),
        ({"output_norm.weight": (np.zeros(64, np.float32), Kind.Q8_0)}, "tensor output_norm.weight is q8_0, expected one of"),
        ({"token_embd.weight": None}, "tensor token_embd.weight is missing"),
        ({"output_norm.weight": None}, "tensor output_norm.weight is missing, expected it with shape [64]"),
    ]  # fmt: skip
    for change, message in cases:
        small_llama.tensors = {key: value for key, value in (whole | change).items() if value is not None}
        with pytest.raises(CheckpointError, match=re.escape(message)):
            config_of(small_llama, tmp_path)


def test_graph_arguments_and_results(tmp_path: Path, small_llama: Any) -> None:
    small_llama.fill(Kind.Q8_0)
    graph = build_graph(config_of(small_llama, tmp_path))
    inputs = [(a.name, a.dtype, a.shape, a.tied) for a in graph.arguments if a.kind == "input"]
    cache = ("b", 2, 2, "c", 16)
    assert inputs == [
        ("ids", "i32", ("b", "s"), False),
        ("lengths", "i32", ("b",), False),
        ("cache.0", "f16", cache, True),
        ("cache.1", "f16", cache, True),
        ("temperature", "f32", ("b",), False),
    ]
    weights = {a.name: (a.dtype, a.shape) for a in graph.arguments if a.kind == "weight"}
    assert weights.keys() == small_llama.tensors.keys()  # the tied table is one argument
    assert weights["blk.0.attn_q.weight"] == ("i8", (64, 68))
    assert weights["blk.0.attn_norm.weight"] == ("f32", (64,))
    assert [(r.name, r.shape, r.tied) for r in graph.results] == [
        ("logits", ("b", 50), None),
        ("cache.0", cache, 2),
        ("cache.1", cache, 3),
        ("top_ids", ("b", 50), None),
        ("top_logits", ("b", 50), None),
        ("totals", ("b",), None),
    ]
    for scope in ("embed_tokens", "layers.1/self_attn/q_proj", "layers.0/mlp/down_proj", "norm", "lm_head"):
        assert f'"{scope}"' in graph.mlir
    assert graph.mlir.count("dsc.rope") == 4
    assert graph.mlir.count("interleaved") == 4


def test_graph_does_not_depend_on_precision_yet(tmp_path: Path, small_llama: Any) -> None:
    config = config_of(small_llama, tmp_path)
    assert build_graph(config, "f32").mlir == build_graph(config, "as-stored").mlir
    with pytest.raises(InputError, match="precision is 'int3', expected one of as-stored, f32"):
        build_graph(config, "int3")


def test_graph_of_another_depth(tmp_path: Path, small_llama: Any) -> None:
    config = config_of(small_llama, tmp_path).with_layers(5)
    assert config.layers == 5
    assert config.tensors["blk.4.attn_q.weight"] == config.tensors["blk.0.attn_q.weight"]
    assert build_graph(config).mlir.count("dsc.kv_append") == 5


EXACT = (Kind.F32, Kind.F16)  # as stored, nothing of these is rounded


def reference_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """f32 logits [b, s, vocabulary] of transformers on the same file."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()


@pytest.mark.parametrize(
    ("kind", "tied"),
    [(Kind.F32, True), (Kind.F16, False), (Kind.BF16, True), (Kind.Q4_0, True), (Kind.Q4_1, False),
     (Kind.Q5_0, True), (Kind.Q5_1, True), (Kind.Q8_0, False), (Kind.Q4_K, True), (Kind.Q5_K, False),
     (Kind.Q6_K, True)],
)  # fmt: skip
def test_logits_equal_transformers(tmp_path: Path, small_llama: Any, runner: Any, kind: Kind, tied: bool) -> None:
    """Every format of `BLOCK_FORMATS`: the file's own bytes, decoded by gguf-py for the reference."""
    if kind.name.endswith("_K"):
        small_llama.rename("llama", embedding_length=256, feed_forward_length=256)
    checkpoint = small_llama.fill(kind, tied)
    check_logits(checkpoint, tmp_path / "small.gguf", runner, as_stored_tolerance(kind))
    if kind not in EXACT:
        check_logits(checkpoint, tmp_path / "small.gguf", runner, precision="f32")


@pytest.mark.parametrize(("kind", "tied"), [(Kind.F32, False), (Kind.Q8_0, True), (Kind.Q4_K, False)])
def test_qwen2_logits_equal_transformers(tmp_path: Path, small_llama: Any, runner: Any, kind: Kind, tied: bool) -> None:
    """Rotary pairs are half a head apart in this architecture's files, and q, k and v have biases."""
    size = 256 if kind == Kind.Q4_K else 64
    small_llama.rename("qwen2", embedding_length=size, feed_forward_length=256)
    check_logits(small_llama.fill(kind, tied), tmp_path / "small.gguf", runner, as_stored_tolerance(kind))


def as_stored_tolerance(kind: Kind) -> float:
    """Products with bf16 weights may round their operands, each by 2^-9, and so may those with blocks on targets that
    multiply tiles or dots of bf16."""
    return 1e-4 if kind in EXACT else 2**-5


def check_logits(
    checkpoint: Any, path: Path, runner: Any, tolerance: float = 1e-4, precision: str = "as-stored"
) -> None:
    """A batch of two, a prefill and then single tokens, all positions: max|a - b| <= tolerance max|b| per token."""
    tokens = [f"t{index}" for index in range(49)] + ["<s>"]
    checkpoint.metadata |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens}
    checkpoint.write(path)
    ids = np.random.default_rng(1).integers(0, 50, (2, 12))
    expected, ours = reference_logits(path, ids), runner(path, precision).logits(ids, CHUNK)
    scale = np.abs(expected).max(axis=-1)
    assert scale.min() > 1
    assert (np.abs(ours - expected).max(axis=-1) / scale).max() <= tolerance


def test_rope_frequency_factors(tmp_path: Path, small_llama: Any) -> None:
    """Frequencies are base ** -e / factor: factors (500 / 10000) ** e turn base 10000 into base 500."""
    from deepseek.model import Model

    ids = np.arange(9)

    def logits(name: str) -> np.ndarray:
        return Model.from_pretrained(small_llama.write(tmp_path / name)).logits(ids)

    plain = logits("plain.gguf")
    factors = (500 / 10000) ** (np.arange(0, 16, 2) / 16)
    small_llama.tensors["rope_freqs.weight"] = (factors.astype(np.float32), Kind.F32)
    scaled = logits("scaled.gguf")
    del small_llama.tensors["rope_freqs.weight"]
    small_llama.metadata["llama.rope.freq_base"] = 500.0
    assert np.abs(scaled - plain).max() > 1e-2
    np.testing.assert_allclose(scaled, logits("other.gguf"), rtol=0, atol=1e-3)
