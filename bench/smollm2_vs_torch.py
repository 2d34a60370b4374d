"""SmolLM2-135M at f32: ours against torch eager on the same weights, interleaved in one process.

python bench/smollm2_vs_torch.py [--prompt-tokens 512] [--new-tokens 32] [--rounds 5] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from deepseek import Model
from deepseek.names import find_model


def torch_rates(model: torch.nn.Module, ids: list[int], new_tokens: int) -> tuple[float, float]:
    """(prefill, decode) tokens per second with a KV cache."""
    with torch.inference_mode():
        begin = time.perf_counter()
        step = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        first = time.perf_counter()
        for _ in range(new_tokens - 1):
            token = step.logits[:, -1:].argmax(-1)
            step = model(token, past_key_values=step.past_key_values, use_cache=True)
        end = time.perf_counter()
    return len(ids) / (first - begin), (new_tokens - 1) / (end - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = find_model("smollm2-135m")
    peer = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    ours = Model.from_pretrained(path, precision="f32", threads=options.threads)

    def our_rates(seed: int) -> tuple[float, float]:
        result = ours.benchmark(options.prompt_tokens, options.new_tokens, seed)
        return result.prefill_tokens_per_s, result.decode_tokens_per_s

    def peer_rates(seed: int) -> tuple[float, float]:
        ids = np.random.Generator(np.random.PCG64(seed)).integers(0, ours.vocabulary, options.prompt_tokens)
        return torch_rates(peer, ids.tolist(), options.new_tokens)

    runs: dict[str, list[tuple[float, float]]] = {"ours": [], "torch": []}
    sides: list[tuple[str, Callable[[int], tuple[float, float]]]] = [("ours", our_rates), ("torch", peer_rates)]
    for round_number in range(options.rounds + 1):
        for name, measure in sides:
            rates = measure(round_number)
            if round_number > 0:  # the first round warms up
                runs[name].append(rates)
        print(f"round {round_number}/{options.rounds}", end="\r", file=sys.stderr, flush=True)
    report = {}
    for column, phase in enumerate(("prefill", "decode")):
        median = {name: statistics.median(r[column] for r in values) for name, values in runs.items()}
        ratios = statistics.median(a[column] / b[column] for a, b in zip(runs["ours"], runs["torch"]))
        report[phase] = {"ours_tokens_per_s": median["ours"], "torch_tokens_per_s": median["torch"], "ratio": ratios}
    if options.json:
        print(json.dumps(report))
        return
    for phase, row in report.items():
        print(
            f"{phase:8} ours {row['ours_tokens_per_s']:7.1f} tok/s   torch eager {row['torch_tokens_per_s']:7.1f} tok/s"
            f"   ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
