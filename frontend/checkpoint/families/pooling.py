"""How sentence-transformers makes one vector of a text's tokens: read from the folder, and on the array API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek import acg
from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.folder import FolderCheckpoint
from deepseek.frontend.checkpoint.settings import Settings, parse_json, shorten

__all__ = ["Pooling", "read_pooling"]

_MODES = ("mean", "cls")
_MODULES = ("Transformer", "Pooling", "Normalize")
# How versions before 5 spell the modes: one flag each.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Pooling:
    """`mode` "mean" (of the valid tokens) or "cls" (the first token); `normalize` scales vectors to length 1.

    `max_length`: the most tokens of a text, special ones included; None where the folder does not say.
    """

    mode: str
    normalize: bool
    max_length: int | None

    def apply(self, x: Any, lengths: Any) -> Any:
        """x [b, s, hidden] with lengths [b] valid tokens per row: [b, hidden]."""
        if self.mode == "cls":
            pooled = x[:, 0]
        else:
            valid = acg.arange(x.shape[1], dtype="i32")[None, :] < lengths[:, None]
            total = acg.sum(acg.where(valid[:, :, None], x, 0.0), axis=1)
            pooled = total / acg.maximum(lengths, 1).astype("f32")[:, None]
        if not self.normalize:
            return pooled
        norm = acg.sqrt(acg.sum(pooled * pooled, axis=-1, keepdims=True))
        return pooled / acg.maximum(norm, 1e-12)  # torch.nn.functional.normalize


def read_pooling(checkpoint: FolderCheckpoint, hidden: int) -> Pooling:
    """The pooling that the folder asks for; the mean where it says nothing. Raises `CheckpointError`."""
    limits = checkpoint.json("sentence_bert_config.json")
    length = None if limits is None or limits.get("max_seq_length", int) is None else limits.positive("max_seq_length")
    if length is None and (tokenizer := checkpoint.json("tokenizer_config.json")) is not None:
        limit = tokenizer.number("model_max_length", 0.0)  # an absurdly large one means none
        length = int(limit) if 0 < limit < 2**31 else None
    modules = _modules(checkpoint)
    if not modules:
        return Pooling("mean", False, length)
    kinds = [kind for kind, _ in modules]
    if kinds not in (list(_MODULES), list(_MODULES[:2])):
        raise checkpoint.error(f"modules.json lists {', '.join(kinds)}, expected {', '.join(_MODULES)}")
    if modules[0][1]:
        raise checkpoint.error(f"modules.json has the transformer in {modules[0][1]}, expected it in the folder itself")
    return Pooling(_mode(checkpoint, modules[1][1], hidden), len(kinds) == 3, length)


def _modules(checkpoint: FolderCheckpoint) -> list[tuple[str, str]]:
    """(last part of the type, folder) of the entries of modules.json."""
    path = checkpoint.path / "modules.json"
    if not path.exists():
        return []
    try:
        entries = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise checkpoint.error(f"modules.json cannot be read: {error}") from None
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise checkpoint.error(f"modules.json holds {shorten(entry)}, expected objects with type and path")
        found.append((kind.rpartition(".")[2], folder))
    return found


def _mode(checkpoint: FolderCheckpoint, folder: str, hidden: int) -> str:
    if Path(folder).name != folder:
        raise checkpoint.error(f"modules.json has the pooling in {shorten(folder)}, expected a folder's name")
    config = checkpoint.json(f"{folder}/config.json")
    if config is None:
        raise checkpoint.error(f"modules.json names {folder}, but there is no {folder}/config.json")
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if config.get(key, int, hidden) != hidden:
            raise config.error(f"{config.noun} {key} is {config.get(key, int)}, expected the hidden size {hidden}")
    mode: Any = config.values.get("pooling_mode")
    if mode is None:
        modes = [name for flag, name in _FLAGS.items() if config.get(flag, bool, False)] or ["mean"]
    else:
        modes = mode if isinstance(mode, list) else [mode]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise _unsupported(config, modes)
    return modes[0]


def _unsupported(config: Settings, modes: list[Any]) -> CheckpointError:
    return config.error(f"{config.noun} pooling is {' + '.join(map(str, modes))}, expected one of {', '.join(_MODES)}")
