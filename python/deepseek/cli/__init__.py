"""The `deepseek` command. Each subcommand is a module that imports what it needs when it runs."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from deepseek.cli import bench, compile, doctor, generate, inspect
from deepseek.errors import DeepseekError

__all__ = ["main"]

COMMANDS = (generate, bench, compile, inspect, doctor)

# Shell conventions: 128 + signal number.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; importing and building it loads neither numpy nor the compiler."""
    parser = argparse.ArgumentParser(
        prog="deepseek",
        description="A compiler for large models: checkpoints to machine code.",
        epilog="MODEL is a GGUF file, a .dsc file, or a known name such as smollm2-135m.\n\n"
        "example:\n  deepseek generate smollm2-135m --prompt 'The capital of France is'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for a failure, 130 after Ctrl-C."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # text that the terminal's encoding lacks
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(parser, parsed)
    except KeyboardInterrupt:
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
    if parsed.version:
        from deepseek import __version__

        print(f"deepseek {__version__}")
    elif parsed.command is None:
        parser.print_usage(sys.stderr)
        print("deepseek: error: a COMMAND is required; deepseek --help lists them", file=sys.stderr)
        return 2
    else:
        parsed.run(parsed)
    sys.stdout.flush()
    return 0


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"deepseek: warning: {message}", file=sys.stderr)


def _fail(message: str) -> int:
    # One paragraph: a blank line would end it for whoever splits the log.
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    print("deepseek: error: " + "\n".join(lines), file=sys.stderr)
    return 1
