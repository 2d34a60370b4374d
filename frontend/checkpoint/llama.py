"""The llama family: its configuration read from GGUF metadata, and its forward pass on the array API.

The graph depends on the configuration and on how each tensor is stored, never on the weights' values.
Names of tensors and keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek import acg
from deepseek.errors import InputError
from deepseek.frontend.checkpoint.gguf import BLOCK_FORMATS, GGUFFile

if TYPE_CHECKING:
    from deepseek.acg import Graph

__all__ = ["PRECISIONS", "LlamaConfig", "StoredTensor", "build_graph", "read_config"]

ARCHITECTURES = ("llama",)
PRECISIONS = ("as-stored", "f32")
_PLAIN_FORMATS = ("f32", "f16", "bf16")
_BLOCKS = {form.name: form for form in BLOCK_FORMATS.values()}

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


@dataclass(frozen=True)
class StoredTensor:
    """How one weight lies in the file: `format` as in `BLOCK_FORMATS`, `shape` in elements ([out, in])."""

    format: str
    shape: tuple[int, ...]

    @property
    def argument(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the entry argument: plain numbers as they are, blocks as raw bytes."""
        if self.format in _PLAIN_FORMATS:
            return self.shape, self.format
        form = _BLOCKS[self.format]
        return (*self.shape[:-1], self.shape[-1] // form.elements * form.bytes), "i8"


@dataclass(frozen=True)
class LlamaConfig:
    """What the graph is made from; sizes in elements, `tensors` by GGUF name."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    eps: float
    rope_base: float
    tensors: dict[str, StoredTensor]

    @property
    def tied_embeddings(self) -> bool:
        """Whether the output projection is the embedding table."""
        return "output.weight" not in self.tensors

    @property
    def elements(self) -> int:
        """Number of weight elements that a forward pass reads, tied tensors once."""
        return sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in self.tensors.values())

    def with_layers(self, layers: int) -> LlamaConfig:
        """The same model with another depth; layer i is stored like layer i modulo the present depth."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith("blk.")}
        for layer in range(layers):
            source = f"blk.{layer % self.layers}."
            for name, tensor in self.tensors.items():
                if name.startswith(source):
                    tensors[f"blk.{layer}.{name.removeprefix(source)}"] = tensor
        return replace(self, layers=layers, tensors=tensors)


def read_config(file: GGUFFile) -> LlamaConfig:
    """The configuration in `file`, checked against its tensor table. Raises `CheckpointError`."""
    architecture = file.require("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise file.error(f"architecture is {architecture!r}, expected one of: {', '.join(ARCHITECTURES)}")
    _refuse_variants(file)

    def positive(key: str, default: int | None = None) -> int:
        value = file.get(f"llama.{key}", int, default)
        value = file.require(f"llama.{key}", int) if value is None else value
        if not 0 < value < 2**31:
            raise file.error(f"llama.{key} is {value}, expected a positive 32-bit number")
        return value

    hidden, heads = positive("embedding_length"), positive("attention.head_count")
    kv_heads = positive("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise file.error(
            f"llama.attention.head_count is {heads}, expected a multiple of head_count_kv, which is {kv_heads}"
        )
    if "llama.attention.key_length" not in file.metadata and hidden % heads:
        raise file.error(f"llama.embedding_length is {hidden}, expected a multiple of head_count, which is {heads}")
    head_dim = positive("attention.key_length", max(hidden // heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if positive(key, head_dim) != head_dim or head_dim % 2:
            raise file.error(f"llama.{key} is {positive(key, head_dim)}, expected the even head size {head_dim}")
    eps = file.require("llama.attention.layer_norm_rms_epsilon", float)
    rope_base = file.get("llama.rope.freq_base", float, 10000.0)
    if not (0 <= eps < 1 and 0 < rope_base < float("inf")):
        raise file.error(f"norm epsilon is {eps} and rope base is {rope_base}, expected 0 <= epsilon < 1 and 0 < base")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.error("tensor token_embd.weight is missing")
    config = LlamaConfig(
        layers=positive("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=positive("feed_forward_length"),
        vocabulary=embedding.shape[0],
        context=positive("context_length"),
        eps=eps,
        rope_base=rope_base,
        tensors={name: StoredTensor(tensor.format.name, tensor.shape) for name, tensor in file.tensors.items()},
    )
    _check_tensors(file, config)
    return config


def _refuse_variants(file: GGUFFile) -> None:
    for key, neutral in _NEUTRAL.items():
        value = file.metadata.get(f"llama.{key}", neutral)
        if not np.array_equal(value, neutral):
            raise file.error(f"llama.{key} is {value!r}, which is not supported; expected {neutral!r} or no such key")


def _expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    hidden, ffn = config.hidden, config.feed_forward
    q_out, kv_out = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = {
        "attn_norm": (hidden,),
        "attn_q": (q_out, hidden),
        "attn_k": (kv_out, hidden),
        "attn_v": (kv_out, hidden),
        "attn_output": (hidden, q_out),
        "ffn_norm": (hidden,),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    shapes = {"token_embd.weight": (config.vocabulary, hidden), "output_norm.weight": (hidden,)}
    for index in range(config.layers):
        shapes.update({f"blk.{index}.{name}.weight": shape for name, shape in layer.items()})
    return shapes


def _check_tensors(file: GGUFFile, config: LlamaConfig) -> None:
    # Each layer needs its tensors, so a depth beyond the tensor table is damage; say so before looping over it.
    if config.layers > len(file.tensors):
        raise file.error(f"llama.block_count is {config.layers}, but the file has only {len(file.tensors)} tensors")
    expected = _expected_shapes(config)
    optional = {
        "output.weight": (config.vocabulary, config.hidden),
        "rope_freqs.weight": (config.head_dim // 2,),
    }
    for name, shape in (expected | optional).items():
        tensor = file.tensors.get(name)
        if tensor is None:
            if name in expected:
                raise file.error(f"tensor {name} is missing, expected it with shape {list(shape)}")
            continue
        if tensor.shape != shape:
            raise file.error(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        if len(shape) == 1 and tensor.format.name not in _PLAIN_FORMATS:
            raise file.error(f"tensor {name} is {tensor.format.name}, expected one of {', '.join(_PLAIN_FORMATS)}")
    unused = [name for name in file.tensors if name not in expected and name not in optional]
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise file.error(f"has tensors that the llama family does not use: {', '.join(unused[:3])}{more}")
    declared = file.get("llama.vocab_size", int, config.vocabulary)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if declared != config.vocabulary or (isinstance(tokens, list) and len(tokens) > config.vocabulary):
        count = declared if declared != config.vocabulary else len(tokens)
        raise file.error(f"tensor token_embd.weight has {config.vocabulary} rows, expected {count}, one for each token")


def build_graph(config: LlamaConfig, precision: str = "as-stored", *, all_logits: bool = False) -> Graph:
    """Traces the forward pass; needs no weights.

    Arguments: ids [b, s] i32; lengths [b] i32, the valid positions of each row including the s current ones;
    per layer one tied cache [b, 2, kv_heads, c, head_dim] f32. Results: logits [b, vocabulary] f32 of the last
    position (with `all_logits` [b, s, vocabulary]), and the caches.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    cache_shape = (acg.dim("b"), 2, config.kv_heads, acg.dim("c", min=1), config.head_dim)
    return acg.trace(
        _Forward(config, all_logits),
        acg.spec("i32", ("b", acg.dim("s", min=1, max=config.context)), "ids"),
        acg.spec("i32", ("b",), "lengths"),
        [acg.spec("f32", cache_shape, f"cache.{layer}", tied=True) for layer in range(config.layers)],
    )


class _Forward:
    """The traced function; scopes carry the module names of the Hugging Face model."""

    def __init__(self, config: LlamaConfig, all_logits: bool) -> None:
        self.config = config
        self.all_logits = all_logits

    def __call__(self, ids: Any, lengths: Any, cache: Sequence[Any]) -> dict[str, Any]:
        config = self.config
        _, s = ids.shape
        with acg.scope("embed_tokens"):
            table = self.weight("token_embd")
            x = acg.embedding(table, ids)
        with acg.scope("rotary_emb"):
            start = lengths - s
            cos, sin = self.rotary(start, s)
        caches = list(cache)
        for layer in range(config.layers):
            with acg.scope(f"layers.{layer}"):
                with acg.scope("input_layernorm"):
                    h = self.norm(x, f"blk.{layer}.attn_norm")
                with acg.scope("self_attn"):
                    h, caches[layer] = self.attention(h, layer, caches[layer], start, lengths, cos, sin)
                x = x + h
                with acg.scope("post_attention_layernorm"):
                    h = self.norm(x, f"blk.{layer}.ffn_norm")
                with acg.scope("mlp"):
                    h = self.feed_forward(h, layer)
                x = x + h
        with acg.scope("norm"):
            x = self.norm(x if self.all_logits else x[:, -1], "output_norm")
        with acg.scope("lm_head"):
            head = table if config.tied_embeddings else self.weight("output")
            logits = acg.matmul(x, head, transpose_rhs=True)
        return {"logits": logits, "cache": caches}

    def weight(self, name: str) -> Any:
        """The tensor as f32, exactly what its storage stands for."""
        stored = self.config.tensors[f"{name}.weight"]
        shape, dtype = stored.argument
        raw = acg.weight(f"{name}.weight", shape, dtype)
        if stored.format == "f32":
            return raw
        return raw.astype("f32") if stored.format in _PLAIN_FORMATS else acg.dequantize(raw, stored.format)

    def linear(self, x: Any, scope: str, name: str) -> Any:
        with acg.scope(scope):
            return acg.matmul(x, self.weight(name), transpose_rhs=True)

    def norm(self, x: Any, name: str) -> Any:
        return acg.rms_norm(x, self.weight(name), eps=self.config.eps)

    def rotary(self, start: Any, s: Any) -> tuple[Any, Any]:
        """cos and sin [b, s, head_dim / 2] of the positions start + 0 .. s - 1."""
        config = self.config
        exponent = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
        inv_freq = acg.asarray((config.rope_base**-exponent).astype(np.float32))
        if "rope_freqs.weight" in config.tensors:
            inv_freq = inv_freq / self.weight("rope_freqs")
        positions = start[:, None] + acg.arange(s, dtype="i32")
        angle = positions.astype("f32")[:, :, None] * inv_freq
        return acg.cos(angle), acg.sin(angle)

    def attention(
        self, x: Any, layer: int, cache: Any, start: Any, lengths: Any, cos: Any, sin: Any
    ) -> tuple[Any, Any]:
        config, block = self.config, f"blk.{layer}"
        b, s, _ = x.shape
        q = self.linear(x, "q_proj", f"{block}.attn_q").reshape(b, s, config.heads, config.head_dim)
        k = self.linear(x, "k_proj", f"{block}.attn_k").reshape(b, s, config.kv_heads, config.head_dim)
        v = self.linear(x, "v_proj", f"{block}.attn_v").reshape(b, s, config.kv_heads, config.head_dim)
        # GGUF stores q and k of this family with the rows of each head permuted, so that pairs are neighbours.
        q = acg.rope(q, cos, sin, interleaved=True)
        k = acg.rope(k, cos, sin, interleaved=True)
        cache = acg.kv_append(k, v, cache, start)
        out = acg.attention(q, cache=cache, lengths=lengths, causal=True, scale=config.head_dim**-0.5)
        out = out.reshape(b, s, config.heads * config.head_dim)
        return self.linear(out, "o_proj", f"{block}.attn_output"), cache

    def feed_forward(self, x: Any, layer: int) -> Any:
        block = f"blk.{layer}"
        gate = acg.silu(self.linear(x, "gate_proj", f"{block}.ffn_gate"))
        return self.linear(gate * self.linear(x, "up_proj", f"{block}.ffn_up"), "down_proj", f"{block}.ffn_down")
