"""`deepseek run`: arrays from files, by order or name, and results as files."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from deepseek import ACG
from deepseek.cli import main


def combine(x, y):
    return {"sum": x * 2 + y, "product": x * y}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run with spaces")
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x[0])
    np.save(folder / "wide.npy", x.astype(np.float64))
    np.savez(folder / "both.npz", x=x, y=x)
    (folder / "text.npy").write_text("no array")
    ACG.trace(combine, x, x[0]).compile().save(folder / "f.dsc")
    return folder


def failure(capsys, folder: Path, *inputs: str) -> str:
    status = main(
        ["run", str(folder / "f.dsc"), "--output-dir", str(folder / "none"), "--input", *inputs]
        if inputs
        else ["run", str(folder / "f.dsc"), "--output-dir", str(folder / "none")]
    )
    printed = capsys.readouterr()
    assert status == 1 and not printed.out and not (folder / "none").exists()
    return printed.err


@pytest.mark.parametrize("names", [("", ""), ("x=", "y="), ("y=", "x=")])
def test_results_are_files(folder, capsys, names):
    files = {"": ("x", "y"), "x=": ("x", "y"), "y=": ("y", "x")}[names[0]]
    inputs = [f"{name}{folder / file}.npy" for name, file in zip(names, files)]
    out = folder / "out" / names[0].strip("=")
    out.parent.mkdir(exist_ok=True)
    assert main(["run", str(folder / "f.dsc"), "--input", *inputs, "--output-dir", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    results = [np.load(entry["file"]) for entry in report["outputs"]]
    assert [entry["shape"] for entry in report["outputs"]] == [[4, 3], [4, 3]]
    for result, expected in zip(results, (x * 2 + y, x * y)):
        np.testing.assert_array_equal(result, expected)
    assert len(list(out.iterdir())) == 2


def test_input_may_be_repeated(folder, capsys):
    out = folder / "repeated"
    inputs = ["--input", str(folder / "x.npy"), "--input", str(folder / "y.npy")]
    assert main(["run", str(folder / "f.dsc"), *inputs, "--output-dir", str(out), "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("float32 [4, 3]") == 2


def test_bfloat16(tmp_path, capsys):
    x = np.array([1, 2.5, -3], ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", x)
    ACG.trace(lambda x: x + x, x).compile().save(tmp_path / "f.dsc")
    command = [
        "run",
        str(tmp_path / "f.dsc"),
        "--input",
        str(tmp_path / "x.npy"),
        "--output-dir",
        str(tmp_path),
        "--json",
    ]
    assert main(command) == 0
    file = json.loads(capsys.readouterr().out)["outputs"][0]["file"]
    assert np.load(file).view(ml_dtypes.bfloat16).tolist() == [2, 5, -6]


def test_errors(folder, capsys):
    x, y = str(folder / "x.npy"), str(folder / "y.npy")
    wanted = "the program takes 2: x f32 [x_0, x_1], y f32 [x_1]"
    assert f"0 inputs are given, but {wanted}" in failure(capsys, folder)
    assert f"3 inputs are given, but {wanted}" in failure(capsys, folder, x, y, y)
    assert "input x is given twice" in failure(capsys, folder, f"x={x}", f"x={y}")
    assert "missing.npy cannot be read: No such file or directory" in failure(capsys, folder, "missing.npy", y)
    assert "text.npy is not an array file (.npy)" in failure(capsys, folder, str(folder / "text.npy"), y)
    assert "both.npz holds several arrays (.npz), expected one (.npy)" in failure(
        capsys, folder, str(folder / "both.npz"), y
    )
    assert "dtype must be float32, got float64" in failure(capsys, folder, str(folder / "wide.npy"), y)
