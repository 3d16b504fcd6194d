"""InvariantSelectPR (Zhou et al. 2024): nearest images after a class-conditioned contrastive head.

Retrieval is that of `topk_nearest`; both sides go through a linear head that pulls a class together across its source
domains (`retrievers.machinery.contrastive_head`). It starts at the identity, so an untrained head is `topk_nearest`. It
is trained when the pool is fitted, on the members of the source domains, or on the pool of another task (`trained_on`:
what does a head do for classes that it never saw?), or read from a file that `Head.save` wrote. The paper adapts the
encoder itself, with details that are not published; a linear head over frozen features is a reconstruction.
"""

# ruff: noqa: RUF036  pydantic takes the first member of a union that fits: None is no task

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

from icl.constraints import Count, NonNegative, Positive
from icl.errors import ConfigError, PlanError
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool, Task
from icl.types import Query, RetrievedExample
from retrievers.base import FittedRetriever, Resources
from retrievers.leak_policy import LeakPolicy
from retrievers.machinery.contrastive_head import ContrastiveHead, HeadTraining, Positives, Sum, train_head
from retrievers.machinery.embedding_source import EmbeddingSource
from retrievers.machinery.similarity import FittedSimilarity, Neighbors, fit_similarity
from retrievers.machinery.trained_heads import check_embedder
from retrievers.machinery.vector_index import build_index
from retrievers.machinery.vector_math import Vectors
from retrievers.topk_nearest import TopKNearest

_HEADS: "WeakKeyDictionary[Pool, dict[tuple[InvariantSelect, int], ContrastiveHead]]" = WeakKeyDictionary()
"""Heads of pools that are still in use: cells that differ in seed or shots share them."""

MARK = "invariant_select: one source domain, so positives are of the same domain"


@component("retriever", "invariant_select")
@dataclass(frozen=True, kw_only=True)
class InvariantSelect(TopKNearest):
    """Nearest images after a head trained to keep the class and forget the domain (InvariantSelectPR)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})

    head: str | None = None  # a saved head; none: train one
    trained_on: None | Annotated[Task, NestedComponent("task")] = None  # on whose (first) pool; none: the pool at hand
    steps: Count = 100  # of training; 0 is topk_nearest
    rate: Positive = 1e-3  # Adam's step
    temperature: Positive = 0.1  # of the contrastive loss
    pull: NonNegative = 0.0  # weight of the squared distance from the identity
    positives: Positives = "other_domains"  # of an anchor: its class in other domains, or all its class
    sum_over: Sum = "positives_and_others"  # the loss's denominator; all_rows: the supervised contrastive loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None and self.trained_on is not None:
            raise ConfigError("head is a file and trained_on is given too. Leave one of them out.")

    def ready(self) -> None:
        """Raises DataError or PlanError where the head's file is missing or another embedder's."""
        if self.head is not None:
            self.saved(self.head)

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError where the pool gives a head nothing to learn."""
        plain = fit_similarity(self, pool, resources)
        base = self._learns_from(pool)
        heads = _HEADS.setdefault(base, {})
        key = (replace(self, trained_on=None), self._changed())
        if key not in heads:
            heads[key] = self.trained(base, plain.source) if self.head is None else self.saved(self.head)
        head = heads[key]
        return FittedInvariantSelect(
            self, pool, plain.source, build_index(head(plain.index.vectors), self.search), head
        )

    def pick(self, near: Neighbors, k: int) -> Sequence[RetrievedExample]:
        head: ContrastiveHead = near.fitted.head  # type: ignore[attr-defined]
        alone = self.head is None and self.steps > 0 and len(head.domains) < 2
        return near.given(range(k), MARK if alone else "")

    def trained(self, pool: Pool, source: EmbeddingSource) -> ContrastiveHead:
        """A head from the pool's source domains."""
        known = [example for example in pool.examples if not self.sources or example.domain in self.sources]
        labels, domains = [example.class_name for example in known], [example.domain for example in known]
        training = HeadTraining(self.steps, self.rate, self.temperature, self.positives, self.sum_over, self.pull)
        return train_head(self.documents(known, source), labels, domains, self.embedder.digest, training)

    def _learns_from(self, pool: Pool) -> Pool:
        """The pool at hand, or the first one of the task that was named."""
        return pool if self.trained_on is None else self.trained_on.pool(self.trained_on.queries[0].id)

    def saved(self, path: str) -> ContrastiveHead:
        """The head of a file. Raises PlanError where it was trained on another embedder's vectors."""
        head = ContrastiveHead.load(Path(path).expanduser())
        check_embedder(f"the head {path}", head.embedder, self.embedder.digest)
        return head

    def _changed(self) -> int:
        """Tells a file from its later self."""
        file = Path(self.head).expanduser() if self.head else None
        return file.stat().st_mtime_ns if file and file.exists() else 0


@dataclass(frozen=True)
class FittedInvariantSelect(FittedSimilarity):
    """An index of projected images, and the head, which `head.save(path)` writes."""

    head: ContrastiveHead

    def asked(self, queries: Sequence[Query]) -> Vectors:
        return self.head(super().asked(queries))

    def filter_for(self, query: Query, policy: LeakPolicy) -> Callable[[int], bool]:
        if query.domain is not None and query.domain in self.head.domains:
            raise PlanError(
                f"query '{query.id}' is of the domain '{query.domain}', on which the head was trained "
                f"({', '.join(self.head.domains)}). Name the source domains in `sources`."
            )
        return super().filter_for(query, policy)
