"""InvariantSelectPR (Zhou et al. 2024): nearest pictures after a class-conditioned contrastive head.

Retrieval is that of `topk_nearest`; both sides go through a linear head that pulls a class together across its source
domains (`retrievers.head`). It starts at the identity, so an untrained head is `topk_nearest`. It is trained when the
pool is fitted, on the members of the source domains, or read from a file that `Head.save` wrote. The paper adapts the
encoder itself, with details that are not published; a linear head over frozen features is a reconstruction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from icl.errors import PlanError
from icl.params import Count, NonNegative, Positive
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query, Scored
from retrievers.balanced import label_of
from retrievers.base import FittedRetriever, Resources
from retrievers.head import Head, Positives, Sum, Training, train_head
from retrievers.index import index_of
from retrievers.near import FittedNear, Nearest, fitted_near
from retrievers.topk_nearest import TopKNearest
from retrievers.vectors import Vectors

_HEADS: "WeakKeyDictionary[Pool, dict[tuple[InvariantSelect, int], Head]]" = WeakKeyDictionary()
"""Heads of pools that are still in use: cells that differ in seed or shots share them."""

MARK = "invariant_select: one source domain, so positives are of the same domain"


@component("retriever", "invariant_select")
@dataclass(frozen=True, kw_only=True)
class InvariantSelect(TopKNearest):
    """Nearest pictures after a head trained to keep the class and forget the domain (InvariantSelectPR)."""

    needs: ClassVar[frozenset[str]] = frozenset({"embedder", "labels"})

    head: str | None = None  # a saved head; none: train one on the pool
    steps: Count = 100  # of training; 0 is topk_nearest
    rate: Positive = 1e-3  # Adam's step
    temperature: Positive = 0.1  # of the contrastive loss
    pull: NonNegative = 0.0  # weight of the squared distance from the identity
    positives: Positives = "other_domains"  # of an anchor: its class in other domains, or all its class
    sum_over: Sum = "positives_and_others"  # the loss's denominator; all_rows: the supervised contrastive loss

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Raises PlanError where the pool gives a head nothing to learn."""
        plain = fitted_near(self, pool, resources)
        heads = _HEADS.setdefault(pool, {})
        key = (self, self._changed())
        if key not in heads:
            heads[key] = self.trained(pool, plain.index.vectors) if self.head is None else self.saved(self.head)
        head = heads[key]
        return FittedInvariantSelect(self, pool, plain.source, index_of(head(plain.index.vectors), self.search), head)

    def pick(self, near: Nearest, k: int) -> Sequence[Scored]:
        head: Head = near.fitted.head  # type: ignore[attr-defined]
        alone = self.head is None and self.steps > 0 and len(head.domains) < 2
        return near.given(range(k), MARK if alone else "")

    def trained(self, pool: Pool, vectors: Vectors) -> Head:
        """A head from the pool's source domains. vectors: [N, D] of its pictures."""
        rows = [i for i, e in enumerate(pool.examples) if not self.sources or e.domain in self.sources]
        labels, domains = [label_of(pool.examples[i]) for i in rows], [pool.examples[i].domain for i in rows]
        training = Training(self.steps, self.rate, self.temperature, self.positives, self.sum_over, self.pull)
        return train_head(vectors[rows], labels, domains, self.embedder.digest, training)

    def saved(self, path: str) -> Head:
        """The head of a file. Raises PlanError where it was trained on another embedder's vectors."""
        head = Head.load(Path(path).expanduser())
        if head.embedder != self.embedder.digest:
            raise PlanError(
                f"the head {path} was trained on vectors of another embedder ({head.embedder[:24]}, not "
                f"{self.embedder.digest[:24]}). Train it with this one."
            )
        return head

    def _changed(self) -> int:
        """Tells a file from its later self."""
        file = Path(self.head).expanduser() if self.head else None
        return file.stat().st_mtime_ns if file and file.exists() else 0


@dataclass(frozen=True)
class FittedInvariantSelect(FittedNear):
    """An index of projected pictures, and the head, which `head.save(path)` writes."""

    head: Head

    def asked(self, queries: Sequence[Query]) -> Vectors:
        return self.head(super().asked(queries))

    def _allowed(self, query: Query) -> Callable[[int], bool]:
        if query.domain is not None and query.domain in self.head.domains:
            raise PlanError(
                f"query '{query.id}' is of the domain '{query.domain}', on which the head was trained "
                f"({', '.join(self.head.domains)}). Name the source domains in `sources`."
            )
        return super()._allowed(query)
