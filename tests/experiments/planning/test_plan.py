import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.config.config import load_config
from experiments.contexts.request_sizes import sample_queries
from experiments.grid.grid import expand
from experiments.planning import plan as planning
from experiments.planning.plan import Plan, make_plan
from experiments.planning.plan_text import format_plan
from experiments.running.run import run
from experiments.store.store import Store


def planned(config: Any) -> Plan:
    return make_plan(expand(load_config(config)))


def test_the_plan_predicts_the_prompts_that_the_engine_prefills(mapping: Any, toy: str, tmp_path: Any) -> None:
    decodings = ["greedy", "vcd", {"name": "sign_flip", "of": "vcd"}, "more_demonstrations", "self_consistency"]
    axes = {"shots": [0, 2], "retriever": ["random", "balanced"], "decoding": decodings}
    config = mapping(model=toy, grid=axes, seeds=[0, 1])
    plan = planned(config)
    run(load_config(config), tmp_path)
    counters = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]  # type: ignore[index]
    assert plan.work.prompts == counters["prompts_prefilled"]
    assert plan.work.prompts_alone == counters["branch_prompts"]
    assert plan.samples == 6 * len(plan.grid.cells)


def test_the_plan_is_an_upper_limit_if_queries_share_prompts(mapping: Any, toy: str, tmp_path: Any) -> None:
    """A shuffled negative is another query's own negative, and without images queries may be equal."""
    config = mapping(model=toy, shots=0, seeds=[0, 1], controls="default", decoding="vcd")
    run(load_config(config), tmp_path)
    prefilled = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]["prompts_prefilled"]  # type: ignore[index]
    assert prefilled <= planned(config).work.prompts <= 2 * prefilled


def test_the_plan_counts_a_prompt_of_the_judge_for_each_sampled_answer(mapping: Any, toy: str, tmp_path: Any) -> None:
    works = []
    for node in ({"name": "self_consistency", "samples": 3}, {"name": "best_of_n", "samples": 3, "accept": "w4"}):
        config = mapping(model=toy, shots=1, decoding=node)
        works.append(planned(config).work)
    vote, judged = works
    assert judged.prompts == vote.prompts + 3 * 6
    assert judged.prompts_alone == vote.prompts_alone + 3 * 6
    assert judged.tokens > 2 * vote.tokens
    run(load_config(config), tmp_path)
    prefilled = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]["prompts_prefilled"]  # type: ignore[index]
    assert vote.prompts < prefilled <= judged.prompts
    assert planned({**config, "answer_mode": "options"}).work.prompts == vote.prompts


def test_plain_and_edited_images_are_counted_once_each(mapping: Any, toy: str) -> None:
    work = planned(mapping(model=toy, shots=0, seeds=[0, 1, 2], grid={"decoding": ["greedy", "vcd"]})).work
    assert (work.images, work.edited) == (6, 18)
    assert work.num_images == 6 * 3 * (1 + 2)


