"""`deepseek bench --profile`: costs against SmolLM2's configuration, sums that add up, traces, and bad expressions."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from deepseek import costs
from deepseek.cli import main, profile, roofline
from deepseek.errors import InputError

TOKENS, LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, SIZE, VOCABULARY = 17, 30, 576, 1536, 9, 3, 64, 49152
LAYER_WEIGHTS = 2 * HIDDEN * HEADS * SIZE + 2 * HIDDEN * KV_HEADS * SIZE + 3 * HIDDEN * FFN


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what one profile of SmolLM2 at f32 printed and wrote."""
    folder = tmp_path_factory.mktemp("profile")
    command = [sys.executable, "-m", "deepseek", "bench", "smollm2-135m", "--profile", "--json", "--precision", "f32"]
    command += ["--prompt-tokens", str(TOKENS), "--threads", "2", "--trace", "trace.json", "--roofline", "roof.svg"]
    child = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr
    (folder / "report.json").write_text(child.stdout)
    return folder


@pytest.fixture(scope="module")
def report(files: Path) -> dict[str, Any]:
    return json.loads((files / "report.json").read_text())


def kernels(report: dict[str, Any], phase: str, prefix: str) -> list[dict[str, Any]]:
    return [row for row in report[phase]["kernels"] if row["kernel"].startswith(prefix)]


