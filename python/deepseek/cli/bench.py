"""`deepseek bench`: times loading, prefill and decode of a model, its kernels, or one matrix product."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

from deepseek.cli import common, gemm, profile, progress
from deepseek.errors import DeepseekError, InputError

EXAMPLES = """
deepseek bench smollm2-135m
deepseek bench smollm2-135m --precision f32 --threads 2 --json
deepseek bench smollm2-135m --profile --trace trace.json --roofline roofline.svg
deepseek bench model.gguf --prompt-tokens 128 --new-tokens 32 --runs 7
deepseek bench gemm --m 1000 --n 1777 --k 333 --dtype bf16 --threads 1
"""

_SEED = 0
_LABELS = {
    "compile_s": ("compile", "s"),
    "load_s": ("load (map and pack)", "s"),
    "warm_load_s": ("process start to ready, cached", "s"),
    "prefill_tokens_per_s": ("prefill", "tokens/s"),
    "decode_tokens_per_s": ("decode", "tokens/s"),
    "peak_rss_bytes": ("peak resident memory, cached", "MB"),
    "file_bytes": ("file", "MB"),
    "weight_bytes": ("weights read per forward pass", "MB"),
}


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(
        commands, "bench", "time loading, prefill and decode of a model, or a matrix product", EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help=common.MODEL_HELP + "; or gemm")
    parser.add_argument("--prompt-tokens", type=common.count(1), default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--new-tokens", type=common.count(2), default=128, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--runs", type=common.count(5), default=5, metavar="N", help="medians are of N (default and least: 5)"
    )
    common.add_model_options(parser)
    profile.add_options(parser)
    gemm.add_options(parser)
    parser.set_defaults(run=_dispatch)


def _dispatch(options: argparse.Namespace) -> None:
    if not profile.is_asked(options):
        return gemm.run(options) if options.model == "gemm" else run(options)
    if options.model == "gemm":
        raise InputError("--profile is for models: a matrix product is one kernel")
    return profile.run(options)


def run(options: argparse.Namespace) -> None:
    """Medians of `--runs` runs; loading and memory are those of fresh processes that find the code cached."""
    model = common.load_model(options)
    with progress.task("warming up"):
        result = model.benchmark(options.prompt_tokens, options.new_tokens, _SEED)
    runs = []
    for _ in progress.bar(range(options.runs), "runs"):
        runs.append(model.benchmark(options.prompt_tokens, options.new_tokens, _SEED))
    fresh = []
    for _ in progress.bar(range(options.runs), "fresh processes"):
        fresh.append(_fresh_process(options))
    values = {
        "text": result.text,
        "prompt_ids": result.prompt_ids,
        "new_ids": result.new_ids,
        "compile_s": model.compile_s,
        "cache_hit": model.cache_hit,
        "load_s": median(child["load_s"] for child in fresh),
        "prefill_tokens_per_s": median(run.prefill_tokens_per_s for run in runs),
        "decode_tokens_per_s": median(run.decode_tokens_per_s for run in runs),
        "warm_load_s": median(child["warm_load_s"] for child in fresh),
        "peak_rss_bytes": int(median(child["peak_rss_bytes"] for child in fresh)),
        "file_bytes": model.file_bytes,
        "weight_bytes": model.weight_bytes,
        "memory": model.memory(),
        "runs": options.runs,
        "threads": model.threads,
        "precision": model.info.precision,
        "target": model.target,
    }
    if options.json:
        common.print_json(values)
        return
    for key, (label, unit) in _LABELS.items():
        value = values[key] / 1e6 if unit == "MB" else values[key]
        note = " (cached)" if key == "compile_s" and model.cache_hit else ""
        print(f"{label:32} {value:10.2f} {unit}{note}")


def _fresh_process(options: argparse.Namespace) -> dict[str, float]:
    """Loads and runs the model once in a new process; times are from the moment of its start."""
    settings = {
        key: getattr(options, key)
        for key in ("model", "target", "precision", "threads", "context", "prompt_tokens", "new_tokens")
    }
    command = [sys.executable, "-m", "deepseek.cli.fresh", json.dumps(settings | {"seed": _SEED})]
    begin = time.monotonic()
    child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if child.returncode:
        reason = child.stderr.strip().splitlines()
        raise DeepseekError(
            f"a fresh process could not load the model: {reason[-1] if reason else f'exit status {child.returncode}'}"
        )
    report = json.loads(child.stdout)
    # The monotonic clock is the system's, not the process's: both sides read the same one.
    return report | {"warm_load_s": report["ready"] - begin}
