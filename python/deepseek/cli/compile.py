"""`deepseek compile`: a model or a module to an artifact, or to the IR at the end of a phase."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from deepseek.cli import common, progress
from deepseek.errors import CheckpointError, InputError

EXAMPLES = """
deepseek compile smollm2-135m -o smollm2.dsc
deepseek compile smollm2-135m --weights external -o smollm2.dsc
deepseek compile smollm2-135m --to fuse -o fused.mlir
deepseek compile smollm2-135m --to schedule --record-schedules schedules.json -o scheduled.mlir
DEEPSEEK_SCHEDULES=schedules.json deepseek compile smollm2-135m -o smollm2.dsc
deepseek compile smollm2-135m --dump-ir phases -o smollm2.dsc
deepseek compile fused.mlir --checkpoint smollm2-135m -o smollm2.dsc
"""


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "compile", "compile a model or a module ahead of time", EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL|x.mlir", help="GGUF file, Hugging Face folder, known name, or a module as text"
    )
    common.add_compile_options(parser)
    parser.add_argument(
        "--to", choices=common.PHASES, metavar="PHASE", help=f"stop after one of {', '.join(common.PHASES)}"
    )
    parser.add_argument(
        "--weights",
        choices=("embed", "external"),
        default="embed",
        help="embed (default) copies the weights into x.dsc, external stores the checkpoint's path and checksums",
    )
    parser.add_argument(
        "--checkpoint", metavar="MODEL", help="for x.mlir: the model it was lowered from, whose weights it reads"
    )
    parser.add_argument(
        "--record-schedules",
        metavar="FILE",
        help="with --to schedule or later: add every kernel's schedule to a JSON file, to be edited and named by "
        "$DEEPSEEK_SCHEDULES",
    )
    parser.add_argument(
        "--dump-ir",
        metavar="DIR",
        help="write the module after each phase, and a page that compares them, into a folder",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="x.dsc, or x.mlir with --to (- is stdout)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the output whole or not at all."""
    if options.json and options.output == "-":
        raise InputError("--json and -o - both write to stdout, choose one")
    if options.to is None and Path(options.output).suffix != ".dsc":
        raise InputError(f"the output is {options.output}, expected a name ending in .dsc (or --to PHASE for IR)")
    common.check_output(options.output)
    if options.record_schedules:
        if options.to is None or common.PHASES.index(options.to) < common.PHASES.index("schedule"):
            raise InputError("--record-schedules needs --to schedule, or a later phase")
        common.check_output(options.record_schedules)
    if options.dump_ir:
        from deepseek import compiler, isolation, phases

        with progress.task(f"writing {options.dump_ir}"):
            text = read_module(options.model, options.precision)
            lower = (isolation if Path(options.model).suffix == ".mlir" else compiler).lower_text
            lower = partial(lower, plan=_decisions(options.precision))
            phases.dump(text, options.dump_ir, target=options.target or "cpu", name=options.model, lower=lower)
    report = _lower(options) if options.to is not None else _compile(options)
    if options.json:
        common.print_json({"output": options.output, "target": options.target or "cpu"} | report)


def read_module(model: str, precision: str | None) -> str:
    """The module's text: at the end of `import` for a model, at any phase for a file."""
    if Path(model).suffix == ".mlir":
        try:
            return Path(model).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{model}: cannot be read as a module: {getattr(error, 'strerror', error)}") from None
    from deepseek.package import describe
    from deepseek.precision.plan import is_plan_name

    written = "f32" if is_plan_name(precision) else precision or "as-stored"
    return describe(open_model_files(model), precision=written)[1]


def _decisions(precision: str | None) -> str:
    """What the compiler needs of a plan; "" for a precision that is none."""
    from deepseek.precision.plan import Plan, is_plan_name

    return Plan.load(precision).for_compiler() if is_plan_name(precision) else ""


def open_model_files(model: str) -> Any:
    """The `Checkpoint` that MODEL names. Raises `CheckpointError`."""
    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.names import find_model

    path = find_model(model)
    if path.suffix == ".dsc":
        raise CheckpointError(f"{path} is compiled already, expected a checkpoint or a module as text")
    return open_checkpoint(path)


def _lower(options: argparse.Namespace) -> dict[str, Any]:
    from deepseek import compiler, isolation

    lower_text = (isolation if Path(options.model).suffix == ".mlir" else compiler).lower_text
    with progress.task(f"compiling {options.model}"):
        text = read_module(options.model, options.precision)
        lowered = lower_text(
            text,
            target=options.target or "cpu",
            to_phase=options.to,
            plan=_decisions(options.precision),
            source_name=options.model,
            record_schedules=options.record_schedules,
        )
        common.write_atomically(options.output, lowered.encode())
    return {"phase": options.to}


def _compile(options: argparse.Namespace) -> dict[str, Any]:
    from deepseek import artifact, isolation
    from deepseek.names import KNOWN_NAMES
    from deepseek.package import Package

    is_module = Path(options.model).suffix == ".mlir"
    source = options.checkpoint if is_module else options.model
    target = options.target or "cpu"
    with progress.task(f"compiling {options.model}"):
        text = read_module(options.model, None) if is_module else None
        code = isolation.compile_text(text, target=target, source_name=options.model) if is_module else None
        if source is None:
            artifact.write(options.output, text=text, object=code.object, manifest=code.manifest)
        else:
            checkpoint = open_model_files(source)
            precision = options.precision or "as-stored"
            name = source if source in KNOWN_NAMES else None
            package = Package.compile(checkpoint, target=target, precision=precision, text=text, name=name)
            code = package.code
    if source is not None:
        with progress.bar(0, f"writing {options.output}", unit="B") as bar:
            package.save(options.output, external_weights=options.weights == "external", progress=bar.reach)
    return {
        "compile_s": code.compile_s,
        "cache_hit": code.cache_hit,
        "statistics": code.manifest["statistics"],
        "file_bytes": Path(options.output).stat().st_size,
    }
