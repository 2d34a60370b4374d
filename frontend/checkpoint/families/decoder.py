"""What decoders of the llama shape share: configuration, checks of the tensor table, and the forward pass.

RMS norm before attention and feed forward, rotary positions, grouped heads, a gated SiLU feed forward. The graph
depends on the configuration and on how each tensor is stored, never on the weights' values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deepseek import acg
from deepseek.frontend.checkpoint.checkpoint import Checkpoint
from deepseek.frontend.checkpoint.families.common import (
    check_precision,
    check_tensors,
    count_bytes,
    count_elements,
    factors,
    linear,
    matrix,
    weight,
)
from deepseek.frontend.checkpoint.tensors import StoredTensor

if TYPE_CHECKING:
    from deepseek.acg import Graph

__all__ = ["DecoderConfig", "build_graph", "check_decoder"]


@dataclass(frozen=True)
class DecoderConfig:
    """What the graph is made from; sizes in elements, `tensors` by the file's names.

    `names` maps modules, called as in Hugging Face's llama, to the file's names for them; those of a layer follow
    `names["layers"]` and the layer's number. `inv_freq` [head_dim / 2] is in radians per position; `interleaved`
    says that rotary pairs are neighbours in the stored rows of q and k.
    """

    kind: ClassVar[str] = "decoder"

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    eps: float
    inv_freq: tuple[float, ...]
    interleaved: bool
    tied_embeddings: bool
    names: dict[str, str]
    tensors: dict[str, StoredTensor]

    @property
    def elements(self) -> int:
        """Number of weight elements that a forward pass reads, tied tensors once."""
        return count_elements(self.tensors)

    def weight_bytes(self, precision: str) -> int:
        """Bytes of the weights that a forward pass reads, tied tensors once."""
        return count_bytes(self.tensors, precision)

    def module(self, name: str, layer: int | None = None) -> str:
        """The file's name of a module."""
        own = self.names.get(name, name)
        return own if layer is None else f"{self.names['layers']}.{layer}.{own}"

    def with_layers(self, layers: int) -> DecoderConfig:
        """The same model with another depth; layer i is stored like layer i modulo the present depth."""
        prefix = f"{self.names['layers']}."
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(prefix)}
        for layer in range(layers):
            source = f"{prefix}{layer % self.layers}."
            for name, tensor in self.tensors.items():
                if name.startswith(source):
                    tensors[f"{prefix}{layer}.{name.removeprefix(source)}"] = tensor
        return replace(self, layers=layers, tensors=tensors)


_MOST_LAYERS = 10_000  # of a configuration without weights
_CANDIDATES = 64  # next tokens that are looked for: nearly always, a sampler needs no others
_PARTS = 64  # of the vocabulary, at most, whose sums are taken beside each other

# The linear modules of a layer and their sizes [out, in], as names of `DecoderConfig` sizes.
_LINEAR = {
    "self_attn.q_proj": ("q", "hidden"),
    "self_attn.k_proj": ("kv", "hidden"),
    "self_attn.v_proj": ("kv", "hidden"),
    "self_attn.o_proj": ("hidden", "q"),
    "mlp.gate_proj": ("ffn", "hidden"),
    "mlp.up_proj": ("ffn", "hidden"),
    "mlp.down_proj": ("hidden", "ffn"),
}


