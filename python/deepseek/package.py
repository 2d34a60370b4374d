"""A compiled model as it travels: code, weights, tokenizer, and what a `Model` must know of them.

A `Package` comes from a checkpoint, by compiling it, or from an artifact, as it was saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from deepseek import artifact
from deepseek.compiler import Compiled, compile_text
from deepseek.errors import ArtifactError, InputError
from deepseek.precision.plan import Plan, is_plan_name

if TYPE_CHECKING:
    import numpy as np

    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.frontend.checkpoint.tokenizer import TokenizerData

__all__ = ["ModelInfo", "Package", "describe", "kind_of", "open_model"]


@dataclass(frozen=True)
class ModelInfo:
    """What kind of model a program is.

    `kind` is "decoder" (next-token logits) or "encoder" (one vector per text); `context` the most positions of a
    sequence, `vocabulary` the number of token ids, `weight_bytes` what one forward pass reads of the weights at the
    precision executed, tied tensors once; `all_logits`: whether logits of all positions come back.
    """

    name: str
    family: str
    kind: str
    context: int
    vocabulary: int
    precision: str
    weight_bytes: int
    all_logits: bool


@dataclass(frozen=True)
class Package:
    """`text` is the module at the end of `import`; `weights` are mapped read-only arrays by name.

    `file_bytes` is the size of the weight files or of the artifact, `release` gives pages that were read back to the
    operating system, `tokenizer` reads the tokenizer (None: there is none). `safer` gives the same program in formats that
    cannot overflow; None where `code` has no others.
    """

    info: ModelInfo
    code: Compiled
    text: str
    weights: Mapping[str, np.ndarray]
    file_bytes: int
    release: Callable[[], None]
    tokenizer: Callable[[], TokenizerData | None]
    external: Mapping[str, tuple[artifact.ExternalFile, int]]
    safer: Callable[[], Compiled] | None = None

    @classmethod
    def compile(
        cls,
        checkpoint: Checkpoint,
        *,
        target: str = "cpu",
        precision: str = "as-stored",
        context: int | None = None,
        all_logits: bool = False,
        text: str | None = None,
        name: str | None = None,
    ) -> Package:
        """Compiles `checkpoint`; `text` is its module at a later phase, if it has been lowered already.

        `name` is what the user called the model (None: its file).

        Raises `CheckpointError` for a model that is not supported, `CompileError`, `InputError`.
        """
        plan = None
        if is_plan_name(precision):
            plan = Plan.load(precision, weights=True)
            plan.check_model(checkpoint)
        written = "f32" if plan else precision  # a plan decides about the graph of full precision
        info, graph_text = describe(checkpoint, precision=written, context=context, all_logits=all_logits)
        info = replace(info, name=name or info.name, precision=plan.name if plan else precision)
        text = text or graph_text

        def compiled(plan: Plan | None) -> Compiled:
            decisions = plan.for_compiler() if plan else ""
            return compile_text(text, target=target, plan=decisions, source_name=checkpoint.path.name)

        def release() -> None:
            checkpoint.release()
            if plan is not None:
                plan.release()

        code = compiled(plan)
        files = [artifact.ExternalFile(path) for path in checkpoint.files]
        tensors = {name: checkpoint.tensors.get(name) for name in _weight_names(code.manifest)}
        for name, tensor in tensors.items():
            if tensor is None:
                raise InputError(f"{checkpoint.path} has no tensor {name}, which the program reads")
        wide = None
        if plan:
            rounded = plan.weights(checkpoint)
            weights = {name: rounded[name] for name in tensors}
            wide = plan.safer()
            tensors = {name: tensor for name, tensor in tensors.items() if name not in plan.tensors}
            info = replace(info, weight_bytes=sum(array.nbytes for array in weights.values()))
        else:
            weights = {name: tensor.array for name, tensor in tensors.items()}
        return cls(
            info=info,
            code=code,
            text=text,
            weights=weights,
            file_bytes=checkpoint.file_bytes,
            release=release,
            tokenizer=checkpoint.tokenizer_data,
            external={
                name: (files[tensor.file_index], tensor.offset)
                for name, tensor in tensors.items()
                if tensor.file_index is not None
            },
            safer=(lambda: compiled(wide)) if wide else None,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Package:
        """The model in the artifact at `path`. Raises `ArtifactError`, also when it holds no model or no weights."""
        return cls.of(artifact.Artifact(path))

    @classmethod
    def of(cls, opened: artifact.Artifact) -> Package:
        """The model in an open artifact. Raises `ArtifactError` when it holds no model or no weights."""
        path = opened.path
        opened.check_machine()
        if opened.model is None:
            raise ArtifactError(f"{path} holds a program, not a language model: use deepseek.load or deepseek run")
        if opened.weights is None:
            raise ArtifactError(f"{path} holds no weights: compile the model itself, or add --checkpoint MODEL")
        expected = {field.name: field.type for field in fields(ModelInfo)}
        if {name: type(value).__name__ for name, value in opened.model.items()} != expected:
            raise ArtifactError(f"{path} is damaged: it describes a model by {sorted(opened.model)}")
        return cls(
            info=ModelInfo(**opened.model),
            code=Compiled(opened.object, opened.manifest, 0.0, True, ""),
            text=opened.text,
            weights=opened.weights,
            file_bytes=opened.file_bytes,
            release=opened.release,
            tokenizer=lambda: _tokenizer(opened),
            external={},
            safer=None if opened.safer is None else lambda: Compiled(*opened.safer, 0.0, True, ""),
        )

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_weights: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes the artifact, with the weights or, `external_weights`, with references to the checkpoint's files.

        `progress` is called with (bytes written, bytes in all). Raises `ArtifactError`; an old file then stays.
        """
        if external_weights and len(self.external) < len(self.weights):
            raise InputError(
                "only a model that was compiled from a checkpoint, as stored, can refer to its weights; those of a "
                "quantized folder are repacked and must be in the file"
            )
        data = self.tokenizer()
        safer = self.safer() if self.safer else None
        artifact.write(
            path,
            text=self.text,
            object=self.code.object,
            manifest=self.code.manifest,
            safer=(safer.object, safer.manifest) if safer else None,
            model=asdict(self.info),
            tokenizer=None if data is None else data.to_json(),
            weights=self.weights,
            external=self.external if external_weights else None,
            progress=progress,
        )


