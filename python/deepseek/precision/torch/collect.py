"""What calibration remembers of a text: for every product, how its inputs and the gradients of its results are spread.

With gradients g of what an objective differentiates, replacing the weights W of a product by W + D costs about
1/2 E[(g . D x)^2] of what it measures (`objectives`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepseek.precision.torch.program import Site, TorchProgram

__all__ = ["Collected", "SiteStatistics", "collect", "one_thread_per_operation"]

_CHUNKS = 4  # sums of windows are added in this many parts, whatever the number of threads: the bits stay the same


@dataclass
class SiteStatistics:
    """Sums over positions. Of a product: `energy` [out], squared gradients of each output; `hessian` [in, in], outer
    products of the inputs, each weighted by the squared gradient of its position; `rounding` [in, in], the same of what
    rounding takes from the inputs, if that was asked for. Of a lookup: `hessian` [columns, columns], outer products of
    the gradients.

    `low` and `high` bound the results. Of a product's inputs: `peaks` [in], the greatest magnitude of each channel, and
    `exponents` [256], how many have each biased exponent of f32. Sites that share their inputs share what is known of
    them: `hessian`, `weight`, `rounding`, `peaks` and `exponents` stand at the first."""

    site: Site
    hessian: Tensor
    energy: Tensor
    low: float
    high: float
    weight: float = 0.0  # the sum of the positions' weights
    rounding: Tensor | None = None
    peaks: Tensor | None = None
    exponents: Tensor | None = None


@dataclass
class Collected:
    """`sites` by location, of all windows; `inputs` names for each location the one whose inputs it shares;
    `cache_peaks`: the greatest magnitude that each cache was given, by location."""

    sites: dict[str, SiteStatistics] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    cache_peaks: dict[str, float] = field(default_factory=dict)
    positions: int = 0

    def add(self, other: Collected) -> None:
        """Adds the sums of other windows."""
        for at, found in other.sites.items():
            own = self.sites.get(at)
            if own is None:
                self.sites[at] = found
                continue
            own.hessian += found.hessian
            own.energy += found.energy
            own.weight += found.weight
            own.low, own.high = min(own.low, found.low), max(own.high, found.high)
            if found.rounding is not None:
                own.rounding += found.rounding
            if found.peaks is not None:
                own.peaks = torch.maximum(own.peaks, found.peaks)
                own.exponents += found.exponents
        self.inputs.update(other.inputs)
        for at, peak in other.cache_peaks.items():
            self.cache_peaks[at] = max(peak, self.cache_peaks.get(at, 0.0))
        self.positions += other.positions


@contextmanager
def one_thread_per_operation() -> Any:
    """Inside, every operation of torch runs on one thread, so that its sums do not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def collect(
    program: TorchProgram,
    windows: Sequence[Any],
    make_inputs: Callable[[Any], list[Tensor]],
    objective: Any,
    *,
    seed: int = 0,
    threads: int | None = None,
    round_input: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Runs windows forwards and backwards for an `objective` (`Tokens`, `Vectors`). The result does not depend on `threads`.

    `make_inputs` gives the program's arguments for a window, `round_input` what a product's input is rounded to.
    """
    chunks = [list(range(len(windows)))[i::_CHUNKS] for i in range(min(_CHUNKS, len(windows)))]
    done = 0
    stopped = threading.Event()  # Ctrl-C: the other threads end with their window, not with their part

    def run(numbers: list[int]) -> Collected:
        nonlocal done
        total = Collected()
        for number in numbers:
            if stopped.is_set():
                break
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            total.add(_one_window(program, make_inputs(windows[number]), objective, generator, round_input))
            done += 1
            if progress is not None:
                progress(done, len(windows))
        return total

    result = Collected()
    with one_thread_per_operation(), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        try:
            for part in pool.map(run, chunks):
                result.add(part)
        except BaseException:
            stopped.set()
            raise
    for found in result.sites.values():
        for matrix in (found.hessian, found.rounding):
            if matrix is not None and matrix.numel():  # products of matrices are symmetric up to rounding only
                matrix.copy_((matrix + matrix.mT) / 2)
    return result


def _one_window(
    program: TorchProgram,
    inputs: list[Tensor],
    objective: Any,
    generator: torch.Generator,
    round_input: Callable[[Tensor], Tensor] | None,
) -> Collected:
    seen: list[tuple[Site, Tensor, Tensor]] = []

    def observe(site: Site, x: Tensor, y: Tensor) -> Tensor:
        if not y.requires_grad:
            y.requires_grad_(True)
        seen.append((site, x.detach(), y))
        return y

    with torch.enable_grad():
        results = program(inputs, observe)
        loss, count = objective.loss(results[0], generator)
        gradients = [g.reshape(-1, g.shape[-1]) for g in torch.autograd.grad(loss, [y for _, _, y in seen])]
    peaks = {at: float(results[number].detach().abs().max()) for number, at in program.cache_results.items()}
    result = Collected(cache_peaks=peaks, positions=count)
    shared: dict[tuple[int, Any], str] = {}
    weights: dict[str, Tensor] = {}
    for (site, x, y), g in zip(seen, gradients):
        ends = [float(end) for end in torch.aminmax(y.detach())]
        if site.op == "dsc.embedding":
            result.sites[site.at] = SiteStatistics(site, g.mT @ g, torch.empty(0), *ends, float(len(g)))
            continue
        first = shared.setdefault((x.data_ptr(), x.shape), site.at)
        result.inputs[site.at] = first
        squares = g * g
        result.sites[site.at] = SiteStatistics(site, torch.empty(0), squares.sum(0), *ends)
        weights[first] = weights.get(first, 0) + squares.sum(1)
    for site, x, _ in seen:
        found = result.sites[site.at]
        if result.inputs.get(site.at) != site.at:
            continue
        rows, weighing = x.reshape(-1, x.shape[-1]), weights[site.at][:, None]
        found.hessian = (rows * weighing).mT @ rows
        found.weight = float(weighing.sum())
        found.peaks = rows.abs().amax(0)
        found.exponents = torch.bincount((rows.contiguous().view(torch.int32) >> 23 & 0xFF).reshape(-1), minlength=256)
        if round_input is not None:
            lost = round_input(rows) - rows
            found.rounding = (lost * weighing).mT @ lost
    return result
