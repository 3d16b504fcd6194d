"""PCME (Chun et al., CVPR 2021): nearest by the probability that two uncertain embeddings match.

    score(q, x) = mean over all pairs of samples of  sigmoid(-a || z_q - z_x || + b)

Of two members equally far from the query, the less certain one is the less probable match. The embedder is
`probabilistic`, whose heads say how uncertain an item is; an item's samples come from a stream of its own, so that
neither the batch nor the seed of a run changes a score. Where all are equally certain the ranking is that of `knn`, up
to the samples. Every member is compared: for pools of thousands, not of millions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np

from icl.errors import ConfigError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import Embedder, FittedRanking, Resources
from retrievers.embedders.encoder import Encoder
from retrievers.embedders.probabilistic import Probabilistic, ProbabilisticSource
from retrievers.machinery.demo_text import demo_text
from retrievers.machinery.embedding_source import open_source, source_key
from retrievers.machinery.match_probability import GaussianEmbeddings, match_probabilities
from retrievers.machinery.vector_math import Vectors

_SAMPLES: "WeakKeyDictionary[Pool, dict[Any, tuple[ProbabilisticSource, GaussianEmbeddings, Vectors]]]" = (
    WeakKeyDictionary()
)
"""What was fitted on a pool that is still in use: cells that differ in seed or shots share it."""


@component("retriever", "pcme")
@dataclass(frozen=True)
class PCME:
    """Nearest by match probability: of two equally near, the more certain one (PCME)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True

    query: Literal["image", "question"] = "image"  # what of the query is compared
    member: Literal["image", "text"] = "image"  # with what of a member: text is what the embedder pairs
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(  # says how uncertain an item is
        default_factory=lambda: Probabilistic(of=Encoder())
    )

    def __post_init__(self) -> None:
        if not isinstance(self.embedder, Probabilistic):
            raise ConfigError(
                f"retriever 'pcme' needs to know how uncertain an item is, and {self.embedder!r} does not say. Write "
                f"embedder: {{name: probabilistic, of: ...}}."
            )
        if self.embedder.pairs == "label" and (self.query, self.member) != ("image", "image"):
            raise ConfigError(
                "query or member is a text, and its embedder learns from images alone (pairs: label). Pair images "
                "with a text (pairs: answer)."
            )

    def fit(self, pool: Pool, resources: Resources) -> "FittedPCME":
        """Raises PlanError where the pool's pairs give the heads nothing to learn."""
        kept = _SAMPLES.setdefault(pool, {})
        key = (*source_key(self.embedder, resources.cache), self.member)
        if key not in kept:
            source: Any = open_source(self.embedder, resources.cache, pool)
            found = self._members(pool.examples, source)
            kept[key] = source, found, found.samples([f"pool/{example.id}" for example in pool.examples])
        return FittedPCME(pool, self, *kept[key])

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches; heads are fitted pool by pool."""
        members = {item.id: item for item in items if isinstance(item, Example)}
        source = open_source(self.embedder, resources.cache, Pool(tuple(members.values())))
        queries = [item for item in items if isinstance(item, Query)]
        asked = self.query == "image"
        source.embed_images([*members.values(), *(queries if asked else ())])
        if isinstance(self.embedder, Probabilistic) and self.embedder.pairs != "label":
            told = [self._said(example) for example in members.values()]
            source.embed_texts([*told, *(() if asked else (query.question for query in queries))])

    def asked(self, query: Query, source: ProbabilisticSource) -> GaussianEmbeddings:
        """Of the query, one row."""
        return source.of_images([query]) if self.query == "image" else source.of_texts([query.question])

    def _members(self, examples: Sequence[Example], source: ProbabilisticSource) -> GaussianEmbeddings:
        if self.member == "image":
            return source.of_images(examples)
        return source.of_texts([self._said(example) for example in examples])

    def _said(self, example: Example) -> str:
        pairs: Any = getattr(self.embedder, "pairs", "answer")
        return demo_text(example, pairs)


@dataclass(frozen=True)
class FittedPCME(FittedRanking):
    """The GaussianEmbeddings of one pool. source: the heads are its `spreads`. samples: [N, S, D]."""

    retriever: PCME
    source: ProbabilisticSource
    members: GaussianEmbeddings
    samples: Vectors

    @property
    def uncertainty(self) -> dict[str, float]:
        """id -> how uncertain each member is: the geometric mean of its standard deviations."""
        told = self.members.uncertainty.tolist()
        return {example.id: float(one) for example, one in zip(self.pool.examples, told, strict=True)}

    def rank(self, query: Query) -> Iterator[RetrievedExample]:
        (asked,) = self.retriever.asked(query, self.source).samples([f"query/{query.id}"])
        heads = self.source.spreads
        scores = match_probabilities(asked, self.samples, heads.a, heads.b, released=heads.released)
        for row in np.argsort(-np.round(scores, 12), kind="stable").tolist():
            yield RetrievedExample(self.pool.examples[row].id, round(float(scores[row]), 6))
