"""The folder of the small model in the cache, which is assembled at first use.

Its name is a digest of what is learned, of the weights in the packages and of the format, so that a new version
of any of them is another folder. Once it is there, timm alone is needed, which has the class of the vision tower.
"""

import hashlib
import shutil
from pathlib import Path

from icl import ModelError, cache_folder, canonical_digest, safetensors
from icl.models.cached_checkpoint import cached_checkpoint
from icl.models.small.packages import LANGUAGE_MODEL, VISION_TOWER, check_packages, check_timm

LEARNED = Path(__file__).with_name("small.safetensors")
FORMAT = 1
"""Number of the assembled folder's format. Folders of another format are ignored."""

SIZE = 300_000_000
"""Bytes of the folder, rounded up."""


def checkpoint_folder() -> Path:
    """The assembled checkpoint. Raises ModelError: packages, learned weights or space are missing."""
    content = {
        "learned": _learned_digest(),
        "language_model": LANGUAGE_MODEL.sha256,
        "vision_tower": VISION_TOWER.sha256,
        "format": FORMAT,
    }
    folder = cache_folder() / f"small-{canonical_digest(content)[:32]}"
    try:
        made = cached_checkpoint(folder, "small model", _write)
    except OSError as error:
        raise ModelError(
            f"model.path: 'small' is assembled in {folder.parent}, which cannot be written to ({error}). Set ICL_CACHE "
            f"to a folder with {SIZE / 1e6:.0f} MB of space."
        ) from error
    check_timm()
    return made


def _learned_digest() -> str:
    try:
        return hashlib.sha256(LEARNED.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(
            f"model.path: the learned weights of 'small' cannot be read ({error}). Install the toolkit again, or train "
            "them in a checkout: python -m lab.small train --out FOLDER"
        ) from error


def _write(folder: Path) -> None:
    check_packages()
    free = shutil.disk_usage(folder).free
    if free < SIZE:
        raise ModelError(
            f"model.path: 'small' takes {SIZE / 1e6:.0f} MB, and {folder.parent} has {free / 1e6:.0f} MB left. Set "
            "ICL_CACHE to a folder with enough space."
        )
    from icl.models.small.assemble import assemble

    try:
        weights = safetensors.torch.load_file(LEARNED)
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"model.path: {LEARNED} is damaged ({error}). Install the toolkit again, or copy the file again."
        ) from error
    try:
        assemble(weights, folder)
    except safetensors.SafetensorError as error:  # what safetensors raises for a full disk
        raise OSError(str(error)) from error