def open_model(
    path_or_name: str | os.PathLike[str],
    *,
    target: str | None = None,
    precision: str | None = None,
    all_logits: bool = False,
) -> Package:
    """The package of an artifact, or of any checkpoint, compiled for `target` (None: cpu) and `precision`.

    Raises `CheckpointError`, `ArtifactError`, `CompileError`, and `InputError` for options that contradict an artifact.
    """
    from deepseek.names import KNOWN_NAMES, find_model

    path = find_model(path_or_name)
    if path.suffix != ".dsc":
        from deepseek.frontend.checkpoint.checkpoint import open_checkpoint

        name = os.fspath(path_or_name)
        name = name if name in KNOWN_NAMES else None
        options = {"target": target or "cpu", "precision": precision or "as-stored", "all_logits": all_logits}
        return Package.compile(open_checkpoint(path), name=name, **options)
    package = Package.open(path)
    target = package.code.manifest["target"] if target in (None, "cpu") else target
    fixed = {
        "target": (target, package.code.manifest["target"]),
        "precision": (precision or package.info.precision, package.info.precision),
        "all_logits": (all_logits, package.info.all_logits),
    }
    for name, (asked, compiled) in fixed.items():
        if asked != compiled:
            raise InputError(f"{path} was compiled with {name} {compiled}, but {asked} is asked for: compile it again")
    return package


def describe(
    checkpoint: Checkpoint, *, precision: str = "as-stored", context: int | None = None, all_logits: bool = False
) -> tuple[ModelInfo, str]:
    """What the model is, and its module at the end of `import`; compiles nothing."""
    from deepseek.frontend.checkpoint.families import find_family

    family = find_family(checkpoint)
    config = family.read_config(checkpoint)
    if context is not None and not 0 < context <= config.context:
        raise InputError(f"context is {context}, expected 1 to {config.context}, the most the model supports")
    options = {"all_logits": True} if all_logits else {}
    graph = family.build_graph(config, precision, **options)
    info = ModelInfo(
        name=checkpoint.path.stem if checkpoint.path.is_file() else checkpoint.path.name,
        family=checkpoint.architecture,
        kind=config.kind,
        context=context or config.context,
        vocabulary=config.vocabulary,
        precision=precision,
        weight_bytes=config.weight_bytes(precision),
        all_logits=all_logits,
    )
    return info, graph.mlir


def kind_of(checkpoint: Checkpoint) -> str:
    """ "decoder" or "encoder", without making a graph."""
    from deepseek.frontend.checkpoint.families import find_family

    return find_family(checkpoint).read_config(checkpoint).kind


def _weight_names(manifest: Mapping[str, Any]) -> list[str]:
    init = manifest["init"]
    arguments = manifest["main"]["args"] + (init["args"] if init else [])
    return sorted({argument["weight"] for argument in arguments if argument["kind"] == "weight"})


def _tokenizer(opened: artifact.Artifact) -> TokenizerData | None:
    from deepseek.frontend.checkpoint.tokenizer import TokenizerData

    return None if opened.tokenizer is None else TokenizerData.from_json(opened.tokenizer)
