"""Checkpoints of OpenCLIP (Cherti et al., CVPR 2023, 2212.07143): CLIP, SigLIP, EVA and others in the library's format.

A folder or a hub id with open_clip_config.json and its weights. Vectors of images and texts are in one space,
L2-normalized float32. It needs the package open_clip_torch, which is not installed by default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from icl import Example, ModelError, Query, component, expand_user, models, torch
from retrievers import Vectors, all_images, mean_per_item, normalize_rows, stack_batches
from retrievers.machinery.embedding_models import (
    BATCH,
    EmbedderPlacement,
    PlacedEmbedder,
    checkpoint_digest,
    decode_batches,
    weight_bytes,
)

CONFIG = "open_clip_config.json"


@component("embedder", "open_clip")
@dataclass(frozen=True, kw_only=True)
class OpenCLIP(PlacedEmbedder):
    """A checkpoint of OpenCLIP (an optional package); images and texts in one space."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    path: str  # a hub id or a folder with open_clip_config.json

    @cached_property
    def folder(self) -> Path:
        """The folder of the checkpoint. Raises ModelError without such a checkpoint."""
        own = expand_user(self.path)
        folder = own if own.is_dir() else models.HubModel(self.path, key="embedder 'open_clip'").downloaded(["*"])
        if not (folder / CONFIG).is_file():
            raise ModelError(f"embedder 'open_clip': {folder} has no {CONFIG}. For transformers, use 'encoder'.")
        return folder

    @cached_property
    def digest(self) -> str:
        """sha256 of weights and configuration. Raises ModelError without such a checkpoint."""
        return f"open_clip-1-{checkpoint_digest(self.folder)}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(self.folder)

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        model, preprocess, _ = self._loaded
        rows = []
        with torch.inference_mode():
            for images in decode_batches(all_images(items), BATCH):
                rows.append(
                    _vectors(model.encode_image(self._placed(torch.stack([preprocess(one) for one in images]))))
                )
        return mean_per_item(items, stack_batches(rows))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        model, _, tokenizer = self._loaded
        with torch.inference_mode():
            batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
            rows = [_vectors(model.encode_text(tokenizer(batch).to(self.placement.device))) for batch in batches]
        return stack_batches(rows)

    @property
    def _loaded(self) -> tuple[Any, Any, Any]:
        return load_open_clip(self.folder, self.digest, self.placement)

    def _placed(self, pixels: Any) -> Any:
        return pixels.to(self.placement.device, next(self._loaded[0].parameters()).dtype)


def _vectors(features: Any) -> Vectors:
    return normalize_rows(features.float().cpu().numpy())


@lru_cache(maxsize=2)
def load_open_clip(folder: Path, digest: str, placement: EmbedderPlacement) -> tuple[Any, Any, Any]:
    """The model, the transform of images and the tokenizer of a folder. A new digest means a new key."""
    library = models.import_optional("open_clip", "embedder 'open_clip'", "open_clip_torch")
    name = f"local-dir:{folder}"
    model, preprocess = library.create_model_from_pretrained(name, device=placement.device)
    dtype = next(model.parameters()).dtype if placement.dtype == "auto" else getattr(torch, placement.dtype)
    return model.eval().to(dtype), preprocess, library.get_tokenizer(name)
