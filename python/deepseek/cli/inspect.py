"""`deepseek inspect`: what an artifact, a module or a model consists of."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from deepseek.cli import common
from deepseek.cli.compile import read_module
from deepseek.cli.summary import summarize
from deepseek.errors import InputError

EXAMPLES = """
deepseek inspect smollm2.dsc
deepseek inspect fused.mlir --json
deepseek inspect smollm2-135m --dump folder
"""

_LONGEST_LIST = 40


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "inspect", "show what an artifact, a module or a model consists of", EXAMPLES)
    parser.add_argument("model", metavar="x.dsc|x.mlir|MODEL", help="artifact, module as text, GGUF file or known name")
    parser.add_argument("--dump", metavar="DIR", help="write the parts into this folder (made if needed)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints a summary; with --json everything."""
    artifact = Path(options.model).suffix == ".dsc"
    report, parts = _artifact(Path(options.model)) if artifact else _module(options.model)
    if options.dump is not None:
        _dump(Path(options.dump), parts)
    if options.json:
        common.print_json(report)
    elif artifact:
        _print_artifact(report)
    else:
        _print_module(report)


def _artifact(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    from deepseek import artifact

    loaded = artifact.load(path)
    report = {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "object_sha256": hashlib.sha256(loaded.object).hexdigest(),
        "object_bytes": len(loaded.object),
        "manifest": loaded.manifest,
    }
    return report, {f"{path.stem}.o": loaded.object, f"{path.stem}.mlir": loaded.text.encode()}


def _module(model: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    text, checkpoint = read_module(model, "as-stored")
    report: dict[str, Any] = {"file": str(checkpoint or model)}
    if checkpoint is not None:
        report["checkpoint"] = _checkpoint(checkpoint)
    return report | summarize(text, model), {f"{Path(model).stem}.mlir": text.encode()}


def _checkpoint(path: Path) -> dict[str, Any]:
    from deepseek.frontend.checkpoint.gguf import GGUFFile
    from deepseek.frontend.checkpoint.llama import read_config

    file = GGUFFile(path)
    config = read_config(file)
    formats: dict[str, dict[str, int]] = {}
    for tensor in file.tensors.values():
        entry = formats.setdefault(tensor.format.name, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.nbytes
    return {
        "architecture": file.require("general.architecture", str),
        "layers": config.layers,
        "hidden": config.hidden,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "feed_forward": config.feed_forward,
        "vocabulary": config.vocabulary,
        "context": config.context,
        "parameters": config.elements,
        "formats": formats,
    }


def _dump(folder: Path, parts: dict[str, bytes]) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot dump into {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in parts.items():
        common.write_atomically(str(folder / name), data)


def _print_artifact(report: dict[str, Any]) -> None:
    manifest = report["manifest"]
    print(f"file           {report['file']} ({report['file_bytes']} bytes)")
    print(f"target         {manifest['target']} ({', '.join(manifest['features'])})")
    print(f"object_sha256  {report['object_sha256']} ({report['object_bytes']} bytes)")
    for key, value in manifest["statistics"].items():
        print(f"{key:14} {value}")
    print("\ndispatch  kernel                          location")
    for dispatch in manifest["dispatches"]:
        print(f"{dispatch['index']:8}  {dispatch['kernel']:30}  {dispatch['location']}")


def _print_module(report: dict[str, Any]) -> None:
    print(f"file         {report['file']}")
    for key, value in report.get("checkpoint", {}).items():
        if key == "formats":
            value = ", ".join(f"{name}: {part['tensors']} tensors" for name, part in value.items())
        print(f"{key:12} {value}")
    print(f"phase        {report['phase']}\n")
    for kind in ("input", "weight"):
        chosen = [argument for argument in report["arguments"] if argument["kind"] == kind]
        if not chosen:
            continue
        print(f"{len(chosen)} {kind} arguments")
        for argument in chosen[:_LONGEST_LIST]:
            dims = f"  [{', '.join(argument['dims'])}]" if argument["dims"] else ""
            print(f"  {argument['name']:30} {argument['type']}{dims}")
        if len(chosen) > _LONGEST_LIST:
            print(f"  and {len(chosen) - _LONGEST_LIST} more")
    print("\noperations")
    for name, number in report["operations"].items():
        print(f"  {name:30} {number}")
