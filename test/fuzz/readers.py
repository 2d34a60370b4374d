"""Every reader of data from outside, by name."""

from __future__ import annotations

from harness import Reader
from readers_artifact import ArtifactFile
from readers_checkpoint import GGUF, ChatTemplate, Folder, TokenizerJson
from readers_compiler import DscOpt, ModuleText, ObjectLoader

READERS: dict[str, type[Reader]] = {
    reader.name: reader
    for reader in (GGUF, Folder, TokenizerJson, ChatTemplate, ArtifactFile, ModuleText, DscOpt, ObjectLoader)
}
