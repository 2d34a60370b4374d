"""`deepseek precision`: choose a format for every operator, say why, and measure what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from deepseek.cli import common, precision_plan, progress
from deepseek.cli.parser import Formatter

EXAMPLES = """
deepseek precision plan model.gguf --max-bytes 50% -o plan.json
deepseek precision plan DIR --formats fp8,bf16 --max-perplexity-increase 1% -o plan.json
deepseek precision explain plan.json
deepseek precision eval model.gguf --plan plan.json --text book.txt
deepseek precision diff old.json new.json
"""


def add_parser(commands: Any) -> None:
    """Registers the subcommand and those below it."""
    summary = "choose the format of every operator by what it costs in accuracy"
    parser = commands.add_parser(
        "precision",
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "\n".join("  " + line for line in EXAMPLES.strip().splitlines()),
        formatter_class=Formatter,
    )
    below = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="precision_command", required=True, help="what to do"
    )
    precision_plan.add_calibrate(below)
    precision_plan.add_plan(below)
    _add_explain(below)
    _add_diff(below)
    _add_apply(below)
    _add_eval(below)


def _add_explain(commands: Any) -> None:
    examples = """
deepseek precision explain plan.json
deepseek precision explain plan.json --html plan.html
deepseek precision explain plan.json --json
"""
    parser = common.new_parser(commands, "explain", "show what a plan decides, and why", examples)
    parser.add_argument("plan", metavar="PLAN", help="a plan file")
    parser.add_argument("--html", metavar="F.html", help="write a page with pictures of the model and of the budgets")
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace) -> None:
    """Prints every decision with its reason and numbers."""
    from deepseek.precision import report
    from deepseek.precision.plan import Plan

    plan = Plan.load(options.plan)
    if options.html:
        common.write_atomically(options.html, report.html_page(plan).encode())
    if options.json:
        keys = ("model", "options", "calibration", "totals", "tensors", "ops")
        common.print_json({key: getattr(plan, key) for key in keys})
        return
    if not options.html:
        for line in report.table(plan):
            print(line)
    for line in report.summary(plan):
        print(line)


def _add_diff(commands: Any) -> None:
    examples = """
deepseek precision diff cpu.json hopper.json
deepseek precision diff old.json new.json --json
"""
    parser = common.new_parser(commands, "diff", "name every change from one plan to another", examples)
    parser.add_argument("old", metavar="A", help="a plan file")
    parser.add_argument("new", metavar="B", help="a plan file")
    parser.set_defaults(run=run_diff)


def run_diff(options: argparse.Namespace) -> int:
    """Prints the changes; exit status 1 if there are any, as diff has it."""
    from deepseek.precision import report
    from deepseek.precision.plan import Plan

    old, new = Plan.load(options.old), Plan.load(options.new)
    changes = report.differences(old, new)
    if options.json:
        common.print_json({"changes": changes, "count": len(changes)})
    else:
        for change in changes:
            print(f"{change['at']:34} {change['op']:15} {change['key']:10} {change['from']} -> {change['to']}")
        print(f"{len(changes)} changes")
    return 1 if changes else 0


def _add_apply(commands: Any) -> None:
    examples = """
deepseek precision apply DIR --plan plan.json -o quantized
deepseek precision apply DIR --plan fp8.json --layout block-fp8 -o quantized
deepseek precision apply DIR --plan plan.json -o quantized --json
"""
    summary = "write a checkpoint that transformers and vLLM load"
    parser = common.new_parser(commands, "apply", summary, examples)
    parser.add_argument("model", metavar="MODEL", help="the Hugging Face folder that the plan is for")
    parser.add_argument("--plan", required=True, metavar="P", help="a plan file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--layout",
        default="compressed-tensors",
        choices=("compressed-tensors", "block-fp8"),
        help="compressed-tensors (default) keeps the plan's numbers; block-fp8, DeepSeek-V3's e4m3 with a scale for "
        "each 128x128, takes a plan's fp8 and rounds it once more",
    )
    parser.set_defaults(run=run_apply)


def run_apply(options: argparse.Namespace) -> None:
    """Writes a folder with the plan's weights."""
    from pathlib import Path

    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.names import find_model
    from deepseek.precision.apply import apply_plan
    from deepseek.precision.plan import Plan

    folder = Path(options.output)
    with progress.task(f"writing {folder}"):
        plan, checkpoint = Plan.load(options.plan, weights=True), open_checkpoint(find_model(options.model))
        files = apply_plan(plan, checkpoint, folder, options.layout)
    size = sum((folder / name).stat().st_size for name in files)
    if options.json:
        common.print_json({"folder": str(folder), "files": files, "bytes": size})
    else:
        print(f"wrote {len(files)} files to {folder}, {size / 1e6:.1f} MB")


