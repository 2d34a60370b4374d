"""`deepseek completion`: scripts that let shells complete commands, options, choices, models and file names.

They are written from the argument parsers, so that a new option needs nothing here. What a value may be follows
from its `choices`, else from its metavar: MODEL is a known name or a file, FILE or x.dsc a file, DIR a folder.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deepseek.cli import common
from deepseek.cli.parser import subcommands

EXAMPLES = """
deepseek completion bash
deepseek completion zsh
deepseek completion fish
"""

_INSTALL = """
to put it into effect:
  bash   source <(deepseek completion bash)                     in ~/.bashrc
  zsh    source <(deepseek completion zsh)                      in ~/.zshrc, after compinit
  fish   deepseek completion fish > ~/.config/fish/completions/deepseek.fish"""

_FOLDER = re.compile(r"\bDIR\b|(^|_)(dir|folder)$")
_FILE = re.compile(r"\bFILE\b|\.\w+$|(^|_)file$")


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "completion", "print a script that completes commands in a shell", EXAMPLES)
    parser.epilog = f"{parser.epilog}\n{_INSTALL}"
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_WRITERS), help=f"one of {', '.join(_WRITERS)}")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints the script."""
    from deepseek.cli import build_parser

    text = _WRITERS[options.shell](list(_commands(build_parser())))
    if options.json:
        common.print_json({"shell": options.shell, "script": text})
    else:
        print(text, end="")


@dataclass(frozen=True)
class Argument:
    """An option (with its names) or a positional argument (without), and what its value may be."""

    names: tuple[str, ...]
    metavar: str
    text: str
    takes: str  # "" (a flag), "value" (anything), "words", "models", "files", "folders"
    words: tuple[str, ...]
    many: bool


@dataclass(frozen=True)
class Command:
    """A subcommand; the one named "" is `deepseek` itself."""

    name: str
    text: str
    options: tuple[Argument, ...]
    positionals: tuple[Argument, ...]


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    yield _command("", parser)
    for name, nested in subcommands(parser).items():
        yield _command(name, nested)


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    actions = [a for a in parser._actions if a.help != argparse.SUPPRESS]
    arguments = [_argument(parser, a) for a in actions if not isinstance(a, argparse._SubParsersAction)]
    text = (parser.description or "").split("\n")[0].rstrip(".")
    positionals = tuple(argument for argument in arguments if not argument.names)
    return Command(name, text, tuple(argument for argument in arguments if argument.names), positionals)


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Argument:
    from deepseek.names import KNOWN_NAMES

    metavar = str(action.metavar or action.dest)
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    words: tuple[str, ...] = ()
    if action.nargs == 0:
        takes = ""
    elif action.choices:
        takes, words = "words", tuple(str(choice) for choice in action.choices)
    elif "MODEL" in metavar:
        takes, words = "models", tuple(sorted(KNOWN_NAMES))
    elif _FOLDER.search(metavar) or _FOLDER.search(action.dest):
        takes = "folders"
    elif _FILE.search(metavar) or _FILE.search(action.dest):
        takes = "files"
    else:
        takes = "value"
    return Argument(tuple(action.option_strings), metavar, text, takes, words, action.nargs in ("+", "*"))


def _bash(commands: list[Command]) -> str:
    takes, options = [], []
    for command in commands:
        places = [("|".join(f'"{command.name} {name}"' for name in a.names), a) for a in command.options if a.takes]
        places += [
            (f'"{command.name} "*' if a.many else f'"{command.name} {place}"', a)
            for place, a in enumerate(command.positionals)
        ]
        for pattern, argument in places:
            many = "many " if argument.many else ""
            takes.append(f'        {pattern}) echo "{many}{" ".join((argument.takes, *argument.words))}" ;;')
        names = " ".join(name for option in command.options for name in option.names)
        options.append(f'        "{command.name}") echo "{names}" ;;')
    return _BASH.format(
        takes="\n".join(takes), options="\n".join(options), commands=" ".join(c.name for c in commands[1:])
    )


