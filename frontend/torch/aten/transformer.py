"""The fused layers that torch.nn.MultiheadAttention and TransformerEncoderLayer call in inference."""

from __future__ import annotations

from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten
from .nn import attention


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    out = ACG.matmul(x, weight, transpose_rhs=True)
    return out if bias is None else ACG.add(out, bias)


def _visible(mask: Any, mask_type: int | None, query: Any) -> Any:
    """torch's mask, True or -inf where a query must not look, as what is added to scores [b, h, s, t]."""
    if mask is None:
        return None
    if mask.type.kind == "b":
        mask = ACG.where(mask, float("-inf"), 0.0).astype(query.type)
    if mask_type == 1:  # [b, t]
        return mask[:, None, None, :]
    return mask if mask.ndim == 4 else ACG.expand_dims(mask, tuple(range(4 - mask.ndim)))


def _heads(x: Any, count: int) -> Any:
    b, s, width = x.shape
    return ACG.swapaxes(ACG.reshape(x, (b, s, count, int(width) // count)), 1, 2)


def _self_attention(
    x: Any, heads: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any, proj_bias: Any, mask: Any, mask_type: int | None
) -> Any:  # fmt: skip
    width = int(x.shape[-1])
    qkv = _linear(x, qkv_weight, qkv_bias)
    q, k, v = (_heads(qkv[..., i * width : (i + 1) * width], heads) for i in range(3))
    out = ACG.swapaxes(attention(q, k, v, _visible(mask, mask_type, x)), 1, 2)
    return _linear(ACG.reshape(out, x.shape), proj_weight, proj_bias)


@aten("_native_multi_head_attention")
def native_multi_head_attention(
    query: Any, key: Any, value: Any, embed_dim: int, num_head: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any,
    proj_bias: Any, mask: Any = None, need_weights: bool = True, average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> Any:  # fmt: skip
    if need_weights or key is not query or value is not query:
        source.fail(
            "the fused multi-head attention is supported for one tensor without its weights", "need_weights=False"
        )
    out = _self_attention(query, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, mask_type)
    return out, None


@aten("_transformer_encoder_layer_fwd")
def transformer_encoder_layer(
    src: Any, embed_dim: int, num_heads: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any, proj_bias: Any,
    use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Any, norm_bias_1: Any, norm_weight_2: Any,
    norm_bias_2: Any, ffn_weight_1: Any, ffn_bias_1: Any, ffn_weight_2: Any, ffn_bias_2: Any, mask: Any = None,
    mask_type: int | None = None,
) -> Any:  # fmt: skip
    def attend(x: Any) -> Any:
        return _self_attention(x, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, mask_type)

    def feed(x: Any) -> Any:
        grown = _linear(x, ffn_weight_1, ffn_bias_1)
        return _linear(ACG.gelu(grown) if use_gelu else ACG.relu(grown), ffn_weight_2, ffn_bias_2)

    def first(x: Any) -> Any:
        return ACG.layer_norm(x, norm_weight_1, norm_bias_1, eps)

    def second(x: Any) -> Any:
        return ACG.layer_norm(x, norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = ACG.add(src, attend(first(src)))
        return ACG.add(x, feed(second(x)))
    x = first(ACG.add(src, attend(src)))
    return second(ACG.add(x, feed(x)))