def _add_eval(commands: Any) -> None:
    examples = """
deepseek precision eval smollm2-135m --plan plan.json --text book.txt
deepseek precision eval DIR --plan plan.json --text book.txt --dump-logits logits.npy --json
"""
    parser = common.new_parser(commands, "eval", "compare a plan with the model in f32, on a text", examples)
    parser.add_argument("model", metavar="MODEL", help=common.MODEL_HELP)
    parser.add_argument("--plan", required=True, metavar="P", help="a plan file, or a precision such as as-stored")
    parser.add_argument("--text", required=True, metavar="F", help="text file; windows of 1,024 tokens, tail dropped")
    parser.add_argument(
        "--dump-logits", metavar="F.npy", help="write the first window's logits [1024, vocabulary], f32"
    )
    parser.add_argument(
        "--tokens", type=common.count(1), metavar="N", help="at most this many (default: the whole text)"
    )
    parser.add_argument("--target", help="what to compile for (default: cpu, this machine)")
    parser.add_argument("--threads", type=common.count(1), metavar="T", help="threads (default: all available)")
    parser.set_defaults(run=run_eval)


def run_eval(options: argparse.Namespace) -> None:
    """Prints how far the plan's model is from the model's own weights computed in f32."""
    import numpy as np

    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.model import Model
    from deepseek.names import find_model
    from deepseek.package import kind_of
    from deepseek.precision.evaluate import evaluate, windows_of
    from deepseek.precision.texts import read_text

    if options.dump_logits:
        common.check_output(options.dump_logits)
    shared = {"target": options.target, "threads": options.threads}
    path = find_model(options.model)
    if path.suffix != ".dsc" and kind_of(open_checkpoint(path)) == "encoder":
        _eval_encoder(options, shared)
        return
    with progress.task(f"loading {options.model}"):
        model = Model.from_pretrained(path, precision=options.plan, all_logits=True, **shared)
        reference = Model.from_pretrained(path, precision="f32", all_logits=True, **shared)
    ids = model.tokenizer.encode(read_text(options.text), add_special=False)
    windows = windows_of(ids[: options.tokens], what=options.text)

    def dump(logits: Any) -> None:
        if options.dump_logits:
            with common.replacing(options.dump_logits) as file:
                np.save(file, np.ascontiguousarray(logits, np.float32))

    with progress.bar(len(windows), "comparing") as bar:
        found = evaluate(reference, model, windows, lambda done, total: bar.update(1), dump)
    report = {
        "perplexity_increase": found.perplexity_increase,
        "mean_kl": found.mean_kl,
        "top1_agreement": found.top1_agreement,
        "perplexity": found.perplexity,
        "reference_perplexity": found.reference_perplexity,
        "weight_bytes": model.weight_bytes,
        "weight_bytes_bf16": bf16_bytes(model.package.text),
        "tokens": found.tokens,
    }
    if options.json:
        common.print_json(report)
        return
    print(f"{found.tokens} tokens in windows of 1,024, against the model in f32")
    print(f"mean KL divergence    {found.mean_kl:.5f} nats")
    print(f"perplexity            {found.perplexity:.3f} ({found.perplexity_increase:+.2%})")
    print(f"same first token      {found.top1_agreement:.2%}")
    _print_bytes(report)


def _eval_encoder(options: argparse.Namespace, shared: dict[str, Any]) -> None:
    """The same for an encoder: how far the vectors of the text's paragraphs turn."""
    from deepseek.errors import InputError
    from deepseek.model import Model
    from deepseek.precision.evaluate import drift
    from deepseek.precision.texts import paragraphs_of, read_text

    if options.dump_logits or options.tokens:
        raise InputError(f"{options.model} is an encoder and has no logits: leave out --dump-logits and --tokens")
    texts = paragraphs_of(read_text(options.text))
    if not texts:
        raise InputError(f"{options.text} has no paragraph to compare")
    with progress.task(f"comparing {len(texts)} texts"):
        model = Model.from_pretrained(options.model, precision=options.plan, **shared)
        found = drift(Model.from_pretrained(options.model, precision="f32", **shared), model, texts)
    report = {
        "mean_drift": found,
        "texts": len(texts),
        "weight_bytes": model.weight_bytes,
        "weight_bytes_bf16": bf16_bytes(model.package.text),
    }
    if options.json:
        common.print_json(report)
        return
    print(f"{len(texts)} paragraphs, against the model in f32")
    print(f"mean of 1 - cosine    {found:.2e}")
    _print_bytes(report)


def _print_bytes(report: Mapping[str, Any]) -> None:
    share = report["weight_bytes"] / report["weight_bytes_bf16"]
    print(f"bytes of weights      {report['weight_bytes'] / 1e6:.1f} MB, {share:.1%} of bf16's")


def bf16_bytes(text: str) -> int:
    """Bytes of all weights of a module at the end of import, were each number 16 bits."""
    from deepseek.precision.graph import weight_elements

    return 2 * sum(weight_elements(text).values())
