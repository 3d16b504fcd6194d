import re
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.contexts.size_estimate import sample_queries
from experiments.grid.grid import expand
from experiments.planning import plan as planning
from experiments.planning.plan import Plan, make_plan
from experiments.planning.plan_text import format_plan
from experiments.running.run import run
from experiments.store.store import Store


def planned(config: Any) -> Plan:
    return make_plan(expand(load_config(config)))


def test_the_plan_foretells_the_prompts_that_the_engine_opens(mapping: Any, toy: str, tmp_path: Any) -> None:
    decodings = ["greedy", "vcd", {"name": "sign_flip", "of": "vcd"}, "more_demonstrations", "self_consistency"]
    axes = {"shots": [0, 2], "retriever": ["random", "balanced"], "decoding": decodings}
    config = mapping(model=toy, grid=axes, seeds=[0, 1])
    foretold = planned(config)
    run(load_config(config), tmp_path)
    counters = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]  # type: ignore[index]
    assert foretold.work.prompts == counters["prompts_prefilled"]
    assert foretold.work.prompts_alone == counters["branch_prompts"]
    assert foretold.samples == 6 * len(foretold.grid.cells)


def test_the_plan_is_an_upper_bound_where_queries_share_prompts(mapping: Any, toy: str, tmp_path: Any) -> None:
    """A shuffled negative is another query's own negative, and without images queries may be equal."""
    config = mapping(model=toy, shots=0, seeds=[0, 1], controls="default", decoding="vcd")
    run(load_config(config), tmp_path)
    opened = Store(tmp_path / "t").read_run()["sessions"][-1]["counters"]["prompts_prefilled"]  # type: ignore[index]
    assert opened <= planned(config).work.prompts <= 2 * opened


def test_plain_and_edited_images_are_counted_once_each(mapping: Any, toy: str) -> None:
    work = planned(mapping(model=toy, shots=0, seeds=[0, 1, 2], grid={"decoding": ["greedy", "vcd"]})).work
    assert (work.images, work.edited) == (6, 18)
    assert work.images_shown == 6 * 3 * (1 + 2)


def test_a_choice_of_queries_is_scaled_and_stated(mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = mapping(shots=0, task={**mapping()["task"], "queries": 90})
    monkeypatch.setattr(planning, "QUERIES_READ", 90)
    whole = planned(config)
    monkeypatch.setattr(planning, "QUERIES_READ", 9)
    part = planned(config)
    assert part.counted == {"shapes": (9, 90)}
    assert part.work.tokens == pytest.approx(whole.work.tokens)
    assert part.work.images == pytest.approx(whole.work.images, rel=0.1)
    assert "estimated from a random choice of queries: shapes 9 of 90" in "\n".join(format_plan(part))


def test_the_choice_is_the_same_each_time_and_in_the_order_of_the_task(mapping: Any) -> None:
    queries = expand(load_config(mapping(task={**mapping()["task"], "queries": 90}))).tasks[0].queries
    chosen = [query.id for query in sample_queries(queries, 10)]
    assert chosen == [query.id for query in sample_queries(queries, 10)] == sorted(chosen)
    assert len(set(chosen)) == 10


def test_decodings_are_told_with_branches_and_hidden_temperature(mapping: Any, toy: str) -> None:
    nodes = ["greedy", {"name": "vcd", "alpha": 2.0}]
    arms = {a.label: a for a in planned(mapping(model=toy, controls="default", grid={"decoding": nodes})).decodings}
    assert (arms["greedy"].branches, arms["greedy"].temperature, arms["greedy"].engine) == (1, 1.0, "loop")
    assert (arms["vcd(alpha=2)"].branches, arms["vcd(alpha=2)"].temperature) == (2, 1.0)
    assert [arm.branches for arm in arms.values() if arm.control] == [1, 1, 2, 2, 2, 2, 2, 1, 1]


def test_engine_and_hidden_temperature_are_columns_only_where_they_are_not_the_usual(mapping: Any, toy: str) -> None:
    usual = "\n".join(format_plan(planned(mapping(model=toy, grid={"decoding": ["greedy", "vcd"]}))))
    assert "branches" in usual
    assert "engine" not in usual
    assert "hidden" not in usual
    loud = {"name": "contrast", "branches": ["no_demonstrations"], "weights": [3.0, -1.0]}
    told = list(format_plan(planned(mapping(model=toy, decoding=loud))))
    assert [line.split() for line in told if line.startswith("decoding")] == [
        ["decoding", "branches", "hidden", "temperature"]
    ]
    assert any(line.startswith("hidden temperature: 1 / ") for line in told)
    assert any(line.startswith("engine: ") for line in format_plan(planned(mapping())))  # the fake answers requests


def test_arms_that_share_their_demonstrations_are_counted(mapping: Any) -> None:
    axes = {"retriever": ["random", "balanced"], "composer": ["chat", "interleaved"]}
    assert (planned(mapping(grid=axes)).arms, planned(mapping(grid=axes)).sharing) == (4, 4)
    assert planned(mapping(grid={"shots": [1, 2]})).sharing == 0


def test_a_large_pool_is_not_embedded_for_a_plan(mapping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "POOL_EMBEDDED", 5)
    monkeypatch.setattr("retrievers.knn.KNN.fit", lambda *_: pytest.fail("the pool was embedded"))
    told = planned(mapping(retriever="knn"))
    assert told.notes == ("counted with random demonstrations in the place of knn, whose pool is large",)


def test_the_model_is_asked_nothing_for_a_plan(mapping: Any, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "retrievers.machinery.subset_scoring.SubsetRetriever.fit", lambda *_: pytest.fail("the model was asked")
    )
    monkeypatch.setattr("prompts.orderers.model_orderer.Asking.fitted", lambda *_: pytest.fail("the model was asked"))
    told = planned(mapping(model=toy, retriever="mdl", order="demo"))
    assert told.notes == ("counted with random demonstrations in the place of mdl, which asks the model",)


def test_the_lines_say_what_a_person_asks(mapping: Any, toy: str) -> None:
    config = mapping(model=toy, seeds=[0, 1], controls="default", grid={"decoding": ["greedy", "vcd"]})
    told = "\n".join(format_plan(planned(config)))
    assert told.startswith("11 arms x 2 seeds (11 share their demonstrations)   22 cells   132 samples")
    assert "controls added: 9 decodings, with 14 branches in all\n  of vcd: mask_only, " in told
    assert "(80 % power, one pair in five differs)" in told


@pytest.mark.parametrize("width", [60, 80])
def test_controls_are_told_by_what_they_control_and_nothing_is_wider_than_the_terminal(
    mapping: Any, toy: str, width: int
) -> None:
    long = {"name": "contrast", "branches": ["no_demonstrations", "no_image"], "weights": [1.5, -0.25, -0.25]}
    config = mapping(model=toy, controls="default", grid={"decoding": ["greedy", "vcd", "icd", long]})
    found = list(format_plan(planned(config), width))
    assert max(map(len, found)) <= width
    told = re.sub(r"\s+", " ", " ".join(found))
    assert told.count("mask_only") == 3
    assert "of each of them: " in told
    assert told.partition("of each of them: ")[2].startswith("more_demonstrations")
    assert "self_consistency(samples=3)" in told  # as many as the contrast of three has branches
    own = [line for line in found if line.startswith(("greedy ", "vcd ", "icd "))]
    assert len({len(line) for line in own}) == 1  # the branches in one column
    assert not any("mask_only(" in line for line in found)
