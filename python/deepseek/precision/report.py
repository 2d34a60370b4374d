"""What a plan decides, for people: a table, a page with pictures, and the differences of two plans."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.precision.plan import Plan

__all__ = ["differences", "html_page", "summary", "table"]

# Colours that differ in lightness too, so that they can be told apart in grey.
_COLOURS = {
    "f32": "#3b3b3b", "f16": "#4e6a8e", "bf16": "#2f5d8a", "q8_0": "#2a9d8f", "int8": "#52b69a",
    "q5_0": "#e9a15b", "fp8": "#b5a642", "int4": "#e76f51", "q4_0": "#d1495b",
}  # fmt: skip
_OTHER = "#9a86a4"


def _colours(plan: Plan) -> dict[str, str]:
    """A colour for each format of a plan: kinds of numbers differ in hue, formats of one kind in shade."""
    found: dict[str, str] = {}
    for name in sorted({row["weight"] for row in _decided(plan)}):
        base = next((colour for kind, colour in _COLOURS.items() if name.startswith(kind)), _OTHER)
        before = sum(base in colour for colour in found.values())
        found[name] = f"color-mix(in srgb, {base} {100 * 0.75**before:.0f}%, #223)"
    return found


def _decided(plan: Plan) -> list[dict[str, Any]]:
    return [row for row in plan.ops if row.get("weight")]


def summary(plan: Plan) -> list[str]:
    """A few lines: bytes, errors, and how much of the weights is in each format."""
    totals = plan.totals
    lines = [
        f"plan for {plan.model['name']}, {len(plan.ops)} operations",
        f"bytes of weights      {totals['weight_bytes'] / 1e6:.1f} MB, "
        f"{totals['weight_bytes'] / totals['weight_bytes_bf16']:.1%} of bf16's",
    ]
    if totals.get("predicted_error") is not None:
        lines.append(
            f"{plan.calibration['objective']}: {totals['predicted_error']:.2e} predicted, "
            f"{totals['measured_error']:.2e} measured on held-out text"
        )
        if totals["measured_perplexity_increase"]:
            lines.append(f"perplexity            {totals['measured_perplexity_increase']:+.2%}")
    if seconds := totals.get("product_seconds"):
        lines.append(f"products              {seconds * 1e3:.2f} ms for one token, measured one by one")
    if memory := totals.get("memory"):
        sizes = {key: f"{memory[key] / 1e6:.1f} MB" for key in ("weights", "kv_cache", "arena")}
        cache = f", cache {sizes['kv_cache']} for {memory['positions']:,} positions" if memory["positions"] else ""
        lines.append(
            f"memory in use         weights {sizes['weights']}{cache}, arena {sizes['arena']} for a prompt of "
            f"{memory['prompt_tokens']}"
        )
    numbers: dict[str, int] = {}
    seen = set()
    for row in _decided(plan):
        if row["tensor"] not in seen:
            seen.add(row["tensor"])
            numbers[row["weight"]] = numbers.get(row["weight"], 0) + math.prod(row["shape"])
    whole = sum(numbers.values())
    for name, count in sorted(numbers.items(), key=lambda item: -item[1]):
        lines.append(f"  {name:16} {count / whole:6.1%} of the numbers")
    return lines


def table(plan: Plan) -> Iterator[str]:
    """One line per operation."""
    yield (
        f"{'operation':34} {'op':15} {'shape':>12} {'weight':13} {'activation':13} {'cache':5} {'MB':>7} "
        f"{'error':>9} {'range':>18} {'seen':>16}  reason"
    )
    for row in plan.ops:
        shape = "x".join(map(str, row.get("shape", ()))) or "-"
        size = f"{row['bytes'] / 1e6:7.2f}" if "bytes" in row else f"{'-':>7}"
        error = f"{row['predicted_error']:9.1e}" if "predicted_error" in row else f"{'-':>9}"
        span = f"{_span(row).rpartition(' ')[0] or '-':>18}"
        yield (
            f"{row['at']:34} {row['op']:15} {shape:>12} {row['weight'] or '-':13} {row['activation'] or '-':13} "
            f"{row['kv_cache'] or '-':5} {size} {error} {span} {_seen(row) or '-':>16}  {row['reason']}"
        )


def differences(old: Plan, new: Plan) -> list[dict[str, Any]]:
    """Every operation whose decision differs: {"at", "op", "key", "from", "to"}; None where a plan lacks it."""
    keys = ("weight", "activation", "accumulate", "kv_cache")
    rows = [{(row["at"], row["op"]): row for row in plan.ops} for plan in (old, new)]
    found = []
    for at, op in dict.fromkeys([*rows[0], *rows[1]]):
        before, after = (r.get((at, op)) for r in rows)
        for key in keys:
            values = [None if row is None else row.get(key) for row in (before, after)]
            if values[0] != values[1]:
                found.append({"at": at, "op": op, "key": key, "from": values[0], "to": values[1]})
    return found


def html_page(plan: Plan) -> str:
    """A page of its own: the model coloured by format, the curve of budgets, and the table."""
    name = html.escape(str(plan.model["name"]))
    lines = "\n".join(html.escape(line) for line in summary(plan))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Precision of {name}</title>
<style>
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; color: #222; padding: 0 1rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }}
td, th {{ padding: .15rem .6rem; text-align: left; border-bottom: 1px solid #eee }}
th {{ position: sticky; top: 0; background: #fff }}
td.n {{ text-align: right; white-space: nowrap }}
td:last-child {{ min-width: 14rem }}
svg text {{ font: 11px system-ui, sans-serif; fill: #333 }}
.key span {{ display: inline-block; margin-right: 1.2rem }}
.key i {{ display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -.1em }}
@media (prefers-color-scheme: dark) {{
  body, th {{ background: #161616; color: #ddd }} td, th {{ border-color: #333 }} svg text {{ fill: #ccc }}
}}
</style></head><body>
<h1>Precision of {name}</h1>
<pre>{lines}</pre>
<h2>The model</h2>
{_legend(plan)}
{_picture(plan)}
<h2>What a budget buys</h2>
{_curve(plan)}
<h2>Every operation</h2>
{_html_table(plan)}
</body></html>
"""


