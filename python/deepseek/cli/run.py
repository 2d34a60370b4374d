"""`deepseek run`: calls an artifact on arrays from .npy files."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from deepseek.cli import common, progress
from deepseek.errors import InputError
from deepseek.files import replacing

EXAMPLES = """
deepseek run f.dsc --input x.npy --output-dir out
deepseek run f.dsc --input a.npy b.npy --output-dir out --json
deepseek run f.dsc --input y=b.npy x=a.npy --output-dir out
"""

_MOST_LISTED = 6  # arguments in a message


def add_parser(commands: Any) -> None:
    """Registers the subcommand."""
    parser = common.new_parser(commands, "run", "run an artifact on arrays", EXAMPLES)
    parser.add_argument("artifact", metavar="X.dsc", help="artifact of a function, a module or a model")
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]A.npy",
        help="arrays, in the order of the arguments or by name (deepseek inspect lists them)",
    )
    parser.add_argument(
        "--output-dir", required=True, metavar="D", help="gets one NAME.npy per result (made if needed)"
    )
    parser.add_argument("--threads", type=common.count(1), metavar="T", help="threads (default: all available)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes every result; arguments that the program updates in place are copies of the files."""
    import numpy as np

    from deepseek.artifact import Artifact
    from deepseek.loading import executable

    begin = time.perf_counter()
    with progress.task(f"loading {options.artifact}"):
        program = executable(Artifact(options.artifact), options.threads)
    loaded = time.perf_counter()
    arguments = [argument for argument in program.manifest["main"]["args"] if argument["kind"] == "input"]
    arrays = [_read(path, argument) for path, argument in zip(_ordered(options.input, arguments), arguments)]
    started = time.perf_counter()
    results = program(*arrays)
    finished = time.perf_counter()
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = []
    for index, (array, result) in enumerate(zip(results, program.manifest["main"]["results"])):
        path = folder / f"{_file_name(result['name']) or f'result{index}'}.npy"
        path = folder / f"{path.stem}.{index}.npy" if str(path) in [entry["file"] for entry in outputs] else path
        with replacing(path) as file:
            np.save(file, array, allow_pickle=False)
        outputs.append({"file": str(path), "dtype": str(array.dtype), "shape": list(array.shape)})
    if options.json:
        common.print_json({"outputs": outputs, "load_s": loaded - begin, "run_s": finished - started})
        return
    for entry in outputs:
        print(f"{entry['file']}  {entry['dtype']} {entry['shape']}")


def _ordered(given: list[str], arguments: list[dict[str, Any]]) -> list[str]:
    """One file per argument. Raises `InputError` that lists the arguments."""
    names = [argument["name"] for argument in arguments]
    wanted = ", ".join(
        f"{name or f'argument {index}'} {_type(arguments[index])}" for index, name in enumerate(names[:_MOST_LISTED])
    ) + (f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else "")
    chosen: list[str | None] = [None] * len(names)
    for text in given:
        name, equals, path = text.partition("=")
        if equals and name in names and not Path(text).exists():
            index = names.index(name)
        elif None in chosen:
            index, path = chosen.index(None), text
        else:
            raise InputError(f"{len(given)} inputs are given, but the program takes {len(names)}: {wanted}")
        if chosen[index] is not None:
            raise InputError(f"input {name} is given twice")
        chosen[index] = path
    if None in chosen:
        raise InputError(f"{len(given)} inputs are given, but the program takes {len(names)}: {wanted}")
    return [path for path in chosen if path is not None]


def _read(path: str, argument: dict[str, Any]) -> Any:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path} is not an array file (.npy): {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays (.npz), expected one (.npy)")
    from deepseek.formats import ML_DTYPES

    name = ML_DTYPES.get(argument["dtype"])
    if name and array.dtype.itemsize == (2 if name == "bfloat16" else 1) and array.dtype.kind == "V":
        try:
            import ml_dtypes
        except ImportError:
            raise InputError(f"{path} is {name}, which numpy lacks: pip install ml_dtypes") from None
        array = array.view(getattr(ml_dtypes, name))  # numpy saves types that it does not know as raw bytes
    return array


def _type(argument: dict[str, Any]) -> str:
    sizes = ", ".join(str(size) for size in argument["shape"])
    return f"{argument['dtype']} [{sizes}]"


def _file_name(name: str | None) -> str:
    """The result's name as a file name; results are named by the program's author, folders are not theirs to name."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name or "").lstrip(".")
