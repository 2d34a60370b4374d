"""How many of PyTorch's operations compile: OpInfo's samples at float32, against eager. make coverage-opinfo.

Every operation without randomness, its first three samples, in a child process. Results: build/coverage-opinfo.json
and a table of what fails, by reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing as mp
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import deepseek

SAMPLES = 3
TOLERANCE = 1e-4


def close(got: Any, want: Any) -> str:
    """Empty if outputs agree: max|a - b| <= 1e-4 max|b|, infinities and NaN in the same places."""
    a, b = pytree.tree_leaves(got), pytree.tree_leaves(want)
    if len(a) != len(b):
        return f"{len(a)} outputs, eager gives {len(b)}"
    for x, y in zip(a, b):
        if not isinstance(y, torch.Tensor):
            if x != y:
                return f"output {x!r}, eager gives {y!r}"
            continue
        if not isinstance(x, torch.Tensor) or x.shape != y.shape or x.dtype != y.dtype:
            return f"output {getattr(x, 'dtype', type(x))}{list(getattr(x, 'shape', []))}, eager gives {y.dtype}{list(y.shape)}"
        if not y.numel():
            continue
        if not y.dtype.is_floating_point and not y.dtype.is_complex:
            if not torch.equal(x, y):
                return f"values differ: {int((x != y).sum())} of {y.numel()}"
            continue
        finite = torch.isfinite(y)
        if not torch.equal(torch.isfinite(x), finite) or not torch.equal(torch.isnan(x), torch.isnan(y)):
            return "NaN or infinity in other places"
        if finite.any():
            error = (x - y)[finite].abs().max().item()
            scale = y[finite].abs().max().item()
            if error > TOLERANCE * scale + 1e-7:
                return f"values differ by {error:.2e} at a scale of {scale:.2e}"
    return ""


class Call(torch.nn.Module):
    """One sample as a module of its tensors."""

    def __init__(self, op: Any, sample: Any) -> None:
        super().__init__()
        self.op = op
        leaves, self.spec = pytree.tree_flatten((sample.input, tuple(sample.args), sample.kwargs))
        self.tensors = [isinstance(v, torch.Tensor) for v in leaves]
        self.leaves = [None if t else v for t, v in zip(self.tensors, leaves)]
        self.inputs = tuple(v.detach().clone() for t, v in zip(self.tensors, leaves) if t)

    def forward(self, *tensors: torch.Tensor) -> Any:
        rest = iter(tensors)
        leaves = [next(rest) if t else v for t, v in zip(self.tensors, self.leaves)]
        first, args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.op(first, *args, **kwargs)


def run(op: Any) -> str:
    """Empty if all samples pass, else what went wrong."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    samples = [s for s, _ in zip(op.sample_inputs("cpu", torch.float32), range(SAMPLES))]
    for sample in samples:
        call = Call(op, sample)
        with torch.no_grad():
            want = call(*(x.clone() for x in call.inputs))
            exe = deepseek.compile(call, call.inputs)
            got = exe(*(x.clone() for x in call.inputs))
            problem = close(got, want)
            # Of what is not unique, signs of eigenvectors for example, OpInfo says which part is.
            if problem and not close(*(sample.output_process_fn_grad(v) for v in (got, want))):
                problem = ""
        if problem:
            return f"wrong: {problem}"
    return ""


def child(number: int, connection: Any) -> None:
    try:
        answer = run(OPS[number])
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
        if os.environ.get("COVERAGE_TRACE"):
            traceback.print_exc()
    connection.send(answer)
    connection.close()


def is_deterministic(op: Any) -> bool:
    """Whether two runs of its samples agree: neither random nor uninitialised."""
    try:
        for sample in itertools.islice(op.sample_inputs("cpu", torch.float32), SAMPLES):
            runs = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                call = Call(op, sample)
                with torch.no_grad():
                    runs.append(call(*(x.clone() for x in call.inputs)))
            if close(runs[0], runs[1]):
                return False
    except Exception:  # sparse tensors, for example: they fail later, and are counted
        return True
    return "empty" not in op.name


OPS: list[Any] = []


def name_of(op: Any) -> str:
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def reason(problem: str) -> str:
    """A failure without what changes from one to the next."""
    if "is not supported" in problem:
        words = problem.split()
        for i, word in enumerate(words):
            if word.startswith(("aten.", "prims.")):
                return f"{word.split('(')[0]} has no import"
            if word == "not" and i > 1:
                break
    if problem.startswith("wrong"):
        return "wrong values"
    if "size depends on values" in problem or "depends on values" in problem or "DataDependent" in problem:
        return "the result's size depends on values"
    if "draws random" in problem:
        return "random"
    return problem.split(":")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="operations to run (default: all)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one operation")
    parser.add_argument("--json", default="build/coverage-opinfo.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for op in op_db:
        if options.names and not any(n in (op.name, name_of(op)) for n in options.names):
            continue
        if torch.float32 in op.dtypes and is_deterministic(op):
            OPS.append(op)
    print(f"{len(OPS)} operations", flush=True)
    results: dict[str, str] = {}
    waiting, running = list(range(len(OPS)))[::-1], {}
    context = mp.get_context("fork")
    while waiting or running:
        while waiting and len(running) < options.jobs:
            number = waiting.pop()
            ours, theirs = context.Pipe(False)
            process = context.Process(target=child, args=(number, theirs))
            process.start()
            theirs.close()
            running[number] = process, ours, time.monotonic()
        for number, (process, connection, start) in list(running.items()):
            answer = None
            if connection.poll(0.01):
                try:
                    answer = connection.recv()
                except EOFError:
                    process.join()
                    answer = f"crash: exit status {process.exitcode}"
            elif time.monotonic() - start > options.timeout:
                os.kill(process.pid, signal.SIGKILL)
                answer = "timeout"
            if answer is None:
                continue
            process.join()
            del running[number]
            results[name_of(OPS[number])] = answer
            if answer or options.names:
                print(f"{'FAIL' if answer else 'ok  '} {name_of(OPS[number])}: {answer[:230]}", flush=True)
    passed = sum(not v for v in results.values())
    print(f"\n{passed} of {len(results)} operations pass")
    for why, count in Counter(reason(v) for v in results.values() if v).most_common():
        print(f"  {count:4} {why}")
    if not options.names:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(results, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