def test_a_sample_of_queries_is_scaled_and_stated(mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = mapping(shots=0, task={**mapping()["task"], "queries": 90})
    monkeypatch.setattr(planning, "SAMPLED_QUERIES", 90)
    whole = planned(config)
    monkeypatch.setattr(planning, "SAMPLED_QUERIES", 9)
    part = planned(config)
    assert part.counted == {"shapes": (9, 90)}
    assert part.work.tokens == pytest.approx(whole.work.tokens)
    assert part.work.images == pytest.approx(whole.work.images, rel=0.1)
    assert "estimated from a random choice of queries: shapes 9 of 90" in "\n".join(format_plan(part))


def test_the_sample_is_the_same_each_time_and_in_the_order_of_the_task(mapping: Any) -> None:
    queries = expand(load_config(mapping(task={**mapping()["task"], "queries": 90}))).tasks[0].queries
    chosen = [query.id for query in sample_queries(queries, 10)]
    assert chosen == [query.id for query in sample_queries(queries, 10)] == sorted(chosen)
    assert len(set(chosen)) == 10


def test_decodings_have_branches_and_hidden_temperature(mapping: Any, toy: str) -> None:
    nodes = ["greedy", {"name": "vcd", "alpha": 2.0}]
    arms = {a.label: a for a in planned(mapping(model=toy, controls="default", grid={"decoding": nodes})).decodings}
    assert (arms["greedy"].branches, arms["greedy"].temperature, arms["greedy"].engine) == (1, 1.0, "loop")
    assert (arms["vcd(alpha=2)"].branches, arms["vcd(alpha=2)"].temperature) == (2, 1.0)
    assert [arm.branches for arm in arms.values() if arm.control] == [1, 1, 2, 2, 2, 2, 2, 1, 1]


def test_engine_and_hidden_temperature_are_columns_only_if_they_are_not_the_default(mapping: Any, toy: str) -> None:
    usual = "\n".join(format_plan(planned(mapping(model=toy, grid={"decoding": ["greedy", "vcd"]}))))
    assert "branches" in usual
    assert "engine" not in usual
    assert "hidden" not in usual
    sharp = {"name": "contrast", "branches": ["no_demonstrations"], "weights": [3.0, -1.0]}
    lines = list(format_plan(planned(mapping(model=toy, decoding=sharp))))
    assert [line.split() for line in lines if line.startswith("decoding")] == [
        ["decoding", "branches", "hidden", "temperature"]
    ]
    assert any(line.startswith("hidden temperature: 1 / ") for line in lines)
    assert any(line.startswith("engine: ") for line in format_plan(planned(mapping())))  # the fake answers requests


def test_arms_that_share_their_demonstrations_are_counted(mapping: Any) -> None:
    axes = {"retriever": ["random", "balanced"], "composer": ["chat", "interleaved"]}
    assert (planned(mapping(grid=axes)).arms, planned(mapping(grid=axes)).sharing) == (4, 4)
    assert planned(mapping(grid={"shots": [1, 2]})).sharing == 0


def test_a_large_pool_is_not_embedded_for_a_plan(mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_EMBEDDED_POOL", 5)
    monkeypatch.setattr("retrievers.nearest.KNN.fit", lambda *_: pytest.fail("the pool was embedded"))
    plan = planned(mapping(retriever="knn"))
    assert plan.notes == ("counted with random demonstrations instead of knn, whose pool is large",)


def test_a_plan_does_not_call_the_model(mapping: Any, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "retrievers.machinery.greedy_selection.SubsetRetriever.fit", lambda *_: pytest.fail("the model was called")
    )
    monkeypatch.setattr(
        "prompts.orderers.model_orders.ModelOrderer.fitted", lambda *_: pytest.fail("the model was called")
    )
    plan = planned(mapping(model=toy, retriever="mdl", order="demo"))
    assert plan.notes == ("counted with random demonstrations instead of mdl, which calls the model",)


def test_the_lines_have_counts_controls_and_power(mapping: Any, toy: str) -> None:
    config = mapping(model=toy, seeds=[0, 1], controls="default", grid={"decoding": ["greedy", "vcd"]})
    text = "\n".join(format_plan(planned(config)))
    assert text.startswith("11 arms x 2 seeds (11 share their demonstrations)   22 cells   132 samples")
    assert "controls added: 9 decodings, with 14 branches in all\n  of vcd: mask_only, " in text
    assert "(80 % power, one pair in five differs)" in text


def test_too_few_queries_for_any_difference_are_stated_in_words(mapping: Any) -> None:
    plan = planned(mapping())
    plan = replace(plan, smallest_differences={"a": math.inf, "b": 0.25})
    lines = [line for line in format_plan(plan) if "smallest paired difference" in line]
    assert [line.split("): ")[1] for line in lines] == ["a none, it has too few queries; b 0.250"]


@pytest.mark.parametrize("width", [60, 80])
def test_controls_are_listed_by_their_decodings_and_no_line_is_wider_than_the_terminal(
    mapping: Any, toy: str, width: int
) -> None:
    long = {"name": "contrast", "branches": ["no_demonstrations", "no_image"], "weights": [1.5, -0.25, -0.25]}
    config = mapping(model=toy, controls="default", grid={"decoding": ["greedy", "vcd", "icd", long]})
    lines = list(format_plan(planned(config), width))
    assert max(map(len, lines)) <= width
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert text.count("mask_only") == 3
    assert "of each of them: " in text
    assert text.partition("of each of them: ")[2].startswith("more_demonstrations")
    assert "self_consistency(samples=3)" in text  # as many as the contrast of three has branches
    own = [line for line in lines if line.startswith(("greedy ", "vcd ", "icd "))]
    assert len({len(line) for line in own}) == 1  # the branches in one column
    assert not any("mask_only(" in line for line in lines)


def test_queries_without_an_image_among_others_are_counted(mapping: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"image": None if i == 3 else "a.png", "question": "?", "answer": "a"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {name: name for name in rows[0]}
    task = {"name": "hub", "path": str(tmp_path / "rows.jsonl"), "columns": columns, "pool_fraction": 0}
    config = mapping(task=task, model={"name": "fake-uniform"}, shots=0)
    assert "1 of 8 queries have no image, for example 'test-000003'" in " ".join(planned(config).notes)
    del columns["image"]
    assert "no image" not in " ".join(planned(mapping(task=task, model={"name": "fake-uniform"}, shots=0)).notes)


def test_one_arm_is_counted_in_the_singular(mapping: Any, shapes: str) -> None:
    config = mapping(shots=0, task={"name": shapes, "queries": 1})
    assert "".join(format_plan(planned(config))).startswith("1 arm   1 cell   1 sample")


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"shots": [0, 1], "order": ["reversed", "random"]}, "orders reversed, random are identical in all 6 that"),
        ({"shots": [0, 2], "order": ["reversed", "random"]}, ""),
        ({"shots": [0], "retriever": ["random", "balanced"]}, ""),
        ({"transforms": [[], ["captions"]]}, ""),
        ({"shots": [0, 2], "transforms": [[], ["answers"]]}, "transforms none, answers with 0 shots are identical in"),
        ({"shots": [0], "transforms": [[], ["answers"]]}, "transforms none, answers are identical in"),
    ],
)
def test_values_of_an_axis_under_which_the_prompts_of_the_data_are_equal_are_named(
    axes: dict[str, Any], sentence: str, mapping: Any
) -> None:
    equal = [note for note in planned(mapping(grid=axes)).notes if "are identical" in note]
    assert len(equal) == bool(sentence), equal
    assert sentence in "".join(equal)


