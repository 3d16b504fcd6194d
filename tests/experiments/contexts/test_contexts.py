from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from experiments.config.config import load_config
from experiments.contexts.contexts import RenderedSample, Retrieval, build_contexts, prompt_specs, render
from experiments.grid.grid import expand
from icl.errors import ImageError, PlanError
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Resources


@dataclass(frozen=True)
class Counting:
    """Gives the first k, and counts what it is asked. Its queries must not show the gold."""

    needs: ClassVar[frozenset[str]] = frozenset()
    fits: list[int] = field(default_factory=list, hash=False)
    asked: list[tuple[int, int]] = field(default_factory=list, hash=False)
    refuses: str = ""
    mark: str = ""

    def fit(self, pool: Pool, resources: Resources) -> "Counting":
        self.fits.append(resources.seed)
        object.__setattr__(self, "pool", pool)
        return self

    def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
        self.asked.append((len(queries), k))
        assert all(type(query) is Query for query in queries)
        if any(query.id == self.refuses for query in queries):
            raise ImageError(f"image of {self.refuses} cannot be read.")
        pool: Any = self.pool  # type: ignore[attr-defined]
        given = tuple(RetrievedExample(example.id, 1.0 - i, self.mark) for i, example in enumerate(pool.examples[:k]))
        return [given for _ in queries]


def rows(mapping: Any, retriever: Counting, **keys: Any) -> list[list[RenderedSample]]:
    grid = expand(load_config(mapping(retriever=retriever, **keys)))
    task, model = grid.tasks[0], grid.models[0]
    found = list(build_contexts(Retrieval(task, model), prompt_specs(grid.cells), task.queries))
    return [[render(item) for item in row] for row in found]


def test_retrieval_is_asked_once_for_all_arms_that_read_it(mapping: Any) -> None:
    counting = Counting()
    axes = {"composer": ["chat", "interleaved"], "order": ["reversed", "as_retrieved"], "metrics": []}
    del axes["metrics"]
    found = rows(mapping, counting, grid=axes, seeds=[0, 1])
    assert counting.fits == [0, 1]
    assert counting.asked == [(6, 2)] * 2
    assert [len(row) for row in found] == [8] * 6


def test_cells_that_differ_in_decoding_share_one_prompt(mapping: Any, toy: str) -> None:
    found = rows(mapping, Counting(), model=toy, grid={"decoding": ["greedy", "vcd"]})
    assert [len(row) for row in found] == [1] * 6
    assert [cell.labels["decoding"] for cell in found[0][0].spec.cells] == ["greedy", "vcd"]


def test_the_best_demonstration_stands_next_to_the_query_by_default(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(), shots=3)
    assert [demo.rank for demo in row[0].context.demos] == [2, 1, 0]


def test_a_query_whose_retrieval_fails_fails_alone(mapping: Any) -> None:
    found = rows(mapping, Counting(refuses="q-0002"))
    reasons = {row[0].example.id: row[0].failure for row in found}
    assert reasons.pop("q-0002") == "image of q-0002 cannot be read."
    assert set(reasons.values()) == {None}


def test_demonstrations_that_do_not_fit_are_dropped_and_counted(mapping: Any) -> None:
    model = {"name": "fake-copy", "max_tokens": 16 + 8, "image_tokens": 1}
    (row, *_) = rows(mapping, Counting(), shots=3, model=model)
    assert (len(row[0].context.demos), row[0].num_dropped) == (1, 2)
    assert row[0].context.demos[0].rank == 0


def test_what_a_retriever_says_of_its_choice_is_marked_once_on_the_sample(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(mark="filled by relevance"))
    assert row[0].context.provenance == ("filled by relevance",)


def test_a_prompt_draws_from_the_stream_of_its_seed_and_query(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(), seeds=[0, 7])
    keys = [item.prompt.key for item in row if item.prompt is not None]
    assert [(key.seed, key.query) for key in keys] == [(0, "q-0000"), (7, "q-0000")]


@dataclass(frozen=True)
class Faulty(Counting):
    """Gives what `how` says instead of what it is asked for."""

    how: str = "few"

    def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> Any:
        whole = super().retrieve(queries, k, policy)
        strange = [(RetrievedExample("nowhere"),) * k for _ in queries]
        unranked = [tuple(RetrievedExample(demo.id, float("nan")) for demo in one) for one in whole]
        few = [one[:-1] for one in whole]
        told = {"few": few, "strange": strange, "unranked": unranked, "none": None, "short": whole[:-1]}
        told["twice"] = [one[:1] * k for one in whole]
        return told[self.how]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("few", "gave 1 demonstrations for 2 shots"),
        ("strange", "'nowhere'"),
        ("unranked", "not a number (NaN)"),
        ("twice", "twice. It gives every demonstration once"),
    ],
)
def test_a_retriever_that_gives_too_few_strangers_or_no_ranks_fails_its_samples(
    mapping: Any, how: str, told: str
) -> None:
    for (item,) in rows(mapping, Faulty(how=how)):
        assert item.prompt is None
        assert told in str(item.failure)


@pytest.mark.parametrize("how", ["none", "short"])
def test_a_retriever_that_does_not_answer_query_by_query_is_refused(mapping: Any, how: str) -> None:
    with pytest.raises(PlanError, match=r"Faulty\.retrieve gave .* for 6 queries"):
        rows(mapping, Faulty(how=how))


def test_many_small_pools_are_read_at_once_and_give_what_they_give_alone(mapping: Any, monkeypatch: Any) -> None:
    knn = {"name": "knn", "embedder": "histogram"}
    grid = expand(load_config(mapping(task={"name": "binding", "queries": 4}, retriever=knn)))
    seen: list[int] = []
    kind = type(grid.cells[0].retriever)
    prepare = kind.prepare

    def counted(self: Any, items: Any, resources: Resources) -> None:
        seen.append(len(items))
        prepare(self, items, resources)

    monkeypatch.setattr(kind, "prepare", counted)
    (together,) = Retrieval(grid.tasks[0], grid.models[0]).plan(grid.cells, grid.tasks[0].queries).values()
    alone = [
        Retrieval(grid.tasks[0], grid.models[0]).plan(grid.cells, [query]).popitem()[1][0]
        for query in grid.tasks[0].queries
    ]
    assert together == alone
    assert len(seen) == 1
    assert seen[0] == sum(len(grid.tasks[0].pool(query.id)) + 1 for query in grid.tasks[0].queries)
