"""The llama family: Llama 2 and 3, SmolLM2, and what else is called llama."""

from __future__ import annotations

from deepseek.frontend.checkpoint.checkpoint import Checkpoint, GGUFCheckpoint
from deepseek.frontend.checkpoint.families.decoder import DecoderConfig, build_graph
from deepseek.frontend.checkpoint.families.decoder_folder import read_folder_config
from deepseek.frontend.checkpoint.families.decoder_gguf import read_gguf_config

__all__ = ["build_graph", "read_config"]

_ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
_MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


def read_config(checkpoint: Checkpoint) -> DecoderConfig:
    """The configuration of `checkpoint`, checked against its tensor table. Raises `CheckpointError`."""
    if isinstance(checkpoint, GGUFCheckpoint):
        # Converters permute the rows of q and k of this family.
        return read_gguf_config(checkpoint, interleaved=True)
    config = checkpoint.config
    attention = _ATTENTION if config.get("attention_bias", bool, False) else ()
    return read_folder_config(checkpoint, attention + (_MLP if config.get("mlp_bias", bool, False) else ()))
