"""`deepseek doctor`: what this machine supports, what is missing and how to get it."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek.cli import common, machine, progress
from deepseek.errors import DeepseekError

EXAMPLES = """
deepseek doctor
deepseek doctor --check
deepseek doctor --json
"""

# Package: what it is for, and the command that brings it.
_PACKAGES = {
    "tokenizers": ("text to tokens", "pip install tokenizers"),
    "jinja2": ("chat templates", "pip install jinja2"),
    "ml_dtypes": ("bfloat16 and 8-bit float arrays in numpy", "pip install ml_dtypes"),
    "torch": ("modules and tensors of torch, precision plan", "pip install torch"),
    "scipy": ("precision plan", "pip install scipy"),
}
_REINSTALL = "reinstall deepseek-runtime, or run `make build` in a checkout"


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "doctor", "check what this machine supports and what is missing", EXAMPLES)
    parser.add_argument("--check", action="store_true", help="also compile and run a small program (x * 2 + 3)")
    parser.epilog = f"{parser.epilog}\n\nexit status: 1 if an essential part is missing or broken, else 0"
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what was found; a missing optional part is not a failure."""
    report = _report()
    if options.check:
        with progress.task("compiling x * 2 + 3"):
            report["check"] = _check()
    essential = ("numpy", "runtime", "check")
    report["problems"] = [report[key]["problem"] for key in essential if key in report and not report[key]["ok"]]
    report["ok"] = not report["problems"]
    if options.json:
        common.print_json(report)
    else:
        for label, text in _lines(report):
            print(f"{label:11} {text}")
    return int(not report["ok"])


def _report() -> dict[str, Any]:
    from deepseek import __version__

    features, runtime = _runtime()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": machine.cpu(),
        "cpu_features": sorted(features),
        "targets": machine.targets(features),
        "memory": machine.memory(),
        "numpy": _numpy(),
        "runtime": runtime,
        "compiler": _compiler(__version__),
        "cache": _cache(),
        "gpu": _gpu(),
        "packages": {
            name: {"installed": _version(name) is not None, "version": _version(name)}
            | {"purpose": purpose, "install": install}
            for name, (purpose, install) in _PACKAGES.items()
        },
        "models": _models(),
        "huggingface": machine.hugging_face(),
    }


def _numpy() -> dict[str, Any]:
    try:
        import numpy as np
    except Exception as error:  # a broken binary raises more than ImportError
        return {"ok": False, "problem": f"numpy cannot be imported ({error}): pip install numpy"}
    return {"ok": True, "version": np.__version__}


def _runtime() -> tuple[frozenset[str], dict[str, Any]]:
    try:
        from deepseek import runtime

        features = runtime.cpu_features()
    except ImportError:
        return frozenset(), {"ok": False, "problem": "the runtime library needs numpy: pip install numpy"}
    except DeepseekError as error:
        return frozenset(), {"ok": False, "problem": str(error)}
    path = Path(__file__).parents[1] / "lib" / "libdsc_rt.so"
    return features, {"ok": True, "version": runtime.VERSION, "path": str(path)}


def _gpu() -> dict[str, Any]:
    """{"ok", "reason", "devices", "nccl", "ptxas"}; NCCL is looked for where there is a GPU."""
    found: dict[str, Any] = {"ok": False, "reason": "", "devices": [], "nccl": None, "ptxas": machine.ptxas()}
    try:
        from deepseek.runtime import collectives, gpu

        probe = gpu.probe()
        nccl = dataclasses.asdict(collectives.find_nccl()) if probe.ok else None
        devices = [dataclasses.asdict(device) for device in probe.devices]
        return found | {"ok": probe.ok, "reason": probe.reason, "devices": devices, "nccl": nccl}
    except ImportError:
        return found | {"reason": "the runtime library needs numpy"}
    except DeepseekError as error:
        return found | {"reason": str(error)}


def _compiler(version: str) -> dict[str, Any]:
    # By its files: importing it would load all of MLIR.
    libraries = sorted((Path(__file__).parents[1] / "_mlir").glob("**/*.so*"), key=lambda path: path.stat().st_size)
    if not libraries:
        return {"ok": False, "problem": f"the compiler is missing, only compiled programs run: {_REINSTALL}"}
    return {"ok": True, "version": version, "path": str(libraries[-1]), "bytes": libraries[-1].stat().st_size}


def _cache() -> dict[str, Any]:
    from deepseek import cache

    try:
        folder = cache.directory()
        # The cache makes its folder when it first writes: ask the nearest one that exists.
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            sizes = [path.stat().st_size for path in folder.glob("*.bin")]
            found = {"programs": len(sizes), "bytes": sum(sizes), "free_bytes": machine.disk_free(folder)}
            return {"ok": True, "path": str(folder)} | found
    except OSError as error:
        problem = f"{error.filename or ''} {error.strerror or error}".strip()
        return {"ok": False, "problem": f"not writable, programs are compiled anew each time: {problem}"}