@pytest.mark.parametrize(("phase", "tokens", "past"), [("prefill", TOKENS, 0), ("decode", 1, TOKENS)])
def test_times_add_up(report: dict[str, Any], phase: str, tokens: int, past: int) -> None:
    values = report[phase]
    assert (values["tokens"], values["past"]) == (tokens, past)
    inside = sum(row["seconds"] for row in values["kernels"])
    assert values["dispatch_s"] == pytest.approx(inside)
    assert values["outside_s"] == pytest.approx(values["seconds"] - inside) and values["outside_s"] > 0
    assert sum(row["share"] for row in values["kernels"]) == pytest.approx(inside / values["seconds"])
    assert sum(row["launches"] for row in values["kernels"]) == values["launches"]
    assert values["plain_s"] > 0 and report["compile_s"] >= 0
    limits = report["limits"]
    for row in values["kernels"]:
        assert row["gflops"] == pytest.approx(row["operations"] / row["seconds"] / 1e9)
        assert row["gbytes_per_s"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        compute, memory = row["gflops"] / limits["f32"], row["gbytes_per_s"] / limits["read"]
        assert row["bound"] == ("compute" if compute >= memory else "memory")
        assert row["of_limit"] == pytest.approx(max(compute, memory))


@pytest.mark.parametrize(("phase", "tokens"), [("prefill", TOKENS), ("decode", 1)])
def test_products_cost_what_the_configuration_says(report: dict[str, Any], phase: str, tokens: int) -> None:
    rows = kernels(report, phase, "matmul")
    assert sum(row["launches"] for row in rows) == 7 * LAYERS + 1
    products = 2 * (tokens * LAYERS * LAYER_WEIGHTS + HIDDEN * VOCABULARY)  # logits of the last position only
    fused = tokens * LAYERS * (2 * HIDDEN + 6 * FFN)  # two residual sums; x / (1 + exp(-x)) * y
    assert sum(row["operations"] for row in rows) == products + fused
    # Every weight once, and activations: read h, h, h, h, h, f; write h, kv, kv, h, f, f, h; the sums' h, h and y.
    weights = 4 * (LAYERS * LAYER_WEIGHTS + HIDDEN * VOCABULARY)
    activations = (
        4 * tokens * LAYERS * (6 * HIDDEN + FFN + 3 * HIDDEN + 2 * KV_HEADS * SIZE + 2 * FFN + 2 * HIDDEN + FFN)
    )
    logits = 4 * (tokens * HIDDEN + VOCABULARY)
    assert sum(row["bytes"] for row in rows) == pytest.approx(weights + activations + logits, rel=1e-3)


@pytest.mark.parametrize(("phase", "tokens", "past"), [("prefill", TOKENS, 0), ("decode", 1, TOKENS)])
def test_attention_counts_what_is_in_use(report: dict[str, Any], phase: str, tokens: int, past: int) -> None:
    (row,) = kernels(report, phase, "attention")
    pairs = sum(past + i + 1 for i in range(tokens))
    assert row["operations"] == LAYERS * HEADS * SIZE * (4 * pairs + 3 * tokens)  # with the rotation of the queries
    cache = 2 * KV_HEADS * SIZE * (past + tokens)
    queries, angles = 2 * HEADS * SIZE * tokens, SIZE * tokens
    assert row["bytes"] == 4 * LAYERS * (cache + queries + angles + 1)
    assert row["locations"] == ["layers.*/self_attn"]


def test_embedding_reads_the_rows_of_its_ids(report: dict[str, Any]) -> None:
    for phase, tokens in (("prefill", TOKENS), ("decode", 1)):
        (row,) = (row for row in report[phase]["kernels"] if row["locations"] == ["embed_tokens"])
        assert row["bytes"] < 3 * 4 * HIDDEN * tokens


def test_trace(files: Path, report: dict[str, Any]) -> None:
    events = json.loads((files / "trace.json").read_text())["traceEvents"]
    for pid, phase in enumerate(("prefill", "decode"), 1):
        own = [event for event in events if event["pid"] == pid]
        rows = {event["tid"]: event["args"]["name"] for event in own if event["name"] == "thread_name"}
        assert list(rows.values()) == ["forward pass", "launches", "thread 0", "thread 1"]
        spans = [event for event in own if event["ph"] == "X"]
        (whole,) = (event for event in spans if rows[event["tid"]] == "forward pass")
        launches = [event for event in spans if rows[event["tid"]] == "launches"]
        assert len(launches) == report[phase]["launches"]
        assert sum(event["dur"] for event in launches) == pytest.approx(1e6 * report[phase]["dispatch_s"])
        assert whole["dur"] == pytest.approx(1e6 * report[phase]["seconds"])
        end = whole["ts"]
        for event in launches:  # one after another, inside the pass
            assert event["ts"] >= end - 1e-3
            end = event["ts"] + event["dur"]
        assert end <= whole["ts"] + whole["dur"] + 1e-3
        operations = sum(row["operations"] for row in report[phase]["kernels"])
        once = {event["args"]["dispatch"]: event["args"]["operations"] for event in launches}
        assert sum(once.values()) == operations


def texts(svg: ElementTree.Element) -> list[tuple[str, float, float, str]]:
    """(text, x, baseline, anchor) of all that is written."""
    found = (item for item in svg.iter() if item.tag.endswith("text"))
    return [(item.text or "", float(item.get("x")), float(item.get("y")), item.get("text-anchor")) for item in found]


def scale(ticks: list[tuple[float, float]], value: float) -> float:
    """Pixel of a value on the logarithmic axis that two ticks (value, pixel to a tenth) fix: those farthest apart."""
    (v0, p0), (v1, p1) = min(ticks), max(ticks)
    return p0 + (p1 - p0) * math.log(value / v0) / math.log(v1 / v0)


def test_roofline(files: Path, report: dict[str, Any]) -> None:
    svg = ElementTree.parse(files / "roof.svg").getroot()
    written = texts(svg)
    for kind in set(report["limits"]) - {"read"}:
        unit = "GOP/s" if kind.startswith("int8") else "GFLOP/s"
        assert any(text == f"{kind} {report['limits'][kind]:.0f} {unit}" for text, *_ in written)
    assert any(text == f"memory {report['limits']['read']:.1f} GB/s" for text, *_ in written)
    numbers = [(float(text), x, y, anchor) for text, x, y, anchor in written if re.fullmatch(r"[\d.]+|1e[-+]\d+", text)]
    columns = [(value, x) for value, x, _, anchor in numbers if anchor == "middle"]
    rows = [(value, y - 4) for value, _, y, anchor in numbers if anchor == "end"]
    circles = [((float(c.get("cx")), float(c.get("cy"))), c[0].text) for c in svg.iter() if len(c) and c.get("cx")]
    drawn = 0
    for phase in ("prefill", "decode"):
        rows_drawn = [row for row in report[phase]["kernels"] if row["share"] >= 0.001 and row["operations"]]
        places = [
            ", ".join(sorted({location.rsplit("/", 1)[-1] for location in row["locations"]})) for row in rows_drawn
        ]
        for row, place in zip(rows_drawn, places):
            x, y = scale(columns, row["operations"] / row["bytes"]), scale(rows, row["gflops"])
            near = [title for at, title in circles if math.dist(at, (x, y)) < 0.5]
            assert any(title.startswith(f"{row['kernel']}: ") for title in near)
            # Which of small kernels are drawn, and so which places have one name only, depends on the time they took.
            label = place if places.count(place) == 1 else row["kernel"]
            assert any(", ".join(sorted(text.split(", "))) == label for text, *_ in written)
            drawn += 1
    assert len(circles) == drawn
    assert any(text == "k_proj, v_proj" for text, *_ in written)


def test_labels_of_one_place_do_not_overlap(report: dict[str, Any]) -> None:
    row = report["decode"]["kernels"][0] | {"operations": 10, "bytes": 5, "gflops": 1.0, "share": 0.02}
    same = [row | {"kernel": f"kernel_{number}"} for number in range(9)]
    svg = ElementTree.fromstring(roofline.draw(report | {"decode": report["decode"] | {"kernels": same}}))
    boxes = []
    for text, x, y, anchor in texts(svg):
        if text.startswith("kernel_"):
            width = 6 * len(text)
            left = x - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
            boxes.append((left, left + width, y - 9, y + 2))
            assert left >= 0 and left + width <= roofline.WIDTH and 0 <= y <= roofline.HEIGHT
    assert len(boxes) == 9
    for index, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:index]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top


