"""`deepseek generate`: completes prompts."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek.cli import common, progress
from deepseek.errors import InputError

EXAMPLES = """
deepseek generate smollm2-135m --prompt 'The capital of France is'
deepseek generate model.gguf --chat --prompt 'Name three colors.' --max-new-tokens 64
deepseek generate smollm2-135m --prompt 'Once' --temperature 0.8 --top-p 0.95 --seed 7 --json
deepseek generate smollm2-135m --prompts-file questions.txt --stop '?' --json
"""


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "generate", "complete prompts", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=common.MODEL_HELP)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--prompt",
        action="append",
        metavar="P",
        help="text to continue; - reads it from stdin; given several times, the texts are continued together",
    )
    prompts.add_argument("--prompts-file", metavar="FILE", help="texts to continue, one a line; - is stdin")
    prompts.add_argument(
        "--prompt-ids", action="append", type=_token_ids, metavar="1,2,3", help="token ids to continue"
    )
    parser.add_argument("--chat", action="store_true", help="treat a prompt as a user's message to the chat template")
    add_sampling_options(parser, 32)
    common.add_model_options(parser)
    parser.set_defaults(run=run)


def add_sampling_options(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """--max-new-tokens and how tokens are chosen."""
    parser.add_argument(
        "--max-new-tokens", type=common.count(0), default=max_new_tokens, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--temperature", type=common.temperature, default=0.0, help="0 is greedy (default)")
    parser.add_argument(
        "--top-k",
        type=common.count(0),
        default=0,
        metavar="K",
        help="sample from the K likeliest tokens (default: all)",
    )
    share = _number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
    parser.add_argument(
        "--top-p", type=share, default=1.0, metavar="P", help="and from the likeliest that sum to P (default: 1, all)"
    )
    parser.add_argument(
        "--min-p", type=share, default=0.0, metavar="P", help="and at least P times as likely as the first (default: 0)"
    )
    parser.add_argument(
        "--repetition-penalty",
        type=_number(lambda value: 0 < value < math.inf, "a finite number above 0"),
        default=1.0,
        metavar="X",
        help="above 1: tokens that occurred become less likely (default: 1)",
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text (may be given several times)"
    )
    parser.add_argument("--seed", type=common.count(0), help="of the sampling (default: a new one each time)")


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_sampling_options` added, by the names of `SamplingOptions`."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed")
    return {name: getattr(options, name) for name in names}


def run(options: argparse.Namespace) -> None:
    """Streams one text to stdout and a summary to stderr; several texts, and with --json an object, at the end."""
    prompts = _prompts(options)
    model = common.load_model(options)
    settings = {**sampling_options(options), "chat": options.chat}
    if options.prompts_file is not None or len(prompts) > 1:
        _run_batch(options, model, prompts, settings)
    elif options.json:
        result = model.generate(prompts[0], **settings)
        common.print_json({**_report(result), **_loading(model)})
    else:
        _run_stream(options, model, prompts[0], settings)


def _run_stream(options: argparse.Namespace, model: Any, prompt: Any, settings: dict[str, Any]) -> None:
    stream = model.stream(prompt, **settings)
    if not options.chat:
        print(_shown(model, prompt), end="", flush=True)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    result = stream.result
    parts = [f"{len(result.new_ids)} new tokens"]
    if result.prefill_tokens_per_s is not None:
        parts.append(f"prefill {result.prefill_tokens_per_s:.1f} tokens/s")
    if result.decode_tokens_per_s is not None:
        parts.append(f"decode {result.decode_tokens_per_s:.1f} tokens/s")
    _summarize(model, parts)


def _run_batch(options: argparse.Namespace, model: Any, prompts: list[Any], settings: dict[str, Any]) -> None:
    begin = time.perf_counter()
    with progress.task(f"generating {len(prompts)} texts"):
        results = model.generate(prompts, **settings)
    seconds = time.perf_counter() - begin
    tokens = sum(len(result.new_ids) for result in results)
    if options.json:
        loading = {**_loading(model), "generate_s": seconds, "new_tokens_per_s": tokens / seconds}
        common.print_json({"results": [_report(result) for result in results], **loading})
        return
    for index, (prompt, result) in enumerate(zip(prompts, results)):
        print(f"==> {index + 1} of {len(prompts)} <==")
        print(("" if options.chat else _shown(model, prompt)) + result.text)
    sys.stdout.flush()
    _summarize(model, [f"{len(prompts)} texts", f"{tokens} new tokens", f"{tokens / seconds:.1f} new tokens/s"])


def _report(result: Any) -> dict[str, Any]:
    return {
        "text": result.text,
        "prompt_ids": result.prompt_ids,
        "new_ids": result.new_ids,
        "stop_reason": result.stop_reason,
        "prefill_tokens_per_s": result.prefill_tokens_per_s,
        "decode_tokens_per_s": result.decode_tokens_per_s,
    }


def _loading(model: Any) -> dict[str, Any]:
    overflows = {} if model.guard is None else model.guard.hits
    return {"compile_s": model.compile_s, "cache_hit": model.cache_hit, "load_s": model.load_s, "overflows": overflows}


def _summarize(model: Any, parts: list[str]) -> None:
    compiled = "cached" if model.cache_hit else f"compiled in {model.compile_s:.2f} s"
    print(", ".join([compiled, f"loaded in {model.load_s:.2f} s", *parts]), file=sys.stderr)


def _shown(model: Any, prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return model.tokenizer.decode(prompt) if model.has_tokenizer else ""


def _prompts(options: argparse.Namespace) -> list[Any]:
    if options.prompts_file is not None:
        text = _read(options.prompts_file)
        lines = text.removesuffix("\n").split("\n")  # not splitlines: other line separators belong to the text
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise InputError(f"line {number} of the prompts is empty, expected one prompt in each line")
        return lines
    if options.prompt_ids is not None:
        return options.prompt_ids
    if options.prompt.count("-") > 1:
        raise InputError("--prompt - is given several times, but stdin can be read once")
    return [_read("-") if prompt == "-" else prompt for prompt in options.prompt]


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        name = "stdin" if path == "-" else path
        raise InputError(f"{name} is not valid {error.encoding}: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,2,3") from None


def _number(allowed: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """An argparse type: a number that is `allowed`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return parse
