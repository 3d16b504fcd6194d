"""Vision backbones that transformers' AutoModel can load: ViT, DINOv2, ConvNeXt, ResNet, Swin, CLIP's image tower.

Vectors are L2-normalized float32. `pool` selects the output of the last layer: `pooled`, the pooled output of the
model; `first`, the first token ([CLS]); `mean`, the mean over all tokens or positions, [CLS] included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from icl.errors import PlanError
from icl.registry import component, later_parameter
from icl.types import Example, Query
from retrievers.machinery.embedder_device import EmbedderDtype, PlacedEmbedder, weight_bytes
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item


@component("embedder", "vision")
@dataclass(frozen=True, kw_only=True)
class Vision(PlacedEmbedder):
    """A vision backbone such as DINOv2, ViT or ConvNeXt; images only."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    path: str  # a hub id or a folder
    pool: Literal["pooled", "first", "mean"] = "pooled"  # which output of the last layer is the vector
    device: str = later_parameter("auto")  # auto: the GPU if it has room beside the models, else cpu; or cuda, cuda:1
    dtype: EmbedderDtype = later_parameter("auto")  # auto: float32 on a CPU, else the checkpoint's own

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError without such a checkpoint."""
        from retrievers.machinery.checkpoints import checkpoint_digest, find_checkpoint

        return f"vision-1-{self.pool}-{checkpoint_digest(find_checkpoint(self.path))}"

    def checkpoint_bytes(self) -> int:
        from retrievers.machinery.checkpoints import find_checkpoint

        return weight_bytes(find_checkpoint(self.path))

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        from retrievers.machinery.checkpoints import find_checkpoint
        from retrievers.machinery.vision_backbone import load_vision_backbone

        backbone = load_vision_backbone(find_checkpoint(self.path), self.digest, self.placement)
        return mean_per_item(items, backbone.embed_images(all_images(items), self.pool))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError(
            "embedder 'vision' reads images only. For questions, combine it with another embedder ('paired')."
        )
