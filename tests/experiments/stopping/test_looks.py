"""Plans, look files and scores by hand: what is counted, what is written once, and what is read back."""

import json
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from experiments.config.keys import StopSpec
from experiments.stopping.looks import (
    Family,
    Samples,
    common_queries,
    family_folder,
    family_folders,
    read_families,
)
from experiments.stopping.plan import PlannedComparison, StopPlan, order_clusters
from experiments.stopping.rule import Standing
from experiments.store.json_shapes import check_shape
from experiments.store.store import Store, write_json
from icl.errors import StoreError
from icl.metrics.classification import MacroF1
from icl.types import Example

CLUSTERS = {
    "t": tuple((f"c{i}", f"q{i}a", f"q{i}b") for i in range(6)),
    "u": (("d0", "r0"), ("d1", "r1")),
}


def comparison(task: str, arm: str, reference: str = "z", *more: str) -> PlannedComparison:
    return PlannedComparison(task, (arm,), (reference,), arm, reference, (arm, reference, *more), {"shots": 2})


def plan(*comparisons: PlannedComparison, looks: int = 3, **more: Any) -> StopPlan:
    own = comparisons or (comparison("t", "a"), comparison("t", "b"), comparison("u", "c", "y"))
    node = {"name": "strict", "accuracy": True, **more}
    return StopPlan(
        stop=StopSpec(),
        looks=looks,
        metric="strict",
        metric_node=node,
        seeds=2,
        comparisons=own,
        untested={"t": ("n",)},
        clusters=CLUSTERS,
    )


def test_a_plan_counts_the_clusters_of_each_task_at_each_look() -> None:
    own = plan()
    assert own.sizes == {"t": [2, 4, 6], "u": [1, 2]}
    assert (own.family, own.num_looks) == (3, 3)
    assert [own.num_clusters("t", look) for look in range(5)] == [0, 2, 4, 6, 6]
    assert [own.num_clusters("u", look) for look in range(4)] == [0, 1, 2, 2]
    assert own.queries("t", 2) == {"q0a", "q0b", "q1a", "q1b"}
    assert (own.has_groups("t"), own.has_groups("u")) == (True, False)
    design = own.design("t")
    assert (design.planned, design.looks, design.whole, design.least_differing) == (6, 3, True, 50)
    assert ((design.seeds, design.group), own.design("u").group) == ((2, 2), 1)
    assert own.design("u").least_differing == 20
    assert not plan(accuracy=False).design("t").whole
    assert (own.is_run_level, plan(run_level=True).is_run_level) == (False, True)


def test_a_plan_is_read_back_as_it_was_written() -> None:
    own = plan()
    assert check_shape(StopPlan, json.loads(json.dumps(own.model_dump())), "p") == own
    for key in own.model_dump():
        with pytest.raises(StoreError, match="p is damaged"):
            check_shape(StopPlan, {k: v for k, v in own.model_dump().items() if k != key}, "p")


def test_queries_of_a_group_are_one_cluster_and_a_query_and_a_group_of_one_name_are_two() -> None:
    queries = [Example("a", (), "", ()), Example("b", (), "", (), group="a"), Example("c", (), "", (), group="a")]
    orders = [order_clusters(queries, seed) for seed in range(8)]
    assert all(set(order) == {("query a", "a"), ("group a", "b", "c")} for order in orders)
    assert len({tuple(order) for order in orders}) == 2, "the seed decides the order"


def record(*standings: tuple[str, int], look: int = 2, own: StopPlan | None = None) -> Family:
    family = Family(Path("family-1"), own or plan())
    family.standings = [Standing(end=end) for end, _ in standings]  # type: ignore[arg-type]  # words of `End`
    family.clusters, family.look = [n for _, n in standings], look
    return family


