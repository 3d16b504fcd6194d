"""Vision backbones that transformers' AutoModel can load: ViT, DINOv2, ConvNeXt, ResNet, Swin, CLIP's image tower.

Vectors are L2-normalized float32. `pool` selects the output of the last layer: `pooled`, the pooled output of the
model; `first`, the first token ([CLS]); `mean`, the mean over all tokens or positions, [CLS] included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from icl.errors import PlanError
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item


@component("embedder", "vision")
@dataclass(frozen=True, kw_only=True)
class Vision:
    """A vision backbone such as DINOv2, ViT or ConvNeXt; images only."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    path: str  # a hub id or a folder
    pool: Literal["pooled", "first", "mean"] = "pooled"  # which output of the last layer is the vector

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError without such a checkpoint."""
        from retrievers.machinery.checkpoints import checkpoint_digest, find_checkpoint

        return f"vision-1-{self.pool}-{checkpoint_digest(find_checkpoint(self.path))}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        from retrievers.machinery.checkpoints import find_checkpoint
        from retrievers.machinery.vision_backbone import load_vision_backbone

        return mean_per_item(
            items,
            load_vision_backbone(find_checkpoint(self.path), self.digest).embed_images(all_images(items), self.pool),
        )

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError(
            "embedder 'vision' reads images only. For questions, combine it with another embedder ('paired')."
        )
