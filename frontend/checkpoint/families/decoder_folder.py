"""The configuration of a decoder from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.frontend.checkpoint.families.decoder import DecoderConfig, check_decoder
from deepseek.frontend.checkpoint.families.rope import read_rope
from deepseek.frontend.checkpoint.folder import FolderCheckpoint

__all__ = ["read_folder_config"]

_NAMES = {"embed_tokens": "model.embed_tokens", "norm": "model.norm", "layers": "model.layers"}
# Buffers that old versions of transformers saved; they follow from the configuration.
_IGNORED = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"

# Keys that change the mathematics, with the one value that leaves it as computed here. Some belong to relatives of
# the family whose configurations look alike.
_NEUTRAL = {
    "attention_multiplier": None,
    "attn_logit_softcapping": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "hidden_act": "silu",
    "is_encoder_decoder": False,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "no_rope_layers": None,
    "num_experts": 0,
    "num_local_experts": 0,
    "query_pre_attn_scalar": None,
    "residual_multiplier": 1.0,
    "rope_interleaved": False,
    "use_qk_norm": False,
}


def read_folder_config(checkpoint: FolderCheckpoint, biased: Sequence[str] = ()) -> DecoderConfig:
    """The configuration, checked against the tensors. `biased`: linear modules with a bias. Raises `CheckpointError`."""
    config = checkpoint.config
    config.refuse_unless(_NEUTRAL)
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.error(
            f"num_attention_heads is {heads}, expected a multiple of num_key_value_heads, which is {kv_heads}"
        )
    if config.get("head_dim", int) is None and hidden % heads:
        raise config.error(f"hidden_size is {hidden}, expected a multiple of num_attention_heads, which is {heads}")
    head_dim = config.positive("head_dim", max(hidden // heads, 1))
    if head_dim % 2:
        raise config.error(f"the head size is {head_dim}, expected an even number")
    eps = config.number("rms_norm_eps", 1e-6)
    if not 0 <= eps < 1:
        raise config.error(f"rms_norm_eps is {eps}, expected 0 <= epsilon < 1")
    context, layers = config.positive("max_position_embeddings"), config.positive("num_hidden_layers")
    _refuse_windows(checkpoint, layers)
    found = DecoderConfig(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=config.positive("intermediate_size"),
        vocabulary=config.positive("vocab_size"),
        context=context,
        eps=eps,
        inv_freq=read_rope(config, head_dim, context),
        interleaved=False,
        tied_embeddings=config.get("tie_word_embeddings", bool, False),
        names=_NAMES,
        tensors={},
    )
    # A table stored twice although it is tied is read once, as transformers does.
    ignored = rf"{_IGNORED}|lm_head\.weight" if found.tied_embeddings else _IGNORED
    return check_decoder(checkpoint, found, biased, ignored)


def _refuse_windows(checkpoint: FolderCheckpoint, layers: int) -> None:
    """Raises `CheckpointError` if any layer attends to a window only."""
    config = checkpoint.config
    kinds = config.get("layer_types", list)
    if kinds is not None:
        other = next((kind for kind in kinds if kind != "full_attention"), None)
        if other is not None:
            raise config.error(f"layer_types holds {other!r}, which is not supported; expected full_attention only")
        return
    window = config.get("sliding_window", int)
    # In qwen2 the window is off unless use_sliding_window is true, and the first max_window_layers never have one.
    if window and config.get("use_sliding_window", bool, checkpoint.architecture != "qwen2"):
        first = config.positive("max_window_layers", 28) if checkpoint.architecture == "qwen2" else 0
        if first < layers:
            raise config.error(
                f"sliding_window is {window}, which is not supported; expected attention to all positions"
            )
