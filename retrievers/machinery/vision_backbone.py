"""Vision backbones: batched encoding of images."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from icl.errors import ModelError
from icl.images import Image
from retrievers.machinery.checkpoints import BATCH, load_pretrained
from retrievers.machinery.embedder_device import EmbedderPlacement, on_device
from retrievers.machinery.prefetch import decode_batches
from retrievers.machinery.vector_math import Vectors, stack_batches


class VisionBackbone:
    """A loaded vision backbone."""

    def __init__(self, folder: Path, placement: EmbedderPlacement) -> None:
        model, self.processor = load_pretrained(folder, "AutoImageProcessor", "embedder 'vision':", placement)
        self.model = getattr(model, "vision_model", model)

    def embed_images(self, images: Sequence[Image], pool: str) -> Vectors:
        """The vector of each image, [N, D], unit rows. pool: see the embedder `vision`."""
        import torch

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
