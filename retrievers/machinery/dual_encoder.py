"""Checkpoints with an image tower and a text tower: search, digest, and batched encoding."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from icl.errors import ModelError
from icl.images import Image
from icl.models.checkpoint_errors import FAILURES, reason
from icl.quiet_progress import hide_transformers_progress
from retrievers.machinery.prefetch import decode_batches
from retrievers.machinery.vector_math import Vectors, normalize_rows

BATCH = 64
SHIPPED = {"tiny": Path(__file__).parents[2] / "icl" / "models" / "tiny" / "checkpoints" / "encoder"}
WEIGHTS = (".safetensors", ".bin")
CHECKPOINT_FILES = (*WEIGHTS, ".json", ".txt", ".model", ".jinja")


@lru_cache
def find_checkpoint(path: str) -> Path:
    """The folder of a checkpoint: a shipped one, a folder, or a hub id (downloaded, or from the hub's cache)."""
    folder = SHIPPED.get(path, Path(path).expanduser())
    if path not in SHIPPED and not folder.is_dir():
        folder = _from_hub(path)
    if not folder.is_dir() or not any(file.suffix in WEIGHTS for file in folder.iterdir()):
        raise ModelError(f"embedder 'encoder': {folder} has no weights ({' or '.join(WEIGHTS)}).")
    if not (folder / "config.json").is_file():
        raise ModelError(f"embedder 'encoder': {folder} has no config.json.")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ModelError(
            f"embedder 'encoder': {folder} has no processor (preprocessor_config.json or processor_config.json). "
            f"Save the processor of the model beside its weights."
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


class DualEncoder:
    """A loaded checkpoint in float32, on the GPU if there is one."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel, AutoProcessor

        try:
            with hide_transformers_progress():
                model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
            processor: Any = AutoProcessor.from_pretrained(folder)
        except FAILURES as error:
            raise ModelError(f"embedder 'encoder': {folder} cannot be loaded: {reason(error)}") from error
        for tower in ("get_image_features", "get_text_features"):
            if not hasattr(model, tower):
                raise ModelError(
                    f"embedder 'encoder': {folder} is a {type(model).__name__}, which has no {tower}. "
                    f"Name a checkpoint with an image and a text tower (CLIP, SigLIP)."
                )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.eval().to(self.device)
        self.processor = processor
        self.padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
        positions = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        self.max_tokens = min(positions, processor.tokenizer.model_max_length) if positions else None

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """Vectors of images or texts, [N, D], unit rows."""
        return self._batched(
            decode_batches(images, BATCH),
            self.model.get_image_features,
            lambda pil_images: self.processor.image_processor(images=pil_images, return_tensors="pt"),
        )

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors of images or texts, [N, D], unit rows."""
        limit = {"max_length": self.max_tokens} if self.max_tokens else {}
        return self._batched(
            _chunks(texts),
            self.model.get_text_features,
            lambda batch: self.processor.tokenizer(
                list(batch), padding=self.padding, truncation=bool(limit), return_tensors="pt", **limit
            ),
        )

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """Vectors of all patches, [N, P, D]: the last layer after the tower's norm and projection."""
        return self._batched(
            decode_batches(images, BATCH),
            self._patches,
            lambda pil_images: self.processor.image_processor(images=pil_images, return_tensors="pt"),
        )

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        """Vectors of all tokens, [N, W, D]: the last layer, projected. Special tokens and padding are rows of zeros."""
        if self.max_tokens is None:
            raise ModelError("embedder 'encoder': the text tower does not declare its number of positions.")
        return self._batched(
            _chunks(texts),
            self._words,
            lambda batch: self.processor.tokenizer(
                list(batch), padding="max_length", truncation=True, return_tensors="pt", max_length=self.max_tokens
            ),
        )

    def tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each text that `embed_words` gives vectors of, in order."""
        if not texts:
            return []
        tokenizer = self.processor.tokenizer
        special = set(tokenizer.all_special_ids)
        input_ids = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return [tuple(token for token in row if token not in special) for row in input_ids]

    def _patches(self, **inputs: Any) -> Any:
        tower = self.model.vision_model
        states = tower(**inputs).last_hidden_state
        if hasattr(self.model, "visual_projection"):  # CLIP: the first state represents the whole image
            states = self.model.visual_projection(tower.post_layernorm(states[:, 1:]))
        return states

    def _words(self, input_ids: Any, **inputs: Any) -> Any:
        import torch

        tower = self.model.text_model
        states = tower(input_ids=input_ids, **inputs).last_hidden_state
        project = getattr(self.model, "text_projection", None) or getattr(tower, "head", None)
        states = states if project is None else project(states)
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=input_ids.device)
        return states.masked_fill(torch.isin(input_ids, special)[..., None], 0)

    def _batched(self, batches: Iterable[Sequence[Any]], tower: Any, prepare: Any) -> Vectors:
        import torch

        rows = []
        with torch.inference_mode():
            for batch in batches:
                inputs = prepare(batch)
                out = tower(**{key: value.to(self.device) for key, value in inputs.items()})
                features = out if isinstance(out, torch.Tensor) else out.pooler_output
                rows.append(features.float().cpu().numpy())
        if not rows:
            return np.zeros((0, 0), np.float32)
        vectors = np.concatenate(rows)
        return normalize_rows(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape)


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))


@lru_cache(maxsize=2)
def load_dual_encoder(folder: Path, digest: str) -> DualEncoder:
    """The loaded checkpoint of a folder, shared by all users. A new digest means a new key."""
    return DualEncoder(folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in CHECKPOINT_FILES]))
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"embedder 'encoder': there is no folder '{name}', and the hub gave no checkpoint of that name "
            f"({type(error).__name__}). Name a folder, a hub id, or 'tiny'."
        ) from error