_BASH = """\
# bash completion of deepseek, written by `deepseek completion bash`

# What option or positional argument $2 of command $1 takes; nothing for a flag.
_deepseek_takes() {{
    case "$1 $2" in
{takes}
    esac
}}

_deepseek_options() {{
    case "$1" in
{options}
    esac
}}

_deepseek() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command= option= takes= place=0 i word
    [[ $cur == "=" ]] && cur=
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        [[ $word == "=" ]] && continue # --option=value comes as three words
        if [[ $option && $takes != many* ]]; then
            option=
        elif [[ $word == -* ]]; then
            takes=$(_deepseek_takes "$command" "$word")
            option=${{takes:+$word}}
        elif [[ $option ]]; then
            continue
        elif [[ ! $command ]]; then
            command=$word
        else
            ((place++))
        fi
    done
    if [[ $option && ! ($cur == -* && $takes == many*) ]]; then
        takes=${{takes#many }}
    elif [[ $cur == -* ]]; then
        takes="words $(_deepseek_options "$command")"
    elif [[ ! $command ]]; then
        takes="words {commands}"
    else
        takes=$(_deepseek_takes "$command" "$place")
        takes=${{takes#many }}
    fi
    COMPREPLY=()
    local words=
    [[ $takes == *" "* ]] && words=${{takes#* }}
    [[ $words ]] && mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    case $takes in
        folders*) mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -d -- "$cur") ;;
        models* | files*) mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$cur") ;;
        *) return ;;
    esac
    compopt -o filenames 2>/dev/null
}}

complete -F _deepseek deepseek
"""


def _zsh(commands: list[Command]) -> str:
    def action(argument: Argument) -> str:
        words = " ".join(argument.words)
        actions = {
            "value": " ",
            "words": f"({words})",
            "models": "_deepseek_models",
            "files": "_files",
            "folders": "_files -/",
        }
        return f":{_plain(argument.metavar)}:{actions[argument.takes]}"

    def option(argument: Argument) -> list[str]:
        text = f"[{_plain(argument.text)}]"
        if not argument.takes:
            return [shlex.quote(name + text) for name in argument.names]
        value = ":*-*" + action(argument) if argument.many else action(argument)
        ends = {True: "=", False: "+"}  # --name=value and --name value; -nvalue and -n value
        joined = [name + ("" if argument.many else ends[name.startswith("--")]) for name in argument.names]
        return [shlex.quote(name + text + value) for name in joined]

    cases, names = [], []
    for command in commands[1:]:
        specs = [spec for argument in command.options for spec in option(argument)]
        specs += [
            shlex.quote(("*" if a.many else str(place + 1)) + action(a)) for place, a in enumerate(command.positionals)
        ]
        lines = " \\\n                    ".join(specs)
        cases.append(f"                {command.name})\n                    _arguments {lines} ;;")
        names.append(" " * 12 + shlex.quote(f"{command.name}:{command.text}"))
    models = next((a.words for c in commands for a in (*c.positionals, *c.options) if a.takes == "models"), ())
    own = " ".join(spec for argument in commands[0].options for spec in option(argument))
    return _ZSH.format(models=" ".join(models), own=own, commands="\n".join(names), cases="\n".join(cases))


_ZSH = """\
#compdef deepseek
# zsh completion of deepseek, written by `deepseek completion zsh`

_deepseek_models() {{
    _alternative 'models:model:({models})' 'files:file:_files'
}}

_deepseek() {{
    local curcontext="$curcontext" state line
    typeset -A opt_args
    _arguments -C {own} '1: :->command' '*:: :->arguments'
    case $state in
        command)
            local -a commands
            commands=(
{commands}
            )
            _describe command commands ;;
        arguments)
            case $line[1] in
{cases}
            esac ;;
    esac
}}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _deepseek "$@"
else
    compdef _deepseek deepseek
fi
"""


def _plain(text: str) -> str:
    """Without what separates the parts of a zsh specification."""
    return text.translate(str.maketrans("[]:\\", "()--"))


def _fish(commands: list[Command]) -> str:
    lines = [_FISH]
    for command in commands[1:]:
        lines.append(f"complete -c deepseek -n __deepseek_no_command -a {command.name} -d {_fish_quote(command.text)}")
    for command in commands:
        place = f"'__deepseek_command {command.name}'" if command.name else "__deepseek_no_command"
        for argument in (*command.options, *command.positionals):
            if not argument.names and argument.takes == "value":
                continue
            names = "".join(f" -{'l' if n.startswith('--') else 's'} {n.lstrip('-')}" for n in argument.names)
            file = argument.takes in ("models", "files")
            required = (" -r" if file else " -x") if argument.names and argument.takes else ""
            words = " ".join(argument.words)
            takes = {
                "": "",
                "value": "",
                "words": f" -a {_fish_quote(words)}",
                "models": f" -F -a {_fish_quote(words)}",
                "files": " -F",
                "folders": " -a '(__fish_complete_directories)'",
            }[argument.takes]
            text = f" -d {_fish_quote(argument.text)}" if argument.text else ""
            lines.append(f"complete -c deepseek -n {place}{names}{required}{takes}{text}")
    return "\n".join(lines) + "\n"


_FISH = """\
# fish completion of deepseek, written by `deepseek completion fish`

function __deepseek_no_command
    test (count (commandline -opc)) -eq 1
end

function __deepseek_command
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test "$words[2]" = "$argv[1]"
end

complete -c deepseek -f"""


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
