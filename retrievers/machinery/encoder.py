"""An image-text encoder with two towers (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023; and similar models).

It loads any checkpoint that transformers' AutoModel can load and that has `get_image_features` and `get_text_features`.
Vectors are the projected features, L2-normalized float32. Texts are truncated to the positions of the text tower.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from icl import Example, Image, ModelError, Query, component, torch
from retrievers.base import Vectors, all_images, mean_per_item, normalize_rows
from retrievers.machinery.embedding_models import (
    BATCH,
    EmbedderPlacement,
    PlacedEmbedder,
    checkpoint_digest,
    decode_batches,
    find_checkpoint,
    load_pretrained,
    on_device,
    weight_bytes,
)


@component("embedder", "encoder")
@dataclass(frozen=True)
class Encoder(PlacedEmbedder):
    """A checkpoint such as CLIP or SigLIP: images and texts in one space."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    path: str = "tiny"  # a hub id, a folder, or 'tiny' (the encoder in the toolkit)

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError without such a checkpoint."""
        return f"encoder-1-{checkpoint_digest(find_checkpoint(self.path))}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(find_checkpoint(self.path))

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return mean_per_item(items, self._model().embed_images(all_images(items)))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._model().embed_texts(texts)

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        return self._model().embed_patches(images)

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        return self._model().embed_words(texts)

    def tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each text that `embed_words` gives vectors of, in order."""
        return self._model().tokens(texts)

    def _model(self) -> "DualEncoder":
        return load_dual_encoder(find_checkpoint(self.path), self.digest, self.placement)


class DualEncoder:
    """A loaded checkpoint with an image tower and a text tower."""

    def __init__(self, folder: Path, placement: EmbedderPlacement) -> None:
        model, processor = load_pretrained(folder, "AutoProcessor", "embedder 'encoder':", placement)
        for tower in ("get_image_features", "get_text_features"):
            if not hasattr(model, tower):
                raise ModelError(
                    f"embedder 'encoder': {folder} is a {type(model).__name__}, which has no {tower}. "
                    f"Use a checkpoint with an image tower and a text tower (CLIP, SigLIP)."
                )
        self.model, self.processor = model, processor
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
        tower = self.model.text_model
        states = tower(input_ids=input_ids, **inputs).last_hidden_state
        project = getattr(self.model, "text_projection", None) or getattr(tower, "head", None)
        states = states if project is None else project(states)
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=input_ids.device)
        return states.masked_fill(torch.isin(input_ids, special)[..., None], 0)

    def _batched(self, batches: Iterable[Sequence[Any]], tower: Any, prepare: Any) -> Vectors:
        rows = []
        with torch.inference_mode():
            for batch in batches:
                inputs = prepare(batch)
                out = tower(**on_device(inputs, self.model))
                features = out if isinstance(out, torch.Tensor) else out.pooler_output
                rows.append(features.float().cpu().numpy())
        if not rows:
            return np.zeros((0, 0), np.float32)
        vectors = np.concatenate(rows)
        return normalize_rows(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape)


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))


@lru_cache(maxsize=2)
def load_dual_encoder(folder: Path, digest: str, placement: EmbedderPlacement) -> DualEncoder:
    """The loaded checkpoint of a folder, shared by all users. A new digest means a new key."""
    return DualEncoder(folder, placement)
