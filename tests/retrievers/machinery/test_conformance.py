"""The conformance check on all registered retrievers, and on broken ones."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icl.registry import build, entries, resolve
from icl.streams import StreamKey
from icl.types import RetrievedExample
from retrievers.base import ALLOW_LEAKS, EXCLUDE_LEAKS, Resources
from retrievers.machinery.conformance import check_retriever, sample_pool, sample_queries
from retrievers.machinery.embedding_models import SHIPPED
from retrievers.wrappers import WithLeaks

NAMES = list(entries("retriever"))
FIELDS = {name: {f.name for f in fields(resolve("retriever", name))} for name in NAMES}
EMBEDDED = [name for name in NAMES if "embedder" in FIELDS[name]]
COMPARED = [name for name in EMBEDDED if "by" in FIELDS[name]]
CROSS = ["i2t", "t2i", "mmices", "oracle", "ra_cm3"]  # always read texts, so they need two towers
REQUIRED: dict[str, dict[str, Any]] = {  # parameters without a default
    "mmr": {"balance": 0.5},
    "mmices": {"preset": "mmices"},
    "filtered": {"of": {"name": "knn", "embedder": "histogram"}, "max_similarity": 1},
    "reranked": {"of": "bm25", "rerankers": ["label_balance"], "candidates": 12},
    "query_dropout": {"of": "bm25", "share": 0.4},
    "hybrid": {"of": {"name": "knn", "embedder": "histogram"}, "common": {"name": "k_means", "embedder": "histogram"}},
    "with_leaks": {"of": {"name": "knn", "embedder": "histogram"}},
    "neighbor_swap": {"of": {"name": "knn", "embedder": "histogram"}, "position": 1},
}
LEAKS = ["with_leaks"]
CHECKED_ELSEWHERE = [
    "external",
    "learned",
    "fixed",
    "likelihood_oracle",
    "mdl",
    "local_entropy",
    "cone",
    "sqa",
    "pcme",
]  # need a file or a model: see their own tests


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """One cache for all retrievers, so each encoder embeds the sample images once."""
    return Resources(cache=str(tmp_path_factory.mktemp("kept")))


def _built(name: str, **more: Any) -> Any:
    if name in EMBEDDED:
        more.setdefault("embedder", "histogram")
    return build("retriever", {"name": name, **REQUIRED.get(name, {}), **more})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CROSS + CHECKED_ELSEWHERE])
def test_retriever_conformance(name: str, resources: Resources) -> None:
    check_retriever(_built(name), resources=resources)


@pytest.mark.parametrize("name", CROSS)
def test_cross_modal_retriever_conformance(name: str, clip: Any, resources: Resources) -> None:
    check_retriever(_built(name, embedder={"name": "encoder", "path": str(clip)}), resources=resources)


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in CHECKED_ELSEWHERE])
@pytest.mark.parametrize("by", ["image", "question", "both"])
def test_retriever_conformance_with_a_dual_encoder(name: str, by: str, clip: Any, resources: Resources) -> None:
    check_retriever(_built(name, by=by, embedder={"name": "encoder", "path": str(clip)}), resources=resources)


@pytest.mark.parametrize("name", [name for name in EMBEDDED if name not in CHECKED_ELSEWHERE])
def test_retriever_conformance_with_the_default_embedder(name: str, resources: Resources) -> None:
    if not (SHIPPED["tiny"] / "config.json").is_file():
        pytest.skip("the shipped encoder is not in the tree")
    check_retriever(build("retriever", {"name": name, **REQUIRED.get(name, {})}), resources=resources)


@dataclass(frozen=True)
class _SilentLeaks:
    """A retriever that allows leaks without the mark."""

    of: Any
    nested = False

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    def fit(self, pool: Any, resources: Any) -> Any:
        fitted = self.of.fit(pool, resources)
        retrieve = lambda queries, k, policy=EXCLUDE_LEAKS: fitted.retrieve(queries, k, ALLOW_LEAKS)  # noqa: E731
        return SimpleNamespace(retrieve=retrieve)


@pytest.mark.parametrize("name", ["random", "balanced", "knn"])
def test_a_leak_without_a_mark_is_reported(name: str) -> None:
    with pytest.raises(AssertionError, match="the query itself or have its image"):
        check_retriever(_SilentLeaks(_built(name)))


def test_a_retriever_that_does_not_take_the_policy_is_reported() -> None:
    class OldSignature(_Broken):
        def retrieve(self, queries: Any, k: int) -> Any:  # type: ignore[override]
            return super().retrieve(queries, k)

    with pytest.raises(AssertionError, match=r"OldSignature\.retrieve does not take the leak policy\. Define"):
        check_retriever(OldSignature())


def test_a_retriever_that_returns_examples_of_the_pool_is_reported() -> None:
    class OfExamples(_Broken):
        def retrieve(self, queries: Any, k: int, policy: Any = EXCLUDE_LEAKS) -> Any:
            return [sample_pool().examples[:k] for _ in queries]

    with pytest.raises(AssertionError, match=r"an? Example is returned, not a RetrievedExample\."):
        check_retriever(OfExamples())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in [*CROSS, *CHECKED_ELSEWHERE, "none", "ra_cm3"]])
def test_the_policy_alone_decides_whether_a_retriever_leaks(name: str, resources: Resources) -> None:
    """`none` and `ra_cm3` are left out: they return no demonstration, or no near-duplicate of the query."""
    pool, queries = sample_pool(), [example.query for example in sample_queries()]
    fitted = _built(name).fit(pool, resources)
    if name not in LEAKS:
        (demos,) = fitted.retrieve(queries[:1], len(pool) - 3)
        assert all(map(EXCLUDE_LEAKS.allowed_for(queries[0]), (pool.by_id[demo.id] for demo in demos)))
    (demos,) = fitted.retrieve(queries[:1], len(pool), ALLOW_LEAKS)
    assert {demo.id for demo in demos} == {example.id for example in pool.examples}


def test_the_policy_reaches_a_retriever_that_works_in_another_thread() -> None:
    class OtherThread:
        def __init__(self, of: Any) -> None:
            self.needs, self.of = of.needs, of

        def fit(self, pool: Any, resources: Any) -> Any:
            fitted = self.of.fit(pool, resources)

            def retrieve(*arguments: Any) -> Any:
                with ThreadPoolExecutor(1) as threads:
                    return threads.submit(fitted.retrieve, *arguments).result()

            return SimpleNamespace(retrieve=retrieve)

    pool, query = sample_pool(), sample_queries()[0].query
    retriever = WithLeaks(of=OtherThread(_built("knn")))
    (demos,) = retriever.fit(pool, Resources()).retrieve([query], 10)
    assert query.id in {demo.id for demo in demos}


class _Broken:
    """Returns the first k allowed members of the pool. Each subclass breaks one rule."""

    needs = frozenset[str]()
    nested = True

    def fit(self, pool: Any, resources: Any) -> "_Broken":
        self.pool, self.calls = pool, 0
        return self

    def retrieve(self, queries: Any, k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
        self.calls += 1
        return [self.one(i, query, k) for i, query in enumerate(queries)]

    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(RetrievedExample(i) for i in self.ids(query)[:k])

    def ids(self, query: Any) -> list[str]:
        return [e.id for e in self.pool.examples if query.id not in e.id]


class _TooFew(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        return super().one(place, query, k)[: max(k - 1, 0)]


class _OfTheBatch(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        ids = self.ids(query)
        return tuple(RetrievedExample(i) for i in (ids[place:] + ids[:place])[:k])


class _OfTheShots(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        order = StreamKey(0, f"{query.id}{k}").numpy("demos").permutation(30)[:k]
        return tuple(RetrievedExample(self.ids(query)[i]) for i in order)


class _OfTheCall(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        ids = self.ids(query)
        return tuple(RetrievedExample(i) for i in (ids[self.calls :] + ids[: self.calls])[:k])


class _Twice(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(RetrievedExample(self.ids(query)[0]) for _ in range(k))


class _WorstFirst(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        return tuple(RetrievedExample(i, score=float(n)) for n, i in enumerate(self.ids(query)[:k]))


class _Silent(_Broken):
    def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
        return super().one(place, query, k)  # 30 of 31, without an error


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_TooFew, r"k = 1: 0 demonstrations"),
        (_OfTheBatch, "asked one at a time"),
        (_OfTheShots, "does not begin the"),
        (_OfTheCall, "asked one at a time|another order"),
        (_Twice, "given twice"),
        (_WorstFirst, "the best is not first"),
        (_Silent, "raised no ICLError"),
    ],
)
def test_each_broken_promise_is_reported(broken: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_retriever(broken())


def test_queries_come_without_gold_unless_it_is_declared() -> None:
    inputs: list[Any] = []

    class Spy(_Broken):
        returns_k = False

        def one(self, place: int, query: Any, k: int) -> tuple[RetrievedExample, ...]:
            inputs.append(query)
            return ()

    check_retriever(Spy())
    assert not any(hasattr(query, "answers") or hasattr(query, "label") for query in inputs)
    inputs.clear()

    class Oracle(Spy):
        needs = frozenset({"gold"})

    check_retriever(Oracle())
    assert all(query.answers for query in inputs)


def test_the_sample_pool_holds_the_traps() -> None:
    pool = sample_pool()
    for query in sample_queries():
        own = query.images[0].source_digest
        assert query.id in pool.by_id
        assert sum(own in {p.source_digest for p in e.images} for e in pool.examples) == 3


MINE = '''
from dataclasses import dataclass

from icl.types import RetrievedExample
from retrievers import FittedRanking


@dataclass(frozen=True)
class First:
    """The first k allowed examples."""

    needs = frozenset()
    nested = True

    def fit(self, pool, resources):
        return Fitted(pool)


@dataclass(frozen=True)
class Fitted(FittedRanking):
    def rank(self, query):
        return [RetrievedExample(example.id) for example in self.pool.examples]
'''


def test_a_retriever_in_a_user_file_is_built_and_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    check_retriever(build("retriever", f"{tmp_path / 'mine.py'}:First"))
