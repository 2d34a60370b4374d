"""A plan against plain rounding of the same bytes, and predictions against the truth.

Searches a plan within --max-bytes, calibrated as `deepseek precision plan` does by default or on --calibration-text, then
measures on --text: assignments that people use (narrow in the middle layers, narrow by type of matrix) and --random ones,
all rounded to nearest; and --pairs random assignments of compensated weights, whose predicted and measured divergences
are compared by rank and ratio.

python bench/precision.py MODEL --text book.txt --max-bytes 45% [--formats int8,int4] [--random 100] [--pairs 50] [--json]
    [--calibration-text other.txt]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deepseek import Model
from deepseek.compiler import lower_text
from deepseek.formats import find_format
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.names import find_model
from deepseek.package import describe
from deepseek.precision.assemble import undecided_bytes
from deepseek.precision.evaluate import windows_of
from deepseek.precision.graph import operations_of, weight_elements
from deepseek.precision.groups import DecisionGroup, formats_for, group_operations, parse_formats, stored_bytes
from deepseek.precision.planner import PlanOptions, parse_budget
from deepseek.precision.select import Choice, Group, least_error
from deepseek.precision.texts import sampled_ids, text_ids
from deepseek.precision.torch.calibration import calibrate, decoded

Assignment = list[str]


class Study:
    """A model's groups, their weights in every format and rounding, and what was measured of them."""

    def __init__(self, model: str, text: Path, formats: list[str], tokens: int, calibration_text: Path | None) -> None:
        self.checkpoint = open_checkpoint(find_model(model))
        module = lower_text(describe(self.checkpoint, precision="f32", all_logits=True)[1], to_phase="import")
        self.groups = group_operations(operations_of(module))
        self.elements = weight_elements(module)
        self.fixed = undecided_bytes(self.checkpoint, self.elements, self.groups)
        if calibration_text is None:
            ids = sampled_ids(Model.from_pretrained(find_model(model), precision="f32"), PlanOptions.tokens)
        else:
            ids = text_ids(self.checkpoint, str(calibration_text), PlanOptions.tokens)
        self.calibration = calibrate(self.checkpoint, module, windows_of(ids), progress=show)
        self.rounded = {
            (method, name): self.calibration.round_groups(self.groups, name, method)
            for method in ("rtn", "gptq")
            for name in formats
        }
        # From here on, what is measured is measured on the other text.
        self.calibration.held_out = windows_of(text_ids(self.checkpoint, str(text), tokens))
        self.formats = formats

    def bytes_of(self, assignment: Assignment) -> int:
        return self.fixed + sum(map(stored_bytes, self.groups, assignment))

    def predicted(self, assignment: Assignment) -> float:
        return sum(self.rounded["gptq", name][i].error for i, name in enumerate(assignment))

    def measured(self, assignment: Assignment, method: str) -> float:
        values: dict[str, Any] = {}
        for i, name in enumerate(assignment):
            for weight, array in self.rounded[method, name][i].stored.items():
                values[weight] = decoded(array, find_format(name, self.groups[i].shapes[0][1]))
        return self.calibration.substitute(values).error

    def fill(self, order: list[int], max_bytes: int) -> Assignment:
        """Wide everywhere, then narrow group by group in `order` until it fits."""
        sizes = {name: [stored_bytes(group, name) for group in self.groups] for name in self.formats}
        wide = max(self.formats, key=lambda name: sum(sizes[name]))
        narrow = min(self.formats, key=lambda name: sum(sizes[name]))
        assignment = [wide] * len(self.groups)
        total = self.bytes_of(assignment)
        for i in order:
            if total <= max_bytes:
                break
            total += sizes[narrow][i] - sizes[wide][i]
            assignment[i] = narrow
        return assignment


def show(text: str, done: int, total: int) -> None:
    print(f"{text} {done}/{total}   ", end="\r", file=sys.stderr, flush=True)


def kind_of(group: DecisionGroup) -> str:
    return group.name.rpartition("/")[2]


def heuristics(study: Study) -> dict[str, list[int]]:
    """Orders in which people narrow: outer layers last, or one type of matrix after the other."""
    groups = study.groups
    middle = (len(groups) - 1) / 2
    inward = sorted(range(len(groups)), key=lambda i: abs(i - middle))
    found = {"first and last layers wide": inward, "first layers wide": list(range(len(groups)))[::-1]}
    found["last layers wide"] = list(range(len(groups)))
    kinds = list(dict.fromkeys(map(kind_of, groups)))
    for kind in kinds:
        found[f"{kind} narrow first"] = sorted(range(len(groups)), key=lambda i, kind=kind: kind_of(groups[i]) != kind)
    return found


def ranks(x: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(x)).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("--calibration-text", type=Path, help="default: what the model writes")
    parser.add_argument("--max-bytes", default="45%")
    parser.add_argument("--formats", default="int8_row,q4_0", help="two or more formats that every group can have")
    parser.add_argument("--tokens", type=int, default=2048, help="of the text, in windows of 1,024")
    parser.add_argument("--random", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    study = Study(options.model, options.text, parse_formats(options.formats), options.tokens, options.calibration_text)
    limit = parse_budget(options.max_bytes, 2 * sum(study.elements.values()))
    allowed = [formats_for(group, study.formats) for group in study.groups]
    knapsack = [
        Group(
            g.name, tuple(Choice(n, "f32", stored_bytes(g, n), study.rounded["gptq", n][i].error) for n in allowed[i])
        )
        for i, g in enumerate(study.groups)
    ]
    plan = [choice.weight for choice in least_error(knapsack, limit - study.fixed)]
    results: dict[str, Any] = {"bytes": study.bytes_of(plan), "plan": study.measured(plan, "gptq")}
    results["plan, rounded to nearest"] = study.measured(plan, "rtn")
    rng = np.random.default_rng(0)
    results["heuristics"] = {}
    for name, order in heuristics(study).items():
        results["heuristics"][name] = study.measured(study.fill(order, limit), "rtn")
        show(name, len(results["heuristics"]), 0)
    results["random"] = []
    for number in range(options.random):
        order = rng.permutation(len(study.groups)).tolist()
        results["random"].append(study.measured(study.fill(order, limit), "rtn"))
        show("random", number + 1, options.random)
    pairs = []
    for number in range(options.pairs):
        assignment = study.fill(rng.permutation(len(study.groups)).tolist(), limit)
        pairs.append((study.predicted(assignment), study.measured(assignment, "gptq")))
        show("pairs", number + 1, options.pairs)
    if pairs:
        predicted, measured = np.array(pairs).T
        results["spearman"] = float(np.corrcoef(ranks(predicted), ranks(measured))[0, 1])
        results["ratios"] = np.quantile(measured / predicted, [0, 0.1, 0.5, 0.9, 1]).tolist()
        results["within 2x"] = float((np.abs(np.log2(measured / predicted)) <= 1).mean())
    if options.json:
        print(json.dumps(results))
        return
    for key, value in results.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
