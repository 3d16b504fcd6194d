"""An image-text encoder with two towers (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023; and their kin).

Any checkpoint that transformers' AutoModel opens and that has `get_image_features` and `get_text_features`. Vectors are
the projected features in float32, L2-normalized. A text longer than the text tower's positions is cut at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from icl.images import Image
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item


@component("embedder", "encoder")
@dataclass(frozen=True)
class Encoder:
    """A CLIP- or SigLIP-class checkpoint: images and texts in one space."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    path: str = "tiny"  # a hub id, a folder, or 'tiny': the encoder that comes with the toolkit

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError where there is no such checkpoint."""
        from retrievers.machinery.dual_encoder import checkpoint_digest, find_checkpoint

        return f"encoder-1-{checkpoint_digest(find_checkpoint(self.path))}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        from retrievers.machinery.dual_encoder import find_checkpoint, load_dual_encoder

        return mean_per_item(
            items, load_dual_encoder(find_checkpoint(self.path), self.digest).embed_images(all_images(items))
        )

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        from retrievers.machinery.dual_encoder import find_checkpoint, load_dual_encoder

        return load_dual_encoder(find_checkpoint(self.path), self.digest).embed_texts(texts)

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        from retrievers.machinery.dual_encoder import find_checkpoint, load_dual_encoder

        return load_dual_encoder(find_checkpoint(self.path), self.digest).embed_patches(images)

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        from retrievers.machinery.dual_encoder import find_checkpoint, load_dual_encoder

        return load_dual_encoder(find_checkpoint(self.path), self.digest).embed_words(texts)

    def tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Of each text the tokens that `words` gives vectors of, in their order."""
        from retrievers.machinery.dual_encoder import find_checkpoint, load_dual_encoder

        return load_dual_encoder(find_checkpoint(self.path), self.digest).tokens(texts)
