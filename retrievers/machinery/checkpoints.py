"""Checkpoints of encoders: search, digest, and loading."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.parameter_files import expand_user
from icl.quiet_progress import hide_transformers_progress
from retrievers.machinery.embedder_device import EmbedderPlacement

BATCH = 64
SHIPPED = {"tiny": Path(__file__).parents[2] / "icl" / "models" / "tiny" / "checkpoints" / "encoder"}
WEIGHTS = (".safetensors", ".bin")
CHECKPOINT_FILES = (*WEIGHTS, ".json", ".txt", ".model", ".jinja")


@lru_cache
def find_checkpoint(path: str) -> Path:
    """The folder of a checkpoint: a shipped one, a folder, or a hub id (downloaded, or from the hub's cache)."""
    folder = SHIPPED.get(path, expand_user(path))
    if path not in SHIPPED and not folder.is_dir():
        folder = _from_hub(path)
    if not folder.is_dir() or not any(file.suffix in WEIGHTS for file in folder.iterdir()):
        raise ModelError(f"embedder 'encoder': {folder} has no weights ({' or '.join(WEIGHTS)}).")
    if not (folder / "config.json").is_file():
        raise ModelError(f"embedder 'encoder': {folder} has no config.json.")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ModelError(
            f"embedder 'encoder': {folder} has no processor (preprocessor_config.json or processor_config.json). "
            f"Save the processor of the model next to its weights."
        )
    return folder


def checkpoint_digest(folder: Path) -> str:
    """sha256 of all files that determine the vectors: weights, configuration, processor, tokenizer."""
    digest = sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in CHECKPOINT_FILES and file.is_file():
            state = file.stat()
            digest.update(f"{file.name}:{_file_digest(file, state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, mtime_ns: int) -> str:
    """sha256 of the content. `size` and `mtime_ns` are part of the cache key, so a changed file is read again."""
    blob = file.resolve().name
    if file.is_symlink() and len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob  # the name of a large file in the hub's cache is its sha256
    with file.open("rb") as opened:
        digest = sha256()
        while piece := opened.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def load_pretrained(folder: Path, processor_class: str, name: str, placement: EmbedderPlacement) -> tuple[Any, Any]:
    """Load a model, and its processor.

    Args:
        processor_class: The class of transformers that loads the processor, such as 'AutoTokenizer'.
        name: The encoder, for the error.
        placement: Device and dtype of the model.

    Raises:
        ModelError: The checkpoint cannot be loaded.
    """
    import transformers

    from icl.models.checkpoint_errors import FAILURES, reason

    try:
        with hide_transformers_progress():
            model: Any = transformers.AutoModel.from_pretrained(folder, dtype=placement.torch_dtype)
        return model.eval().to(placement.device), getattr(transformers, processor_class).from_pretrained(folder)
    except FAILURES as error:
        raise ModelError(f"{name} {folder} cannot be loaded: {reason(error)}") from error


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in CHECKPOINT_FILES]))
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"embedder 'encoder': there is no folder '{name}', and the hub has no checkpoint of that name "
            f"({type(error).__name__}). Use a folder, a hub ID, or 'tiny'."
        ) from error
