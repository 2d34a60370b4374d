"""Hugging Face folders of llama and qwen2, written by transformers: logits against its f32 eager model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import find_family

TOLERANCE = 1e-4  # max|a - b| <= TOLERANCE * max|b| for each token
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}


def randomize(model: Any) -> Any:
    """Random parameters that make every part of a transformers model count: norms about 1, all else about 0."""
    import torch

    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0, 0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                value += 1
    return model.eval()


def make(folder: Path, kind: str = "llama", dtype: str = "float32", shards: str = "1GB", **options: Any) -> Path:
    """A random model saved by transformers."""
    import torch
    import transformers

    config = getattr(transformers, f"{kind.capitalize()}Config")(**(SIZES | options))
    model = randomize(getattr(transformers, f"{kind.capitalize()}ForCausalLM")(config))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    return folder


def reference_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    """f32 logits [b, s, vocabulary] of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()


def check_logits(runner: Any, folder: Path, prefill: int = 9, tolerance: float = TOLERANCE) -> None:
    ids = np.random.default_rng(1).integers(0, SIZES["vocab_size"], (2, 14))
    expected, ours = reference_logits(folder, ids), runner(folder).logits(ids, prefill)
    scale = np.abs(expected).max(axis=-1)
    assert scale.min() > 1
    assert (np.abs(ours - expected).max(axis=-1) / scale).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"dtype": "float32"}),
        ("llama", {"dtype": "float16", "tie_word_embeddings": True, "shards": "20KB"}),
        ("llama", {"dtype": "bfloat16", "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
        ("llama", {"num_key_value_heads": 4, "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}),
        ("llama", {"rope_parameters": LLAMA3 | {"rope_theta": 10000.0}}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0}}),
        ("qwen2", {"dtype": "float32", "shards": "20KB"}),
        ("qwen2", {"dtype": "bfloat16", "tie_word_embeddings": True, "num_key_value_heads": 1}),
        ("qwen2", {"dtype": "float16", "use_sliding_window": False, "sliding_window": 4}),
    ],
)
def test_logits_equal_transformers(tmp_path: Path, runner: Any, kind: str, options: dict[str, Any]) -> None:
    """A batch of two, a prefill and then token by token."""
    folder = make(tmp_path / "model", kind, **options)
    shards = len(list(folder.glob("*.safetensors")))
    assert (shards > 1) == ("shards" in options)
    # Products with bf16 weights may round their operands, each by 2^-9.
    check_logits(runner, folder, tolerance=2**-6 if options.get("dtype") == "bfloat16" else TOLERANCE)
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.files) == shards
    assert checkpoint.file_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for tensor in checkpoint.tensors.values():
        raw = checkpoint.files[tensor.file_index].read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        assert raw == tensor.data.tobytes()
    stored = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[options.get("dtype", "float32")]
    assert {tensor.format.name for tensor in checkpoint.tensors.values()} == {stored}


def edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    """Sets keys of a JSON file; `...` removes one."""
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 777.0, "rope_scaling": None},
        {"rope_theta": 777.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 777.0, "rope_scaling": LLAMA3},
        {"rope_scaling": {"rope_type": "default"}},  # without a base: 10000
    ],
)
def test_spelling_of_transformers_4(tmp_path: Path, runner: Any, changes: dict[str, Any]) -> None:
    folder = edit(make(tmp_path / "model"), rope_parameters=..., **changes)
    check_logits(runner, folder)


def test_llama3_frequencies_of_a_published_model() -> None:
    """Llama 3.1 8B: transformers computes in f32."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from deepseek.frontend.checkpoint.families.rope import read_rope
    from deepseek.frontend.checkpoint.settings import Settings

    scaling = LLAMA3 | {"original_max_position_embeddings": 8192}
    values = {"rope_theta": 500000.0, "rope_scaling": scaling}
    expected = LlamaRotaryEmbedding(LlamaConfig(head_dim=128, **json.loads(json.dumps(values)))).inv_freq.numpy()
    ours = read_rope(Settings(values, "config.json:", CheckpointError), 128, 131072)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("plain") / "model", shards="20KB")


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """A folder to damage: links to the weights, copies of the JSON files."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in plain.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
        else:
            (folder / path.name).symlink_to(path)
    return folder


