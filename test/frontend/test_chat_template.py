"""Chat templates: the same text as transformers, and templates that go wrong or never end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deepseek.errors import CheckpointError, DeepseekError, InputError
from deepseek.frontend.checkpoint import chat_template
from deepseek.frontend.checkpoint.chat_template import render_chat
from deepseek.frontend.checkpoint.tokenizer import Tokenizer, TokenizerData

CONVERSATION = [
    {"role": "system", "content": 'Be brief: <é> & "x"\n'},
    {"role": "user", "content": "  Name 3 colors. "},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "日本語 👍"},
]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The shapes of published templates: trimming, namespaces, loop controls, macros, dates, tojson, generation marks.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MODERN = """{%- set ns = namespace(count=0, last='') %}
{%- macro shout(text) -%}
  {{- text | upper | trim -}}
{%- endmacro %}
Today is {{ strftime_now('%Y') }}.
{% for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content }}{% endgeneration %}
        {%- continue %}
    {%- endif %}
    {%- set ns.count = ns.count + 1 %}
{{ loop.index }}: {{ shout(message.role) }} {{ message | tojson }} {{ message.content | tojson(indent=2) }}
    {%- if ns.count > 2 %}{% break %}{% endif %}
{% endfor %}
{{ [3, 1] | sort | join(',') }} {{ tools is defined and tools is not none }} {{ eos_token }}"""


def tokenizer(template: str | None, bos: int | None = 1) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", "a"]
    return Tokenizer(
        TokenizerData(
            kind="bpe-bytes", backend="{}", tokens=tokens, types=[2, 3, 3, 1], bos=bos, eos=2, unk=0, stop_ids=[2],
            prefix_ids=[], suffix_ids=[], add_space_prefix=False, chat_template=template,
        )
    )  # fmt: skip


@pytest.mark.parametrize("template", [CHATML, LLAMA2, MODERN])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_equals_transformers(template: str, count: int) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = CONVERSATION[:count] if template != LLAMA2 or count > 1 else CONVERSATION[1:2]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    expected = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **special)
    assert tokenizer(template).chat(messages) == expected[0][0]
    assert str(datetime.now().year) in expected[0][0] or template != MODERN


def test_undefined_special_tokens() -> None:
    ours = tokenizer("{{ bos_token is defined }}|{{ eos_token }}|{{ unk_token }}", bos=None)
    assert ours.chat(CONVERSATION[:1]) == "False|</s>|<unk>"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "robot", "content": "x"}], r"a message is .*'robot'.*, expected role \(one of system, user, assistant\)"),
        ([{"content": "x"}], "expected role"),
        (["hello"], "a message is 'hello', expected role"),
        ([{"role": "user"}], "the content of a message is None, expected a text"),
        ([{"role": "user", "content": ["x"]}], r"the content of a message is \['x'\], expected a text"),
    ],
)  # fmt: skip
def test_bad_messages(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(CHATML).chat(messages)


def test_no_template() -> None:
    with pytest.raises(CheckpointError, match="the model has no chat template"):
        tokenizer(None).chat(CONVERSATION)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.x.y }}", "has no attribute 'x'"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{% include 'x' %}", "no loader"),
        ("{{ range(10**9) | list }}", "Range too big"),
        ("{{ 'a' * 10**10 }}", "more than 512 MiB of memory"),
        ("{% set x = namespace(t='a' * 1000) %}{% for i in range(60) %}{% set x.t = x.t ~ x.t %}{% endfor %}", "memory"),
        ("{{ 'a' * 20000000 }}", "makes 20000000 characters, expected at most 16777216"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recurses too deeply"),
        ("{{ '(' * 1000000 }}{{ " + "(" * 100_000, "recurses too deeply|nested|unexpected"),
    ],
)  # fmt: skip
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"the chat template cannot be rendered: .*({message})") as caught:
        render_chat(template, {"messages": []})
    assert len(str(caught.value)) < 700
    assert render_chat("{{ a }}", {"a": 1}) == "1"  # the next one is answered


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 8) }}",  # one operation
    ],
)
def test_endless_templates(template: str) -> None:
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="the chat template cannot be rendered: it takes more than 2 seconds"):
        render_chat(template, {})
    assert time.process_time() - begin < 1  # another process worked
    assert render_chat("{{ a }}", {"a": "ü\n"}) == "ü\n"


def test_the_process_is_kept_and_ends_with_us() -> None:
    code = (
        "from deepseek.frontend.checkpoint import chat_template as c\n"
        "print(c.render_chat('{{ a }}', {'a': 1}), c._WORKER._process.pid)\n"
        "first = c._WORKER._process\n"
        "print(c.render_chat('{{ a }}', {'a': 2}), c._WORKER._process is first)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (one, pid), (two, same) = (line.split() for line in done.stdout.splitlines())
    assert (one, two, same) == ("1", "2", "True")
    assert not Path(f"/proc/{pid}").exists()


def test_a_forked_process_gets_its_own() -> None:
    render_chat("x", {})
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, render_chat("{{ a }}", {"a": "child"}).encode())
            chat_template._WORKER.stop()
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"child"
    os.close(reader)
    assert render_chat("{{ a }}", {"a": "parent"}) == "parent"


def test_a_process_that_was_killed_is_replaced() -> None:
    render_chat("x", {})
    chat_template._WORKER._process.kill()
    chat_template._WORKER._process.wait()
    assert render_chat("y", {}) == "y"


def test_missing_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    chat_template._WORKER.stop()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeepseekError, match="chat templates need jinja2: pip install jinja2"):
        render_chat("x", {})
