"""The qwen2 family (Qwen2, Qwen2.5): llama with biases of the query, key and value projections."""

from __future__ import annotations

from deepseek.frontend.checkpoint.checkpoint import Checkpoint, GGUFCheckpoint
from deepseek.frontend.checkpoint.families.decoder import DecoderConfig, build_graph
from deepseek.frontend.checkpoint.families.decoder_folder import read_folder_config
from deepseek.frontend.checkpoint.families.decoder_gguf import read_gguf_config

__all__ = ["build_graph", "read_config"]

_BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def read_config(checkpoint: Checkpoint) -> DecoderConfig:
    """The configuration of `checkpoint`, checked against its tensor table. Raises `CheckpointError`."""
    if isinstance(checkpoint, GGUFCheckpoint):
        return read_gguf_config(checkpoint, interleaved=False, biased=_BIASED)
    return read_folder_config(checkpoint, _BIASED)
