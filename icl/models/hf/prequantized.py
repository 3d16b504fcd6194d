"""What a checkpoint says of its own quantization, from its config alone: no weights, no network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError

if TYPE_CHECKING:
    from icl.models.hf.checkpoint import Checkpoint

PACKED = ("awq", "gptq")
"""Formats that are read here (`icl.models.hf.packed_checks`): transformers leaves them to a package of their own."""


def method(checkpoint: "Checkpoint") -> str | None:
    """'gptq', 'awq', 'compressed-tensors', ...: how the checkpoint says it is quantized; None where it is not."""
    return _named(told(checkpoint.written))


def told(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of its quantization, which stand in a config or in its language model's part; empty without."""
    for part in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config"):
            if found := part.get(key):
                return dict(found)
    return {}


def comes_as(node: Mapping[str, Any]) -> str | None:
    """`method` of the checkpoint that a model's node names by `path`, where it lies here; else None."""
    from icl.models.hf.checkpoint import Checkpoint

    path, revision = node.get("path"), node.get("revision")
    if not isinstance(path, str):
        return None
    try:
        folder = Checkpoint(path, revision).folder
    except ModelError:
        return None
    file = folder / "config.json" if folder is not None else _cached(path, revision)
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except ValueError:
        return None
    return _named(told(config)) if isinstance(config, dict) else None


def note(method: str) -> str:
    """What a plan says of a checkpoint that is quantized so."""
    if method not in PACKED:
        return f"its checkpoint comes quantized ({method})."
    return (
        f"its checkpoint comes quantized ({method}); the weights stay packed and are unpacked for each product, which "
        "saves memory and takes time."
    )


def _named(settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    named = settings.get("quant_method")
    return str(getattr(named, "value", named) or "by an unnamed method")


def _cached(path: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found) if isinstance(found, str) else None
