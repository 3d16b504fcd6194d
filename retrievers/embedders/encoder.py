"""An image-text encoder with two towers (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023; and similar models).

It loads any checkpoint that transformers' AutoModel can load and that has `get_image_features` and `get_text_features`.
Vectors are the projected features, L2-normalized float32. Texts are truncated to the positions of the text tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from icl.images import Image
from icl.registry import component, later_parameter
from icl.types import Example, Query
from retrievers.machinery.embedder_device import EmbedderDtype, PlacedEmbedder, weight_bytes
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item

if TYPE_CHECKING:
    from retrievers.machinery.dual_encoder import DualEncoder


@component("embedder", "encoder")
@dataclass(frozen=True)
class Encoder(PlacedEmbedder):
    """A checkpoint such as CLIP or SigLIP: images and texts in one space."""

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    path: str = "tiny"  # a hub id, a folder, or 'tiny' (the encoder in the toolkit)
    device: str = later_parameter("auto")  # auto: the GPU if it has room beside the models, else cpu; or cuda, cuda:1
    dtype: EmbedderDtype = later_parameter("auto")  # auto: float32 on a CPU, else the checkpoint's own

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError without such a checkpoint."""
        from retrievers.machinery.checkpoints import checkpoint_digest, find_checkpoint

        return f"encoder-1-{checkpoint_digest(find_checkpoint(self.path))}"

    def checkpoint_bytes(self) -> int:
        from retrievers.machinery.checkpoints import find_checkpoint

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
        from retrievers.machinery.checkpoints import find_checkpoint
        from retrievers.machinery.dual_encoder import load_dual_encoder

        return load_dual_encoder(find_checkpoint(self.path), self.digest, self.placement)
