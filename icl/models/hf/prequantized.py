"""The quantization that a checkpoint's config declares. Neither weights nor network are needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.text.json_text import parse_json

if TYPE_CHECKING:
    from icl.models.hf.checkpoint import Checkpoint

PACKED = ("awq", "gptq")
"""Formats that this backend reads itself (`icl.models.hf.packed_checks`). transformers needs a separate package for
them.
"""


def method(checkpoint: "Checkpoint") -> str | None:
    """Quantization method of the checkpoint, such as 'gptq', 'awq' or 'compressed-tensors'. None if it is not
    quantized.
    """
    return _method_name(quantization_settings(checkpoint.config_dict))


def quantization_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The quantization settings in a config or in its text config. Empty if there are none."""
    text_config = config.get("text_config")
    for part in (config, text_config if isinstance(text_config, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(settings := part.get(key), Mapping) and settings:
                return dict(settings)
    return {}


def comes_as(node: Mapping[str, Any]) -> str | None:
    """`method` of the local checkpoint that a model's config node names by `path`. None if it is not local."""
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
        config = parse_json(file.read_bytes()) if file else {}
    except ValueError:
        return None
    return _method_name(quantization_settings(config)) if isinstance(config, dict) else None


def note(method: str) -> str:
    """A note for the plan of a run about a quantized checkpoint."""
    if method not in PACKED:
        return f"its checkpoint comes quantized ({method})."
    return (
        f"its checkpoint comes quantized ({method}); the weights stay packed and are unpacked for each product, which "
        "saves memory and takes time."
    )


def _method_name(settings: Mapping[str, Any]) -> str | None:
    if not settings:
        return None
    method = settings.get("quant_method")
    return str(getattr(method, "value", method) or "by an unnamed method")


def _cached(path: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(file) if isinstance(file, str) else None
