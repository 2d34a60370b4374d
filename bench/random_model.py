"""Writes a llama of any size with random weights as GGUF, to time models whose weights are not at hand.

python bench/random_model.py 7b.gguf [--layers 32] [--width 4096] [--ffn 11008] [--heads 32] [--kv-heads 32]
    [--head-size 128] [--vocabulary 32000] [--context 4096] [--type Q4_0]

The default is Llama-2-7B's shape. Every block is valid: codes are uniform, scales make weights of deviation
1 / sqrt(depth). Needs: pip install gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

ROWS = 1024  # of random blocks, repeated: speed does not depend on the values
# Formats that the gguf package reads but does not write: where blocks have the f16 that scales their codes, and the one
# that scales what is subtracted, with the ratio that makes their mean 0 (ggml-common.h).
SCALES = {"Q4_K": ((0, 1.0), (2, 7.5)), "Q5_K": ((0, 1.0), (2, 15.5)), "Q6_K": ((208, 1.0),)}


def tensors(options: argparse.Namespace) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes [rows, depth] of the matrices."""
    width, ffn = options.width, options.ffn
    queries, keys = options.heads * options.head_size, options.kv_heads * options.head_size
    yield "token_embd", (options.vocabulary, width)
    yield "output", (options.vocabulary, width)
    for layer in range(options.layers):
        for name, shape in {
            "attn_q": (queries, width),
            "attn_k": (keys, width),
            "attn_v": (keys, width),
            "attn_output": (width, queries),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }.items():
            yield f"blk.{layer}.{name}", shape


def random_matrix(rng: np.random.Generator, shape: tuple[int, int], kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Rows of blocks, u8 [rows, bytes]: some random rows, quantized and repeated."""
    rows = min(ROWS, shape[0])
    if kind.name in SCALES:
        size, count = gguf.GGML_QUANT_SIZES[kind][1], shape[1] // gguf.GGML_QUANT_SIZES[kind][0]
        blocks = rng.integers(0, 256, (rows, count, size), np.uint8)

        def scale_by(factor: float) -> None:
            for offset, ratio in SCALES[kind.name]:
                blocks[:, :, offset : offset + 2] = np.array([factor * ratio], np.float16).view(np.uint8)

        scale_by(1)
        scale_by(shape[1] ** -0.5 / gguf.quants.dequantize(blocks[:1].reshape(1, -1), kind).std())
        return np.resize(blocks.reshape(rows, -1), (shape[0], count * size))
    some = rng.standard_normal((rows, shape[1]), np.float32) * np.float32(shape[1] ** -0.5)
    packed = gguf.quants.quantize(some, kind)
    return np.resize(packed, (shape[0], packed.shape[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    sizes = {"layers": 32, "width": 4096, "ffn": 11008, "heads": 32, "kv-heads": 32, "head-size": 128}
    for name, default in (sizes | {"vocabulary": 32000, "context": 4096}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    kinds_known = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", *SCALES, "F16", "F32"]
    parser.add_argument("--type", default="Q4_0", choices=kinds_known, help="default: %(default)s")
    options = parser.parse_args()
    kind = gguf.GGMLQuantizationType[options.type]
    writer = gguf.GGUFWriter(options.output, "llama")
    writer.add_block_count(options.layers)
    writer.add_context_length(options.context)
    writer.add_embedding_length(options.width)
    writer.add_feed_forward_length(options.ffn)
    writer.add_head_count(options.heads)
    writer.add_head_count_kv(options.kv_heads)
    writer.add_key_length(options.head_size)
    writer.add_value_length(options.head_size)
    writer.add_rope_dimension_count(options.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(options.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", *(f"t{i}" for i in range(3, options.vocabulary))])
    writer.add_token_types([gguf.TokenType.NORMAL] * options.vocabulary)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    rng = np.random.default_rng(0)
    for layer in range(options.layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(options.width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(options.width, np.float32))
    kinds: dict[tuple[int, int], np.ndarray] = {}
    for name, shape in tensors(options):
        if shape not in kinds:
            kinds[shape] = random_matrix(rng, shape, kind)
        writer.add_tensor(f"{name}.weight", kinds[shape], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()


if __name__ == "__main__":
    main()
