"""The `deepseek` command. Each subcommand is a module that imports what it needs when it runs."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from deepseek.cli import progress
from deepseek.cli.parser import Formatter, Parser
from deepseek.errors import DeepseekError

__all__ = ["main"]

# Modules of this package.
COMMANDS = ("generate", "chat", "compile", "run", "inspect", "bench", "precision", "quantize", "doctor", "completion")

_EPILOG = """\
MODEL is a GGUF file, a Hugging Face folder, a .dsc file, or a known name such as smollm2-135m.
deepseek COMMAND --help explains one command, with examples.

examples:
  deepseek generate smollm2-135m --prompt 'The capital of France is'
  deepseek doctor

exit status:
  0    done
  1    failed; one paragraph on stderr says why
  2    wrong usage: an unknown command or option, or a value that it does not take
  130  interrupted (Ctrl-C)
  141  the reader of the output has gone
"""

# Shell conventions: 128 + signal number.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The command line with the commands `names`; importing and building it loads neither numpy nor the compiler."""
    parser = Parser(
        prog="deepseek",
        description="A compiler for large models: checkpoints to machine code.",
        epilog=_EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name in names:
        importlib.import_module(f"deepseek.cli.{name}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status, as `deepseek --help` lists them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # The other commands need not be loaded to run one.
    parser = build_parser(arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS)
    parsed = parser.parse_args(arguments)
    progress.silence(getattr(parsed, "json", False))  # who asks for JSON watches no terminal
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # text that the terminal's encoding lacks
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(parser, parsed)
    except KeyboardInterrupt:
        progress.clear()
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; without this Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except DeepseekError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("out of memory")
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        if os.environ.get("DEEPSEEK_TRACEBACK"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}; set DEEPSEEK_TRACEBACK=1 for the traceback and report it"
        )


def _run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    status = 0
    if parsed.version:
        from deepseek import __version__

        print(f"deepseek {__version__}")
    elif parsed.command is None:
        parser.print_usage(sys.stderr)
        print("deepseek: error: a COMMAND is required; deepseek --help lists them", file=sys.stderr)
        return 2
    else:
        status = parsed.run(parsed) or 0
    sys.stdout.flush()
    return status


def _show_warning(message: Warning | str, *_: object) -> None:
    progress.message(f"deepseek: warning: {message}")


def _fail(message: str) -> int:
    # One paragraph: a blank line would end it for whoever splits the log.
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    progress.message("deepseek: error: " + "\n".join(lines))
    return 1
