"""`deepseek.load`: whatever an artifact holds, ready to be called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from deepseek.artifact import Artifact
from deepseek.compiler import Compiled
from deepseek.errors import ArtifactError

if TYPE_CHECKING:
    from deepseek.acg.graph import Program
    from deepseek.executable import Executable
    from deepseek.model import Model

__all__ = ["load"]


def load(path: str | os.PathLike[str], threads: int | None = None) -> Program | Model | Executable:
    """Opens an artifact and compiles nothing; needs numpy only.

    A saved function comes back as a `Program`, callable like the function; a model as a `Model`; any other module as
    an `Executable` on numpy arrays. Weights in the file are bound. `threads`: None takes all CPUs of the process.
    Raises `ArtifactError` for a file that is damaged, of another version, or compiled for another CPU or GPU.
    """
    opened = Artifact(path)
    opened.check_machine()
    if opened.model is not None:
        from deepseek.model import Model
        from deepseek.package import Package

        return Model(Package.of(opened), threads=threads)
    if "dsc.signature = " not in opened.text:
        return executable(opened, threads)
    from deepseek.acg.graph import Graph, Program

    code = Compiled(opened.object, opened.manifest, 0.0, True, "")
    program = Program(Graph(opened.text, opened.path.stem), code, threads)
    if opened.weights is not None:
        program.bind_weights(opened.weights)
    return program


def executable(opened: Artifact, threads: int | None = None) -> Executable:
    """The bare program of an artifact, its weights bound. Raises `ArtifactError` when it needs some it does not hold."""
    from deepseek.executable import Executable

    opened.check_machine()
    program = Executable(opened.object, opened.manifest, threads=threads)
    if opened.weights is not None:
        program.bind_weights(opened.weights)
    elif not program.bound:
        raise ArtifactError(f"{opened.path} holds no weights: compile the model itself, or add --checkpoint MODEL")
    return program
