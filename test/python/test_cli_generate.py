"""`deepseek generate`: forms of prompts, options, batches, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deepseek.cli import main
from deepseek.model import Model

MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained(MODEL)


@pytest.fixture(autouse=True)
def loaded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process find the model loaded."""
    monkeypatch.setattr("deepseek.cli.common.load_model", lambda *_, **__: model)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["generate", MODEL, "--max-new-tokens", "6", "--json", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", MODEL, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("deepseek: error: ") and err.count("\n") == 1
    return err


def test_options_reach_the_sampler(capsys: pytest.CaptureFixture[str], model: Model) -> None:
    options = {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5}
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    expected = model.generate("Once", 6, **options)
    assert report(capsys, "--prompt", "Once", *arguments)["new_ids"] == expected.new_ids
    greedy = model.generate("The capital of France is", 6)
    stopped = report(capsys, "--prompt", "The capital of France is", "--stop", "xyz", "--stop", greedy.text[3:5])
    assert (stopped["text"], stopped["stop_reason"]) == (greedy.text[:3], "stop")


def test_token_ids(capsys: pytest.CaptureFixture[str], model: Model) -> None:
    ids = model.tokenizer.encode("The capital of France is")
    given = ",".join(map(str, ids))
    single = report(capsys, "--prompt-ids", given)
    assert single["prompt_ids"] == ids
    assert single["new_ids"] == model.generate("The capital of France is", 6).new_ids
    assert main(["generate", MODEL, "--max-new-tokens", "1", "--prompt-ids", given]) == 0
    assert capsys.readouterr().out == "The capital of France is Paris\n"
    assert "token id is 49152, expected 0 to 49151" in failure(capsys, "--prompt-ids", "49152")


def test_token_ids_without_the_tokenizers_package() -> None:
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from deepseek.cli import main\n"
        f"sys.exit(main(['generate', '{MODEL}', '--max-new-tokens', '1', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.run([*command, "--prompt-ids", "504,3575,282,4649,314"], capture_output=True, check=False)
    assert (child.returncode, child.stdout) == (0, b"The capital of France is Paris\n"), child.stderr
    child = subprocess.run([*command, "--prompt", "The"], capture_output=True, check=False)
    assert child.returncode == 1 and b"pip install" in child.stderr


def test_batches(capsys: pytest.CaptureFixture[str], model: Model, tmp_path: Path) -> None:
    texts = ["The capital of France is", "Once", "Dear Sir,\u2028"]
    singles = [model.generate(text, 6) for text in texts]
    several = report(capsys, *(argument for text in texts for argument in ("--prompt", text)))
    assert [result["text"] for result in several["results"]] == [single.text for single in singles]
    assert [result["prompt_ids"] for result in several["results"]] == [single.prompt_ids for single in singles]
    assert several["new_tokens_per_s"] > 0 and "text" not in several and several["cache_hit"] in (True, False)
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert report(capsys, "--prompts-file", str(file))["results"][2]["new_ids"] == singles[2].new_ids
    assert main(["generate", MODEL, "--max-new-tokens", "6", "--prompts-file", str(file)]) == 0
    out, err = capsys.readouterr()
    parts = [f"==> {i + 1} of 3 <==\n{text}{single.text}\n" for i, (text, single) in enumerate(zip(texts, singles))]
    assert out == "".join(parts)
    assert "3 texts, 18 new tokens" in err
    file.write_text("one", encoding="utf-8")  # the form of the object does not depend on the number of lines
    assert len(report(capsys, "--prompts-file", str(file))["results"]) == 1


def test_stdin(capsys: pytest.CaptureFixture[str], model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once\nupon"))
    assert report(capsys, "--prompt", "-")["prompt_ids"] == model.tokenizer.encode("Once\nupon")
    monkeypatch.setattr("sys.stdin", io.StringIO("Once\nupon\n"))
    assert len(report(capsys, "--prompts-file", "-")["results"]) == 2
    assert "stdin can be read once" in failure(capsys, "--prompt", "-", "--prompt", "-")


def test_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    assert f"{file}: cannot be read: No such file" in failure(capsys, "--prompts-file", str(file))
    file.write_bytes(b"a\n\nb\n")
    assert "line 2 of the prompts is empty, expected one prompt in each line" in failure(
        capsys, "--prompts-file", str(file), "--json"
    )
    file.write_bytes(b"")
    assert "line 1 of the prompts is empty" in failure(capsys, "--prompts-file", str(file))
    file.write_bytes(b"a\n\xff")
    assert f"{file} is not valid utf-8: invalid start byte at byte 2" in failure(capsys, "--prompts-file", str(file))
    assert "prompts[1]: the prompt has no tokens" in failure(capsys, "--prompt", "a", "--prompt", "")
    assert "the prompt has no tokens" in failure(capsys, "--prompt", "")
    assert "chat takes a text or messages" in failure(capsys, "--prompt-ids", "1", "--chat")
    assert "none of them empty" in failure(capsys, "--prompt", "a", "--stop", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --prompt --prompts-file --prompt-ids is required"),
        (["--prompt", "a", "--prompt-ids", "1"], "argument --prompt-ids: not allowed with argument --prompt"),
        (["--prompt-ids", "1,x"], "'1,x' is not a list of whole numbers such as 1,2,3"),
        (["--prompt", "a", "--top-k", "-1"], "'-1' is not a whole number of at least 0"),
        (["--prompt", "a", "--top-p", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--prompt", "a", "--min-p", "nan"], "'nan' is not a number from 0 to 1"),
        (["--prompt", "a", "--repetition-penalty", "0"], "'0' is not a finite number above 0"),
        (["--prompt", "a", "--repetition-penalty", "inf"], "'inf' is not a finite number above 0"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "m", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("json_mode", [False, True])
def test_interrupt(json_mode: bool) -> None:
    prompt = "Once upon a time"
    command = [sys.executable, "-m", "deepseek", "generate", MODEL, "--prompt", prompt, "--max-new-tokens", "100000"]
    command += ["--json"] * json_mode
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert child.stdout and child.stderr
        if json_mode:
            time.sleep(2.5)  # nothing says when it has begun
            text = b""
        else:
            text = os.read(child.stdout.fileno(), 4096)
            while len(text) < len(prompt) + 10:
                text += os.read(child.stdout.fileno(), 4096)
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, errors) == (130, b"")
    if json_mode:
        assert rest == b""
    else:
        assert text.startswith(prompt.encode()) and (text + rest).endswith(b"\n")