def check_decoder(
    checkpoint: Checkpoint, config: DecoderConfig, biased: Sequence[str] = (), ignored: str = ""
) -> DecoderConfig:
    """`config` with exactly the tensors that the graph reads, found in `checkpoint` with the right shapes.

    `biased`: the linear modules that have a bias. `ignored`: pattern of names that are no weights. Raises
    `CheckpointError` for a tensor that is missing, has another shape, or is not used.
    """
    # Each layer needs its tensors, so a depth beyond the tensor table is damage; say so before looping over it.
    if checkpoint.shapes_only and config.layers > _MOST_LAYERS:
        raise checkpoint.error(f"asks for {config.layers} layers, expected at most {_MOST_LAYERS}")
    if not checkpoint.shapes_only and config.layers > len(checkpoint.tensors):
        raise checkpoint.error(f"asks for {config.layers} layers, but has only {len(checkpoint.tensors)} tensors")
    sizes = {
        "hidden": config.hidden,
        "ffn": config.feed_forward,
        "q": config.heads * config.head_dim,
        "kv": config.kv_heads * config.head_dim,
    }
    embedding = (config.vocabulary, config.hidden)
    expected = {
        f"{config.module('embed_tokens')}.weight": embedding,
        f"{config.module('norm')}.weight": (config.hidden,),
    }
    if not config.tied_embeddings:
        expected[f"{config.module('lm_head')}.weight"] = embedding
    for layer in range(config.layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            expected[f"{config.module(name, layer)}.weight"] = (config.hidden,)
        for name, (rows, columns) in _LINEAR.items():
            expected[f"{config.module(name, layer)}.weight"] = (sizes[rows], sizes[columns])
            if name in biased:
                expected[f"{config.module(name, layer)}.bias"] = (sizes[rows],)
    optional = {f"{config.names['rope_freqs']}.weight": (config.head_dim // 2,)} if "rope_freqs" in config.names else {}
    return replace(config, tensors=check_tensors(checkpoint, expected, optional, ignored))


def build_graph(config: DecoderConfig, precision: str = "as-stored", *, all_logits: bool = False) -> Graph:
    """Traces the forward pass; needs no weights.

    Arguments: ids [b, s] i32; lengths [b] i32, the valid positions of each row including the s current ones;
    per layer one tied cache [b, 2, kv_heads, c, head_dim] of `cache_type`; temperature [b] f32, positive. Results:
    logits [b, vocabulary] f32 of the last position; the caches; of the 64 greatest logits (`_CANDIDATES`), in order,
    ids [b, 64] i32 and logits [b, 64]; totals [b], the sums of exp((logit - greatest) / temperature). With
    `all_logits`: logits [b, s, vocabulary] and the caches, and no temperature.
    """
    check_precision(precision)
    cache_shape = (acg.dim("b"), 2, config.kv_heads, acg.dim("c", min=1), config.head_dim)
    return acg.trace(
        _Forward(config, precision, all_logits),
        acg.spec("i32", ("b", acg.dim("s", min=1, max=config.context)), "ids"),
        acg.spec("i32", ("b",), "lengths"),
        [
            acg.spec(cache_type(config, precision, layer), cache_shape, f"cache.{layer}", tied=True)
            for layer in range(config.layers)
        ],
        [] if all_logits else [acg.spec("f32", ("b",), "temperature")],
    )


def cache_type(config: DecoderConfig, precision: str, layer: int) -> str:
    """Element type of a layer's cache: f16 where the layer's products may round what they multiply, else f32.

    At 512 positions, a fifth of what SmolLM2 reads per token as stored would else be cache.
    """
    stored = config.tensors[f"{config.module('self_attn.k_proj', layer)}.weight"]
    return "f16" if precision == "f16" or factors(stored, precision) else "f32"


class _Forward:
    """The traced function; scopes carry the module names of the Hugging Face model."""

    def __init__(self, config: DecoderConfig, precision: str, all_logits: bool) -> None:
        self.config = config
        self.precision = precision
        self.all_logits = all_logits

    def __call__(self, ids: Any, lengths: Any, cache: Sequence[Any], temperature: Sequence[Any]) -> dict[str, Any]:
        config = self.config
        _, s = ids.shape
        with acg.scope("embed_tokens"):
            table = weight(config.tensors, f"{config.module('embed_tokens')}.weight")
            x = acg.embedding(table, ids)
        with acg.scope("rotary_emb"):
            start = lengths - s
            cos, sin = self.rotary(start, s)
        caches = list(cache)
        for layer in range(config.layers):
            with acg.scope(f"layers.{layer}"):
                h = self.norm(x, "input_layernorm", layer)
                with acg.scope("self_attn"):
                    h, caches[layer] = self.attention(h, layer, caches[layer], start, lengths, cos, sin)
                x = x + h
                h = self.norm(x, "post_attention_layernorm", layer)
                with acg.scope("mlp"):
                    h = self.feed_forward(h, layer)
                x = x + h
        x = self.norm(x if self.all_logits else x[:, -1], "norm")
        with acg.scope("lm_head"):
            head = config.module("embed_tokens" if config.tied_embeddings else "lm_head")
            stored = config.tensors[f"{head}.weight"]
            head = matrix(config.tensors, f"{head}.weight", self.precision)
            logits = acg.matmul(x, head, transpose_rhs=True, factors=factors(stored, self.precision))
        return {"logits": logits, "cache": caches, **(self.candidates(logits, *temperature) if temperature else {})}

    def candidates(self, logits: Any, temperature: Any) -> dict[str, Any]:
        with acg.scope("candidates"):
            top, ids = acg.topk(logits, min(_CANDIDATES, self.config.vocabulary))
            parts = math.gcd(self.config.vocabulary, _PARTS)
            logits = logits.reshape(logits.shape[0], parts, self.config.vocabulary // parts)
            weights = acg.exp((logits - top[:, :1, None]) * (1 / temperature)[:, None, None])
            return {"top_ids": ids.astype("i32"), "top_logits": top, "totals": acg.sum(acg.sum(weights, -1), -1)}

    def linear(self, x: Any, name: str, layer: int) -> Any:
        scope = name.rpartition(".")[2]
        return linear(x, self.config.tensors, self.config.module(name, layer), scope, self.precision)

    def norm(self, x: Any, name: str, layer: int | None = None) -> Any:
        config = self.config
        with acg.scope(name):
            return acg.rms_norm(x, weight(config.tensors, f"{config.module(name, layer)}.weight"), eps=config.eps)

    def rotary(self, start: Any, s: Any) -> tuple[Any, Any]:
        """cos and sin [b, s, head_dim / 2] of the positions start + 0 .. s - 1."""
        config = self.config
        inv_freq = acg.asarray(np.array(config.inv_freq).astype(np.float32))
        factors = f"{config.module('rope_freqs')}.weight"
        if factors in config.tensors:
            inv_freq = inv_freq / weight(config.tensors, factors)
        positions = start[:, None] + acg.arange(s, dtype="i32")
        angle = positions.astype("f32")[:, :, None] * inv_freq
        return acg.cos(angle), acg.sin(angle)

    def attention(
        self, x: Any, layer: int, cache: Any, start: Any, lengths: Any, cos: Any, sin: Any
    ) -> tuple[Any, Any]:
        config = self.config
        b, s, _ = x.shape
        q = self.linear(x, "self_attn.q_proj", layer).reshape(b, s, config.heads, config.head_dim)
        k = self.linear(x, "self_attn.k_proj", layer).reshape(b, s, config.kv_heads, config.head_dim)
        v = self.linear(x, "self_attn.v_proj", layer).reshape(b, s, config.kv_heads, config.head_dim)
        q = acg.rope(q, cos, sin, interleaved=config.interleaved)
        k = acg.rope(k, cos, sin, interleaved=config.interleaved)
        cache = acg.kv_append(saturate(k, cache), saturate(v, cache), cache, start)
        stored = config.tensors[f"{config.module('self_attn.o_proj', layer)}.weight"]
        out = acg.attention(
            q,
            cache=cache,
            lengths=lengths,
            causal=True,
            scale=config.head_dim**-0.5,
            factors=factors(stored, self.precision),
        )
        out = out.reshape(b, s, config.heads * config.head_dim)
        return self.linear(out, "self_attn.o_proj", layer), cache

    def feed_forward(self, x: Any, layer: int) -> Any:
        gate = acg.silu(self.linear(x, "mlp.gate_proj", layer))
        return self.linear(gate * self.linear(x, "mlp.up_proj", layer), "mlp.down_proj", layer)


def saturate(x: Any, cache: Any) -> Any:
    """x within the range of the cache's type: rounding it is then never infinite."""
    if cache.dtype == np.float32:
        return x
    most = float(np.finfo(cache.dtype).max)
    return acg.clip(x, -most, most)