def test_roofline_without_costs_or_limits(report: dict[str, Any]) -> None:
    unknown = {"operations": None, "bytes": None, "gflops": None}
    blind = {
        phase: report[phase] | {"kernels": [report[phase]["kernels"][0] | unknown]} for phase in ("prefill", "decode")
    }
    svg = ElementTree.fromstring(roofline.draw(report | blind))
    assert not any(len(item) for item in svg.iter() if item.get("cx"))
    svg = ElementTree.fromstring(roofline.draw(report | {"limits": {}}))
    assert any("not known" in text for text, *_ in texts(svg))


def test_table(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    profile._print(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("smollm2-135m, f32, 2 threads, cpu:native")
    assert f"decode, 1 token after {TOKENS}: " in "\n".join(lines)
    for phase in ("prefill", "decode"):
        for row in report[phase]["kernels"]:
            assert any(line.startswith(f"{row['kernel']} ") and row["locations"][0] in line for line in lines)
    assert sum(line.startswith("in no kernel ") for line in lines) == 2
    unknown = {"operations": None, "bytes": None, "gflops": None, "gbytes_per_s": None, "bound": None}
    row = report["decode"]["kernels"][0] | unknown
    profile._print_phase("decode", report["decode"] | {"kernels": [row]})
    assert " - " in capsys.readouterr().out


def test_sizes_of_a_pass() -> None:
    arguments = [
        {"kind": "input", "tied": False, "shape": ["b", "s"]},
        {"kind": "input", "tied": False, "shape": ["b"]},
        {"kind": "weight", "tied": False, "shape": [4]},
        {"kind": "input", "tied": True, "shape": ["b", 2, 3, "c", 64]},
    ]
    assert profile.pass_sizes({"main": {"args": arguments}}, 7, 1000) == {"b": 1, "s": 7, "c": 1000}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("s", 127),
        ("(b * s) * 576 + 4", 127 * 576 * 7 + 4),
        ("s * 4 - 8", 500),
        ("(s * s) * -2", -2 * 127 * 127),
        ("s // 10 + s ^/ 10 + s % 10", 12 + 13 + 7),
        ("s * 2 ^/ 4 * 4", 64 * 4),  # from the left, as the compiler reads it
        ("layers.0.n * 2 + in", 17),
        ("s // (b - 7)", 0),
    ],
)
def test_expressions(text: str, value: int) -> None:
    assert costs.evaluate(text, {"s": 127, "b": 7, "layers.0.n": 3, "in": 11}) == value


@pytest.mark.parametrize(
    "text", ["", "s +", "t", "s.real", "f(s)", "'a' * 9", "s ** s", "1.5", "True", "s[0]", "(" * 999]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="cannot evaluate"):
        costs.evaluate(text, {"s": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemm", "--profile"], "--profile is for models"),
        (
            ["smollm2-135m", "--profile", "--prompt-tokens", "8192"],
            "8192 + 1 tokens do not fit into the context of 8192",
        ),
        (["smollm2-135m", "--trace", "no/such/trace.json"], "there is no folder no/such"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err
