from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from decoding.strategies.vcd import VCD
from experiments.config.config import load_config
from experiments.contexts.contexts import (
    PromptItem,
    Retrieval,
    build_contexts,
    check_demos,
    paired_samples,
    prompt_specs,
    render,
)
from experiments.grid.grid import expand
from experiments.running.run import run
from experiments.store.store import Store
from icl.errors import ImageError, PlanError
from icl.tasks.base import Pool
from icl.tasks.generated.binding import BindingTask
from icl.types import Example, Query, RetrievedExample, Sample
from retrievers.base import Resources


@dataclass(frozen=True)
class Counting:
    """Retrieves the first k and counts its calls. Its queries must not contain the gold."""

    needs: ClassVar[frozenset[str]] = frozenset()
    fits: list[int] = field(default_factory=list, hash=False)
    calls: list[tuple[int, int]] = field(default_factory=list, hash=False)
    unreadable: str = ""
    mark: str = ""

    def fit(self, pool: Pool, resources: Resources) -> "Counting":
        self.fits.append(resources.seed)
        object.__setattr__(self, "pool", pool)
        return self

    def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
        self.calls.append((len(queries), k))
        assert all(type(query) is Query for query in queries)
        if any(query.id == self.unreadable for query in queries):
            raise ImageError(f"image of {self.unreadable} cannot be read.")
        pool: Any = self.pool  # type: ignore[attr-defined]
        ranking = tuple(RetrievedExample(example.id, 1.0 - i, self.mark) for i, example in enumerate(pool.examples[:k]))
        return [ranking for _ in queries]


def rows(mapping: Any, retriever: Counting, **keys: Any) -> list[list[PromptItem]]:
    grid = expand(load_config(mapping(retriever=retriever, **keys)))
    task, model = grid.tasks[0], grid.models[0]
    unrendered = list(build_contexts(Retrieval(task, model), prompt_specs(grid.cells), task.queries))
    return [[render(item) for item in row] for row in unrendered]


def test_retrieval_runs_once_for_all_arms_that_read_it(mapping: Any) -> None:
    counting = Counting()
    axes = {"composer": ["chat", "interleaved"], "order": ["reversed", "as_retrieved"], "metrics": []}
    del axes["metrics"]
    samples = rows(mapping, counting, grid=axes, seeds=[0, 1])
    assert counting.fits == [0, 1]
    assert counting.calls == [(6, 2)] * 2
    assert [len(row) for row in samples] == [8] * 6


def test_prompts_without_demonstrations_make_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def pool(self: BindingTask, query_id: str) -> Pool:
        raise AssertionError("the pool was made")

    monkeypatch.setattr(BindingTask, "pool", pool)
    grid = expand(
        load_config({"name": "n", "task": {"name": "binding", "queries": 2}, "model": "fake-vote", "shots": 0})
    )
    items = build_contexts(Retrieval(grid.tasks[0], grid.models[0]), prompt_specs(grid.cells), grid.tasks[0].queries)
    assert [render(item).failure for row in items for item in row] == [None, None]


def test_cells_that_differ_in_decoding_share_one_prompt(mapping: Any, toy: str) -> None:
    samples = rows(mapping, Counting(), model=toy, grid={"decoding": ["greedy", "vcd"]})
    assert [len(row) for row in samples] == [1] * 6
    assert [cell.labels["decoding"] for cell in samples[0][0].spec.cells] == ["greedy", "vcd"]


def test_the_best_demonstration_is_next_to_the_query_by_default(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(), shots=3)
    assert [demo.rank for demo in row[0].context.demos] == [2, 1, 0]


def test_a_query_whose_retrieval_fails_fails_alone(mapping: Any) -> None:
    samples = rows(mapping, Counting(unreadable="q-0002"))
    reasons = {row[0].example.id: row[0].failure for row in samples}
    assert reasons.pop("q-0002") == "image of q-0002 cannot be read."
    assert set(reasons.values()) == {None}


def test_demonstrations_that_do_not_fit_are_dropped_and_counted(mapping: Any) -> None:
    model = {"name": "fake-copy", "max_tokens": 16 + 8, "image_tokens": 1}
    (row, *_) = rows(mapping, Counting(), shots=3, model=model)
    assert (len(row[0].context.demos), row[0].num_dropped) == (1, 2)
    assert row[0].context.demos[0].rank == 0


def test_a_mark_of_a_retriever_is_once_in_the_provenance_of_the_sample(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(mark="filled by relevance"))
    assert row[0].context.provenance == ("filled by relevance",)


def test_a_prompt_draws_from_the_stream_of_its_seed_and_query(mapping: Any) -> None:
    (row, *_) = rows(mapping, Counting(), seeds=[0, 7])
    keys = [item.prompt.key for item in row if item.prompt is not None]
    assert [(key.seed, key.query) for key in keys] == [(0, "q-0000"), (7, "q-0000")]


