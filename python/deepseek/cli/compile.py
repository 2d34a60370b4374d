"""`deepseek compile`: a model or a module to an artifact, or to the IR at the end of a phase."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from deepseek.cli import common
from deepseek.errors import CheckpointError, InputError

EXAMPLES = """
deepseek compile smollm2-135m -o smollm2.dsc
deepseek compile smollm2-135m --to fuse -o fused.mlir
deepseek compile fused.mlir --target cpu:x86-64-v4 -o smollm2.dsc
"""


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "compile", "compile a model or a module ahead of time", EXAMPLES)
    parser.add_argument("model", metavar="MODEL|x.mlir", help="GGUF file, known name, or a module as text")
    parser.add_argument("--target", default="cpu", help="what to compile for (default: %(default)s, this machine)")
    parser.add_argument("--precision", default="as-stored", help="as-stored (default) or f32")
    parser.add_argument(
        "--to", choices=common.PHASES, metavar="PHASE", help=f"stop after one of {', '.join(common.PHASES)}"
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
    text, checkpoint = read_module(options.model, options.precision)
    report: dict[str, Any] = {"output": options.output, "target": options.target}
    with common.progress(f"compiling {options.model}"):
        if options.to is not None:
            from deepseek.compiler import lower_text

            report["phase"] = options.to
            lowered = lower_text(text, target=options.target, to_phase=options.to)
            common.write_atomically(options.output, lowered.encode())
        else:
            report |= _save(text, options, checkpoint)
    if options.json:
        common.print_json(report)


def read_module(model: str, precision: str) -> tuple[str, Path | None]:
    """The module's text at the end of `import` (or later, for a file), and the checkpoint it was made from."""
    if Path(model).suffix == ".mlir":
        try:
            return Path(model).read_text(encoding="utf-8"), None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{model}: cannot be read as a module: {getattr(error, 'strerror', error)}") from None
    from deepseek.names import find_model

    path = find_model(model)
    if path.suffix == ".dsc":
        raise CheckpointError(f"{path} is compiled already, expected a checkpoint or a module as text")
    from deepseek.frontend.checkpoint.gguf import GGUFFile
    from deepseek.frontend.checkpoint.llama import build_graph, read_config

    return build_graph(read_config(GGUFFile(path)), precision).mlir, path


def _save(text: str, options: argparse.Namespace, checkpoint: Path | None) -> dict[str, Any]:
    from deepseek import artifact
    from deepseek.compiler import compile_text

    compiled = compile_text(text, target=options.target, source_name=Path(options.model).name)
    artifact.save(Path(options.output), compiled, text=text, checkpoint=checkpoint)
    return {
        "compile_s": compiled.compile_s,
        "cache_hit": compiled.cache_hit,
        "statistics": compiled.manifest["statistics"],
        "file_bytes": Path(options.output).stat().st_size,
    }
