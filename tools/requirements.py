"""Print requirement lists of pyproject.toml, one requirement a line, for `pip install -r`.

A list is `build-system`, `dependencies`, the name of an extra, or the name of a dependency group. A requirement
without a version is printed with the pin that another list gives the same package, so that the make targets
install one tested set while what is published stays ranges.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def load_lists(path: Path = PYPROJECT) -> dict[str, list[str]]:
    """Every requirement list of a pyproject.toml by name.

    Raises:
        ValueError: an extra and a dependency group share a name.
    """
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    extras = project["project"].get("optional-dependencies", {})
    groups = project.get("dependency-groups", {})
    if both := extras.keys() & groups.keys():
        raise ValueError(f"an extra and a dependency group share the name {min(both)!r}: rename one")
    required = {"build-system": project["build-system"]["requires"], "dependencies": project["project"]["dependencies"]}
    return {**required, **extras, **groups}


def select(lists: dict[str, list[str]], names: list[str]) -> list[str]:
    """The requirements of the named lists, pinned where any list pins them.

    Raises:
        KeyError: no list has one of the names.
    """
    pins = {r.split("==")[0]: r for requirements in lists.values() for r in requirements if "==" in r}
    wanted = [r for name in names for r in lists[name]]
    bare = re.compile(r"[A-Za-z0-9._-]+")
    return sorted({pins.get(r, r) if bare.fullmatch(r) else r for r in wanted})


def main(arguments: list[str]) -> int:
    lists = load_lists()
    if not arguments or (unknown := set(arguments) - lists.keys()):
        named = ", ".join(sorted(lists))
        print(f"usage: requirements.py LIST..., got: {sorted(unknown) if arguments else []}; lists: {named}")
        return 2
    print("\n".join(select(lists, arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
