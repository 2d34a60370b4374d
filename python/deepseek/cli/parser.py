"""The argument parser of every command: argparse, plus "did you mean" for what is spelled wrong."""

from __future__ import annotations

import argparse
import difflib
import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

__all__ = ["Formatter", "Parser", "subcommands"]


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands below `parser`, by name."""
    nested = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next((dict(choices) for choices in nested), {})


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in two columns; descriptions and examples stay as they are written."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30} | options)

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse, which forgets that commands are indented and then breaks the line of the longest."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            longest = max(map(len, action.choices), default=0)
            self._action_max_length = max(self._action_max_length, longest + 2 * self._indent_increment)


class Parser(argparse.ArgumentParser):
    """Options are written out (no abbreviations, so that a new option breaks no script); errors exit with 2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | options)
        self._given: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse; what is left over is reported by the command that it was given to, with its usage."""
        parsed, extra = self.parse_known_args(args, namespace)
        if extra:
            command = subcommands(self).get(getattr(parsed, "command", None) or "", self)
            command.error(f"unrecognized arguments: {' '.join(extra)}")
        return parsed

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As argparse; remembers the words, for `error`."""
        self._given = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Adds the options that unknown ones resemble: a misspelled option can also look like a missing one."""
        known = [name for action in self._actions for name in action.option_strings]
        words = itertools.takewhile(lambda word: word != "--", self._given)
        if subcommands(self):  # the words of the command are not ours
            words = itertools.takewhile(lambda word: word.startswith("-"), words)
        names = [word.partition("=")[0] for word in words if word.startswith("-")]
        near = [closest(name, known) for name in names if len(name) > 2 and name not in known]
        if found := list(dict.fromkeys(name for name in near if name)):
            message += f"; did you mean {', '.join(found)}?"
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        near = closest(str(value), names)
        message = f"invalid choice: {value!r}, expected one of {', '.join(names)}"
        raise argparse.ArgumentError(action, message + (f"; did you mean {near}?" if near else ""))


def closest(word: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `word` most likely means, by beginning or by likeness."""
    plain = {name.strip("-"): name for name in names}
    key = word.strip("-").replace("_", "-").lower()
    begun = [name for name in plain if key and name.startswith(key)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(key, plain, n=1)
    return plain[near[0]] if near else None
