"""A LoRA adapter of peft: in the engine, applied to every request, or merged into the weights (`merge: true`).

vLLM silently ignores layers that it does not support, and accepts weights of another size. Two checks prevent that:

- The code of the backend `hf` applies the adapter to an empty skeleton of the checkpoint, and reports a misfit.
- After the engine has loaded the adapter, a layer of the adapter that the engine ignores is an error.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from icl import (
    SMALL_SOURCE_BYTES,
    ModelError,
    cache_folder,
    canonical_digest,
    hide_transformers_progress,
    safetensors,
    torch,
    transformers,
)
from icl.models.cached_checkpoint import cached_checkpoint
from icl.models.hf.adapter import CONFIG, LoraAdapter
from icl.models.hf.checkpoint import WEIGHTS, Checkpoint
from icl.models.hf.model import HF
from icl.models.hf.prequantized import method

ADAPTER_ID = 1
"""vLLM's id of the only adapter of an engine."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `max_lora_rank` that vLLM supports."""


def arguments(adapter: LoraAdapter) -> dict[str, Any]:
    """Engine arguments for an adapter. Raises ModelError if its rank is too large, or it has more than LoRA."""
    config = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    if names := config.get("modules_to_save"):
        raise ModelError(
            f"{adapter.key}: {adapter.folder} has whole modules ({', '.join(names)}), which vLLM does not exchange by "
            "request. Use `merge: true`."
        )
    rank = max([int(config.get("r", 0)), *map(int, (config.get("rank_pattern") or {}).values())])
    max_rank = next((size for size in RANKS if size >= rank), None)
    if max_rank is None:
        raise ModelError(
            f"{adapter.key}: {adapter.folder} has rank {rank}, but vLLM supports at most {RANKS[-1]}. Use "
            "`merge: true`."
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank}


def check(adapter: LoraAdapter, hf: HF) -> None:
    """Raises ModelError if the adapter is of another model. Reads no weights of the model."""
    with torch.device("meta"):
        skeleton = transformers.AutoModelForImageTextToText.from_config(
            hf.checkpoint.config, trust_remote_code=hf.trust_remote_code
        )
    adapter.apply_to(skeleton, hf.path, merge=False)


def load(adapter: LoraAdapter, llm: Any) -> Any:
    """Loads an adapter into the engine.

    Returns:
        vLLM's LoRARequest, which every request needs.

    Raises:
        ModelError: vLLM cannot apply the whole adapter.
    """
    from vllm.lora.request import LoRARequest

    lora_request = LoRARequest("adapter", ADAPTER_ID, str(adapter.folder))
    try:
        llm.llm_engine.add_lora(lora_request)
    except Exception as error:  # an engine process may raise anything
        raise ModelError(f"{adapter.key}: vLLM does not accept {adapter.folder}: {error}") from error
    layers: list[str] = llm.collective_rpc("lockstep_unsupported_layers", args=(ADAPTER_ID,))[0]
    if layers:
        raise ModelError(
            f"{adapter.key}: vLLM does not support {len(layers)} of the layers that {adapter.folder} changes, such as "
            f"{layers[0]}, and would ignore them. Use `merge: true`, or the backend 'hf'."
        )
    return lora_request


OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Patterns of a checkpoint's files other than weights."""

FORMAT = 4
"""Number of the folder's format. Folders of another format are ignored."""


def check_merge(checkpoint: Checkpoint) -> None:
    """Raises ModelError if an adapter cannot be merged into the checkpoint's weights."""
    if how := method(checkpoint):
        raise ModelError(
            f"model.merge: {checkpoint.path} is quantized ({how}), and an adapter merged into its weights would be "
            "rounded to them. Use `merge: false`."
        )


def merged(checkpoint: Checkpoint, adapter: LoraAdapter, precision: str) -> Path:
    """The folder of a checkpoint with an adapter merged into its weights, which is written if it is missing.

    vLLM reads weights from a folder only. Therefore the code of the backend `hf` merges the adapter (Hu et al., ICLR
    2022: W + scale B A), and the checkpoint is written to `merged/` in the cache (ICL_CACHE), once for each base,
    adapter and precision. It takes as much disk space as the base, and as much main memory while it is written.

    Args:
        checkpoint: The base.
        adapter: The adapter.
        precision: Name of the dtype, or 'auto' for the checkpoint's own.

    Raises:
        ModelError: The adapter cannot be merged, or the folder cannot be written.
    """
    check_merge(checkpoint)
    content = {"checkpoint": checkpoint.digest, "adapter": adapter.digest, "dtype": precision}
    folder = cache_folder() / "merged" / canonical_digest(content | {"form": FORMAT})[:32]
    try:
        return cached_checkpoint(folder, "merged checkpoint", partial(_write, checkpoint, adapter, precision))
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(
            f"model.merge: the merged checkpoint cannot be written to {folder.parent} ({error}). Set ICL_CACHE to a "
            "folder with room for it, or use `merge: false`."
        ) from error


def _write(checkpoint: Checkpoint, adapter: LoraAdapter, precision: str, work: Path) -> None:
    dtype = "auto" if precision == "auto" else getattr(torch, precision)
    merged_model = adapter.apply_to(checkpoint.weights(dtype=dtype), checkpoint.path, merge=True)
    size = int(merged_model.get_memory_footprint())
    free = shutil.disk_usage(work).free
    if free < size:
        raise ModelError(
            f"model.merge: the merged checkpoint takes {size / 1e9:.1f} GB, and {work.parent} has {free / 1e9:.1f} GB "
            "left. Set ICL_CACHE to a folder with enough space, or use `merge: false`."
        )
    with hide_transformers_progress(size < SMALL_SOURCE_BYTES):
        merged_model.save_pretrained(work)
    source = checkpoint.folder
    source_names, names = set(_weight_names(source)), set(_weight_names(work))
    if source_names and (other := sorted(names - source_names)):
        raise ModelError(
            f"model.merge: transformers writes {len(other)} of the weights of {checkpoint.path} under names that the "
            f"checkpoint does not have, such as {other[0]}, and vLLM reads them by name. Use `merge: false`."
        )
    for pattern in OTHER_FILES:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, work / path.name)
    for part in (checkpoint, adapter):  # if one has changed on disk, the folder's name would be wrong
        if replace(part).digest != part.digest:
            raise ModelError(
                f"model.merge: {part.path} was changed while this ran, so what was merged is not what was planned. "
                "Start again once it is written."
            )


def _weight_names(folder: Path) -> Iterator[str]:
    """The names of the weights in safetensors files, from the header of each file."""
    for path in folder.glob(WEIGHTS[0]):
        with path.open("rb") as file:
            head: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from (name for name in head if name != "__metadata__")
