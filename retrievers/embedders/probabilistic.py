"""An embedding with its uncertainty: a Gaussian an item (PCME, Chun et al., CVPR 2021).

    vector = that of the embedder inside, the mean;    spread = a head of `retrievers.machinery.variance_heads`, fitted
    on the pool

The heads learn from the pool's pairs: an image with its member's answer (or question), where members that say the same
match; or, by `label`, images with images, which needs no text tower. Items that lie among many that do not match
them become uncertain. Retrievers that compare vectors see the means alone; `pcme` asks for the spreads too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from icl.constraints import Count, NonNegative
from icl.errors import ConfigError, DataError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import Embedder
from retrievers.machinery.demo_text import demo_text
from retrievers.machinery.embedding_source import EmbeddingSource, open_source, reads
from retrievers.machinery.match_probability import GaussianEmbeddings
from retrievers.machinery.trained_heads import check_embedder
from retrievers.machinery.variance_heads import LEAST, MOST, VarianceHeads, VarianceTraining, fit_variance_heads
from retrievers.machinery.vector_math import Vectors

Slope = Annotated[float, Gt(0), Le(1000)]
Shift = Annotated[float, Ge(-1000), Le(1000)]


@component("embedder", "probabilistic")
@dataclass(frozen=True, kw_only=True)
class Probabilistic:
    """Another embedder with an uncertainty for every item (PCME)."""

    of: Annotated[Embedder, NestedComponent("embedder")]  # the embedder whose vectors are the means
    pairs: Literal["answer", "question", "both", "label"] = "answer"  # what an image of the pool is paired with
    heads: str | None = None  # a saved file; none: fit them on the pool
    steps: Count = 100  # of training; 0: all items are equally certain
    rate: Annotated[float, Gt(0), Le(1000)] = 0.01  # Adam's step
    start: Annotated[float, Ge(LEAST), Le(MOST)] = -4.0  # logarithm of the standard deviation before training
    a: Slope | None = None  # slope of the match probability; none: learned
    b: Shift | None = None  # shift of the match probability; none: learned
    released: bool = True  # sigma is the released code's, logistic(2x)
    prior: NonNegative = 1e-5  # weight of the KL term

    def __post_init__(self) -> None:
        wanted = {"image"} if self.pairs == "label" else {"image", "text"}
        if lacking := wanted - reads(self.of):
            raise ConfigError(
                f"pairs is '{self.pairs}', and {self.of!r} reads no {' and no '.join(sorted(lacking))}s. "
                f"Use an encoder of both (encoder){'' if lacking == {'image'} else ', or pairs: label'}."
            )

    @property
    def reads(self) -> frozenset[str]:
        return reads(self.of)

    @property
    def digest(self) -> str:
        told: list[object] = [self.pairs, self.steps, self.rate, self.start, self.a, self.b, self.released, self.prior]
        file = Path(self.heads).expanduser() if self.heads else None
        if file is not None:
            told = [sha256(file.read_bytes()).hexdigest() if file.is_file() else str(file)]
        return f"probabilistic-1({self.of.digest},{','.join(map(str, told))})"

    def ready(self) -> None:
        """Raises DataError or PlanError where the file of heads is missing or another embedder's."""
        if self.heads is not None:
            self.saved(self.heads)

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.of.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.of.embed_texts(texts)

    def open(self, cache: str | None, pool: Pool) -> "ProbabilisticSource":
        return ProbabilisticSource(self, open_source(self.of, cache, pool), pool.examples)

    def saved(self, path: str) -> VarianceHeads:
        """The heads of a file. Raises PlanError where they were trained on another embedder's vectors."""
        found = VarianceHeads.load(Path(path).expanduser())
        check_embedder(f"the variance head {path}", found.embedder, self.of.digest)
        return found


@dataclass(frozen=True)
class ProbabilisticSource:
    """The means and the spreads of one pool. `spreads.save(path)` writes the heads."""

    embedder: Probabilistic
    source: EmbeddingSource
    examples: tuple[Example, ...]

    def embed_images(self, items: Sequence[Query | Example]) -> Vectors:
        return self.source.embed_images(items)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self.source.embed_texts(texts)

    def of_images(self, items: Sequence[Query | Example]) -> GaussianEmbeddings:
        return self.spreads.images(self.source.embed_images(items))

    def of_texts(self, texts: Sequence[str]) -> GaussianEmbeddings:
        """Raises DataError where the heads are of images alone."""
        if self.spreads.texts is None:
            raise DataError("the variance heads were fitted on images alone (pairs: label), and a text is asked.")
        return self.spreads.texts(self.source.embed_texts(texts))

    @cached_property
    def spreads(self) -> VarianceHeads:
        """Fitted on the pool's members that have an image. Raises PlanError where there is nothing to learn."""
        how = self.embedder
        if how.heads is not None:
            return how.saved(how.heads)
        seen = [example for example in self.examples if example.images]
        fitting = VarianceTraining(how.steps, how.rate, how.start, how.a, how.b, how.released, how.prior)
        images, digest = self.source.embed_images(seen), how.of.digest
        if how.pairs == "label":
            return fit_variance_heads(images, [one.class_name for one in seen], None, digest, fitting)
        words = [demo_text(one, how.pairs) for one in seen]
        texts = self.source.embed_texts(words)
        if seen and images.shape[1] != texts.shape[1]:
            raise ConfigError(
                f"embedder 'probabilistic' compares images with texts, and {how.of!r} gives {images.shape[1]} and "
                f"{texts.shape[1]} entries. Use an encoder with one space for both (encoder), or pairs: label."
            )
        return fit_variance_heads(images, words, texts, digest, fitting)