def test_a_family_says_how_many_comparisons_have_ended_and_how() -> None:
    ended = record(("decided", 2), ("open", 4), ("open", 2))
    assert not ended.running
    assert ended.describe() == "look 2 of 3: 3 of 3 comparisons have ended (1 decided, 2 open)"
    some = record(("running", 4), ("equal", 2), ("running", 2))
    assert some.running == [0, 2]
    assert some.describe() == "look 2 of 3: 1 of 3 comparisons have ended (1 equal)"
    none = record(*[("running", 0)] * 3, look=0)
    assert none.describe() == "no look yet: 0 of 3 comparisons have ended"


def test_a_cell_is_needed_while_any_comparison_that_reads_it_runs() -> None:
    def counts(family: Family, look: int) -> dict[str, int]:
        return {digest: len(queries) for digest, queries in family.needed(look).items()}

    some = record(("decided", 2), ("running", 4), ("open", 2))
    assert counts(some, 3) == {"a": 4, "b": 12, "z": 12, "n": 12, "c": 2, "y": 2}
    assert counts(record(("decided", 2), ("open", 4), ("open", 2)), 3) == {
        "a": 4,
        "b": 8,
        "z": 8,
        "n": 8,
        "c": 2,
        "y": 2,
    }
    gone = record(("running", 2), ("running", 4), ("open", 2))
    gone.cells = {"b", "z", "c", "y"}
    assert gone.running == [1], "the arm a has left the grid"
    assert counts(gone, 3)["a"] == 4


def test_means_are_comparable_on_the_queries_that_all_arms_of_a_task_stand_on() -> None:
    own = record(("decided", 2), ("open", 6), ("open", 2))
    queries = common_queries([own])
    assert queries == {"t": {"q0a", "q0b", "q1a", "q1b"}, "u": {"r0", "r1"}}
    later = record(("decided", 4), own=plan(comparison("t", "a", "w")), look=2)
    assert common_queries([own, later])["t"] == {f"q{i}{x}" for i in range(4) for x in "ab"}, "a stands on four now"
    behind = record(("running", 2), ("decided", 4), ("open", 2))
    assert len(common_queries([behind])["t"]) == 8, "a waits for its samples"
    waiting = record(*[("running", 0)] * 3)
    assert common_queries([waiting])["t"] == {query for _, *own in CLUSTERS["t"] for query in own}


def test_a_standing_is_read_from_its_entry(tmp_path: Path) -> None:
    family = Family(tmp_path, plan(comparison("t", "a")))
    digest = {"pairs_digest": family.plan.comparisons[0].digest}
    result = {"clusters": 2, "time": 0.5, "p": 0.01, "side": 1, "z": 2.0, "difference": 0.1, "low": None, "high": None}
    for look, node in enumerate(
        ({"end": "running", "chance": 0.25, "clusters": 2, "result": result}, {"end": "open", "chance": None}), 1
    ):
        write_json(family.path(look), {"comparisons": {"0": digest | node}})
    first = Family(tmp_path, family.plan)
    first.path(2).rename(tmp_path / "later")
    (before,) = first.read().standings
    assert (before.end, before.look, before.chance) == ("running", 1, 0.25)
    assert before.result is not None
    assert isnan(before.result.low)
    (tmp_path / "later").rename(first.path(2))
    (after,) = family.read().standings
    assert (after.result.p, after.end, after.look, isnan(after.chance)) == (0.01, "open", 1, True)  # type: ignore[union-attr]
    assert family.clusters == [2]


