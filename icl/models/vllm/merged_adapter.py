"""An adapter merged into its base, as a checkpoint of its own: what `merge: true` starts the engine with.

vLLM reads weights from a folder alone. So the code of the backend `hf` merges (Hu et al., ICLR 2022: W + scale B A) and
the whole checkpoint is written to `merged/` in the cache (ICL_CACHE), once for each base, adapter and precision: as
large on disk as the base, and once as large in main memory while it is made. It stays until somebody deletes it. Of
several processes one writes and the others wait; a folder is there whole or not at all, and one of which something was
taken away is made anew.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.cache_folder import cache_folder
from icl.errors import ModelError
from icl.models.hf.checkpoint import WEIGHTS, Checkpoint, told

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""What a checkpoint has beside its weights."""

FORM = 2
"""Of what is written; another number leaves older folders unread."""

FILES = "merged.files.json"
"""In the folder: its other files, with their sizes."""


def check(model: "VLLM") -> None:
    """Raises ModelError where the checkpoint's weights cannot take an adapter in."""
    from icl.models.hf.prequantized import method

    if how := method(model.hf.checkpoint):
        raise ModelError(
            f"model.merge: {model.path} is quantized ({how}), and an adapter merged into its weights would be rounded "
            "to them. Use `merge: false`."
        )


def merged(model: "VLLM") -> Path:
    """The folder of the merged checkpoint, made where it is not there yet. Raises ModelError."""
    from filelock import FileLock
    from safetensors import SafetensorError

    assert model.lora is not None
    check(model)
    what = {"checkpoint": model.hf.checkpoint.digest, "adapter": model.lora.digest, "dtype": model.precision}
    folder = cache_folder() / "merged" / told(what | {"form": FORM})[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_whole(folder):
                _make(model, folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.merge: the merged checkpoint cannot be written to {folder.parent} ({error}). Set ICL_CACHE to a "
            "folder with room for it, or use `merge: false`."
        ) from error
    return folder


def _make(model: "VLLM", folder: Path) -> None:
    """Whoever calls it holds the lock, so what others left half-written is nobody's."""
    for left in (folder, *folder.parent.glob(f"{folder.name}-*")):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        _write(model, work)
        _check_same(model)
        (work / FILES).write_text(json.dumps(_sizes(work)), encoding="utf-8")
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether it has all that was written; who clears a cache may take single files."""
    try:
        told = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(told == _sizes(folder))


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.name != FILES}


def _check_same(model: "VLLM") -> None:
    """Raises ModelError where other weights were merged than the folder's name says."""
    assert model.lora is not None
    for known in (model.hf.checkpoint, model.lora):
        if replace(known).digest != known.digest:
            raise ModelError(
                f"model.merge: {known.path} was changed while this ran, so what was merged is not what was planned. "
                "Start again once it is written."
            )


def _write(model: "VLLM", work: Path) -> None:
    import torch

    from icl.quiet_progress import SMALL_SOURCE_BYTES, hide_transformers_progress

    assert model.lora is not None
    checkpoint = model.hf.checkpoint
    _ = checkpoint.processor  # of a hub id, its files are there from now on
    dtype = "auto" if model.precision == "auto" else getattr(torch, model.precision)
    whole = model.lora.applied(checkpoint.weights(dtype=dtype), model.path, merge=True)
    size = int(whole.get_memory_footprint())
    free = shutil.disk_usage(work).free
    if free < size:
        raise ModelError(
            f"model.merge: the merged checkpoint takes {size / 1e9:.1f} GB, and {work.parent} has {free / 1e9:.1f} GB "
            "left. Set ICL_CACHE to a folder with room for it, or use `merge: false`."
        )
    with hide_transformers_progress(size < SMALL_SOURCE_BYTES):
        whole.save_pretrained(work)
    source = _folder(checkpoint)
    known, written = set(_names(source)), set(_names(work))
    if known and (other := sorted(written - known)):
        raise ModelError(
            f"model.merge: transformers writes {len(other)} of the weights of {model.path} under names that the "
            f"checkpoint does not have, such as {other[0]}, and vLLM reads them by name. Use `merge: false`."
        )
    for pattern in BESIDE:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                shutil.copyfile(path, work / path.name)


def _folder(checkpoint: Checkpoint) -> Path:
    """Where its files lie; of a hub id, in the local cache."""
    if checkpoint.folder is not None:
        return checkpoint.folder
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(checkpoint.path, "config.json", revision=checkpoint.revision))).parent


def _names(folder: Path) -> Iterator[str]:
    """Of the weights, where they are safetensors: the head of such a file names them."""
    for path in folder.glob(WEIGHTS[0]):
        with path.open("rb") as file:
            head: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        yield from (name for name in head if name != "__metadata__")
