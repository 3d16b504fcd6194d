"""Any vision backbone that transformers' AutoModel opens: ViT, DINOv2, ConvNeXt, ResNet, Swin, CLIP's image tower.

Vectors are L2-normalized, in float32. `pool` says what of the last layer: `pooled`, the model's own pooled output;
`first`, the first token ([CLS]); `mean`, the mean over all tokens or places, a [CLS] token included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from icl.errors import PlanError
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.vector_math import Vectors, per_item, shown


@component("embedder", "vision")
@dataclass(frozen=True, kw_only=True)
class Vision:
    """A vision backbone (DINOv2, ViT, ConvNeXt): images alone."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    path: str  # a hub id or a folder
    pool: Literal["pooled", "first", "mean"] = "pooled"  # what of the last layer is the vector

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError where there is no such checkpoint."""
        from retrievers.machinery.dual_encoder import checkpoint_digest, find

        return f"vision-1-{self.pool}-{checkpoint_digest(find(self.path))}"

    def images(self, items: Sequence[Query | Example]) -> Vectors:
        from retrievers.machinery.dual_encoder import find
        from retrievers.machinery.vision_backbone import backbone

        return per_item(items, backbone(find(self.path), self.digest).images(shown(items), self.pool))

    def texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError("embedder 'vision' reads images only. For questions, pair it with another ('paired').")
