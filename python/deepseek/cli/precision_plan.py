"""`deepseek precision calibrate` and `plan`: what a text shows of a model, and the formats that keep a budget."""

from __future__ import annotations

import argparse
from typing import Any

from deepseek.cli import common, progress
from deepseek.errors import InputError

__all__ = ["add_calibrate", "add_plan", "run_calibrate", "run_plan"]


def add_plan(commands: Any) -> None:
    """Registers `deepseek precision plan`."""
    examples = """
deepseek precision plan smollm2-135m --max-bytes 62% -o plan.json
deepseek precision plan DIR --formats fp8,bf16 --max-perplexity-increase 1% -o plan.json
deepseek precision plan DIR --formats int8,int4 --max-bytes 80MB --text notes.txt -o plan.json
deepseek precision plan DIR --formats int8,int4 --max-bytes 40% --calibration seen.safetensors -o plan.json
"""
    parser = common.new_parser(commands, "plan", "search the formats that keep a budget", examples)
    parser.add_argument("model", metavar="MODEL", help="GGUF file, Hugging Face folder or a known name")
    parser.add_argument(
        "-o", "--output", required=True, metavar="P.json", help="where the plan goes; weights beside it"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--max-bytes", metavar="B", help="of all weights: 62%% (of bf16's), 90MB, or a number")
    budget.add_argument(
        "--max-perplexity-increase", type=_share, metavar="X", help="on held-out text: 1%% or 0.01 (default: 1%%)"
    )
    parser.add_argument(
        "--minimize",
        default="bytes",
        choices=("bytes", "time"),
        help="what an increase of perplexity buys; time is measured here, so plans differ between machines",
    )
    parser.add_argument(
        "--formats",
        default="int8,int5,int4,bf16",
        metavar="F,F",
        help="f32, bf16, f16, fp8, int8, int5, int4 (default: %(default)s)",
    )
    _add_activation(parser)
    parser.add_argument(
        "--kv-cache",
        default="auto",
        choices=("auto", "f32", "f16"),
        help="auto (default): f16 where that costs next to nothing, measured on held-out text",
    )
    parser.add_argument(
        "--rounding", default="gptq", choices=("gptq", "awq", "mse-scale", "rtn"), help="default: %(default)s"
    )
    parser.add_argument(
        "--static", action="store_true", help="decide by shapes alone; so it is for a folder without weights"
    )
    parser.add_argument("--target", default="cpu", help="what to compile for (default: cpu, this machine)")
    parser.add_argument("--calibration", metavar="F", help="a file of deepseek precision calibrate")
    _add_text_options(parser)
    parser.set_defaults(run=run_plan)


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", metavar="F", help="calibration text (default: what the model itself writes)")
    parser.add_argument("--tokens", type=common.count(3072), metavar="N", help="of it (default: 12,288)")
    parser.add_argument("--seed", type=common.count(0), metavar="N", help="of the labels that it draws (default: 0)")
    parser.add_argument("--threads", type=common.count(1), metavar="T", help="threads (default: all available)")


def add_calibrate(commands: Any) -> None:
    """Registers `deepseek precision calibrate`."""
    examples = """
deepseek precision calibrate smollm2-135m -o seen.safetensors
deepseek precision calibrate DIR --text notes.txt --activation fp8 -o seen.safetensors
"""
    summary = "read a text once, for any number of plans"
    parser = common.new_parser(commands, "calibrate", summary, examples)
    parser.add_argument("model", metavar="MODEL", help="GGUF file, Hugging Face folder or a known name")
    parser.add_argument("-o", "--output", required=True, metavar="F", help="where it goes (.safetensors)")
    _add_activation(parser)
    _add_text_options(parser)
    parser.set_defaults(run=run_calibrate)


def _add_activation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--activation",
        default="f32",
        metavar="F",
        help="what products round inputs to: f32, bf16, fp8, int8 (default: f32)",
    )


def _share(text: str) -> float:
    """An argparse type: 1% or 0.01."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 1% or 0.01")
    return value


def run_calibrate(options: argparse.Namespace) -> None:
    """Writes what a text shows of a model."""
    import time

    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.names import find_model
    from deepseek.precision.groups import parse_activation
    from deepseek.precision.planner import PlanOptions

    common.check_output(options.output)
    begin = time.perf_counter()
    checkpoint = open_checkpoint(find_model(options.model))
    settings = PlanOptions(activation=parse_activation(options.activation), **_text_settings(options))
    with _Stages() as stages:
        observation = _observed(options, checkpoint, settings, stages)
    with progress.task(f"writing {options.output}"):
        observation.save(options.output)
    sites = observation.calibration.fitted.sites
    report = {
        "calibration": options.output,
        "seconds": time.perf_counter() - begin,
        **observation.details,
        "operations": len(sites),
        "cache_peaks": observation.calibration.cache_peaks(),
        "ranges": [
            {"at": at, "op": op, "low": low, "high": high}
            for (at, op), (low, high) in observation.calibration.seen_ranges().items()
        ],
    }
    if options.json:
        common.print_json(report)
        return
    print(f"wrote {options.output} in {report['seconds']:.0f} s: {len(sites)} operations, text {report['text']}")


def run_plan(options: argparse.Namespace) -> None:
    """Searches a plan and writes it."""
    import time

    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.names import find_model
    from deepseek.package import describe
    from deepseek.precision import planner
    from deepseek.precision.graph import weight_elements
    from deepseek.precision.groups import parse_activation, parse_formats
    from deepseek.precision.report import summary
    from deepseek.precision.static import static_plan

    common.check_output(options.output)
    _check_sources(options)
    begin = time.perf_counter()
    checkpoint = open_checkpoint(find_model(options.model), shapes_only=True)
    bf16 = 2 * sum(weight_elements(describe(checkpoint, precision="f32")[1]).values()) if options.max_bytes else 0
    settings = planner.PlanOptions(
        formats=tuple(parse_formats(options.formats)),
        max_bytes=planner.parse_budget(options.max_bytes, bf16) if options.max_bytes else None,
        max_perplexity_increase=options.max_perplexity_increase,
        activation=parse_activation(options.activation),
        kv_cache=options.kv_cache,
        rounding=options.rounding,
        minimize={"bytes": "bytes", "time": "seconds"}[options.minimize],
        target=options.target,
        **_text_settings(options),
    )
    with _Stages() as stages:
        if options.static or checkpoint.shapes_only:
            plan = static_plan(checkpoint, settings)
        else:
            planner.check_budget(checkpoint, settings)
            observation = _observed(options, checkpoint, settings, stages)
            plan = planner.plan_from(checkpoint, observation, settings, progress=stages.report)
    plan.save(options.output)
    report = {"plan": options.output, "seconds": time.perf_counter() - begin, **plan.totals}
    if options.json:
        common.print_json(report)
        return
    print(f"wrote {options.output} in {report['seconds']:.0f} s")
    for line in summary(plan):
        print(line)


def _text_settings(options: argparse.Namespace) -> dict[str, int]:
    given = {"tokens": options.tokens, "seed": options.seed}
    return {key: value for key, value in given.items() if value is not None}


def _check_sources(options: argparse.Namespace) -> None:
    """Raises `InputError` for options that contradict each other."""
    if options.minimize == "time" and (options.max_bytes or options.static):
        raise InputError(
            "--minimize time needs --max-perplexity-increase: with other budgets the least error is sought"
        )
    if options.calibration is None:
        return
    for name in ("text", "tokens", "seed"):
        if getattr(options, name) is not None:
            raise InputError(f"--calibration has decided on --{name} already: leave one of them out")
    if options.static:
        raise InputError("--static reads no --calibration: leave one of them out")


def _observed(options: argparse.Namespace, checkpoint: Any, settings: Any, stages: _Stages) -> Any:
    """What a calibration file holds, or the user's text shows, or one that the model writes."""
    from pathlib import Path

    from deepseek.model import Model
    from deepseek.package import kind_of
    from deepseek.precision.observe import load_observation, observe
    from deepseek.precision.texts import paragraph_ids, sampled_ids, text_ids

    shared = {"threads": options.threads, "progress": stages.report}
    if getattr(options, "calibration", None):
        return load_observation(options.calibration, checkpoint, settings, **shared)
    if kind_of(checkpoint) == "encoder":
        name, ids = paragraph_ids(checkpoint, options.text)
    elif options.text:
        name, ids = Path(options.text).name, text_ids(checkpoint, options.text, settings.tokens)
    else:
        name = "written by the model"
        model = Model.from_pretrained(checkpoint.path, precision="f32", threads=options.threads)
        ids = sampled_ids(
            model, settings.tokens, settings.seed, lambda done, total: stages.report("writing a text", done, total)
        )
        del model
    return observe(checkpoint, ids, settings, text_name=name, **shared)


class _Stages:
    """One progress line per stage of a search."""

    def __init__(self) -> None:
        self._text = ""
        self._line: Any = None

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.__exit__(None, None, None)

    def report(self, text: str, done: int, total: int) -> None:
        """Shows that `done` of `total` parts of the stage `text` are done."""
        if text != self._text:
            self.__exit__()
            self._text, self._line = text, progress.bar(total, text).__enter__()
        self._line.update(done - self._line.done)
