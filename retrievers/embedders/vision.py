"""Vision backbones that transformers' AutoModel can load: ViT, DINOv2, ConvNeXt, ResNet, Swin, CLIP's image tower.

Vectors are L2-normalized float32. `pool` selects the output of the last layer: `pooled`, the pooled output of the
model; `first`, the first token ([CLS]); `mean`, the mean over all tokens or positions, [CLS] included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from icl import Example, Image, ModelError, PlanError, Query, component, torch
from retrievers import Vectors, all_images, mean_per_item, stack_batches
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


@component("embedder", "vision")
@dataclass(frozen=True, kw_only=True)
class Vision(PlacedEmbedder):
    """A vision backbone such as DINOv2, ViT or ConvNeXt; images only."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    path: str  # a hub id or a folder
    pool: Literal["pooled", "first", "mean"] = "pooled"  # which output of the last layer is the vector

    @cached_property
    def digest(self) -> str:
        """sha256 of weights, configuration and processor. Raises ModelError without such a checkpoint."""
        return f"vision-1-{self.pool}-{checkpoint_digest(find_checkpoint(self.path))}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(find_checkpoint(self.path))

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        backbone = load_vision_backbone(find_checkpoint(self.path), self.digest, self.placement)
        return mean_per_item(items, backbone.embed_images(all_images(items), self.pool))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError(
            "embedder 'vision' reads images only. For questions, combine it with another embedder ('paired')."
        )


class VisionBackbone:
    """A loaded vision backbone."""

    def __init__(self, folder: Path, placement: EmbedderPlacement) -> None:
        model, self.processor = load_pretrained(folder, "AutoImageProcessor", "embedder 'vision':", placement)
        self.model = getattr(model, "vision_model", model)

    def embed_images(self, images: Sequence[Image], pool: str) -> Vectors:
        """The vector of each image, [N, D], unit rows. pool: see the embedder `vision`."""
        rows = []
        with torch.inference_mode():
            for pil_images in decode_batches(images, BATCH):
                inputs = on_device(self.processor(images=pil_images, return_tensors="pt"), self.model)
                rows.append(self._pooled(self.model(**inputs), pool).float().cpu().numpy())
        return stack_batches(rows)

    def _pooled(self, out: Any, pool: str) -> Any:
        states = out.last_hidden_state
        if pool == "pooled":
            pooled = getattr(out, "pooler_output", None)
            if pooled is None:
                raise ModelError(
                    f"embedder 'vision': a {type(self.model).__name__} has no pooled output. Use pool: first or mean."
                )
            return pooled.flatten(1)
        if states.ndim == 4:  # [N, channels, height, width]
            if pool == "first":
                raise ModelError(
                    f"embedder 'vision': a {type(self.model).__name__} has no first token. Use pool: mean."
                )
            return states.mean(dim=(2, 3))
        return states[:, 0] if pool == "first" else states.mean(dim=1)


@lru_cache(maxsize=2)
def load_vision_backbone(folder: Path, digest: str, placement: EmbedderPlacement) -> VisionBackbone:
    """The loaded backbone of a folder, shared by all users. A new digest means a new key."""
    return VisionBackbone(folder, placement)
