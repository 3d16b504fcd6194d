"""Plans, look files and scores by hand: what is counted, what is written once, and what is read back."""

import json
import os
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from experiments.config.keys import StopSpec
from experiments.stats.stopping_rule import LookResult, Standing
from experiments.stopping import look_files
from experiments.stopping.comparisons import PlannedComparison
from experiments.stopping.look_files import (
    LookEntry,
    family_folder,
    family_folders,
    look_path,
    read_look,
    write_once,
)
from experiments.stopping.plan import StopPlan, order_clusters
from experiments.stopping.records import FamilyRecord, common_queries, read_families, read_standing
from experiments.stopping.scores import ScoreReader
from experiments.store.json_shapes import check_shape
from experiments.store.store import Store
from icl.errors import StoreError
from icl.types import Example

CLUSTERS = {"t": {f"c{i}": (f"q{i}a", f"q{i}b") for i in range(6)}, "u": {"d0": ("r0",), "d1": ("r1",)}}


def comparison(task: str, arm: str, reference: str = "z", *more: str) -> PlannedComparison:
    return PlannedComparison(task, (arm,), (reference,), arm, reference, (arm, reference, *more), {"shots": 2})


def plan(*comparisons: PlannedComparison, looks: int = 3, **more: Any) -> StopPlan:
    own = comparisons or (comparison("t", "a"), comparison("t", "b"), comparison("u", "c", "y"))
    node = {"name": "strict", "accuracy": True, **more}
    return StopPlan(StopSpec(), looks, "strict", node, own, {"t": ("n",)}, CLUSTERS, seeds=2)


def test_a_plan_counts_the_clusters_of_each_task_at_each_look() -> None:
    own = plan()
    assert own.sizes == {"t": [2, 4, 6], "u": [1, 2]}
    assert (own.family, own.num_looks) == (3, 3)
    assert [own.num_clusters("t", look) for look in range(5)] == [0, 2, 4, 6, 6]
    assert [own.num_clusters("u", look) for look in range(4)] == [0, 1, 2, 2]
    assert own.queries("t", 1) == ["q0a", "q0b", "q1a", "q1b"]
    design = own.design("t")
    assert (design.planned, design.looks, design.whole, design.largest, design.least_differing) == (6, 3, True, 4, 50)
    assert (own.design("u").largest, own.design("u").least_differing) == (2, 20)
    assert not plan(accuracy=False).design("t").whole
    assert (own.is_run_level, plan(run_level=True).is_run_level) == (False, True)


def test_a_plan_is_read_back_as_it_was_written() -> None:
    own = plan()
    assert StopPlan.from_dict(json.loads(json.dumps(own.to_dict())), "p") == own
    for key in own.to_dict():
        with pytest.raises(StoreError, match="p is damaged"):
            StopPlan.from_dict({k: v for k, v in own.to_dict().items() if k != key}, "p")


def test_queries_of_a_group_are_one_cluster_and_a_query_and_a_group_of_one_name_are_two() -> None:
    queries = [Example("a", (), "", ()), Example("b", (), "", (), group="a"), Example("c", (), "", (), group="a")]
    orders = [order_clusters(queries, seed) for seed in range(8)]
    assert all(order == {"query a": ("a",), "group a": ("b", "c")} for order in orders)
    assert len({tuple(order) for order in orders}) == 2, "the seed decides the order"


def record(*standings: tuple[str, int], look: int = 2, own: StopPlan | None = None) -> FamilyRecord:
    ends = tuple(Standing(end=end) for end, _ in standings)  # type: ignore[arg-type]  # words of `End`
    return FamilyRecord(own or plan(), ends, tuple(n for _, n in standings), look)


def test_a_record_says_how_many_comparisons_have_ended_and_how() -> None:
    ended = record(("decided", 2), ("open", 4), ("open", 2))
    assert ended.has_ended
    assert ended.describe() == "look 2 of 3: 3 of 3 comparisons have ended (1 decided, 2 open)"
    some = record(("running", 4), ("equal", 2), ("running", 2))
    assert not some.has_ended
    assert some.describe() == "look 2 of 3: 1 of 3 comparisons have ended (1 equal)"
    none = record(*[("running", 0)] * 3, look=0)
    assert none.describe() == "no look yet: 0 of 3 comparisons have ended"


