"""The benchmark scripts without the long runs: what is missing is named, and their tables are Markdown."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", monkeypatch)

    def version(name: str) -> str:
        if name == "torch":
            return "2.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    versions, missing = peers.find_peers()
    assert versions == {"torch": "2.0"}
    assert missing.keys() == peers.PACKAGES.keys()
    assert missing["torch"] == "pip install transformers"


def test_rates_of_peers_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", monkeypatch)
    own = peers.Side("ours", "f32", print, print, cold_s=1.0, rates=[(10.0, 4.0), (30.0, 8.0), (20.0, 6.0)])
    peer = peers.Side("torch", "f32", print, print, cold_s=2.0, rates=[(20.0, 2.0), (10.0, 2.0), (20.0, 2.0)])
    row = peers.row(own, peer)
    assert row["prefill"] == {"ours_tokens_per_s": 20.0, "peer_tokens_per_s": 20.0, "ratio": 1.0}
    assert row["decode"] == {"ours_tokens_per_s": 6.0, "peer_tokens_per_s": 2.0, "ratio": 3.0}
    report = {"prompt_tokens": 5, "new_tokens": 2, "threads": 1, "versions": {}, "models": [row], "products": []}
    text = "\n".join(peers.lines(report | {"missing": {"iree": "pip install iree-base-compiler"}}))
    assert "| torch | f32 | decode | 6.0 | 2.0 | 3.00 |" in text
    assert text.endswith("missing: iree (pip install iree-base-compiler)")


def test_every_side_gets_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", monkeypatch)
    seen: list[object] = []
    prefill, decode = peers.run(peers.Side("ours", "f32", seen.append, seen.append), [3, 1, 4], [1, 5])
    assert seen == [[3, 1, 4], 1, 5]
    assert prefill > 0 and decode > 0


def test_tables_are_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    report = load("report", monkeypatch)
    assert list(report.table(["a", "b"], [["1", "2"]])) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]