def _models() -> dict[str, dict[str, Any]]:
    from deepseek.names import KNOWN_NAMES, find_model

    found: dict[str, dict[str, Any]] = {}
    for name, known in KNOWN_NAMES.items():
        try:
            found[name] = {"found": True, "path": str(find_model(name))}
        except DeepseekError:
            found[name] = {"found": False, "install": known.install}
    return found


def _version(name: str) -> str | None:
    """The version of an installed package, without importing it; None if there is none."""
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _check() -> dict[str, Any]:
    """Compiles x * 2 + 3 without the cache and compares what it computes with numpy."""
    before = os.environ.get("DEEPSEEK_CACHE_MAX_BYTES")
    os.environ["DEEPSEEK_CACHE_MAX_BYTES"] = "0"
    begin = time.perf_counter()
    try:
        import numpy as np

        from deepseek import ACG

        x = np.arange(-3, 1000, dtype=np.float32)
        if np.array_equal(ACG.compile(lambda x: x * 2 + 3)(x), x * 2 + 3):  # small whole numbers: exact
            return {"ok": True, "seconds": time.perf_counter() - begin}
        return {"ok": False, "problem": "x * 2 + 3 was compiled, but gives wrong numbers: report this machine's CPU"}
    except (DeepseekError, ImportError) as error:
        return {"ok": False, "problem": f"x * 2 + 3 cannot be compiled and run: {error}"}
    finally:
        if before is None:
            del os.environ["DEEPSEEK_CACHE_MAX_BYTES"]
        else:
            os.environ["DEEPSEEK_CACHE_MAX_BYTES"] = before


def _lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of each line."""

    def state(part: dict[str, Any], good: str) -> str:
        return good.format(**part) if part["ok"] else part["problem"]

    yield "deepseek", f"{report['version']} on Python {report['python']}"
    yield "machine", report["machine"]
    cpu, cache, memory = report["cpu"], report["cache"], report["memory"]
    cores = f"{cpu['cores']} cores, " if cpu["cores"] else ""
    limit = f", limited to {cpu['limit']:g} CPUs of time" if cpu["limit"] else ""
    yield "cpu", f"{cpu['model']}, {cores}{cpu['cpus']} threads usable{limit}"
    yield "features", ", ".join(report["cpu_features"]) or "unknown"
    yield "targets", ", ".join(report["targets"]) + " (the first is cpu)" if report["targets"] else "none"
    if memory["total"] is not None:
        yield "memory", f"{_gigabytes(memory['total'])}, {_gigabytes(memory['available'])} free"
    yield "numpy", state(report["numpy"], "{version}")
    yield "runtime", state(report["runtime"], "version {version}, {path}")
    yield "compiler", state(report["compiler"], "version {version}, {path}")
    if cache["ok"]:
        used = f"{cache['programs']} programs, {_gigabytes(cache['bytes'])}; {_gigabytes(cache['free_bytes'])} free"
        yield "cache", f"{cache['path']}: {used}"
    else:
        yield "cache", cache["problem"]
    gpu = report["gpu"]
    if not gpu["ok"]:
        yield "gpu", f"none: {gpu['reason']}"
    for device in gpu["devices"]:
        capability, driver = (".".join(map(str, device[key])) for key in ("capability", "driver"))
        size = f"{device['multiprocessors']} multiprocessors, {_gigabytes(device['memory_bytes'])}"
        yield (
            "gpu",
            f"{device['index']}: {device['name']}, sm_{capability.replace('.', '')}, {size}, driver for CUDA {driver}",
        )
    if gpu["nccl"]:
        yield "nccl", state(gpu["nccl"] | {"problem": gpu["nccl"]["reason"]}, "version {version} (several GPUs)")
    yield "ptxas", gpu["ptxas"] or "missing: pip install nvidia-cuda-nvcc (checks GPU code)"
    for name, package in report["packages"].items():
        have = package["version"] if package["installed"] else f"missing: {package['install']}"
        yield name, f"{have} ({package['purpose']})"
    for name, model in report["models"].items():
        yield "model", f"{name}: {model['path'] if model['found'] else 'missing: ' + model['install']}"
    stored = report["huggingface"]
    yield "model", f"{len(stored['models'])} in the Hugging Face cache {stored['path']}"
    for name in stored["models"]:
        yield "", name
    if "check" in report:
        yield "check", state(report["check"], "x * 2 + 3 compiled and run in {seconds:.2f} s")
    if report["problems"]:
        yield "problems", f"{len(report['problems'])}: {'; '.join(report['problems'])}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
