"""Rounds weights by what a text shows of a model, predicts what that costs, and measures it by substitution."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deepseek.errors import InputError
from deepseek.formats import PLAIN_BITS, Format, find_format
from deepseek.precision.groups import DecisionGroup
from deepseek.precision.torch.collect import Collected, collect, one_thread_per_operation
from deepseek.precision.torch.objectives import Tokens, Vectors
from deepseek.precision.torch.program import Site, TorchProgram
from deepseek.precision.torch.rounding import Rounded, round_weights
from deepseek.precision.torch.saved import Saved, restored, stored
from deepseek.precision.torch.smoothing import Fold, channel_scales, fold_into
from deepseek.precision.weights import values_of

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint

__all__ = ["Calibration", "Cost", "RoundedGroup", "calibrate", "decoded", "round_activation"]

Progress = Callable[[str, int, int], None]

_PLAIN = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
_BATCH_ELEMENTS = 1 << 26  # weights that are rounded together: 256 MB in f32


@dataclass(frozen=True)
class RoundedGroup:
    """A group's weights in one format: `stored` as products read them, `error` what that is predicted to cost.

    With a `fold` they are scaled, `stored` holds the normalization's weight and bias too, and rounding the products' input
    costs `activation_factor` times what it costs without.
    """

    stored: dict[str, np.ndarray]
    error: float
    fold: Fold | None = None
    activation_factor: float = 1.0


@dataclass(frozen=True)
class Cost:
    """What a replacement costs: the objective's error (nats, or cosine drift), and the increase of perplexity as a
    fraction."""

    error: float
    perplexity_increase: float


def round_activation(x: Tensor, name: str) -> Tensor:
    """x [.., k] rounded as products round it under `activation` `name` ("bf16", "fp8_e4m3_row", "int8_g64", ...)."""
    if name == "f32":
        return x
    if name in PLAIN_BITS:
        return x.to(_PLAIN[name]).float()
    form = find_format(name, x.shape[-1])
    group = form.elements
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % group))
    blocks = padded.reshape(*x.shape[:-1], -1, group)
    scales = blocks.abs().amax(-1, keepdim=True) / form.largest
    scales = torch.where(scales == 0, 1.0, scales)
    codes = (blocks / scales).clamp(-form.largest, form.largest)
    if form.codes.startswith("int"):
        codes = codes.round()
    else:
        codes = codes.to(torch.float8_e4m3fn if form.codes == "fp8_e4m3" else torch.float8_e5m2).float()
    return (codes * scales).reshape(padded.shape)[..., : x.shape[-1]]


class Calibration:
    """A model, a text cut into windows of ids, and what was collected of it.

    Of every three windows two decide how weights are rounded, the third what that is predicted to cost. Everything here
    is the same for any number of `threads`.
    """

    def __init__(
        self,
        program: TorchProgram,
        windows: Sequence[Any],
        make_inputs: Callable[[Any], list[Tensor]],
        objective: Any,
        *,
        seed: int = 0,
        threads: int | None = None,
        activation: str = "f32",
        progress: Progress | None = None,
        saved: Saved | None = None,
    ) -> None:
        """`saved` is what `to_arrays` gave, in the place of `windows`."""
        self.program, self.make_inputs, self.objective = program, make_inputs, objective
        self.threads = threads or os.cpu_count() or 1
        self._activation = activation
        self._progress = progress or (lambda text, done, total: None)
        self._reference: list[Tensor] | None = None
        if saved is not None:
            self.fitted, self.judged, self.held_out = restored(program, *saved)
            return
        self.held_out = list(windows[2::3])
        fitted = [window for number, window in enumerate(windows) if number % 3 != 2]
        if not self.held_out:
            raise InputError(f"the calibration text has {len(windows)} windows, expected at least 3")
        round_input = None if activation == "f32" else lambda x: round_activation(x, activation)

        def gather(chosen: list[Any], text: str) -> Collected:
            return collect(
                program,
                chosen,
                make_inputs,
                objective,
                seed=seed,
                threads=self.threads,
                round_input=round_input,
                progress=lambda done, total: self._progress(text, done, total),
            )

        self.fitted = gather(fitted, "observing")
        self.judged = gather(self.held_out, "observing held-out text")

    def to_arrays(self) -> Saved:
        """All that was observed, and the held-out windows, for `saved` of another calibration of the same module."""
        return stored(self.fitted, self.judged, self.held_out)

    def seen_ranges(self) -> dict[tuple[str, str], tuple[float, float]]:
        """(least, greatest) result of every product and lookup on any window, by location and name of the operation."""
        seen = self.fitted, self.judged
        return {
            (at, found.site.op): (min(s.sites[at].low for s in seen), max(s.sites[at].high for s in seen))
            for at, found in self.fitted.sites.items()
        }

    def cache_peaks(self) -> dict[str, float]:
        """The greatest magnitude that each cache was given on any window, by location."""
        seen = [self.fitted.cache_peaks, self.judged.cache_peaks]
        return {at: max(peaks[at] for peaks in seen) for at in seen[0]}

    # What a group's errors cost.

    def _hessian(self, group: DecisionGroup, source: Collected) -> Tensor:
        """[k, k], in the objective's units: half of it, between the errors of a row, is what they cost on the average of rows."""
        total = None
        for op in group.ops:
            found = source.sites[op.at]
            if op.op == "dsc.embedding":
                part = found.hessian / (source.positions * op.shape[0])
            else:
                first = source.sites[source.inputs[op.at]]
                part = first.hessian * (float(found.energy.mean()) / (max(first.weight, 1e-30) * source.positions))
            total = part if total is None else total + part
        return total

    def predict(self, group: DecisionGroup, differences: Mapping[str, Tensor]) -> float:
        """Predicted error of replacing each weight W by W + D, on held-out text."""
        source = self.judged
        total = 0.0
        for op in group.ops:
            difference = differences[op.weight]
            if op.op == "dsc.embedding":
                hessian = source.sites[op.at].hessian / (source.positions * op.shape[0])
                total += 0.5 * float(((difference @ hessian) * difference).sum())
                continue
            found, first = source.sites[op.at], source.sites[source.inputs[op.at]]
            rows = ((difference @ first.hessian) * difference).sum(1)
            total += 0.5 * float((rows * found.energy).sum()) / (max(first.weight, 1e-30) * source.positions)
        return total

    def predict_activation(self, group: DecisionGroup, source: Collected | None = None) -> float:
        """Predicted error of rounding what the group's products multiply, on held-out text or another `source`."""
        source = source or self.judged
        total = 0.0
        for op in group.ops:
            if op.op == "dsc.embedding":
                continue
            found, first = source.sites[op.at], source.sites[source.inputs[op.at]]
            weight = self.program.weights[op.weight]
            rows = ((weight @ first.rounding) * weight).sum(1)
            total += 0.5 * float((rows * found.energy).sum()) / (max(first.weight, 1e-30) * source.positions)
        return total

    def round_groups(self, groups: Sequence[DecisionGroup], format_name: str, method: str) -> list[RoundedGroup]:
        """Every group in a format that it can have; matrices of one shape go through rounding together."""
        results: dict[int, RoundedGroup] = {}
        batches: dict[tuple[int, int], list[int]] = {}
        for number, group in enumerate(groups):
            batches.setdefault((sum(rows for rows, _ in group.shapes), group.shapes[0][1]), []).append(number)
        jobs = []
        for (rows, columns), numbers in batches.items():
            size = max(1, min(_BATCH_ELEMENTS // (rows * columns), -(-len(numbers) // 2)))
            jobs += [numbers[i : i + size] for i in range(0, len(numbers), size)]
        done = 0

        def run(numbers: list[int]) -> None:
            nonlocal done
            for number, rounded in zip(numbers, self._round([groups[n] for n in numbers], format_name, method)):
                results[number] = rounded
            done += len(numbers)
            self._progress(f"rounding to {format_name}", done, len(groups))

        with one_thread_per_operation(), ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(run, jobs))
        return [results[number] for number in range(len(groups))]

    def _round(self, groups: list[DecisionGroup], name: str, method: str) -> list[RoundedGroup]:
        weights = self.program.weights
        stacked = torch.stack([torch.cat([weights[w] for w in group.weights]) for group in groups])
        form = find_format(name, stacked.shape[2])
        folds: list[tuple[Fold | None, float]] = [(None, 1.0)] * len(groups)
        if not form.codes:
            stored = stacked.to(_PLAIN[form.name])
            values = stored.float()
            rounded = None
        else:
            hessian = torch.stack([self._hessian(group, self.fitted) for group in groups])
            if method == "awq":
                folds = self._folds(groups, stacked, form, hessian)
            ones = torch.ones(stacked.shape[2])
            scales = torch.stack([ones if fold is None else fold.scales for fold, _ in folds])
            hessian = hessian / (scales[:, :, None] * scales[:, None, :])
            rounded = round_weights(stacked * scales[:, None], form, method, hessian)
            values, stored = rounded.values / scales[:, None], None
        out = []
        for number, (group, (fold, factor)) in enumerate(zip(groups, folds)):
            begin, bytes_of, differences = 0, {}, {}
            for weight, (rows, _) in zip(group.weights, group.shapes):
                part = slice(begin, begin + rows)
                begin += rows
                differences[weight] = values[number, part] - weights[weight]
                if rounded is None:
                    bytes_of[weight] = _bits(stored[number, part])
                else:
                    bytes_of[weight] = _encode(rounded, number, part)
            if fold is not None:
                bytes_of.update((weight, _bits(value)) for weight, value in fold.values.items())
            out.append(RoundedGroup(bytes_of, self.predict(group, differences), fold, factor))
        return out

    def _folds(
        self, groups: list[DecisionGroup], stacked: Tensor, form: Format, hessian: Tensor
    ) -> list[tuple[Fold | None, float]]:
        """For each group the scales that its normalization takes, and what they do to the cost of rounding its input."""
        found = [(None, 1.0)] * len(groups)
        types = self.program.weight_types
        numbers = [
            i for i, group in enumerate(groups) if group.scaled_by and types[group.scaled_by[0]].is_floating_point
        ]
        if not numbers:
            return found
        steps = None
        if self._activation.startswith("int"):  # floats have the same relative error wherever a channel is scaled to
            inputs = [self.fitted.inputs[groups[i].ops[0].at] for i in numbers]
            peaks = torch.stack([self.fitted.sites[at].peaks for at in inputs])
            cost = torch.tensor([self.predict_activation(groups[i], self.fitted) for i in numbers])
            steps = peaks, find_format(self._activation, stacked.shape[2]).elements, cost
        best = channel_scales(stacked[numbers], form, hessian[numbers], steps)
        for i, (exponents, scales, factor) in zip(numbers, best, strict=True):
            kept = {name: self.program.weights[name].to(types[name]) for name in groups[i].scaled_by}
            fold = fold_into(exponents, scales, kept) if any(exponents) else None
            found[i] = (fold, factor if fold else 1.0)
        return found

    # What it really costs.

    def substitute(
        self,
        values: Mapping[str, Tensor],
        activations: Mapping[str, str] | None = None,
        windows: int | None = None,
        caches: Mapping[str, str] | None = None,
    ) -> Cost:
        """What replacing these weights costs on held-out windows.

        `activations` names, by location, what products round their input to, `caches` what is kept in a cache.
        """
        if self._reference is None:
            self._reference = self._map(len(self.held_out), lambda number: self._results(number, {}, {}, {}))
        reference = self._reference

        def compare(number: int) -> tuple[float, float]:
            after = self._results(number, values, activations or {}, caches or {})
            return self.objective.compare(reference[number], after, self.held_out[number])

        found = np.array(self._map(len(self.held_out[:windows]), compare))
        if not np.isfinite(found).all():
            raise InputError("the model with rounded weights gives results that are not finite")
        return Cost(float(found[:, 0].mean()), float(np.expm1(found[:, 1].mean())))

    def _results(
        self, number: int, values: Mapping[str, Tensor], activations: Mapping[str, str], caches: Mapping[str, str]
    ) -> Tensor:
        """What the objective compares of a held-out window, with other weights."""
        weights = {**self.program.weights, **values}

        def observe(site: Site, x: Tensor, y: Tensor) -> Tensor:
            name = activations.get(site.at)
            if name is None or site.op != "dsc.matmul":
                return y
            return y + (round_activation(x, name) - x) @ weights[site.weight].mT

        with torch.no_grad():
            inputs = self.make_inputs(self.held_out[number])
            kept = {at: _PLAIN[name] for at, name in caches.items()}
            return self.objective.remember(self.program(inputs, observe if activations else None, weights, kept)[0])

    def _map(self, count: int, function: Callable[[int], Any]) -> list[Any]:
        with one_thread_per_operation(), ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(function, range(count)))