def failure(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint = open_checkpoint(folder)
        find_family(checkpoint).read_config(checkpoint)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "architecture is 'mamba', expected one of: bert, llama, qwen2"),
        ({"model_type": ...}, "config.json: model_type is missing"),
        ({"hidden_act": "gelu"}, "config.json: hidden_act is 'gelu', which is not supported; expected 'silu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: quant_method is missing"),
        ({"sliding_window": 16}, "sliding_window is 16, which is not supported"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types holds 'sliding_attention'"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"logits_scaling": 2.0}, "logits_scaling is 2.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type is 'yarn', expected one of default, linear, llama3"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "rope parameter low_freq_factor is missing"),
        ({"rope_parameters": {"full_attention": {}}}, "expected one set for all layers"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "factor of rope type linear is 0.5, expected at least 1"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1.0, expected a positive number"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers, but has only"),
        ({"num_hidden_layers": "two"}, "config.json: num_hidden_layers is str, expected int"),
        ({"num_key_value_heads": 3}, "expected a multiple of num_key_value_heads, which is 3"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, expected a positive 32-bit number"),
        ({"hidden_size": 64}, "tensor model.embed_tokens.weight has shape [61, 32], expected [61, 64]"),
        ({"head_dim": 7}, "the head size is 7, expected an even number"),
        ({"vocab_size": 60}, "tensor model.embed_tokens.weight has shape [61, 32], expected [60, 32]"),
        ({"attention_bias": True}, "tensor model.layers.0.self_attn.q_proj.bias is missing"),
        ({"model_type": "qwen2"}, "tensor model.layers.0.self_attn.q_proj.bias is missing"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is str, expected float"),
    ],
)  # fmt: skip
def test_bad_config(copied: Path, changes: dict[str, Any], message: str) -> None:
    assert message in failure(edit(copied, **changes))


def test_tied_and_window_variants(copied: Path) -> None:
    """A second copy of a tied table is not read; a window that no layer has does not matter."""
    edit(copied, tie_word_embeddings=True, layer_types=["full_attention"] * 2, sliding_window=16)
    checkpoint = open_checkpoint(copied)
    config = find_family(checkpoint).read_config(checkpoint)
    assert "lm_head.weight" in checkpoint.tensors and "lm_head.weight" not in config.tensors


def test_bad_folders(copied: Path) -> None:
    index = "model.safetensors.index.json"
    original = json.loads((copied / index).read_text())
    names = original["weight_map"]
    first, last = sorted(set(names.values()))[0], sorted(set(names.values()))[-1]
    edit(copied, index, weight_map=names | {"extra": first})
    assert f"{index} names tensor extra in {first}, which does not hold it" in failure(copied)
    moved = next(name for name, shard in names.items() if shard == first)
    edit(copied, index, weight_map=names | {moved: last})
    assert f"names tensor {moved} in {last}, which does not hold it" in failure(copied)
    edit(copied, index, weight_map=names | {moved: "model-9.safetensors"})
    assert "names model-9.safetensors, which is missing" in failure(copied)
    edit(copied, index, weight_map=names | {moved: "../model.safetensors"})
    assert "names '../model.safetensors' for tensor" in failure(copied)
    edit(copied, index, weight_map=names | {moved: 3})
    assert "names 3 for tensor" in failure(copied)
    edit(copied, index, weight_map={})
    assert "names no weight files" in failure(copied)
    (copied / last).unlink()
    (copied / last).symlink_to((copied / first).resolve())
    edit(copied, index, weight_map=names)
    assert f"is in both {first} and {last}" in failure(copied)
    (copied / index).write_text("[1]")
    assert "holds an array, expected a JSON object" in failure(copied)
    (copied / index).write_text('{"a": 1, "a": 2}')
    assert "is not valid JSON: the key 'a' appears twice" in failure(copied)
    (copied / index).write_bytes(b'{"a": "\xff"}')
    assert "is not valid JSON: not UTF-8 at byte 7" in failure(copied)
    (copied / index).write_text('{"a": "\\ud800"}')
    assert "holds half of a surrogate pair" in failure(copied)
    (copied / index).write_text('{"a": ' + "[" * 100_000)
    assert "is not valid JSON" in failure(copied)
    (copied / index).unlink()
    assert f"has neither model.safetensors nor {index}" in failure(copied)
    (copied / "pytorch_model.bin").touch()
    assert "found ['pytorch_model.bin']: save the model again with safetensors" in failure(copied)
    (copied / "config.json").unlink()
    assert "has no config.json, expected a Hugging Face folder" in failure(copied)


def test_unused_tensors_are_named(tmp_path: Path) -> None:
    """A model with more parts than its configuration says is of another kind."""
    folder = make(tmp_path / "model", "qwen2")
    message = failure(edit(folder, model_type="llama"))
    assert re.search(r"does not use: model\.layers\.0\.self_attn\.[kqv]_proj\.bias.* and 3 more", message)
    with pytest.raises(CheckpointError, match="is a weight file, expected the folder"):
        open_checkpoint(folder / "model.safetensors")
