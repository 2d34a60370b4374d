"""How many model families of transformers compile: small random models from configs, against eager.

make coverage-hf. Each family in a child process, with the sequence (and the batch) open; two more sizes are run
without a second compilation. Results: build/coverage-hf.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers as tf

import deepseek

TOLERANCE = 1e-4
SMALL = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SMALL, "num_key_value_heads": 2, "vocab_size": 211, "use_cache": False}
ENCODER = {**SMALL, "vocab_size": 211, "max_position_embeddings": 160}
GPT = {"vocab_size": 211, "n_positions": 160, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False}
IMAGE = {**SMALL, "image_size": 32, "patch_size": 8}


def ids(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(2, 200, (batch, length))}


def masked_ids(batch: int, length: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, length - length // 3 :] = 0
    return {**ids(batch, length), "attention_mask": mask}


def pixels(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 3, 32, 32)}


def seq2seq(batch: int, length: int) -> dict[str, torch.Tensor]:
    return {**ids(batch, length), "decoder_input_ids": torch.randint(2, 200, (batch, length // 2 + 2))}


# family: (config class, its arguments, model class, inputs)
FAMILIES: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "llama": ("LlamaConfig", DECODER, "LlamaForCausalLM", ids),
    "qwen2": ("Qwen2Config", DECODER, "Qwen2ForCausalLM", ids),
    "qwen3": ("Qwen3Config", {**DECODER, "head_dim": 16}, "Qwen3ForCausalLM", ids),
    "gemma": ("GemmaConfig", {**DECODER, "head_dim": 16}, "GemmaForCausalLM", ids),
    "gemma2": ("Gemma2Config", {**DECODER, "head_dim": 16, "sliding_window": 8}, "Gemma2ForCausalLM", ids),
    "mistral": ("MistralConfig", {**DECODER, "sliding_window": 8}, "MistralForCausalLM", ids),
    "mixtral": ("MixtralConfig", {**DECODER, "num_local_experts": 4}, "MixtralForCausalLM", ids),
    "phi": ("PhiConfig", DECODER, "PhiForCausalLM", ids),
    "phi3": ("Phi3Config", {**DECODER, "pad_token_id": 0}, "Phi3ForCausalLM", ids),
    "gpt2": ("GPT2Config", GPT, "GPT2LMHeadModel", ids),
    "gpt_neox": ("GPTNeoXConfig", {**ENCODER, "use_cache": False}, "GPTNeoXForCausalLM", ids),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 8}, "GPTJForCausalLM", ids),
    "opt": ("OPTConfig", {"vocab_size": 211, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 112, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 160, "use_cache": False}, "OPTForCausalLM", ids),
    "bloom": ("BloomConfig", {"vocab_size": 211, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False}, "BloomForCausalLM", ids),
    "falcon": ("FalconConfig", {"vocab_size": 211, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "use_cache": False}, "FalconForCausalLM", ids),
    "stablelm": ("StableLmConfig", DECODER, "StableLmForCausalLM", ids),
    "olmo": ("OlmoConfig", DECODER, "OlmoForCausalLM", ids),
    "bert": ("BertConfig", ENCODER, "BertForMaskedLM", masked_ids),
    "roberta": ("RobertaConfig", ENCODER, "RobertaForMaskedLM", masked_ids),
    "distilbert": ("DistilBertConfig", {"vocab_size": 211, "dim": 64, "hidden_dim": 112, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 160}, "DistilBertForMaskedLM", masked_ids),
    "electra": ("ElectraConfig", {**ENCODER, "embedding_size": 32}, "ElectraModel", masked_ids),
    "albert": ("AlbertConfig", {**ENCODER, "embedding_size": 32}, "AlbertModel", masked_ids),
    "deberta_v2": ("DebertaV2Config", {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "DebertaV2Model", masked_ids),
    "mpnet": ("MPNetConfig", ENCODER, "MPNetModel", masked_ids),
    "t5": ("T5Config", {"vocab_size": 211, "d_model": 64, "d_kv": 16, "d_ff": 112, "num_layers": 2, "num_heads": 4, "use_cache": False}, "T5ForConditionalGeneration", seq2seq),
    "bart": ("BartConfig", {"vocab_size": 211, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 112, "decoder_ffn_dim": 112, "max_position_embeddings": 160, "use_cache": False}, "BartForConditionalGeneration", seq2seq),
    "vit": ("ViTConfig", IMAGE, "ViTForImageClassification", pixels),
    "deit": ("DeiTConfig", IMAGE, "DeiTForImageClassification", pixels),
    "clip_vision": ("CLIPVisionConfig", IMAGE, "CLIPVisionModel", pixels),
    "convnext": ("ConvNextConfig", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}, "ConvNextForImageClassification", pixels),
    "resnet": ("ResNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "layer_type": "basic"}, "ResNetForImageClassification", pixels),
    "swin": ("SwinConfig", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}, "SwinForImageClassification", pixels),
}  # fmt: skip


def difference(got: Any, want: Any) -> float:
    """max|a - b| / max|b| over the floating point outputs that both have."""
    worst = 0.0
    keys = [k for k, v in want.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    for key in keys:
        scale = want[key].abs().max().item() or 1.0
        worst = max(worst, (got[key] - want[key]).abs().max().item() / scale)
    if not keys:
        raise ValueError("eager gives no tensor")
    return worst


def run(family: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    tf.logging.set_verbosity_error()
    torch.manual_seed(0)
    config, arguments, model, make = FAMILIES[family]
    module = getattr(tf, model)(getattr(tf, config)(**arguments)).eval()
    start = time.perf_counter()
    exe = deepseek.compile(module, make(2, 13))
    seconds = time.perf_counter() - start
    worst = 0.0
    for batch, length in ((2, 13), (3, 31), (2, 64)):
        example = make(batch, length)
        with torch.no_grad():
            want = module(**example)
        worst = max(worst, difference(exe(**example), want))
    return {"error": worst, "compiles": exe.cache_info().compiles, "seconds": round(seconds, 1)}


def child(family: str, connection: Any) -> None:
    try:
        answer = run(family)
    except BaseException as error:
        answer = {"failed": f"{type(error).__name__}: {error}"[:600]}
    connection.send(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--json", default="build/coverage-hf.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for family in options.families or FAMILIES:
        ours, theirs = mp.get_context("fork").Pipe(False)
        process = mp.get_context("fork").Process(target=child, args=(family, theirs))
        process.start()
        theirs.close()
        try:
            answer = ours.recv()
        except EOFError:
            process.join()
            answer = {"failed": f"crash: exit status {process.exitcode}"}
        process.join()
        answer["ok"] = "failed" not in answer and answer["error"] <= TOLERANCE
        results[family] = answer
        shown = (
            answer.get("failed")
            or f"{answer['error']:.1e} of eager, {answer['compiles']} compiled, {answer['seconds']} s"
        )
        print(f"{'ok  ' if answer['ok'] else 'FAIL'} {family}: {shown}", flush=True)
    print(f"{sum(r['ok'] for r in results.values())} of {len(results)} families agree with eager to {TOLERANCE}")
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
