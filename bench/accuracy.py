"""SmolLM2-135M at every precision against transformers' f32 model of the same GGUF file, on English text.

Mean KL divergence of the next-token distributions, share of positions with the same most probable token, and the
greatest difference of logits, over windows of text from Python's own documentation (pydoc_data).

python bench/accuracy.py [--tokens 8192] [--window 1024] [--precision as-stored ...] [--decode] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pydoc_data.topics import topics

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from deepseek import Model
from deepseek.frontend.checkpoint.families.common import PRECISIONS
from deepseek.names import find_model


def compare(expected: torch.Tensor, actual: np.ndarray) -> dict[str, float]:
    """Sums over positions [s, vocabulary]: KL(expected || actual) in nats, equal first tokens, and the greatest
    difference."""
    ours = torch.from_numpy(actual)
    p, q = expected.log_softmax(-1), ours.log_softmax(-1)
    return {
        "kl": float((p.exp() * (p - q)).sum(-1).double().sum()),
        "top1": float((expected.argmax(-1) == ours.argmax(-1)).sum()),
        "max_abs": float((expected - ours).abs().max()),
    }


def logits_of(model: Model, window: list[int], decode: bool) -> np.ndarray:
    """[s, vocabulary] f32: of the whole window, or of each token after those before it."""
    if not decode:
        return model.forward(np.array([window], np.int32))[0]
    session = model.session()
    return np.concatenate([session.forward([[token]])[0] for token in window])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--decode", action="store_true", help="one token at a time, not a window at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = find_model("smollm2-135m")
    reference = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
    models = {
        precision: Model.from_pretrained(path, precision=precision, threads=options.threads, all_logits=True)
        for precision in options.precision
    }
    text = "\n".join(topics[name] for name in sorted(topics))
    ids = next(iter(models.values())).tokenizer.encode(text[: 8 * options.tokens])[: options.tokens]
    windows = [ids[i : i + options.window] for i in range(0, len(ids), options.window)]
    totals = {precision: {"kl": 0.0, "top1": 0.0, "max_abs": 0.0} for precision in models}
    for number, window in enumerate(windows, 1):
        with torch.inference_mode():
            expected = reference(torch.tensor([window])).logits[0]
        for precision, model in models.items():
            part = compare(expected, logits_of(model, window, options.decode))
            total = totals[precision]
            total["kl"] += part["kl"] / len(ids)
            total["top1"] += part["top1"] / len(ids)
            total["max_abs"] = max(total["max_abs"], part["max_abs"])
        print(f"window {number}/{len(windows)}", end="\r", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"tokens": len(ids), "window": options.window} | totals))
        return
    print(f"{len(ids)} tokens in windows of {options.window}")
    for precision, total in totals.items():
        print(
            f"{precision:10} mean KL {total['kl']:.2e}   top-1 {total['top1']:7.2%}   logits within {total['max_abs']:.1e}"
        )


if __name__ == "__main__":
    main()
