"""The configuration of a decoder from GGUF metadata.

Names of tensors and keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.frontend.checkpoint.checkpoint import GGUFCheckpoint
from deepseek.frontend.checkpoint.families.decoder import DecoderConfig, check_decoder
from deepseek.frontend.checkpoint.families.rope import inverse_frequencies
from deepseek.frontend.checkpoint.gguf import StringArray

__all__ = ["read_gguf_config"]

_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "rope_freqs": "rope_freqs",
    "layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

# Keys that change the mathematics, with the one value that leaves it as computed here.
_NEUTRAL = {
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.scale": 0.0,
    "attention.sliding_window": 0,
    "embedding_scale": 0.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "logit_scale": 0.0,
    "residual_scale": 0.0,
    "rope.scale_linear": 1.0,
    "rope.scaling.type": "none",
    "use_parallel_residual": False,
}


def read_gguf_config(checkpoint: GGUFCheckpoint, *, interleaved: bool, biased: Sequence[str] = ()) -> DecoderConfig:
    """The configuration, checked against the tensor table. Raises `CheckpointError`.

    `interleaved`: converters of this architecture permute the rows of q and k so that rotary pairs are
    neighbours. `biased`: linear modules with a bias.
    """
    file, prefix = checkpoint.file, checkpoint.architecture
    settings = file.settings
    settings.refuse_unless({f"{prefix}.{key}": value for key, value in _NEUTRAL.items()})

    def positive(key: str, default: int | None = None) -> int:
        return settings.positive(f"{prefix}.{key}", default)

    hidden, heads = positive("embedding_length"), positive("attention.head_count")
    kv_heads = positive("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise file.error(
            f"{prefix}.attention.head_count is {heads}, expected a multiple of head_count_kv, which is {kv_heads}"
        )
    if f"{prefix}.attention.key_length" not in file.metadata and hidden % heads:
        raise file.error(f"{prefix}.embedding_length is {hidden}, expected a multiple of head_count, which is {heads}")
    head_dim = positive("attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if positive(key, head_dim) != head_dim or head_dim % 2:
            raise file.error(f"{prefix}.{key} is {positive(key, head_dim)}, expected the even head size {head_dim}")
    eps = settings.number(f"{prefix}.attention.layer_norm_rms_epsilon")
    rope_base = settings.number(f"{prefix}.rope.freq_base", 10000.0)
    if not (0 <= eps < 1 and rope_base > 0):
        raise file.error(f"norm epsilon is {eps} and rope base is {rope_base}, expected 0 <= epsilon < 1 and 0 < base")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.error("tensor token_embd.weight is missing")
    config = DecoderConfig(
        layers=positive("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=positive("feed_forward_length"),
        vocabulary=embedding.shape[0],
        context=positive("context_length"),
        eps=eps,
        inv_freq=inverse_frequencies(rope_base, head_dim),
        interleaved=interleaved,
        tied_embeddings="output.weight" not in file.tensors,
        names=_NAMES,
        tensors={},
    )
    config = check_decoder(checkpoint, config, biased)
    declared = settings.get(f"{prefix}.vocab_size", int, config.vocabulary)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if declared != config.vocabulary or (isinstance(tokens, StringArray) and len(tokens) > config.vocabulary):
        count = declared if declared != config.vocabulary else len(tokens)
        raise file.error(f"tensor token_embd.weight has {config.vocabulary} rows, expected {count}, one for each token")
    return config