def test_a_cell_stands_on_the_clusters_of_its_longest_comparison_that_did_not_fall_behind() -> None:
    assert record(("decided", 2), ("running", 4), ("open", 2)).cell_clusters() == {
        "a": 2,
        "b": 4,
        "z": 4,
        "c": 2,
        "y": 2,
    }
    behind = record(("running", 2), ("decided", 2), ("open", 1)).cell_clusters()
    assert behind == {"b": 2, "z": 2, "c": 1, "y": 1}, "a waits for its samples"


def test_means_are_comparable_on_the_queries_that_all_arms_of_a_task_stand_on() -> None:
    own = record(("decided", 2), ("open", 6), ("open", 2))
    queries = common_queries([own])
    assert queries == {"t": {"q0a", "q0b", "q1a", "q1b"}, "u": {"r0", "r1"}}
    later = record(("decided", 4), own=plan(comparison("t", "a", "w")), look=2)
    assert common_queries([own, later])["t"] == {f"q{i}{x}" for i in range(4) for x in "ab"}, "a stands on four now"
    waiting = record(*[("running", 0)] * 3)
    assert common_queries([waiting])["t"] == {query for own in CLUSTERS["t"].values() for query in own}


def entry(**node: Any) -> LookEntry:
    return check_shape(LookEntry, {"pairs_digest": "0", **node}, "look-001.json")


def test_a_standing_is_read_from_its_entry() -> None:
    result = {"clusters": 2, "time": 0.5, "p": 0.01, "side": 1, "z": 2.0, "difference": 0.1, "low": None, "high": None}
    standing = read_standing(entry(end="decided", chance=0.25, result=result), Standing(), 3)
    assert (standing.end, standing.look, standing.chance) == ("decided", 3, 0.25)
    assert standing.result is not None
    assert isnan(standing.result.low)
    before = Standing(LookResult(1, 0.2, 0.5, 0, 0.0, 0.0), "running", 1, 0.7)
    after = read_standing(entry(end="open", chance=None), before, 3)
    assert (after.result, after.end, after.look, isnan(after.chance)) == (before.result, "open", 1, True)
    assert after == replace(before, end="open", chance=after.chance)


def test_families_are_read_in_order_look_by_look(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        write_once(family_folder(tmp_path, number) / "plan.json", plan(looks=number + 1).to_dict())
    result = {"clusters": 2, "time": 0.5, "p": 0.01, "side": 1, "z": 2.0, "difference": 0.1}
    zero, one = ({"pairs_digest": own.digest} for own in plan().comparisons[:2])
    nodes = [
        {"comparisons": {"0": zero | {"end": "running", "chance": 0.5, "clusters": 2, "result": result}}},
        {"comparisons": {"1": one | {"end": "open", "chance": None, "clusters": 4, "result": result}, "0": zero | {
            "end": "decided", "chance": None}}},
    ]  # fmt: skip
    for look, node in enumerate(nodes, 1):
        write_once(look_path(family_folder(tmp_path, 1), look), node)
    assert [folder.name for folder in family_folders(tmp_path)] == ["family-1", "family-2", "family-10"]
    first, second, _ = read_families(tmp_path)
    assert (first.look, first.clusters) == (2, (2, 4, 0))
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


@pytest.mark.parametrize("links", [True, False])
def test_a_look_is_written_once(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no hard links")

    if not links:
        monkeypatch.setattr(look_files.os, "link", refused)
    path = look_path(tmp_path / "family-1", 7)
    assert path.name == "look-007.json"
    assert read_look(path.parent, 7, plan()) is None
    write_once(path, {"look": 7})
    write_once(path, {"look": 8})
    assert json.loads(path.read_text()) == {"look": 7}
    assert os.listdir(path.parent) == ["look-007.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written: "):
        write_once(tmp_path / "file" / "look-001.json", {})
    path.write_text("{")
    with pytest.raises(StoreError, match=r"is damaged .* Run the same command again: it makes the file again"):
        read_look(path.parent, 7, plan())


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
    reader = ScoreReader(Store(tmp_path), "strict")
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
    reader = ScoreReader(Store(tmp_path), "strict", keep_answers=True)
    reader.refresh(["a"])
    one, bare = reader.sample("a", "q"), reader.sample("a", "r")
    assert (one.query, one.score, one.group, one.output) == ("q", 1.0, "g", "yes")
    assert (one.gold, one.options, one.meta) == (("no",), ("yes", "no"), {"x": 1})
    assert (bare.gold, bare.options, bare.meta, bare.output) == ((), (), {}, None)
    short = ScoreReader(Store(tmp_path), "strict")
    short.refresh(["a"])
    assert short.sample("a", "q").output is None
