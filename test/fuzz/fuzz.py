"""Fuzzes one reader from the command line: `python test/fuzz/fuzz.py gguf --count 100000 --seed 1 --jobs 2`.

Exit status 1 when something was found; each finding names the command that shows it again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import harness
import readers

_CHECKED_SEEDS = 64  # so many are read as they are first, to see that inputs are made from good ones


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*readers.READERS, "all"]
    parser.add_argument("reader", choices=names, metavar="READER", help=", ".join(names))
    parser.add_argument("--count", type=int, help="inputs per reader (default: what `make test` runs)")
    parser.add_argument("--begin", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all CPUs)")
    parser.add_argument("--input", type=Path, nargs="+", metavar="FILE", help="read these instead of made inputs")
    parser.add_argument("--minimize", action="store_true", help="make the inputs of the findings smaller")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="folder for findings")
    parser.add_argument("--json", action="store_true", help="one JSON object per reader on stdout")
    options = parser.parse_args()
    chosen = readers.READERS if options.reader == "all" else {options.reader: readers.READERS[options.reader]}
    failed = False
    for reader in chosen.values():
        with harness.prepared(reader()) as ready:
            failed |= fuzz(ready, options)
    return int(failed)


def fuzz(reader: harness.Reader, options: argparse.Namespace) -> bool:
    """Runs one reader and prints what was found."""
    seeds = reader.seeds() if options.input is None else []  # inputs that are given are not made from any
    checked = random.Random(options.seed).sample(seeds, min(len(seeds), _CHECKED_SEEDS))
    refused = [reason for reason in harness.refusals(reader, checked) if reason]
    if refused:
        print(f"{reader.name}: {len(refused)} seeds are not accepted, one because: {refused[0]}", file=sys.stderr)
        return True
    if options.input is not None:
        report = harness.run_inputs(reader, [path.read_bytes() for path in options.input])
    else:
        count = reader.count if options.count is None else options.count
        shown = sys.stderr.isatty()
        progress = Bar(count) if shown else lambda report: None
        report = harness.run(reader, options.seed, options.begin, count, options.jobs, progress)
        if shown:
            print("\r\033[K", end="", file=sys.stderr)
    findings: list[dict[str, object]] = []
    foreign: list[dict[str, object]] = []
    for failure in report.failures.values():
        if options.minimize:
            failure = harness.smaller(reader, failure)
        (foreign if reader.foreign(failure.signature) else findings).append(describe(reader, failure, options))
    if options.json:
        fields = {"reader": reader.name, "seed": options.seed, "inputs": report.inputs, "accepted": report.accepted}
        print(json.dumps(fields | {"seconds": round(report.seconds, 2), "findings": findings, "foreign": foreign}))
    else:
        print(
            f"{reader.name}: {report.inputs} inputs in {report.seconds:.1f} s, {report.accepted} accepted, "
            f"{len(findings)} kinds of failure, {len(foreign)} in other people's code"
        )
        for finding in (*findings, *foreign):
            print(f"  {finding['count']} x {finding['signature']}\n    {finding['command']}")
    return bool(findings)


def describe(reader: harness.Reader, failure: harness.Failure, options: argparse.Namespace) -> dict[str, object]:
    """Stores the input and its story; returns what to print."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{reader.name}-{options.seed}-{failure.index}"
    path.write_bytes(failure.data)
    path.with_name(path.name + ".txt").write_text(f"{failure.signature}\n\n{failure.detail}\n", encoding="utf-8")
    return {
        "signature": failure.signature,
        "count": failure.count,
        "command": f"{Path(sys.executable).name} test/fuzz/fuzz.py {reader.name} --input {path}",
    }


class Bar:
    """Progress of a run on a terminal's stderr."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.shown = 0.0

    def __call__(self, report: harness.Report) -> None:
        now = time.monotonic()
        if now - self.shown < 0.2:
            return
        self.shown = now
        share = report.inputs / max(self.count, 1)
        left = report.seconds / share * (1 - share) if share else 0.0
        text = f"{report.reader} [{'#' * int(30 * share):30}] {report.inputs}/{self.count}"
        text += f" {left:.0f} s left, {len(report.failures)} kinds of failure"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
