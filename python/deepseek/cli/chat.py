"""`deepseek chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from deepseek.cli import common
from deepseek.cli.generate import add_sampling_options, sampling_options
from deepseek.errors import InputError

EXAMPLES = """
deepseek chat smollm2-135m
deepseek chat model.gguf --system 'Answer in one sentence.' --temperature 0.7 --top-p 0.9
echo 'Name three colors.' | deepseek chat smollm2-135m
"""

_HELP = """\
/reset  forgets the conversation
/exit   ends, like Ctrl-D
/help   shows this
Ctrl-C stops an answer; the conversation goes on."""
_PROMPT = "> "


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "chat", "talk with a model, one line a message", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help=common.MODEL_HELP)
    parser.add_argument("--system", metavar="TEXT", help="instructions that the conversation begins with")
    add_sampling_options(parser, 1024)
    common.add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Reads messages from stdin and streams the answers to stdout; with --json one object with all turns at the end.

    In a terminal errors and Ctrl-C end a turn only; else they end the command.
    """
    from deepseek.generation import Conversation
    from deepseek.sampling import SamplingOptions

    settings = SamplingOptions.of(sampling_options(options))
    conversation = Conversation(common.load_model(options), options.system)
    interactive = sys.stdin.isatty() and not options.json
    if interactive and sys.stdout.isatty():
        print("Ctrl-D ends, /help lists commands", file=sys.stderr)
    for line in _lines(interactive):
        text = line.strip()
        if text == "/exit":
            break
        if text == "/reset":
            conversation.reset()
        elif text.startswith("/") and text[1:].isalpha():
            unknown = "" if text == "/help" else f"there is no command {text}\n"
            print(unknown + _HELP, file=sys.stderr)
        elif text and interactive:
            with _mended():
                _answer(conversation, text, settings)
        elif text and options.json:
            conversation.ask(text, settings).run()
        elif text:
            _answer(conversation, text, settings)
    if options.json:
        conversation.end_turn()
        common.print_json({"messages": conversation.messages})


def _answer(conversation: Any, text: str, settings: Any) -> None:
    stream = conversation.ask(text, settings)
    try:
        for piece in stream:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)
    result = stream.result
    if result.stop_reason == "context":
        print("the context is full: /reset forgets the conversation", file=sys.stderr)
    if result.decode_tokens_per_s is not None and sys.stderr.isatty():
        print(f"{len(result.new_ids)} tokens, {result.decode_tokens_per_s:.1f} tokens/s", file=sys.stderr)


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """Keeps the conversation going after a message that cannot be answered, and after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except InputError as error:
        print(f"deepseek: error: {error}; /reset forgets the conversation", file=sys.stderr)


def _lines(interactive: bool) -> Iterator[str]:
    if not interactive:
        try:
            yield from sys.stdin
        except UnicodeDecodeError as error:
            raise InputError(f"stdin is not valid {error.encoding}: {error.reason} at byte {error.start}") from None
        return
    with contextlib.suppress(ImportError):  # line editing and history of input()
        import readline  # noqa: F401
    while True:
        try:
            yield input(_PROMPT if sys.stdout.isatty() else "")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # drops the line that was being typed
            print()
