"""A checkpoint with an adapter merged into its weights, with which `merge: true` starts the engine.

vLLM reads weights from a folder only. Therefore the code of the backend `hf` merges the adapter (Hu et al., ICLR 2022:
W + scale B A), and the checkpoint is written to `merged/` in the cache (ICL_CACHE), once for each base, adapter and
precision. It takes as much disk space as the base, and as much main memory while it is written. Nothing deletes it. Of
several processes one writes and the others wait. A folder is complete or missing. Each start compares the checksum of
every file; a damaged folder is written again, with a warning.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.cache_folder import cache_folder
from icl.errors import ICLWarning, ModelError
from icl.models.hf.checkpoint import WEIGHTS, Checkpoint
from icl.text.json_text import canonical_digest

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
"""Patterns of a checkpoint's files other than weights."""

FORMAT = 3
"""Number of the folder's format. Folders of another format are ignored."""

MANIFEST = "merged.files.json"
"""File with the names and checksums of all other files of the folder."""


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
    from filelock import FileLock
    from safetensors import SafetensorError

    assert model.lora is not None
    check(model)
    content = {"checkpoint": model.hf.checkpoint.digest, "adapter": model.lora.digest, "dtype": model.precision}
    folder = cache_folder() / "merged" / canonical_digest(content | {"form": FORMAT})[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder):
                _build(model, folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.merge: the merged checkpoint cannot be written to {folder.parent} ({error}). Set ICL_CACHE to a "
            "folder with room for it, or use `merge: false`."
        ) from error
    return folder


def _build(model: "VLLM", folder: Path) -> None:
    """Writes the folder. The caller holds the lock, so no other process writes the incomplete folders that exist."""
    for incomplete in (folder, *folder.parent.glob(f"{folder.name}-*")):
        shutil.rmtree(incomplete, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        _write(model, work)
        _check_unchanged(model)
        (work / MANIFEST).write_text(json.dumps(_checksums(work)), encoding="utf-8")
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    """Whether the folder has all its files, unchanged. Programs that clear a cache may delete single files."""
    if not folder.exists():
        return False
    try:
        expected: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        expected = {}
    checksums = _checksums(folder)
    if checksums == expected:
        return True
    damaged = sorted(name for name in {*checksums, *expected} if checksums.get(name) != expected.get(name))
    warnings.warn(
        f"the merged checkpoint {folder} is damaged ({', '.join(damaged[:3])}{' …' if damaged[3:] else ''}). It is "
        "written again.",
        ICLWarning,
        stacklevel=2,
    )
    return False


def _checksums(folder: Path) -> dict[str, str]:
    """The sha256 of each file, computed in threads: about a second for every two gigabytes and core."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip([file.name for file in files], threads.map(_checksum, files), strict=True))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