def test_a_nested_order_that_costs_nothing_is_named_with_what_it_saves(mapping: Any, toy: str) -> None:
    def notes(**changes: Any) -> list[str]:
        config = {"model": toy, "shots": None, "retriever": "random", "grid": {"shots": [2, 4]}, **changes}
        return [note for note in planned(mapping(**config)).notes if "prompt with fewer" in note]

    (note,) = notes()
    assert note.startswith("demonstrations of random have no rank, so their order has no meaning.")
    share = int(note.partition("about ")[2].partition("%")[0])
    assert 20 <= share <= 33, "2 of the 6 demonstrations of a query, less for its question"
    (used,) = notes(order="auto", grid={"shots": [0, 2, 4]})
    assert used.startswith("with random, a prompt with more shots continues the prompt with fewer")
    similar = {"name": "knn", "embedder": "pixels"}
    assert not notes(order="auto", retriever=similar), "the nearest is last"
    assert notes(order="as_retrieved", retriever=similar)
    assert not notes(grid={"shots": [4]})
    assert not notes(retriever="stratified"), "its sets are not nested"
    assert not notes(model="fake-copy"), "nothing is prefilled"
    (both,) = notes(grid={"shots": [2, 4], "retriever": ["random", "balanced"]})
    assert both.startswith("demonstrations of random, balanced have no rank")