@dataclass(frozen=True)
class Faulty(Counting):
    """Returns a wrong answer. how: which one."""

    how: str = "few"

    def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> Any:
        complete = super().retrieve(queries, k, policy)
        strange = [(RetrievedExample("nowhere"),) * k for _ in queries]
        unranked = [tuple(RetrievedExample(demo.id, float("nan")) for demo in ranking) for ranking in complete]
        few = [ranking[:-1] for ranking in complete]
        answers = {"few": few, "strange": strange, "unranked": unranked, "none": None, "short": complete[:-1]}
        answers["twice"] = [ranking[:1] * k for ranking in complete]
        return answers[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("few", "returned 1 demonstrations for 2 shots"),
        ("strange", "'nowhere'"),
        ("unranked", "not a number (NaN)"),
        ("twice", "twice. It must return each demonstration once"),
    ],
)
def test_a_retriever_with_too_few_foreign_or_unranked_demonstrations_fails_its_samples(
    mapping: Any, how: str, message: str
) -> None:
    for (item,) in rows(mapping, Faulty(how=how)):
        assert item.prompt is None
        assert message in str(item.failure)


def test_a_retriever_that_runs_out_of_main_memory_fails_the_sample_of_that_query(mapping: Any) -> None:
    class Large(Counting):
        def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
            if any(query.id == "q-0003" for query in queries):
                raise MemoryError
            return super().retrieve(queries, k, policy)

    failures = {item.example.id: item.failure for (item,) in rows(mapping, Large())}
    assert "Large.retrieve" in str(failures.pop("q-0003"))
    assert list(failures.values()) == [None] * 5


def test_a_retriever_that_may_return_fewer_demonstrations_declares_it(mapping: Any) -> None:
    class Short(Faulty):
        returns_k: ClassVar[bool] = False

    for (item,) in rows(mapping, Short(how="few")):
        assert item.failure is None
        assert len(item.context.demos) == 1


@pytest.mark.parametrize("name", ["none", "ra_cm3"])
def test_a_built_in_retriever_with_too_few_demonstrations_keeps_its_samples(mapping: Any, name: str) -> None:
    grid = expand(load_config(mapping(retriever=name)))
    retriever = grid.cells[0].retriever
    assert check_demos(retriever, (), 2, Pool(())) == ()


def test_a_retriever_that_does_not_take_the_leak_policy_fails_its_samples(mapping: Any) -> None:
    class OldSignature(Counting):
        def retrieve(self, queries: Sequence[Query], k: int) -> Any:  # type: ignore[override]
            return super().retrieve(queries, k)

    for (item,) in rows(mapping, OldSignature()):
        assert "OldSignature.retrieve does not take the leak policy. Define" in str(item.failure)


@pytest.mark.parametrize("how", ["none", "short"])
def test_a_retriever_that_does_not_answer_query_by_query_is_refused(mapping: Any, how: str) -> None:
    with pytest.raises(PlanError, match=r"Faulty\.retrieve returned .* for 6 queries"):
        rows(mapping, Faulty(how=how))


def test_many_small_pools_are_read_at_once_with_equal_results(mapping: Any, monkeypatch: Any) -> None:
    knn = {"name": "knn", "embedder": "histogram"}
    grid = expand(load_config(mapping(task={"name": "binding", "queries": 4}, retriever=knn)))
    num_items: list[int] = []
    kind = type(grid.cells[0].retriever)
    prepare = kind.prepare

    def counted(self: Any, items: Any, resources: Resources) -> None:
        num_items.append(len(items))
        prepare(self, items, resources)

    monkeypatch.setattr(kind, "prepare", counted)
    (together,) = Retrieval(grid.tasks[0], grid.models[0]).plan(grid.cells, grid.tasks[0].queries).values()
    alone = [
        Retrieval(grid.tasks[0], grid.models[0]).plan(grid.cells, [query]).popitem()[1][0]
        for query in grid.tasks[0].queries
    ]
    assert together == alone
    assert len(num_items) == 1
    assert num_items[0] == sum(len(grid.tasks[0].pool(query.id)) + 1 for query in grid.tasks[0].queries)


Config = Callable[..., dict[str, Any]]


def queries(count: int, groups: int = 0) -> list[Example]:
    return [Example(f"q{i}", (), "?", ("a",), group=f"g{i % groups}" if groups else None) for i in range(count)]


def test_each_query_has_a_partner_and_is_the_partner_of_one() -> None:
    for seed in range(3):
        partners = [partner.id for partner in paired_samples(queries(9), queries(9), seed) if partner is not None]
        assert sorted(partners) == [f"q{i}" for i in range(9)]
        assert all(other != f"q{i}" for i, other in enumerate(partners))
    assert paired_samples(queries(9), queries(9), 0) != paired_samples(queries(9), queries(9), 1)


