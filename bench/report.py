"""All benchmarks as one Markdown document on stdout and in build/bench.md, with docs/roofline.svg: `make bench`.

python bench/report.py [--threads 2] [--quick] [--skip-peers]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from deepseek.cli import machine
from deepseek.frontend.checkpoint.families.common import PRECISIONS

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
PROFILED = "as-stored"
PRODUCTS = ((2048, 2048, 2048), (1000, 1777, 333))  # m, n, k
QUICK = ("--prompt-tokens", "64", "--new-tokens", "8")


def run_json(*command: object) -> dict[str, Any]:
    """What a command prints with --json; its messages go to stderr."""
    print(" ".join(map(str, command)), file=sys.stderr)
    done = subprocess.run(
        [sys.executable, *map(str, command), "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"failed with status {done.returncode}: {' '.join(map(str, command))}")
    return json.loads(done.stdout)


def table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield from ("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))
    yield ""


def environment(options: argparse.Namespace) -> Iterator[str]:
    """Machine, date, commit and command, as docs/BENCHMARKS.md asks for."""
    cpu, memory = machine.cpu(), machine.memory()["total"]
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    yield (
        f"{cpu['model']}, {cpu['cpus']} CPUs, {(memory or 0) / 2**30:.0f} GiB, {date.today()}, "
        f"commit {commit.stdout.strip() or 'unknown'}, `make bench JOBS={options.threads}`."
    )
    yield ""


def products() -> Iterator[str]:
    """One thread; limits are those of the same run."""
    yield "## Generated matrix products"
    yield "One thread, medians of 5; packed before the timing: the right side (rhs), or both."
    yield ""
    rows = []
    for m, n, k in PRODUCTS:
        for dtype in ("f32", "bf16", "int8"):
            for pack in ("rhs", "both"):
                sizes = ("--m", m, "--n", n, "--k", k, "--dtype", dtype, "--pack", pack, "--threads", 1)
                values = run_json("-m", "deepseek", "bench", "gemm", *sizes)
                rates = [f"{values[key]:.0f}" for key in ("gflops", "limit_gflops")]
                rows.append([f"{dtype} {m} x {n} x {k}", pack, *rates, f"{values['ratio']:.2f}"])
    yield from table(["case", "packed", "GFLOP/s", "limit", "ratio"], rows)


def models(options: argparse.Namespace, profiles: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Prefill is limited by f32 arithmetic, decode by reading every weight once per token."""
    yield "## SmolLM2-135M at every precision"
    operations = sum(row["operations"] for row in profiles["f32"]["prefill"]["kernels"])
    per_token = operations / profiles["f32"]["prefill"]["tokens"]
    yield f"{options.threads} threads; {per_token / 1e6:.0f} MFLOP per token of the prompt."
    yield ""
    rows = []
    for precision, profile in profiles.items():
        values = run_json("-m", "deepseek", "bench", MODEL, *model_options(options, precision))
        limits = profile["limits"]
        prefill, decode = limits["f32"] * 1e9 / per_token, limits["read"] * 1e9 / values["weight_bytes"]
        figures = (
            ("prefill, tokens/s", values["prefill_tokens_per_s"], prefill),
            ("decode, tokens/s", values["decode_tokens_per_s"], decode),
        )
        for name, value, limit in figures:
            rows.append([precision, name, f"{value:.1f}", f"{limit:.1f}", f"{value / limit:.2f}"])
        rows.append([precision, "process start to ready, cached, s", f"{values['warm_load_s']:.2f}", "", ""])
        weights, peak = values["weight_bytes"] / 1e6, values["peak_rss_bytes"] / 1e6
        rows.append([precision, "peak memory (weights), MB", f"{peak:.0f} ({weights:.0f})", "", ""])
        rows.append([precision, "compile, s", f"{profile['compile_s']:.1f}", "", ""])
    yield from table(["precision", "figure", "ours", "limit", "ratio"], rows)


def model_options(options: argparse.Namespace, precision: str) -> list[object]:
    return ["--precision", precision, "--threads", options.threads, *(QUICK if options.quick else ())]


def profile_tables(profile: dict[str, Any]) -> Iterator[str]:
    """Kernels that take at least 0.1 % of a pass."""
    limits = ", ".join(f"{kind} {value:.1f}" for kind, value in profile["limits"].items())
    yield f"## Kernels of SmolLM2-135M, {profile['precision']}"
    yield f"{profile['threads']} threads. Limits in GFLOP/s, GOP/s and GB/s: {limits}. ![Roofline](roofline.svg)"
    yield ""
    for name in ("prefill", "decode"):
        phase = profile[name]
        rows = [
            [
                row["kernel"],
                str(row["launches"]),
                f"{row['seconds'] * 1e3:.3f}",
                f"{row['share']:.1%}",
                f"{row['gflops']:.1f}",
                f"{row['gbytes_per_s']:.1f}",
                row["bound"] or "",
                f"{row['of_limit']:.2f}" if row["of_limit"] else "",
                ", ".join(row["locations"]),
            ]
            for row in phase["kernels"]
            if row["share"] >= 0.001
        ]
        outside = [f"{phase['outside_s'] * 1e3:.3f}", f"{phase['outside_s'] / phase['seconds']:.1%}"]
        rows.append(["in no kernel", "", *outside, "", "", "", "", ""])
        heads = [f"{name}, {phase['tokens']} after {phase['past']}", "launches", "ms", "share"]
        yield from table([*heads, "GFLOP/s", "GB/s", "bound", "of limit", "where"], rows)


def document(options: argparse.Namespace) -> Iterator[str]:
    yield "# Benchmarks"
    yield from environment(options)
    yield from products()
    profiles = {}
    for precision in PRECISIONS:
        command = ["-m", "deepseek", "bench", MODEL, "--profile", *model_options(options, precision)]
        if precision == PROFILED:
            command += ["--roofline", ROOT / "docs" / "roofline.svg"]
        profiles[precision] = run_json(*command)
    yield from models(options, profiles)
    yield from profile_tables(profiles[PROFILED])
    if not options.skip_peers:
        yield "## Peers"
        command = [Path(__file__).parent / "peers.py", "--threads", options.threads, *(QUICK if options.quick else ())]
        print(" ".join(map(str, command)), file=sys.stderr)
        done = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, check=False)
        yield done.stdout if not done.returncode else f"peers.py failed with status {done.returncode}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="short prompts: to see that everything runs")
    parser.add_argument("--skip-peers", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # compile times are those of an empty cache
        os.environ["XDG_CACHE_HOME"] = folder
        lines = []
        for line in document(options):
            lines.append(line)
            print(line, flush=True)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
