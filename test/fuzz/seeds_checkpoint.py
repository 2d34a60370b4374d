"""Small valid checkpoints, written by gguf-py, safetensors and tokenizers."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, FEED_FORWARD, VOCABULARY = 32, 64, 270
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<s>' }}{% endif %}"
    "{{ message['role'] + ': ' + message['content'] | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant: {% endif %}"
)
TEMPLATES = [
    TEMPLATE,
    "{%- set ns = namespace(n=0) -%}{%- for m in messages -%}{%- set ns.n = ns.n + 1 -%}{{ '%d. ' % ns.n }}"
    "{{ m.content.split('</think>')[-1] | upper }}{{ eos_token * 2 }}{%- endfor -%}",
    "{%- macro turn(role, text) -%}<|{{ role }}|>{{ text[:100] ~ '' }}{%- endmacro -%}{% for m in messages[::-1] %}"
    "{% if m['role'] not in ['user', 'system', 'assistant'] %}{{ raise_exception('role ' + m['role']) }}{% endif %}"
    "{{ turn(m.role, m.content) }}{% endfor %}{% for i in range(3) %}{{ i * 2 ** 2 }}{% endfor %}"
    "{{ {'a': [1, 2.5, none]} | tojson }}{{ messages | length }}{{ 'x'.join(['a', 'b']) | replace('a', 'b') }}",
]


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _matrix(rows: int, columns: int) -> np.ndarray:
    return (0.1 * _rng().standard_normal((rows, columns))).astype(np.float32)


def gguf_file(folder: Path, architecture: str = "llama", kind: str = "Q4_0", tokenizer: str = "gpt2") -> bytes:
    """One layer with biases where the architecture has them, matrices stored as `kind`."""
    path = folder / f"{architecture}-{kind}-{tokenizer}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcdefgh\u2581", "ab", "ac"]
    types = [2, 3, 3, *[6] * 256, *[1] * 11]
    if tokenizer == "gpt2":
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
        tokens = ["<unk>", "<s>", "</s>", *letters, "ab", "ac", "bc", "abc"]
        types = [2, 3, 3, *[1] * (len(tokens) - 3)]
        writer.add_token_merges(["a b", "a c", "b c", "ab c"])
        writer.add_tokenizer_pre("smollm")
    else:
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_add_space_prefix(True)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    stored = gguf.GGMLQuantizationType[kind]
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (16, HIDDEN),
        "attn_v": (16, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
    }
    shapes |= {"ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN), "ffn_down": (HIDDEN, FEED_FORWARD)}
    matrices = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()} | {
        "token_embd.weight": (VOCABULARY, HIDDEN)
    }
    for name, shape in matrices.items():
        writer.add_tensor(name, gguf.quants.quantize(_matrix(*shape), stored), raw_dtype=stored)
    vectors = {"blk.0.attn_norm.weight": HIDDEN, "blk.0.ffn_norm.weight": HIDDEN, "output_norm.weight": HIDDEN}
    if architecture == "qwen2":
        vectors |= {"blk.0.attn_q.bias": HIDDEN, "blk.0.attn_k.bias": 16, "blk.0.attn_v.bias": 16}
    for name, size in vectors.items():
        writer.add_tensor(name, np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _byte_level() -> str:
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *letters, "ab", "abc"])}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[("a", "b"), ("ab", "c")])
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.add_special_tokens(["<s>", "</s>"])
    return backend.to_str()


def _word_pieces() -> str:
    import tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "##b", "##c", "the", "##ing", ".", "!"]
    model = tokenizers.models.WordPiece(vocab={word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.BertNormalizer()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.add_special_tokens(words[:5])
    return backend.to_str()


def _decoder_tensors(bias: bool) -> dict[str, np.ndarray]:
    layer, tensors = "model.layers.0", {"model.embed_tokens.weight": _matrix(VOCABULARY, HIDDEN)}
    rows = {"self_attn.q_proj": HIDDEN, "self_attn.k_proj": 16, "self_attn.v_proj": 16, "self_attn.o_proj": HIDDEN}
    for name, size in (rows | {"mlp.gate_proj": FEED_FORWARD, "mlp.up_proj": FEED_FORWARD}).items():
        tensors[f"{layer}.{name}.weight"] = _matrix(size, HIDDEN).astype(np.float16)
    tensors[f"{layer}.mlp.down_proj.weight"] = _matrix(HIDDEN, FEED_FORWARD)
    for name in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        tensors[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
    for name in ("q_proj", "k_proj", "v_proj") if bias else ():
        tensors[f"{layer}.self_attn.{name}.bias"] = np.zeros(rows[f"self_attn.{name}"], np.float32)
    return tensors


def _decoder_config(family: str) -> dict[str, Any]:
    config = {"architectures": [f"{family.capitalize()}ForCausalLM"], "model_type": family, "hidden_size": HIDDEN}
    config |= {
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": "silu",
    }
    config |= {"num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "vocab_size": VOCABULARY}
    config |= {"tie_word_embeddings": True, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1}
    if family == "llama":
        config["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        config["rope_scaling"]["original_max_position_embeddings"] = 32
    return config


def _quantized(method: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`quantization_config` and tensors of a decoder in 4 bits: "gptq", "awq" or "compressed-tensors"."""
    rng, tensors = _rng(), _decoder_tensors(False)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        (rows, columns), module = tensors.pop(name).shape, name.removesuffix(".weight")

        def words(*shape: int) -> np.ndarray:
            return rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32)

        groups = columns // 32
        scales = np.full((groups, rows), 0.01, np.float16)
        if method == "compressed-tensors":
            parts = {"weight_packed": words(rows, columns // 8), "weight_shape": np.array([rows, columns])}
            parts |= {"weight_scale": scales.T.copy(), "weight_zero_point": words(rows // 8, groups)}
        elif method == "gptq":
            parts = {"qweight": words(columns // 8, rows), "qzeros": words(groups, rows // 8), "scales": scales}
            parts["g_idx"] = np.arange(columns, dtype=np.int32) // 32
        else:
            parts = {"qweight": words(columns, rows // 8), "qzeros": words(groups, rows // 8), "scales": scales}
        tensors |= {f"{module}.{part}": array for part, array in parts.items()}
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    config: dict[str, Any] = {"quant_method": method, "bits": 4, "group_size": 32}
    if method == "compressed-tensors":
        groups_of = {"group_0": {"targets": ["re:.*_proj"], "weights": weights, "format": "pack-quantized"}}
        config = {"quant_method": method, "format": "pack-quantized", "config_groups": groups_of, "ignore": ["lm_head"]}
    return config, tensors


def _bert() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    config = {"model_type": "bert", "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 16, "vocab_size": 20, "type_vocab_size": 2}
    config |= {"layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    layer, tensors = "encoder.layer.0", {}
    for name, rows in {"word": 20, "position": 16, "token_type": 2}.items():
        tensors[f"embeddings.{name}_embeddings.weight"] = _matrix(rows, HIDDEN)
    linear = dict.fromkeys([f"attention.self.{n}" for n in ("query", "key", "value")], (HIDDEN, HIDDEN))
    linear |= {"attention.output.dense": (HIDDEN, HIDDEN), "intermediate.dense": (FEED_FORWARD, HIDDEN)}
    for name, (rows, columns) in (linear | {"output.dense": (HIDDEN, FEED_FORWARD)}).items():
        tensors[f"{layer}.{name}.weight"] = _matrix(rows, columns)
        tensors[f"{layer}.{name}.bias"] = np.zeros(rows, np.float32)
    for name in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        tensors[f"{name}.LayerNorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{name}.LayerNorm.bias"] = np.zeros(HIDDEN, np.float32)
    return config, tensors


def folders() -> list[dict[str, bytes]]:
    """Hugging Face folders as {name: content}: llama in one file, qwen2 in shards, a sentence encoder, quantized llamas."""
    from safetensors.numpy import save

    def text(value: Any) -> bytes:
        return json.dumps(value, indent=1).encode()

    llama = {"config.json": text(_decoder_config("llama")), "model.safetensors": save(_decoder_tensors(False))}
    llama["tokenizer.json"] = _byte_level().encode()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "model_max_length": 64}
    llama["tokenizer_config.json"] = text(
        settings | {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    )
    llama["generation_config.json"] = text({"eos_token_id": [1, 0], "temperature": 0.6})
    tensors = _decoder_tensors(True)
    halves = [dict(list(tensors.items())[index::2]) for index in range(2)]
    names = [f"model-0000{index + 1}-of-00002.safetensors" for index in range(2)]
    qwen2 = {name: save(half) for name, half in zip(names, halves)}
    named = {tensor: name for name, half in zip(names, halves) for tensor in half}
    qwen2 |= {"model.safetensors.index.json": text({"metadata": {"total_size": 1}, "weight_map": named})}
    qwen2 |= {name: llama[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    qwen2 |= {"config.json": text(_decoder_config("qwen2")), "chat_template.jinja": TEMPLATES[1].encode()}
    config, tensors = _bert()
    bert = {"config.json": text(config), "model.safetensors": save(tensors), "tokenizer.json": _word_pieces().encode()}
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    listed = [
        {"idx": int(i), "name": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, path, kind in modules
    ]
    bert |= {
        "modules.json": text(listed),
        "sentence_bert_config.json": text({"max_seq_length": 12, "do_lower_case": False}),
    }
    bert["1_Pooling/config.json"] = text({"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True})
    bert["tokenizer_config.json"] = text(
        {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    )
    quantized = []
    for method in ("gptq", "awq", "compressed-tensors"):
        config, tensors = _quantized(method)
        changed = {"config.json": text(_decoder_config("llama") | {"quantization_config": config})}
        quantized.append(llama | changed | {"model.safetensors": save(tensors)})
    return [llama, qwen2, bert, *quantized]


def pack(files: dict[str, bytes]) -> bytes:
    """A folder as one tar archive; `tar xf` brings it back."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The inverse of `pack`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}


def safetensors_header(data: bytes) -> tuple[Any, int]:
    """(the header, where the data begins)."""
    (size,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + size]), 8 + size
