"""Manifests of programs written by hand in the object ABI."""

from __future__ import annotations

from typing import Any


def argument(dtype: str, shape: list[int | str], name: str | None = None, **more: Any) -> dict[str, Any]:
    fields = {"name": name, "kind": "input", "weight": None, "prepared": None, "dtype": dtype, "shape": shape}
    return {**fields, "unsigned": False, "tied": False, **more}


def result(dtype: str, shape: list[int | str], name: str = "r", **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "tied": None, "unsigned": False, **more}


def symbol(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "min": 0, "max": None, "divisor": 1, **more}


def manifest(
    symbols: list[dict[str, Any]],
    arguments: list[dict[str, Any]],
    results: list[dict[str, Any]],
    init: dict[str, Any] | None = None,
    features: list[str] | None = None,
) -> dict[str, Any]:
    return {
        "version": 1,
        "target": "cpu:test",
        "features": features or [],
        "symbols": symbols,
        "init": init,
        "main": {"args": arguments, "results": results},
        "dispatches": [{"index": 0, "kernel": "row", "location": "test"}],
        "statistics": {"dispatches": 1, "kernels": 1},
    }
