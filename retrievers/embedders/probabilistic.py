"""Embeddings with uncertainty: one Gaussian per item (PCME, Chun et al., CVPR 2021).

    mean = the vector of the embedder inside;    deviation = a head of `retrievers.machinery.variance_heads`, trained on
    the pool

The heads are trained on pairs of the pool: an image and the answer (or question) of its member, where members with
equal texts match. With `pairs: label`, images are paired with images, which needs no text tower. Items among many
others that do not match them become uncertain. Retrievers that compare vectors use only the means; `pcme` uses the
deviations too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from icl import ConfigError, Count, DataError, Example, NestedComponent, NonNegative, Query, component, expand_user
from icl.parameter_files import pin_file
from icl.tasks.base import Pool
from retrievers import Embedder, EmbeddingSource, Vectors, check_embedder, demo_text, open_source, reads
from retrievers.machinery.variance_heads import (
    MAX_LOG_DEVIATION,
    MIN_LOG_DEVIATION,
    GaussianEmbeddings,
    VarianceHeads,
    VarianceTraining,
    fit_variance_heads,
)

Slope = Annotated[float, Gt(0), Le(1000)]
Shift = Annotated[float, Ge(-1000), Le(1000)]


@component("embedder", "probabilistic")
@dataclass(frozen=True, kw_only=True)
class Probabilistic:
    """Another embedder with an uncertainty for each item (PCME)."""

    of: Annotated[Embedder, NestedComponent("embedder")]  # the embedder whose vectors are the means
    pairs: Literal["answer", "question", "both", "label"] = "answer"  # what an image of the pool is paired with
    heads: str | None = None  # a file of saved heads; none: train them on the pool
    steps: Count = 100  # of training; 0: all items are equally certain
    rate: Annotated[float, Gt(0), Le(1000)] = 0.01  # learning rate of Adam
    start: Annotated[
        float, Ge(MIN_LOG_DEVIATION), Le(MAX_LOG_DEVIATION)
    ] = -4.0  # logarithm of the standard deviation before training
    a: Slope | None = None  # slope of the match probability; none: learned
    b: Shift | None = None  # shift of the match probability; none: learned
    released: bool = True  # use the sigmoid of the released code, logistic(2x)
    prior: NonNegative = 1e-5  # weight of the KL term
    code: str = ""  # digest of the content of `heads`; set automatically

    def __post_init__(self) -> None:
        required = {"image"} if self.pairs == "label" else {"image", "text"}
        if missing := required - reads(self.of):
            raise ConfigError(
                f"pairs is '{self.pairs}', and {self.of!r} reads no {' and no '.join(sorted(missing))}s. "
                f"Use an encoder of both (encoder){'' if missing == {'image'} else ', or pairs: label'}."
            )
        if self.heads is not None:
            pin_file(self, self.heads, f"the variance heads {self.heads}")

    @property
    def reads(self) -> frozenset[str]:
        return reads(self.of)

    @property
    def digest(self) -> str:
        settings: list[object] = [
            self.pairs,
            self.steps,
            self.rate,
            self.start,
            self.a,
            self.b,
            self.released,
            self.prior,
        ]
        if self.heads is not None:
            settings = [self.code or self.heads]
        return f"probabilistic-1({self.of.digest},{','.join(map(str, settings))})"

    def preflight(self) -> None:
        """Raises DataError or PlanError if the file of heads is missing or belongs to another embedder."""
        if self.heads is not None:
            self.load_heads(self.heads)

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.of.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.of.embed_texts(texts)

    def open(self, cache: str | None, pool: Pool) -> "ProbabilisticSource":
        return ProbabilisticSource(self, open_source(self.of, cache, pool), pool.examples)

    def load_heads(self, path: str) -> VarianceHeads:
        """Read the heads of a file. Raises PlanError if they were trained on vectors of another embedder."""
        pin_file(self, path, f"the variance heads {path}")
        heads = VarianceHeads.load(expand_user(path))
        check_embedder(f"the variance head {path}", heads.embedder, self.of.digest)
        return heads


@dataclass(frozen=True)
class ProbabilisticSource:
    """A source of vectors with variance heads for one pool; `heads.save(path)` writes the heads."""

    embedder: Probabilistic
    source: EmbeddingSource
    examples: tuple[Example, ...]

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.source.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.source.embed_texts(texts)

    def of_images(self, items: Sequence[Query | Example]) -> GaussianEmbeddings:
        return self.heads.images(self.source.embed_images(items))

    def of_texts(self, texts: Sequence[str]) -> GaussianEmbeddings:
        """Raises DataError if there is no head for texts."""
        if self.heads.texts is None:
            raise DataError(
                "the variance heads were fitted on images alone (pairs: label): there is no head for texts."
            )
        return self.heads.texts(self.source.embed_texts(texts))

    @cached_property
    def heads(self) -> VarianceHeads:
        """Heads from the file, or trained on the members with an image. Raises PlanError if training is impossible."""
        settings = self.embedder
        if settings.heads is not None:
            return settings.load_heads(settings.heads)
        members = sorted(self.examples, key=lambda example: example.id)  # batches in an order of their own
        examples = [example for example in members if example.images]
        training = VarianceTraining(
            settings.steps,
            settings.rate,
            settings.start,
            settings.a,
            settings.b,
            settings.released,
            settings.prior,
        )
        images, digest = self.source.embed_images(examples), settings.of.digest
        if settings.pairs == "label":
            return fit_variance_heads(images, [example.class_name for example in examples], None, digest, training)
        names = [demo_text(example, settings.pairs) for example in examples]
        texts = self.source.embed_texts(names)
        if examples and images.shape[1] != texts.shape[1]:
            raise ConfigError(
                f"embedder 'probabilistic' compares images with texts, and {settings.of!r} gives {images.shape[1]} and "
                f"{texts.shape[1]} dimensions. Use an encoder with one space for both (encoder), or pairs: label."
            )
        return fit_variance_heads(images, names, texts, digest, training)
