"""`deepseek bench MODEL --profile`: where the time of a prefill and of one decode step goes, kernel by kernel."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from deepseek.cli import common, progress, roofline
from deepseek.costs import evaluate, layerless
from deepseek.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_MEANING = """a prefill and one decode step, launch by launch; bytes are those that cross a
  kernel's boundary, operations count the decoding of weights too, and more than
  100 % of what memory delivers came from a cache"""
_DECODE_RUNS = 4  # runs of the decode step per run of the prefill, which takes far longer
_LOCATIONS = 3  # named in one row of the table


def add_options(parser: argparse.ArgumentParser) -> None:
    """--profile, --trace, --roofline."""
    group = parser.add_argument_group("profile", _MEANING)
    group.add_argument("--profile", action="store_true", help="print time, rates and limits of every kernel instead")
    group.add_argument("--trace", metavar="FILE", help="profile, and write the launches as a Chrome trace (Perfetto)")
    group.add_argument(
        "--roofline", metavar="FILE", help="profile, and draw the kernels under the machine's limits, SVG"
    )


def is_asked(options: argparse.Namespace) -> bool:
    """Whether one of the options of `add_options` is there."""
    return bool(options.profile or options.trace or options.roofline)


def run(options: argparse.Namespace) -> None:
    """Prints one table per phase and writes the files asked for. Raises `InputError` for an encoder."""
    for path in filter(None, (options.trace, options.roofline)):
        common.check_output(path)
    model = common.load_model(options)
    report, phases = measure(model, options.prompt_tokens, options.runs)
    if options.trace:
        common.write_atomically(options.trace, json.dumps(trace(model.executable.manifest, phases)).encode())
    if options.roofline:
        common.write_atomically(options.roofline, roofline.draw(report).encode())
    if options.json:
        common.print_json(report)
    else:
        _print(report)


@dataclass(frozen=True)
class Phase:
    """One profiled forward pass: the run of median length."""

    name: str
    sizes: dict[str, int]  # value of every symbol; of a cache's capacity: how much of it is in use
    begin: int  # ns, as in `spans`
    end: int
    spans: np.ndarray  # as in `runtime.Profile`


def measure(model: Any, prompt_tokens: int, runs: int) -> tuple[dict[str, Any], list[Phase]]:
    """The object that `--json` prints, and the passes that it was made from.

    Limits are the best of three measurements around the passes, on as many threads. Raises `InputError`.
    """
    import numpy as np

    from deepseek.runtime.gpu_target import is_gpu

    if is_gpu(model.target):
        raise InputError(
            f"profiles compare with limits of CPUs, and {model.target} is a GPU: use bench without --profile"
        )
    if prompt_tokens + 1 > model.context:
        raise InputError(f"{prompt_tokens} + 1 tokens do not fit into the context of {model.context}")
    session = model.session()
    ids = np.random.Generator(np.random.PCG64(0)).integers(0, model.vocabulary, (1, prompt_tokens + 1), np.int32)
    limits: dict[str, float] = {}
    report: dict[str, Any] = {
        "model": model.info.name,
        "precision": model.info.precision,
        "threads": model.threads,
        "target": model.target,
        "compile_s": model.compile_s,
        "runs": runs,
        "limits": limits,
    }
    phases = []
    _measure_limits(limits, model.threads)
    for name, new, past, times in (("prefill", ids[:, :-1], 0, runs), ("decode", ids[:, -1:], prompt_tokens, None)):
        phase, plain = _profile(model, session, name, new, past, times or runs * _DECODE_RUNS)
        _measure_limits(limits, model.threads)
        phases.append(phase)
        report[name] = {"tokens": new.shape[1], "past": past, "plain_s": plain}
    for phase in phases:  # now that the limits are known
        report[phase.name] |= _summary(model.executable.manifest, phase, limits)
    return report, phases


def _measure_limits(limits: dict[str, float], threads: int) -> None:
    from deepseek import runtime

    for kind in runtime.LIMITS:
        if value := runtime.limit(kind, threads):
            limits[kind] = max(limits.get(kind, 0.0), value)


def _profile(model: Any, session: Any, name: str, ids: np.ndarray, past: int, runs: int) -> tuple[Phase, float]:
    """The profiled pass of median length, and the median seconds of passes that are not profiled, in turn."""
    manifest = model.executable.manifest
    sizes = pass_sizes(manifest, ids.shape[1], past + ids.shape[1])
    session.forward(ids)
    plain, phases = [], []
    for _ in progress.bar(range(runs), name):
        session.truncate(past)
        begin = time.monotonic_ns()
        session.forward(ids)
        plain.append((time.monotonic_ns() - begin) / 1e9)
        session.truncate(past)
        with model.executable.context.profile(2 * len(manifest["dispatches"])) as profile:
            begin = time.monotonic_ns()
            session.forward(ids)
            end = time.monotonic_ns()
        phases.append(Phase(name, sizes, begin, end, profile.spans))
    return sorted(phases, key=lambda phase: phase.end - phase.begin)[len(phases) // 2], median(plain)


def pass_sizes(manifest: Mapping[str, Any], tokens: int, length: int) -> dict[str, int]:
    """Symbols of a decoder in a pass of one sequence: `tokens` new positions, `length` positions held afterwards."""
    sizes: dict[str, int] = {}
    for argument in manifest["main"]["args"]:
        if argument["kind"] != "input":
            continue
        # ids [b, s], lengths [b], caches [b, 2, heads, capacity, size]
        values = (1, 2, None, length, None) if argument["tied"] else (1, tokens)
        for symbol, value in zip(argument["shape"], values):
            if isinstance(symbol, str) and value is not None:
                sizes[symbol] = value
    return sizes


def _cost(dispatch: Mapping[str, Any], key: str, sizes: Mapping[str, int]) -> int | None:
    text = dispatch.get(key)
    return None if text is None else evaluate(text, sizes)


def _summary(manifest: Mapping[str, Any], phase: Phase, limits: Mapping[str, float]) -> dict[str, Any]:
    """Kernels merged over layers, the slowest first; times in seconds, rates in GFLOP/s and GB/s."""
    launches = phase.spans[phase.spans["part"] < 0]
    wall = (phase.end - phase.begin) / 1e9
    rows: dict[str, dict[str, Any]] = {}
    for launch in launches:
        dispatch = manifest["dispatches"][launch["dispatch"]]
        row = rows.setdefault(
            dispatch["kernel"], {"kernel": dispatch["kernel"], "launches": 0, "seconds": 0.0, "dispatches": {}}
        )
        row["launches"] += 1
        row["seconds"] += int(launch["end"] - launch["begin"]) / 1e9
        row["dispatches"][int(launch["dispatch"])] = dispatch
    for row in rows.values():
        dispatches = row.pop("dispatches").values()
        row["share"] = row["seconds"] / wall
        for key in ("operations", "bytes"):
            costs = [_cost(dispatch, key, phase.sizes) for dispatch in dispatches]
            row[key] = None if None in costs else sum(costs)
        row |= _rates(row, limits)
        row["locations"] = list(dict.fromkeys(layerless(dispatch["location"]) for dispatch in dispatches))
    inside = sum(row["seconds"] for row in rows.values())
    return {
        "seconds": wall,
        "dispatch_s": inside,
        "outside_s": wall - inside,
        "launches": len(launches),
        "kernels": sorted(rows.values(), key=lambda row: -row["seconds"]),
    }


def _rates(row: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    """Rates, which limit is the nearer one, and how much of it was reached. Kernels compute in f32."""
    rates: dict[str, Any] = {"gflops": None, "gbytes_per_s": None, "bound": None, "of_limit": None}
    seconds, operations, size = row["seconds"], row["operations"], row["bytes"]
    if operations is None or size is None or not seconds:
        return rates
    rates |= {"gflops": operations / seconds / 1e9, "gbytes_per_s": size / seconds / 1e9}
    if "f32" in limits and "read" in limits:
        compute, memory = rates["gflops"] / limits["f32"], rates["gbytes_per_s"] / limits["read"]
        rates |= {"bound": "compute" if compute >= memory else "memory", "of_limit": max(compute, memory)}
    return rates


def trace(manifest: Mapping[str, Any], phases: list[Phase]) -> dict[str, Any]:
    """The phases in Chrome's trace event format: a process each, with a row of launches and one per thread."""
    events: list[dict[str, Any]] = []
    start = 0.0  # us: the phases follow one another, whatever ran between them
    for pid, phase in enumerate(phases, 1):
        rows = {0: "forward pass", 1: "launches"}
        spans = [(phase.name, 0, phase.begin, phase.end, dict(phase.sizes))]
        for begin, end, index, part in phase.spans.tolist():
            dispatch = manifest["dispatches"][index]
            rows.setdefault(part + 2, f"thread {part}")
            args = {"dispatch": index, "location": dispatch["location"]}
            args |= {key: _cost(dispatch, key, phase.sizes) for key in ("operations", "bytes")} if part < 0 else {}
            spans.append((dispatch["kernel"], part + 2, begin, end, args))
        for name, tid, begin, end, args in spans:
            times = {"ts": start + (begin - phase.begin) / 1e3, "dur": (end - begin) / 1e3}
            events.append({"name": name, "ph": "X", "pid": pid, "tid": tid, **times, "args": args})
        events.append({"name": "process_name", "ph": "M", "pid": pid, "args": {"name": phase.name}})
        for tid, name in sorted(rows.items()):
            events.append({"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}})
            events.append({"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}})
        start += (phase.end - phase.begin) / 1e3
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _print(report: Mapping[str, Any]) -> None:
    print(f"{report['model']}, {report['precision']}, {report['threads']} threads, {report['target']}")
    units = {"int8": "GOP/s", "int8_tiles": "GOP/s", "read": "GB/s"}
    limits = (f"{kind} {value:.1f} {units.get(kind, 'GFLOP/s')}" for kind, value in report["limits"].items())
    print(f"limits: {', '.join(limits)}")
    for name in ("prefill", "decode"):
        _print_phase(name, report[name])


def _print_phase(name: str, phase: Mapping[str, Any]) -> None:
    what = f"{phase['tokens']} tokens" if name == "prefill" else f"1 token after {phase['past']}"
    print(
        f"\n{name}, {what}: {phase['seconds'] * 1e3:.3f} ms launch by launch, {phase['plain_s'] * 1e3:.3f} ms otherwise"
    )
    print("kernel                launches         ms   share   GFLOP/s      GB/s  bound    of limit  where")
    for row in phase["kernels"]:
        rates = "         -         -  -               -"
        if row["gflops"] is not None:
            rates = f"{row['gflops']:10.1f}{row['gbytes_per_s']:10.1f}  -               -"
        if row["bound"] is not None:
            rates = f"{rates[:20]}  {row['bound']:8}{row['of_limit']:9.1%}"
        where = ", ".join(row["locations"][:_LOCATIONS])
        if more := len(row["locations"][_LOCATIONS:]):
            where += f" and {more} more"
        print(f"{row['kernel']:20}{row['launches']:10}{row['seconds'] * 1e3:11.3f}{row['share']:8.1%}{rates}  {where}")
    print(f"{'in no kernel':20}{'':10}{phase['outside_s'] * 1e3:11.3f}{phase['outside_s'] / phase['seconds']:8.1%}")
