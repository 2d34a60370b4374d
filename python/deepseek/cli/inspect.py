"""`deepseek inspect`: what an artifact, a module or a model consists of."""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path
from typing import Any

from deepseek.cli import common
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
    parser.add_argument(
        "model",
        metavar="x.dsc|x.mlir|MODEL",
        help="artifact, module as text, GGUF file, Hugging Face folder or known name",
    )
    parser.add_argument("--dump", metavar="DIR", help="write the parts into this folder (made if needed)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints a summary; with --json everything."""
    artifact = Path(options.model).suffix == ".dsc"
    report, parts = _artifact(Path(options.model), options.dump is not None) if artifact else _module(options.model)
    if options.dump is not None:
        _dump(Path(options.dump), parts)
    if options.json:
        common.print_json(report)
    elif artifact:
        _print_artifact(report)
    else:
        _print_module(report)


def _artifact(path: Path, dump: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    from deepseek.artifact import Artifact

    opened = Artifact(path)
    kernels = opened.manifest.get("kernels", {})
    report = {
        "file": str(path),
        "file_bytes": opened.file_bytes,
        "compiler": opened.compiler,
        "object_sha256": hashlib.sha256(opened.object).hexdigest(),
        "object_bytes": len(opened.object),
        "model": opened.model,
        "weights": _weights(opened),
        "manifest": opened.manifest | {"kernels": {name: _kernel(entry) for name, entry in kernels.items()}},
    }
    if not dump:
        return report, {}
    from deepseek.isolation import assembly

    code = assembly(opened.text, target=opened.manifest["target"], source_name=str(path))
    parts = {".o": opened.object, ".mlir": opened.text.encode(), ".s": code.encode()}
    ptx = {f"{name}.ptx": entry["ptx"].encode() for name, entry in kernels.items()}
    return report, {path.stem + suffix: data for suffix, data in parts.items()} | ptx


def _kernel(entry: dict[str, Any]) -> dict[str, Any]:
    """A GPU's kernel without its text, which --dump writes."""
    ptx = entry["ptx"].encode()
    rest = {key: value for key, value in entry.items() if key != "ptx"}
    return rest | {"ptx_bytes": len(ptx), "ptx_sha256": hashlib.sha256(ptx).hexdigest()}


def _weights(opened: Any) -> dict[str, Any] | None:
    if opened.weights is None:
        return None
    return {
        "tensors": len(opened.weights),
        "bytes": sum(array.nbytes for array in opened.weights.values()),
        "external": opened.external_files,
    }


def _module(model: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    from deepseek.cli.compile import open_model_files, read_module

    report: dict[str, Any] = {"file": model}
    if Path(model).suffix == ".mlir":
        text = read_module(model, None)
    else:
        from deepseek.package import describe

        checkpoint = open_model_files(model)
        info, text = describe(checkpoint)
        report |= {"file": str(checkpoint.path), "checkpoint": _checkpoint(checkpoint, info)}
    return report | summarize(text, model), {f"{Path(model).stem}.mlir": text.encode()}


def _checkpoint(checkpoint: Any, info: Any) -> dict[str, Any]:
    formats: dict[str, dict[str, int]] = {}
    for tensor in checkpoint.tensors.values():
        entry = formats.setdefault(tensor.format.name, {"tensors": 0, "bytes": 0, "parameters": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.nbytes
        entry["parameters"] += math.prod(tensor.shape)
    return {
        "architecture": info.family,
        "kind": info.kind,
        "container": checkpoint.container,
        "vocabulary": info.vocabulary,
        "context": info.context,
        "parameters": sum(entry["parameters"] for entry in formats.values()),
        "file_bytes": checkpoint.file_bytes,
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
    print(f"compiler       deepseek-runtime {report['compiler']}")
    for key, value in (report["model"] or {}).items():
        print(f"{key:14} {value}")
    if report["weights"] is not None:
        weights = report["weights"]
        place = f"in {', '.join(weights['external'])}" if weights["external"] else "in this file"
        print(f"weights        {weights['tensors']} tensors, {weights['bytes']} bytes {place}")
    features = f" ({', '.join(manifest['features'])})" if manifest["features"] else ""
    print(f"target         {manifest['target']}{features}")
    print(f"object_sha256  {report['object_sha256']} ({report['object_bytes']} bytes)")
    for key, value in manifest["statistics"].items():
        print(f"{key:14} {value}")
    predicted = any("predicted_ns" in dispatch for dispatch in manifest["dispatches"])
    print("\ndispatch  kernel                          location" + "  (predicted ns)" * predicted)
    for dispatch in manifest["dispatches"]:
        time = f"  ({dispatch['predicted_ns']})" if dispatch.get("predicted_ns") else ""
        print(f"{dispatch['index']:8}  {dispatch['kernel']:30}  {dispatch['location']}{time}")


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
