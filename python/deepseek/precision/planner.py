"""Searches a plan: calibrates, rounds every group to every format, predicts, selects, and checks the whole model."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import InputError
from deepseek.formats import find_format
from deepseek.precision.assemble import CacheDecision, Decisions, assemble, fits_f16, undecided_bytes
from deepseek.precision.graph import operations_of, weight_elements
from deepseek.precision.groups import DecisionGroup, formats_for, group_operations, stored_bytes
from deepseek.precision.memory import predicted_memory
from deepseek.precision.plan import Plan
from deepseek.precision.ranges import ranges_of
from deepseek.precision.select import Choice, Group, least_cost, least_error
from deepseek.precision.timing import product_seconds

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.precision.observe import Observation
    from deepseek.precision.torch.calibration import Calibration, Cost, RoundedGroup

__all__ = ["PlanOptions", "check_budget", "make_plan", "parse_budget", "plan_from"]

Progress = Callable[[str, int, int], None]

_WINDOWS = 12  # of calibration text: 8 that decide, 4 that judge
_CORRECTION_WINDOWS = 1  # held-out windows on which a role's prediction is compared with the truth
_DEFAULT_INCREASE = 0.01  # of perplexity, when no budget is given
_ATTEMPTS = 5
_PARETO_POINTS = 16
_SAME_BYTES, _WORSE = 1.001, 1.5
_TRUSTED = 1.5  # how far the whole model may be from its prediction before parts of it are looked at
_NOISE = 1e-4  # nats: less than this is not worth a correction
_CACHE_SHARE = 0.01  # of what the weights' formats cost: narrow caches may cost as much
_SPAN = 8.0  # predictions are corrected by at most this factor either way


@dataclass(frozen=True)
class PlanOptions:
    """What a user asks for. `max_bytes` counts all weights; `max_perplexity_increase` is a fraction.

    `formats` are names of `groups.FORMATS`; `activation` is what products round their inputs to ("f32": nothing);
    `rounding` is a method of `torch.rounding.ROUNDINGS`; `kv_cache` f32, f16, or auto: f16 if it costs little. Without
    `max_bytes` a plan has the least "bytes" or "seconds" (of products for one token, measured on this machine), as
    `minimize` says.
    """

    formats: tuple[str, ...] = ("int8", "bf16")
    max_bytes: int | None = None
    max_perplexity_increase: float | None = None
    activation: str = "f32"
    kv_cache: str = "auto"
    rounding: str = "gptq"
    minimize: str = "bytes"
    target: str = "cpu"
    tokens: int = _WINDOWS * 1024
    window: int = 1024
    seed: int = 0


@dataclass
class _Search:
    """What is known of each group: its candidates by format, and the decision."""

    groups: list[DecisionGroup]
    options: PlanOptions
    fixed_bytes: int
    candidates: list[dict[str, RoundedGroup]] = field(default_factory=list)
    activation_errors: list[float] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    seconds: dict[tuple[int, int, str], float] = field(default_factory=dict)


def parse_budget(text: str, bf16_bytes: int) -> int:
    """Bytes of a budget such as "62%" (of bf16's), "90MB" or "90000000". Raises `InputError`."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[kMG]?i?B|)\s*", text)
    if match is None:
        raise InputError(f"the budget {text!r} is not understood, expected such as 62%, 90MB or 90000000")
    units = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "kiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    factor = bf16_bytes / 100 if match[2] == "%" else units.get(match[2])
    if factor is None:
        raise InputError(f"the budget {text!r} has an unknown unit, expected %, kB, MB or GB")
    return int(float(match[1]) * factor)


def make_plan(
    checkpoint: Checkpoint,
    ids: Sequence[int] | Sequence[Sequence[int]],
    options: PlanOptions,
    *,
    text_name: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """A plan, calibrated on token `ids`: of a text for a decoder, of each of many texts for an encoder.

    Raises `InputError` for a budget that no plan meets, and for weights, texts and formats that do not fit.
    """
    from deepseek.precision.observe import observe

    check_budget(checkpoint, options)
    return plan_from(
        checkpoint,
        observe(checkpoint, ids, options, text_name=text_name, threads=threads, progress=progress),
        options,
        progress=progress,
    )


def check_budget(checkpoint: Checkpoint, options: PlanOptions) -> None:
    """Raises `InputError` when packages for the search are missing, or the budget is none for such a model."""
    from deepseek.package import kind_of

    for package in ("torch", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"searching a plan needs {package}: pip install 'deepseek-runtime[precision]'")
    if kind_of(checkpoint) == "encoder" and options.max_bytes is None:
        raise InputError(
            f"{checkpoint.path.name} is an encoder and has no perplexity: give a budget of bytes (--max-bytes)"
        )


def plan_from(
    checkpoint: Checkpoint, observation: Observation, options: PlanOptions, *, progress: Progress | None = None
) -> Plan:
    """A plan from what has been observed of the model. Raises `InputError` for a budget that no plan meets."""
    progress = progress or (lambda text, done, total: None)
    calibration, text = observation.calibration, observation.text
    given = observation.options
    options = replace(options, tokens=given.tokens, window=given.window, seed=given.seed)
    operations = operations_of(text)
    groups = group_operations(operations)
    elements = weight_elements(text)
    search = _Search(groups, options, undecided_bytes(checkpoint, elements, groups))
    _round_all(search, calibration, progress)
    if options.minimize == "seconds":
        search.seconds = _measure(search, calibration.threads, progress)
    chosen, measured = _select(search, calibration, progress)
    ratio = measured.error / max(sum(choice.error for choice in chosen), 1e-12)
    if not 1 / _TRUSTED <= ratio <= _TRUSTED and measured.error > _NOISE:
        search.factors = _correct(search, calibration, progress)
        chosen, measured = _select(search, calibration, progress)
    final = [search.candidates[i][choice.weight] for i, choice in enumerate(chosen)]
    arrays = {weight: array for rounded in final for weight, array in rounded.stored.items()}
    totals = {
        "predicted_error": sum(choice.error for choice in chosen),
        "measured_error": measured.error,
        "measured_perplexity_increase": measured.perplexity_increase,
        "pareto": _pareto(search),
    }
    folds = [rounded.fold for rounded in final]
    # Ranges are those of the weights that the plan stores, which may be scaled, and are rounded.
    weights = dict(calibration.program.weights)
    weights |= _values(search, {i: choice.weight for i, choice in enumerate(chosen)})
    weights = {name: value.numpy() for name, value in weights.items()}
    seen = calibration.seen_ranges()
    decisions = Decisions(
        operations,
        groups,
        chosen,
        elements,
        search.fixed_bytes,
        ranges=ranges_of(text, weights, seen),
        seen=seen,
        cache_peaks=calibration.cache_peaks(),
        cache=_cache(calibration, options.kv_cache, measured.error, progress),
        scaled={group.name: fold.exponents for group, fold in zip(groups, folds) if fold},
    )
    details = {**observation.details, "corrections": search.factors}
    plan = assemble(checkpoint, observation.info.name, decisions, asdict(options), arrays, details, totals)
    if search.seconds:
        plan.totals["product_seconds"] = sum(choice.seconds for choice in chosen)
    plan.totals["memory"] = predicted_memory(checkpoint, plan, options.target)
    return plan


def _round_all(search: _Search, calibration: Calibration, progress: Progress) -> None:
    options = search.options
    search.candidates = [{} for _ in search.groups]
    allowed = [formats_for(group, options.formats) for group in search.groups]
    for group, names in zip(search.groups, allowed):
        if not names:
            raise InputError(
                f"{group.name} can have none of the formats {', '.join(options.formats)}: its rows have "
                f"{group.shapes[0][1]} numbers, which are not whole blocks; allow bf16 too"
            )
    for name in dict.fromkeys(name for names in allowed for name in names):
        numbers = [i for i, names in enumerate(allowed) if name in names]
        rounded = calibration.round_groups([search.groups[i] for i in numbers], name, options.rounding)
        for i, result in zip(numbers, rounded):
            search.candidates[i][name] = result
    _drop_dominated(search)
    search.activation_errors = [
        0.0 if options.activation == "f32" else calibration.predict_activation(group) for group in search.groups
    ]


def _measure(search: _Search, threads: int, progress: Progress) -> dict[tuple[int, int, str], float]:
    products = [
        (*op.shape, name)
        for group, candidates in zip(search.groups, search.candidates)
        for op in group.ops
        if op.op == "dsc.matmul"
        for name in candidates
    ]
    return product_seconds(
        products, search.options.target, threads, lambda done, total: progress("timing products", done, total)
    )


def _drop_dominated(search: _Search) -> None:
    """Forgets formats that cannot hold the weights, and those as large as another one and much worse."""
    for group, candidates in zip(search.groups, search.candidates):
        for name in [name for name, rounded in candidates.items() if not math.isfinite(rounded.error)]:
            del candidates[name]
        if not candidates:
            raise InputError(f"{group.name}: its weights are beyond what {', '.join(search.options.formats)} can hold")
        sizes = {name: stored_bytes(group, name) for name in candidates}
        for name in list(candidates):
            if any(
                sizes[other] <= sizes[name] * _SAME_BYTES and candidates[other].error < candidates[name].error / _WORSE
                for other in candidates
            ):
                del candidates[name]


def _values(search: _Search, decided: Mapping[int, str]) -> dict[str, Any]:
    """The f32 weights of groups in formats, from what is stored of them."""
    from deepseek.precision.torch.calibration import decoded

    found = {}
    for i, name in decided.items():
        group, rounded = search.groups[i], search.candidates[i][name]
        for weight, (_, columns) in zip(group.weights, group.shapes):
            found[weight] = decoded(rounded.stored[weight], find_format(name, columns))
        if rounded.fold:
            found.update((weight, value.float()) for weight, value in rounded.fold.values.items())
    return found


def _activation_of(search: _Search, i: int, name: str) -> str:
    """What a group's products round their input to when its weights are in format `name`."""
    narrow = find_format(name, search.groups[i].shapes[0][1]).codes
    wanted = search.options.activation
    return wanted if search.groups[i].has_product and narrow and wanted != "f32" else "f32"


def _activations(search: _Search, decided: Mapping[int, str]) -> dict[str, str]:
    found = {}
    for i, name in decided.items():
        activation = _activation_of(search, i, name)
        if activation != "f32":
            found.update((op.at, activation) for op in search.groups[i].ops if op.op == "dsc.matmul")
    return found


def _role(group: DecisionGroup) -> str:
    """layers.3/mlp/down_proj and layers.4/mlp/down_proj play one role."""
    return re.sub(r"(?<![0-9A-Za-z])[0-9]+(?![0-9A-Za-z])", "*", group.name)


def _correct(search: _Search, calibration: Calibration, progress: Progress) -> dict[str, float]:
    """What predictions are multiplied with, so that each role's sum, in each format, is what substituting it costs.

    Predictions hold for small errors that are not related over positions; the factor is much the same over layers.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for i, group in enumerate(search.groups):
        for name in search.candidates[i]:
            members.setdefault((_role(group), name), []).append(i)
    factors: dict[str, float] = {}
    for number, ((role, name), numbers) in enumerate(members.items(), 1):
        decided = dict.fromkeys(numbers, name)
        predicted = sum(_error(search, i, name) for i in numbers)
        if predicted > 1e-9:
            cost = calibration.substitute(_values(search, decided), _activations(search, decided), _CORRECTION_WINDOWS)
            factors[f"{role} {name}"] = float(np.clip(cost.error / predicted, 1 / _SPAN, _SPAN))
        progress("comparing predictions with the truth", number, len(members))
    return factors


def _error(search: _Search, i: int, name: str) -> float:
    rounded = search.candidates[i][name]
    active = _activation_of(search, i, name) != "f32"
    return rounded.error + (search.activation_errors[i] * rounded.activation_factor if active else 0.0)


def _choices(search: _Search) -> list[Group]:
    def choice(i: int, name: str) -> Choice:
        group = search.groups[i]
        error = _error(search, i, name) * search.factors.get(f"{_role(group)} {name}", 1.0)
        times = [search.seconds.get((*op.shape, name)) for op in group.ops if op.op == "dsc.matmul"]
        seconds = sum(times) if search.seconds else None
        return Choice(name, _activation_of(search, i, name), stored_bytes(group, name), error, seconds)

    return [
        Group(group.name, tuple(choice(i, name) for name in search.candidates[i]))
        for i, group in enumerate(search.groups)
    ]


def _select(search: _Search, calibration: Calibration, progress: Progress) -> tuple[list[Choice], Cost]:
    """The choices within the budget, and what the whole model costs with them."""
    options, groups = search.options, _choices(search)

    def check(chosen: list[Choice]) -> Cost:
        decided = {i: choice.weight for i, choice in enumerate(chosen)}
        return calibration.substitute(_values(search, decided), _activations(search, decided))

    def cost_of(chosen: list[Choice]) -> float:
        return sum(getattr(choice, options.minimize) for choice in chosen)

    if options.max_bytes is not None:
        chosen = least_error(groups, options.max_bytes - search.fixed_bytes)
        progress("checking the whole model", 1, 1)
        return chosen, check(chosen)
    limit = _DEFAULT_INCREASE if options.max_perplexity_increase is None else options.max_perplexity_increase
    # Perplexity is not a sum over groups: the divergence that stands for it is corrected by what whole models cost.
    allowed, best = limit, None
    for attempt in range(1, _ATTEMPTS + 1):
        chosen = least_cost(groups, options.minimize, allowed)
        cost = check(chosen)
        progress("checking the whole model", attempt, _ATTEMPTS)
        if cost.perplexity_increase <= limit and (best is None or cost_of(chosen) < cost_of(best[0])):
            best = chosen, cost
        ratio = limit / max(cost.perplexity_increase, limit / 4)
        if 1 <= ratio < 1.05:
            break
        allowed *= ratio * (0.98 if ratio < 1 else 0.95)
    if best is None:
        raise InputError(
            f"no plan keeps the increase of perplexity at {limit:.2%}: the closest reached {cost.perplexity_increase:.2%}"
        )
    return best


def _cache(calibration: Calibration, asked: str, error: float, progress: Progress) -> CacheDecision:
    """The format of caches: f16 under "auto" if that costs a small part of `error`, measured on held-out text."""
    peaks = calibration.cache_peaks()
    fitting = {at: "f16" for at, peak in peaks.items() if fits_f16(peak)}
    if asked != "auto":
        return CacheDecision.asked(asked)
    if not fitting:
        return CacheDecision("f16", "")  # each row says what it reached
    cost = calibration.substitute({}, caches=fitting).error
    progress("measuring narrow caches", 1, 1)
    cheap = cost <= _CACHE_SHARE * error
    return CacheDecision(
        "f16" if cheap else "f32",
        f"cache: f16 in {len(fitting)} of {len(peaks)} layers {'costs' if cheap else 'would cost'} {cost:.1e}, "
        f"{'within' if cheap else 'more than'} {_CACHE_SHARE:.0%} of the plan's error",
    )


def _pareto(search: _Search) -> list[list[float]]:
    """[bytes of all weights, predicted mean KL divergence] of the best plans for budgets from the least to the most."""
    groups = _choices(search)
    least = sum(min(choice.bytes for choice in group.choices) for group in groups)
    most = sum(max(choice.bytes for choice in group.choices) for group in groups)
    points = []
    for step in range(_PARETO_POINTS):
        chosen = least_error(groups, least + (most - least) * step // (_PARETO_POINTS - 1))
        point = [_total(chosen) + search.fixed_bytes, sum(choice.error for choice in chosen)]
        if not points or point[0] > points[-1][0]:
            points.append(point)
    return points


def _total(chosen: Sequence[Choice]) -> int:
    return sum(choice.bytes for choice in chosen)
