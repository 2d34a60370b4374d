"""`deepseek quantize`: the short form of `deepseek precision plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from deepseek.cli import common

EXAMPLES = """
deepseek quantize smollm2-135m --fp8
deepseek quantize DIR --int4 -o small.json
"""

_FORMATS = {"fp8": "fp8,bf16", "int8": "int8,bf16", "int4": "int4,int5,int8"}


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(
        commands, "quantize", "round a model to one kind of format, as far as 1 %% allows", EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="GGUF file, Hugging Face folder or a known name")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--fp8", dest="kind", action="store_const", const="fp8", help="8-bit floats, else bf16")
    kind.add_argument("--int8", dest="kind", action="store_const", const="int8", help="8-bit integers, else bf16")
    kind.add_argument(
        "--int4", dest="kind", action="store_const", const="int4", help="4-bit integers, else 5 or 8 bits"
    )
    parser.add_argument("-o", "--output", metavar="P.json", help="where the plan goes (default: MODEL-KIND.json)")
    parser.add_argument("--threads", type=common.count(1), metavar="T", help="threads (default: all available)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Searches a plan that raises perplexity by at most 1 %."""
    from deepseek.cli import build_parser

    output = options.output or f"{Path(options.model).stem}-{options.kind}.json"
    words = ["precision", "plan", options.model, "--formats", _FORMATS[options.kind], "-o", output]
    words += ["--max-perplexity-increase", "1%"]
    words += ["--threads", str(options.threads)] if options.threads else []
    words += ["--json"] if options.json else []
    parsed = build_parser(["precision"]).parse_args(words)
    parsed.run(parsed)
