"""`deepseek generate`: completes a prompt."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from deepseek.cli import common

EXAMPLES = """
deepseek generate smollm2-135m --prompt 'The capital of France is'
deepseek generate model.gguf --chat --prompt 'Name three colors.' --max-new-tokens 64
deepseek generate smollm2-135m --prompt 'Once' --temperature 0.8 --seed 7 --json
"""


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "generate", "complete a prompt", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=common.MODEL_HELP)
    parser.add_argument("--prompt", required=True, metavar="P", help="text to continue; - reads it from stdin")
    parser.add_argument("--max-new-tokens", type=common.count(0), default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--chat", action="store_true", help="treat the prompt as a user's message to the chat template")
    parser.add_argument("--temperature", type=common.temperature, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=common.count(0), help="of the sampling (default: a new one each time)")
    common.add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Streams the text to stdout and a summary to stderr; with --json one object at the end."""
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    model = common.load_model(options)
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "chat": options.chat,
    }
    if options.json:
        with common.progress("generating"):
            result = model.generate(prompt, **settings)
        common.print_json(
            {
                "text": result.text,
                "prompt_ids": result.prompt_ids,
                "new_ids": result.new_ids,
                "stop_reason": result.stop_reason,
                "compile_s": model.compile_s,
                "cache_hit": model.cache_hit,
                "load_s": model.load_s,
                "prefill_tokens_per_s": result.prefill_tokens_per_s,
                "decode_tokens_per_s": result.decode_tokens_per_s,
            }
        )
        return
    stream = model.stream(prompt, **settings)
    if not options.chat:
        print(prompt, end="", flush=True)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    result = stream.result
    compiled = "cached" if model.cache_hit else f"compiled in {model.compile_s:.2f} s"
    parts = [compiled, f"loaded in {model.load_s:.2f} s", f"{len(result.new_ids)} new tokens"]
    if result.prefill_tokens_per_s is not None:
        parts.append(f"prefill {result.prefill_tokens_per_s:.1f} tokens/s")
    if result.decode_tokens_per_s is not None:
        parts.append(f"decode {result.decode_tokens_per_s:.1f} tokens/s")
    print(", ".join(parts), file=sys.stderr)
