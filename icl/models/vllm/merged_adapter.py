"""A checkpoint with an adapter merged into its weights, with which `merge: true` starts the engine.

vLLM reads weights from a folder only. Therefore the code of the backend `hf` merges the adapter (Hu et al., ICLR 2022:
W + scale B A), and the checkpoint is written to `merged/` in the cache (ICL_CACHE), once for each base, adapter and
precision. It takes as much disk space as the base, and as much main memory while it is written.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.errors import ModelError
from icl.models.cached_checkpoint import cached_checkpoint
from icl.models.hf.checkpoint import WEIGHTS, Checkpoint
from icl.parameter_files import cache_folder
from icl.text.json_text import canonical_digest

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Patterns of a checkpoint's files other than weights."""

FORMAT = 4
"""Number of the folder's format. Folders of another format are ignored."""


def check(model: "VLLM") -> None:
    """Raises ModelError if an adapter cannot be merged into the checkpoint's weights."""
    from icl.models.hf.prequantized import method

    if how := method(model.hf.checkpoint):
        raise ModelError(
            f"model.merge: {model.path} is quantized ({how}), and an adapter merged into its weights would be rounded "
            "to them. Use `merge: false`."
        )


def merged(model: "VLLM") -> Path:
    """The folder of the merged checkpoint, which is written if it is missing. Raises ModelError."""
    from safetensors import SafetensorError

    assert model.lora is not None
    check(model)
    content = {"checkpoint": model.hf.checkpoint.digest, "adapter": model.lora.digest, "dtype": model.precision}
    folder = cache_folder() / "merged" / canonical_digest(content | {"form": FORMAT})[:32]
    try:
        return cached_checkpoint(folder, "merged checkpoint", partial(_write, model))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.merge: the merged checkpoint cannot be written to {folder.parent} ({error}). Set ICL_CACHE to a "
            "folder with room for it, or use `merge: false`."
        ) from error


def _check_unchanged(model: "VLLM") -> None:
    """Raises ModelError if base or adapter changed on disk, so that the folder's name would be wrong."""
    assert model.lora is not None
    for source in (model.hf.checkpoint, model.lora):
        if replace(source).digest != source.digest:
            raise ModelError(
                f"model.merge: {source.path} was changed while this ran, so what was merged is not what was planned. "
                "Start again once it is written."
            )


def _write(model: "VLLM", work: Path) -> None:
    import torch

    from icl.quiet_progress import SMALL_SOURCE_BYTES, hide_transformers_progress

    assert model.lora is not None
    checkpoint = model.hf.checkpoint
    _ = checkpoint.processor  # downloads the files of a hub id
    dtype = "auto" if model.precision == "auto" else getattr(torch, model.precision)
    merged_model = model.lora.apply_to(checkpoint.weights(dtype=dtype), model.path, merge=True)
    size = int(merged_model.get_memory_footprint())
    free = shutil.disk_usage(work).free
    if free < size:
        raise ModelError(
            f"model.merge: the merged checkpoint takes {size / 1e9:.1f} GB, and {work.parent} has {free / 1e9:.1f} GB "
            "left. Set ICL_CACHE to a folder with enough space, or use `merge: false`."
        )
    with hide_transformers_progress(size < SMALL_SOURCE_BYTES):
        merged_model.save_pretrained(work)
    source = _folder(checkpoint)
    source_names, names = set(_weight_names(source)), set(_weight_names(work))
    if source_names and (other := sorted(names - source_names)):
        raise ModelError(
            f"model.merge: transformers writes {len(other)} of the weights of {model.path} under names that the "
            f"checkpoint does not have, such as {other[0]}, and vLLM reads them by name. Use `merge: false`."
        )
    for pattern in OTHER_FILES:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, work / path.name)
    _check_unchanged(model)


def _folder(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint. The folder of a hub id is in the local cache."""
    if checkpoint.folder is not None:
        return checkpoint.folder
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(checkpoint.path, "config.json", revision=checkpoint.revision))).parent


def _weight_names(folder: Path) -> Iterator[str]:
    """The names of the weights in safetensors files, from the header of each file."""
    for path in folder.glob(WEIGHTS[0]):
        with path.open("rb") as file:
            head: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from (name for name in head if name != "__metadata__")
