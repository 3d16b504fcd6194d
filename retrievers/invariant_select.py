"""InvariantSelectPR (Zhou et al. 2024): nearest images after a class-conditioned contrastive head.

The retriever is `topk_nearest` with a linear head on both sides. The head moves the images of a class together across
the source domains (`retrievers.machinery.trained_heads`). It starts at the identity, so without training it equals
`topk_nearest`. There are three sources of the head:

- the members of the source domains in the pool (default);
- the pool of another task (`trained_on`), which shows what a head does for classes outside its training data;
- a file that `ContrastiveHead.save` wrote (`head`).

The paper adapts the encoder itself and does not publish the details. A linear head over frozen features is a
reconstruction.

No released code.
"""

# ruff: noqa: RUF036  pydantic uses the first matching member of a union: None is no task

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

from icl import ConfigError, PlanError, Pool, Query, RetrievedExample, Task, expand_user, pin_file
from icl.registry import Count, NestedComponent, NonNegative, Positive, component
from retrievers import FittedRetriever, FittedSimilarity, LeakPolicy, Neighbors, Resources, Vectors, fit_similarity
from retrievers.machinery.embeddings import EmbeddingSource
from retrievers.machinery.similarity import build_index
from retrievers.machinery.trained_heads import ContrastiveHead, HeadTraining, Positives, Sum, check_embedder, train_head
from retrievers.nearest import TopKNearest

_HEADS: "WeakKeyDictionary[Pool, dict[InvariantSelect, ContrastiveHead]]" = WeakKeyDictionary()
"""The heads of all pools in use. Cells that differ in the seed or the number of shots share a head."""

MARK = "invariant_select: one source domain, so positives are of the same domain"


@component("retriever", "invariant_select")
@dataclass(frozen=True, kw_only=True)
class InvariantSelect(TopKNearest):
    """Nearest images after a head that keeps the class and removes the domain (InvariantSelectPR)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})

    head: str | None = None  # the file of a saved head; none: train one
    trained_on: None | Annotated[Task, NestedComponent("task")] = None  # whose first pool trains it; none: this pool
    steps: Count = 100  # of training; 0 steps: the same as topk_nearest
    rate: Positive = 1e-3  # learning rate of Adam
    temperature: Positive = 0.1  # of the contrastive loss
    pull: NonNegative = 0.0  # weight of the squared distance from the identity
    positives: Positives = "other_domains"  # of an anchor: members of its class in other domains, or all of its class
    sum_over: Sum = "positives_and_others"  # the loss's denominator; all_rows: the supervised contrastive loss
    code: str = ""  # digest of the content of `head`; set automatically

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None and self.trained_on is not None:
            raise ConfigError("head is a file and trained_on is set too. Remove one of them.")
        if self.head is not None:
            pin_file(self, self.head, f"the head {self.head}")

    def preflight(self) -> None:
        """Raises DataError or PlanError if the file of the head is missing or belongs to another embedder."""
        if self.head is not None:
            self.load_head(self.head)

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError if a head cannot be trained on the pool."""
        without_head = fit_similarity(self, pool, resources)
        training_pool = pool if self.trained_on is None else self.trained_on.pool(self.trained_on.queries[0].id)
        heads = _HEADS.setdefault(training_pool, {})
        key = replace(self, trained_on=None)
        if key not in heads:
            heads[key] = (
                self.train(training_pool, without_head.source) if self.head is None else self.load_head(self.head)
            )
        head = heads[key]
        return FittedInvariantSelect(
            self, pool, without_head.source, build_index(head(without_head.index.vectors), self.search), head
        )

    def select(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        head: ContrastiveHead = neighbors.fitted.head  # type: ignore[attr-defined]
        single_domain = self.head is None and self.steps > 0 and len(head.domains) < 2
        return neighbors.retrieved(range(k), MARK if single_domain else "")

    def train(self, pool: Pool, source: EmbeddingSource) -> ContrastiveHead:
        """Train a head on the source domains of a pool. The order of its members does not matter."""
        members = sorted(pool.examples, key=lambda example: example.id)
        examples = [example for example in members if not self.sources or example.domain in self.sources]
        labels, domains = [example.class_name for example in examples], [example.domain for example in examples]
        training = HeadTraining(self.steps, self.rate, self.temperature, self.positives, self.sum_over, self.pull)
        return train_head(self.embed_documents(examples, source), labels, domains, self.embedder.digest, training)

    def load_head(self, path: str) -> ContrastiveHead:
        """Read the head of a file. Raises PlanError if it was trained on vectors of another embedder."""
        pin_file(self, path, f"the head {path}")
        head = ContrastiveHead.load(expand_user(path))
        check_embedder(f"the head {path}", head.embedder, self.embedder.digest)
        return head


@dataclass(frozen=True)
class FittedInvariantSelect(FittedSimilarity):
    """An index of images after the head, and the head; `head.save(path)` writes it."""

    head: ContrastiveHead

    def embed_queries(self, queries: Sequence[Query]) -> Vectors:
        return self.head(super().embed_queries(queries))

    def filter_for(self, query: Query, policy: LeakPolicy) -> Callable[[int], bool]:
        if query.domain is not None and query.domain in self.head.domains:
            raise PlanError(
                f"query '{query.id}' is of the domain '{query.domain}', on which the head was trained "
                f"({', '.join(self.head.domains)}). List the source domains in `sources`."
            )
        return super().filter_for(query, policy)
