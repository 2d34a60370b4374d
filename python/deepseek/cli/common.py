"""What the subcommands share: options, progress on stderr, one JSON object on stdout, atomic files."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.errors import InputError

MODEL_HELP = "GGUF file, .dsc file, or a known name (smollm2-135m)"
# The phases of the pass pipeline, in order (passes/Pipelines.cpp).
PHASES = ("import", "precision", "parallel", "fuse", "schedule", "host", "codegen", "llvm")


def new_parser(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand's parser whose --help ends in `examples`."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join("  " + line for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on stdout")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--target, --precision, --threads, --context."""
    parser.add_argument("--target", default="cpu", help="what to compile for (default: %(default)s, this machine)")
    parser.add_argument("--precision", default="as-stored", help="as-stored (default) or f32")
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

    with progress(f"loading {options.model}"):
        return Model.from_pretrained(
            options.model,
            target=options.target,
            precision=options.precision,
            threads=options.threads,
            context=options.context,
            **more,
        )


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Shows `text` on stderr while the block runs, if someone is looking."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{text} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # the line is gone when its work is done


def print_json(value: dict[str, Any]) -> None:
    """Prints one object; NaN and infinity, which JSON lacks, are a bug of the caller."""
    print(json.dumps(value, allow_nan=False))


def write_atomically(path: str, data: bytes) -> None:
    """Writes `path` whole or not at all; `-` is stdout."""
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {target.parent}")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private, an ordinary result is not
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