def test_a_pair_does_not_depend_on_the_other_queries() -> None:
    together = paired_samples(queries(9), queries(9), 0)
    assert [paired_samples(queries(9), [query], 0)[0] for query in queries(9)] == together
    backwards = queries(9)[::-1]
    assert paired_samples(backwards, backwards, 0) == together[::-1]


def test_the_partner_is_of_another_group() -> None:
    all_queries = queries(9, groups=3)
    assert all(
        a.group != b.group
        for a, b in zip(all_queries, paired_samples(all_queries, all_queries, 0), strict=True)
        if b is not None
    )
    assert paired_samples(queries(4, groups=1), queries(4, groups=1), 0) == [None] * 4
    assert paired_samples(queries(1), queries(1), 0) == [None]


def samples(config: Mapping[str, Any], folder: Path) -> dict[str, list[Sample]]:
    """label of the decoding -> samples."""
    grid = expand(load_config(config))
    run(load_config(config), folder)
    store = Store(folder / "t")
    return {cell.labels["decoding"]: list(store.samples(cell.digest)) for cell in grid.cells}


def test_a_run_hands_each_sample_the_prompt_of_another_under_the_same_spec(mapping: Config, toy: str) -> None:
    nodes = ["vcd", {"name": "shuffled_negative", "of": "vcd"}]
    grid = expand(load_config(mapping(model=toy, grid={"decoding": nodes}, composer="interleaved", seeds=[0, 1])))
    task, specs = grid.tasks[0], prompt_specs(grid.cells)
    rows = list(build_contexts(Retrieval(task, grid.models[0]), specs, task.queries))
    prompts = {(item.example.id, item.spec.cell.seed): render(item).prompt for row in rows for item in row}
    for (name, seed), prompt in prompts.items():
        (other,) = paired_samples(task.queries, [query for query in task.queries if query.id == name], seed)
        assert prompt is not None
        assert prompt.paired_prompt is not None
        assert other is not None
        assert prompt.paired_prompt == prompts[other.id, seed]
        noised = VCD().branches(prompt.paired_prompt)[1]
        assert noised.key.query == other.id


def test_shuffled_negatives_are_the_same_however_a_run_is_cut(mapping: Config, toy: str, tmp_path: Path) -> None:
    config = mapping(model=toy, decoding={"name": "shuffled_negative", "of": {"name": "vcd", "beta": 0}})
    complete = samples(config, tmp_path / "whole")
    store = Store(tmp_path / "whole" / "t")
    for path in store.folder.glob("cells/*/*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    run(load_config(config), tmp_path / "whole")
    again = [sample for cell in expand(load_config(config)).cells for sample in store.samples(cell.digest)]
    (first,) = complete.values()
    assert len(first) == 6
    outputs = [{s["query"]: s.get("output", "") for s in some} for some in (first, again)]
    assert outputs[0] == outputs[1]
    assert not any(s.get("failed") for s in again)


def test_twice_the_demonstrations_are_shown_and_begin_with_the_arms_own(
    mapping: Config, toy: str, tmp_path: Path
) -> None:
    by_decoding = samples(mapping(model=toy, shots=1, grid={"decoding": ["greedy", "more_demonstrations"]}), tmp_path)
    few = {sample["query"]: sample for sample in by_decoding["greedy"]}
    for sample in by_decoding["more_demonstrations"]:
        assert len(sample["demos"]) == 2
        assert few[sample["query"]]["demos"][0] in sample["demos"]
        assert sample["prompt_digest"] != few[sample["query"]]["prompt_digest"]
        assert not sample.get("marks")


def test_a_pool_with_too_few_examples_shows_all_of_them_and_marks_the_sample(
    mapping: Config, toy: str, tmp_path: Path
) -> None:
    task = expand(load_config(mapping(model=toy))).tasks[0]
    shots = task.pool_size - 2
    (own,) = samples(mapping(model=toy, shots=shots, decoding="more_demonstrations"), tmp_path).values()
    for sample in own:
        assert not sample.get("failed")
        assert shots < len(sample["demos"]) < 2 * shots
        assert sample["marks"] == [f"{len(sample['demos'])} demonstrations of {2 * shots}, as many as the pool has"]


def test_a_retriever_that_returns_examples_is_a_sentence() -> None:
    example = Example("a", (), "what?", ("x",))
    pool: Any = SimpleNamespace(by_id={"a": example})
    retriever: Any = SimpleNamespace()
    wrong: Any = (example,)
    assert check_demos(retriever, wrong, 1, pool) == (
        "retriever SimpleNamespace returned a value of type Example, not a RetrievedExample."
    )
    right = (RetrievedExample("a"),)
    assert check_demos(retriever, right, 1, pool) == right