def _legend(plan: Plan) -> str:
    parts = [
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>'
        for name, colour in _colours(plan).items()
    ]
    return f'<p class="key">{"".join(parts)}</p>'


def _picture(plan: Plan) -> str:
    """A row per layer and a cell per weight, as wide as it has bytes in bf16."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in _decided(plan):
        layer = re.match(r"(.*?[0-9]+)(?=/)", row["at"])
        rows.setdefault(layer[1] if layer else row["at"], []).append(row)
    widest = max((sum(row["bytes_bf16"] for row in cells) for name, cells in rows.items() if len(cells) > 1), default=1)
    height, left, width = 16, 130, 900
    colours = _colours(plan)
    parts = []
    for number, (name, cells) in enumerate(rows.items()):
        y, x = number * (height + 3), float(left)
        total = sum(cell["bytes_bf16"] for cell in cells)
        scale = (width - left) / max(widest, total)
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>')
        for cell in cells:
            w = max(cell["bytes_bf16"] * scale, 2)
            shown = f"{cell['at']}: {cell['weight']}, activation {cell['activation']}\n{cell['reason']}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{w - 1:.1f}" height="{height}" style="fill:{colours[cell["weight"]]}">'
                f"<title>{html.escape(shown)}</title></rect>"
            )
            if w > 60:
                label = cell["at"].rpartition("/")[2]
                parts.append(
                    f'<text x="{x + 4:.1f}" y="{y + 12}" style="fill:#fff" pointer-events="none">{html.escape(label)}</text>'
                )
            x += w
    bottom = len(rows) * (height + 3)
    return f'<svg viewBox="0 0 {width} {bottom}" width="100%" role="img">{"".join(parts)}</svg>'


def _curve(plan: Plan) -> str:
    points = [point for point in plan.totals.get("pareto", []) if point[1] > 0]
    if len(points) < 2:
        return "<p>This plan was made without data, so there is no curve.</p>"
    bf16 = plan.totals["weight_bytes_bf16"]
    own = [plan.totals["weight_bytes"], plan.totals["predicted_error"]]
    xs = [point[0] / bf16 for point in [*points, own]]
    ys = [math.log10(max(point[1], 1e-9)) for point in [*points, own]]
    left, top, width, height = 60, 10, 760, 260
    x_low, x_high, y_low, y_high = min(xs), max(xs), math.floor(min(ys)), math.ceil(max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / max(x_high - x_low, 1e-9) * width,
            top + (y_high - y) / max(y_high - y_low, 1) * height,
        )

    parts = []
    for decade in range(y_low, y_high + 1):
        _, y = place(x_low, decade)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>')
    for step in range(6):
        share = x_low + (x_high - x_low) * step / 5
        x, _ = place(share, y_low)
        parts.append(f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{share:.0%}</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, xs[:-1], ys[:-1]))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2a9d8f" stroke-width="2"/>')
    x, y = place(xs[-1], ys[-1])
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#e76f51"><title>this plan</title></circle>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 34}" text-anchor="middle">bytes of weights, of bf16\'s; '
        "predicted error; the dot is this plan</text>"
    )
    return f'<svg viewBox="0 0 {left + width + 20} {top + height + 44}" width="100%" role="img">{"".join(parts)}</svg>'


def _span(row: dict[str, Any]) -> str:
    if row.get("range") is None:
        return ""
    low, high = row["range"]
    return f"{'-∞' if low is None else f'{low:.2g}'} … {'∞' if high is None else f'{high:.2g}'} {row['range_source']}"


def _seen(row: dict[str, Any]) -> str:
    """What the calibration text made of the operation; of a cache the greatest magnitude."""
    if "peak" in row:
        return f"± {row['peak']:.2g}"
    return "{:.2g} … {:.2g}".format(*row["seen"]) if "seen" in row else ""


def _html_table(plan: Plan) -> str:
    heads = ("operation", "op", "shape", "weight", "activation", "cache", "MB", "error", "range", "seen", "reason")
    rows = []
    for row in plan.ops:
        cells: Sequence[tuple[str, bool]] = (
            (row["at"], False),
            (row["op"], False),
            ("×".join(map(str, row.get("shape", ()))), True),
            (row["weight"] or "", False),
            (row["activation"] or "", False),
            (row["kv_cache"] or "", False),
            (f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else "", True),
            (f"{row['predicted_error']:.1e}" if "predicted_error" in row else "", True),
            (_span(row), True),
            (_seen(row), True),
            (row["reason"], False),
        )
        rows.append("".join(f"<td{' class=n' if n else ''}>{html.escape(str(text))}</td>" for text, n in cells))
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
