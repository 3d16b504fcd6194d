"""PCME (Chun et al., CVPR 2021): nearest by the probability that two uncertain embeddings match.

    score(q, x) = mean over all pairs of samples of  sigmoid(-a || z_q - z_x || + b)

Of two members at the same distance from the query, the less certain one is the less probable match. The embedder is
`probabilistic`; its heads estimate the uncertainty of an item. The samples of an item come from its own stream, so
neither the batch nor the seed of a run changes a score. If all members are equally certain, the ranking equals `knn`,
up to sampling. Every member is compared, so this is for pools of thousands, not of millions.

Differs from the released code in the samples, which come from the item's own stream (there new ones for each batch),
and in a and b, which are parameters (there learned).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np

from icl import ConfigError, Example, NestedComponent, Pool, Query, RetrievedExample, component
from retrievers import Embedder, Encoder, FittedRanking, Resources, Vectors, demo_text, open_source, source_key
from retrievers.embedders.probabilistic import Probabilistic, ProbabilisticSource
from retrievers.machinery.variance_heads import GaussianEmbeddings, match_probabilities

_SAMPLES: "WeakKeyDictionary[Pool, dict[Any, tuple[ProbabilisticSource, GaussianEmbeddings, Vectors]]]" = (
    WeakKeyDictionary()
)
"""The samples of all pools in use. Cells that differ in the seed or the number of shots share them."""


@component("retriever", "pcme")
@dataclass(frozen=True)
class PCME:
    """Nearest by match probability; of two members equally near, the more certain one (PCME)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    nested: ClassVar[bool] = True

    query: Literal["image", "question"] = "image"  # which modality of the query is compared
    member: Literal["image", "text"] = (
        "image"  # with which modality of a member; text: what the embedder pairs with images
    )
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(  # estimates the uncertainty of an item
        default_factory=lambda: Probabilistic(of=Encoder())
    )

    def __post_init__(self) -> None:
        if not isinstance(self.embedder, Probabilistic):
            raise ConfigError(
                f"retriever 'pcme' needs the uncertainty of an item, and {self.embedder!r} does not estimate it. Write "
                f"embedder: {{name: probabilistic, of: ...}}."
            )
        if self.embedder.pairs == "label" and (self.query, self.member) != ("image", "image"):
            raise ConfigError(
                "query or member is a text, and its embedder learns from images alone (pairs: label). Pair images "
                "with a text (pairs: answer)."
            )

    def fit(self, pool: Pool, resources: Resources) -> "FittedPCME":
        """Raises PlanError if the heads cannot be trained on the pairs of the pool."""
        of_pool = _SAMPLES.setdefault(pool, {})
        key = (*source_key(self.embedder, resources.cache), self.member)
        if key not in of_pool:
            source: Any = open_source(self.embedder, resources.cache, pool)
            members = self._embed_members(pool.examples, source)
            of_pool[key] = source, members, members.samples([f"pool/{example.id}" for example in pool.examples])
        return FittedPCME(pool, self, *of_pool[key])

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools and their queries in large batches; heads are fitted pool by pool."""
        members = {item.id: item for item in items if isinstance(item, Example)}
        source = open_source(self.embedder, resources.cache, Pool(tuple(members.values())))
        queries = [item for item in items if isinstance(item, Query)]
        by_image = self.query == "image"
        source.embed_images([*members.values(), *(queries if by_image else ())])
        if isinstance(self.embedder, Probabilistic) and self.embedder.pairs != "label":
            texts = [self._member_text(example) for example in members.values()]
            source.embed_texts([*texts, *(() if by_image else (query.question for query in queries))])

    def embed_query(self, query: Query, source: ProbabilisticSource) -> GaussianEmbeddings:
        """The embedding of the query, one row."""
        return source.of_images([query]) if self.query == "image" else source.of_texts([query.question])

    def _embed_members(self, examples: Sequence[Example], source: ProbabilisticSource) -> GaussianEmbeddings:
        if self.member == "image":
            return source.of_images(examples)
        return source.of_texts([self._member_text(example) for example in examples])

    def _member_text(self, example: Example) -> str:
        pairs: Any = getattr(self.embedder, "pairs", "answer")
        return demo_text(example, pairs)


@dataclass(frozen=True)
class FittedPCME(FittedRanking):
    """The Gaussian embeddings of one pool; `source.heads` are the variance heads.

    samples: [N, S, D].
    """

    retriever: PCME
    source: ProbabilisticSource
    members: GaussianEmbeddings
    samples: Vectors

    @property
    def uncertainty(self) -> dict[str, float]:
        """The uncertainty of each member by id: the geometric mean of its standard deviations."""
        values = self.members.uncertainty.tolist()
        return {example.id: float(value) for example, value in zip(self.pool.examples, values, strict=True)}

    def rank(self, query: Query) -> Iterator[RetrievedExample]:
        (query_samples,) = self.retriever.embed_query(query, self.source).samples([f"query/{query.id}"])
        heads = self.source.heads
        scores = match_probabilities(query_samples, self.samples, heads.a, heads.b, released=heads.released)
        for row in np.argsort(-np.round(scores, 12), kind="stable").tolist():
            yield RetrievedExample(self.pool.examples[row].id, round(float(scores[row]), 6))
