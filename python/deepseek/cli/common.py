"""What the subcommands share: options, one JSON object on stdout, atomic files."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from deepseek.cli import progress
from deepseek.cli.parser import Formatter
from deepseek.errors import InputError
from deepseek.files import replacing

MODEL_HELP = "GGUF file, Hugging Face folder, .dsc file, or a known name (smollm2-135m)"
# The phases of the pass pipeline, in order (passes/Pipelines.cpp).
PHASES = ("import", "precision", "parallel", "fuse", "schedule", "host", "codegen", "llvm")


def new_parser(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand's parser whose --help ends in `examples`."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join("  " + line for line in examples.strip().splitlines()),
        formatter_class=Formatter,
    )
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")
    return parser


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """--target, --precision: None where a .dsc file decides."""
    parser.add_argument(
        "--target",
        help="what to compile for (default: cpu, this machine; sm_90a, sm_80: its GPU); cpu+strict: without products that "
        "flush subnormals",
    )
    parser.add_argument("--precision", help="as-stored (default), f32, bf16 or f16: how weights lie in memory")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--target, --precision, --threads, --context."""
    add_compile_options(parser)
    parser.add_argument("--threads", type=count(1), metavar="T", help="threads (default: all available)")
    parser.add_argument("--context", type=count(1), metavar="N", help="most positions (default: the model's)")


def count(least: int) -> Any:
    """An argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse


def temperature(text: str) -> float:
    """An argparse type: a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of at least 0")
    return value


def load_model(options: argparse.Namespace, **more: Any) -> Any:
    """The `Model` that the options name."""
    from deepseek.model import Model

    with progress.task(f"loading {options.model}"):
        return Model.from_pretrained(
            options.model,
            target=options.target,
            precision=options.precision,
            threads=options.threads,
            context=options.context,
            **more,
        )


def print_json(value: dict[str, Any]) -> None:
    """Prints one object; NaN and infinity, which JSON lacks, are a bug of the caller."""
    print(json.dumps(value, allow_nan=False))


def check_output(path: str) -> None:
    """Raises `InputError`, before any work is done, when `path` cannot become a file; `-` is stdout."""
    target = Path(path)
    if path != "-" and target.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if path != "-" and not target.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {target.parent}")
    if path != "-" and not os.access(target.parent, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {target.parent} is read-only")


def write_atomically(path: str, data: bytes) -> None:
    """Writes `path` whole or not at all; `-` is stdout."""
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    check_output(path)
    with replacing(path) as file:
        file.write(data)