def test_families_are_read_in_order_look_by_look(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write_json(family_folder(tmp_path, number) / "plan.json", plan(looks=number + 1).model_dump())
    result = {"clusters": 2, "time": 0.5, "p": 0.01, "side": 1, "z": 2.0, "difference": 0.1}
    zero, one = ({"pairs_digest": own.digest} for own in plan().comparisons[:2])
    nodes = [
        {"comparisons": {"0": zero | {"end": "running", "chance": 0.5, "clusters": 2, "result": result}}},
        {"comparisons": {"1": one | {"end": "open", "chance": None, "clusters": 4, "result": result}, "0": zero | {
            "end": "decided", "chance": None}}},
    ]  # fmt: skip
    for look, node in enumerate(nodes, 1):
        write_json(family_folder(tmp_path, 1) / f"look-00{look}.json", node)
    assert [folder.name for folder in family_folders(tmp_path)] == ["family-1", "family-2", "family-10"]
    first, second, _ = read_families(tmp_path)
    assert (first.look, first.clusters) == (2, [2, 4, 0])
    assert [(one.end, one.look) for one in first.standings] == [("decided", 1), ("open", 2), ("running", 0)]
    assert (second.look, second.plan.looks) == (0, 3)
    text_result = zero | {"end": "open", "chance": None, "result": "text"}
    for comparisons, says in (
        ({"7": zero | {"end": "open", "chance": None}}, r"has comparisons of another plan\."),
        ({"0": text_result}, r"is damaged, .*comparisons\.0\.result cannot be 'text'\."),
        ({"0": text_result | {"result": result | {"p": "0.1"}}}, r"is damaged, .*0\.result\.p.* cannot be '0\.1'\."),
    ):
        (family_folder(tmp_path, 2) / "look-001.json").write_text(json.dumps({"comparisons": comparisons}))
        with pytest.raises(StoreError, match=rf"look-001\.json {says} Run the same command again"):
            read_families(tmp_path)
    (family_folder(tmp_path, 2) / "look-001.json").unlink()
    for name in ("look-001", "plan"):
        (family_folder(tmp_path, 1) / f"{name}.json").unlink()
        with pytest.raises(StoreError, match=rf"{name}\.json is missing\. Run the same command again"):
            read_families(tmp_path)
    assert read_families(tmp_path / "none") == []


def line(query: str, score: float | None = 1.0, cell: str = "a", **more: Any) -> str:
    content = {
        "cell": cell,
        "query": query,
        "seed": 0,
        **({} if score is None else {"scores": {"strict": score}}),
        **more,
    }
    return json.dumps(content) + "\n"


def test_scores_are_read_as_they_come_and_the_first_answer_of_a_query_counts(tmp_path: Path) -> None:
    file = tmp_path / "cells" / "a" / "0.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(line("q", failed="no image") + line("r", 0.0) + line("x", cell="b") + line("s")[:-4])
    reader = Samples(Store(tmp_path), "strict")
    assert not reader.has_all("a", ["q"])
    reader.refresh(["a"])
    assert reader.has_all("a", ["q", "r"])
    assert not any(reader.has_all("a", [query]) for query in "xs")
    assert (reader.score("a", "q"), reader.score("a", "r")) == (None, 0.0)
    file.write_text(
        line("q", failed="no image") + line("r", 0.0) + line("x", cell="b") + line("s") + line("q") + line("r")
    )
    reader.refresh(["a"])
    assert [reader.score("a", query) for query in "qrs"] == [1.0, 0.0, 1.0]
    (file.parent / "1.jsonl").write_text(line("u", None))
    reader.refresh(["a"])
    assert reader.score("a", "u") is None, "the metric does not apply"
    file.write_text(line("r", 1.0))  # rewritten: shorter than before
    reader.refresh(["a"])
    assert reader.score("a", "r") == 1.0
    assert not reader.has_all("a", ["q"])


def test_a_run_level_metric_reads_answers(tmp_path: Path) -> None:
    file = tmp_path / "cells" / "a" / "0.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(line("q", group="g", output="yes", gold=["no"], options=["yes", "no"], meta={"x": 1}) + line("r"))
    reader = Samples(Store(tmp_path), "strict", MacroF1())
    reader.refresh(["a"])
    one, bare = reader.sample("a", "q"), reader.sample("a", "r")
    assert (one.query, one.score, one.group, one.output) == ("q", 1.0, "g", "yes")
    assert (one.gold, one.options, one.meta) == (("no",), ("yes", "no"), {"x": 1})
    assert (bare.gold, bare.options, bare.meta, bare.output) == ((), (), {}, "")
    short = Samples(Store(tmp_path), "strict")
    short.refresh(["a"])
    assert short.cells["a"]["q"] == {"failed": False, "score": 1.0}
