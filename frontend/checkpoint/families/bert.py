"""BERT encoders (Devlin et al. 2018) that give one vector per text, as sentence-transformers runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deepseek import acg
from deepseek.errors import InputError
from deepseek.frontend.checkpoint.checkpoint import Checkpoint, GGUFCheckpoint
from deepseek.frontend.checkpoint.families.common import (
    check_precision,
    check_tensors,
    count_bytes,
    count_elements,
    linear,
    weight,
)
from deepseek.frontend.checkpoint.families.pooling import Pooling, read_pooling
from deepseek.frontend.checkpoint.tensors import StoredTensor

if TYPE_CHECKING:
    from deepseek.acg import Graph

__all__ = ["BertConfig", "build_graph", "read_config"]

# Keys that change the mathematics, with the one value that leaves it as computed here.
_NEUTRAL = {
    "add_cross_attention": False,
    "embedding_size": None,
    "hidden_act": "gelu",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
}
# Parts for training and for other tasks, and a buffer that old versions of transformers saved.
_IGNORED = r"({0})?pooler\..*|cls\..*|classifier\..*|({0})?embeddings\.(position|token_type)_ids"


@dataclass(frozen=True)
class BertConfig:
    """What the graph is made from; sizes in elements, `tensors` by the file's names, which begin with `prefix`.

    `context` is the most tokens of a text: the publisher's limit, at most the number of position embeddings.
    """

    kind: ClassVar[str] = "encoder"

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    context: int
    eps: float
    pooling: Pooling
    prefix: str
    tensors: dict[str, StoredTensor]

    @property
    def elements(self) -> int:
        """Number of weight elements that a forward pass reads."""
        return count_elements(self.tensors)

    def weight_bytes(self, precision: str) -> int:
        """Bytes of the weights that a forward pass reads."""
        return count_bytes(self.tensors, precision)

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden // self.heads


def read_config(checkpoint: Checkpoint) -> BertConfig:
    """The configuration of `checkpoint`, checked against its tensor table. Raises `CheckpointError`."""
    if isinstance(checkpoint, GGUFCheckpoint):
        raise checkpoint.error("is a BERT model in GGUF, which is not supported; expected a Hugging Face folder")
    config = checkpoint.config
    config.refuse_unless(_NEUTRAL)
    hidden, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    if hidden % heads:
        raise config.error(f"hidden_size is {hidden}, expected a multiple of num_attention_heads, which is {heads}")
    eps = config.number("layer_norm_eps", 1e-12)
    if not 0 <= eps < 1:
        raise config.error(f"layer_norm_eps is {eps}, expected 0 <= epsilon < 1")
    layers, feed_forward = config.positive("num_hidden_layers"), config.positive("intermediate_size")
    if layers > len(checkpoint.tensors):
        raise checkpoint.error(f"asks for {layers} layers, but has only {len(checkpoint.tensors)} tensors")
    sizes = {key: config.positive(key) for key in ("vocab_size", "max_position_embeddings")}
    token_types = config.positive("type_vocab_size", 2)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in checkpoint.tensors else ""
    expected = {
        "embeddings.word_embeddings.weight": (sizes["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (sizes["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (token_types, hidden),
    } | _norm_shapes("embeddings.LayerNorm", hidden)
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        for module in ("self.query", "self.key", "self.value", "output.dense"):
            expected |= _linear_shapes(f"{name}.attention.{module}", hidden, hidden)
        expected |= _norm_shapes(f"{name}.attention.output.LayerNorm", hidden)
        expected |= _linear_shapes(f"{name}.intermediate.dense", feed_forward, hidden)
        expected |= _linear_shapes(f"{name}.output.dense", hidden, feed_forward)
        expected |= _norm_shapes(f"{name}.output.LayerNorm", hidden)
    pooling = read_pooling(checkpoint, hidden)
    return BertConfig(
        layers=layers,
        hidden=hidden,
        heads=heads,
        feed_forward=feed_forward,
        vocabulary=sizes["vocab_size"],
        positions=sizes["max_position_embeddings"],
        token_types=token_types,
        context=min(pooling.max_length or sizes["max_position_embeddings"], sizes["max_position_embeddings"]),
        eps=eps,
        pooling=pooling,
        prefix=prefix,
        tensors=check_tensors(
            checkpoint, {prefix + name: shape for name, shape in expected.items()}, {}, _IGNORED.format(prefix)
        ),
    )


def _linear_shapes(module: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{module}.weight": (rows, columns), f"{module}.bias": (rows,)}


def _norm_shapes(module: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{module}.weight": (size,), f"{module}.bias": (size,)}


def build_graph(config: BertConfig, precision: str = "as-stored", *, all_logits: bool = False) -> Graph:
    """Traces the forward pass; needs no weights.

    Arguments: ids [b, s] i32; lengths [b] i32, the valid tokens of each row, the rest being padding.
    Result: f32 [b, hidden], the pooled vector of each row.
    """
    check_precision(precision)
    if all_logits:
        raise InputError("all_logits asks for logits of every position, expected a decoder; an encoder has none")
    return acg.trace(
        _Forward(config, precision),
        acg.spec("i32", ("b", acg.dim("s", min=1, max=config.context)), "ids"),
        acg.spec("i32", ("b",), "lengths"),
    )


class _Forward:
    """The traced function; scopes carry the module names of the Hugging Face model."""

    def __init__(self, config: BertConfig, precision: str) -> None:
        self.config = config
        self.precision = precision

    def __call__(self, ids: Any, lengths: Any) -> dict[str, Any]:
        config = self.config
        with acg.scope("embeddings"):
            words, positions, types = (
                weight(config.tensors, f"{config.prefix}embeddings.{name}_embeddings.weight")
                for name in ("word", "position", "token_type")
            )
            with acg.scope("word_embeddings"):
                x = acg.embedding(words, ids)
            with acg.scope("position_embeddings"):
                places = acg.embedding(positions, acg.arange(ids.shape[1], dtype="i32"))
            x = x + types[0] + places
            x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(config.layers):
            name = f"encoder.layer.{layer}"
            with acg.scope(name):
                with acg.scope("attention"):
                    h = self.attention(x, lengths, f"{name}.attention")
                    x = self.norm(x + h, f"{name}.attention.output.LayerNorm")
                h = acg.gelu(self.linear(x, f"{name}.intermediate.dense", "intermediate"))
                h = self.linear(h, f"{name}.output.dense", "output")
                x = self.norm(x + h, f"{name}.output.LayerNorm")
        with acg.scope("pooling"):
            return {"embedding": config.pooling.apply(x, lengths)}

    def linear(self, x: Any, module: str, scope: str) -> Any:
        return linear(x, self.config.tensors, self.config.prefix + module, scope, self.precision)

    def norm(self, x: Any, module: str) -> Any:
        config = self.config
        with acg.scope("LayerNorm"):
            scale, bias = (weight(config.tensors, f"{config.prefix}{module}.{part}") for part in ("weight", "bias"))
            return acg.layer_norm(x, scale, bias, eps=config.eps)

    def attention(self, x: Any, lengths: Any, name: str) -> Any:
        config = self.config
        b, s, _ = x.shape
        q, k, v = (
            self.linear(x, f"{name}.self.{part}", part).reshape(b, s, config.heads, config.head_dim)
            for part in ("query", "key", "value")
        )
        # A cache of just these positions: its lengths say which of them are padding.
        cache = acg.stack([acg.swapaxes(k, 1, 2), acg.swapaxes(v, 1, 2)], 1)
        out = acg.attention(q, cache=cache, lengths=lengths, scale=config.head_dim**-0.5)
        return self.linear(out.reshape(b, s, config.hidden), f"{name}.output.dense", "output")