def decoded(stored: np.ndarray, form: Format) -> Tensor:
    """The f32 values [out, in] of what is stored of a weight."""
    if form.codes:
        return torch.from_numpy(form.decode(stored))
    if form.name == "bf16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(stored.view(np.float16 if form.name == "f16" else np.float32)).float()


def calibrate(checkpoint: Checkpoint, text: str, windows: Sequence[Any], **options: Any) -> Calibration:
    """A `Calibration` of a checkpoint whose module is `text`.

    A decoder returns all logits and takes ids, lengths and caches; its windows are ids [s]. An encoder takes ids and
    lengths; its windows are (ids [b, s], lengths [b]).
    """
    program = TorchProgram(text, {})
    program.weights = {
        name: torch.from_numpy(values_of(checkpoint.tensors[name]).copy()) for name in program.weight_names
    }
    caches = [(shape, dtype) for name, shape, dtype in program.input_types if name not in ("ids", "lengths")]

    def make_inputs(window: Any) -> list[Tensor]:
        ids, lengths = window if isinstance(window, tuple) else (window[None], np.array([len(window)], np.int32))
        room = [torch.zeros(len(ids), *shape[1:3], ids.shape[1], shape[4], dtype=dtype) for shape, dtype in caches]
        return [torch.from_numpy(ids), torch.from_numpy(lengths), *room]

    objective = Tokens() if caches else Vectors()
    return Calibration(program, windows, make_inputs, objective, **options)


def _bits(values: Tensor) -> np.ndarray:
    """Plain numbers as weight arguments take them."""
    return values.numpy() if values.dtype == torch.float32 else values.view(torch.uint16).numpy()


def _encode(rounded: Rounded, number: int, part: slice) -> np.ndarray:
    numbers, scales = rounded.numbers[number, part].numpy(), rounded.scales[number, part].numpy()
    return rounded.form.encode(numbers, scales)
