"""The key `max_thinking_tokens` of an experiment file reaches the model, and the samples say what was cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.feasibility import check_requirements
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.running.run import run
from icl.errors import ICLError, PlanError
from icl.models.base import Request
from icl.text.reasoning_blocks import ReasoningMarkers

Mapping = Callable[..., dict[str, Any]]


def thinks(request: Request) -> str:
    """Six words of reasoning, and the right answer."""
    return f"<think> one two three four five six </think> {request.gold[0]}"


THINKER = {"name": "fake-scripted", "answer": f"{__file__}:thinks"}


def digests(config: dict[str, Any]) -> list[str]:
    return [cell.digest for cell in expand(load_config(config)).cells]


def test_a_thinking_budget_leaves_the_tokens_of_the_answer_alone(mapping: Mapping, tmp_path: Path) -> None:
    config = mapping(model=THINKER, max_new_tokens=4, grid={"max_thinking_tokens": [None, 0, 3, 20]})
    run(load_config(config), tmp_path)
    frame = load_run(tmp_path / "t").samples().fillna({"thinking": ""})
    rows = dict(list(frame.groupby("max_thinking_tokens")))
    assert {limit: own["lenient"].mean() for limit, own in rows.items()} == {"none": 0, "0": 1, "3": 1, "20": 1}
    ends = {limit: set(zip(own["thinking"], own["finish"], strict=True)) for limit, own in rows.items()}
    assert ends == {
        "none": {("", "length")},
        "0": {("cut", "stop")},
        "3": {("cut", "stop")},
        "20": {("closed", "stop")},
    }
    used = {limit: {usage.get("thinking_tokens", 0) for usage in own["usage"]} for limit, own in rows.items()}
    assert used == {"none": {0}, "0": {0}, "3": {3}, "20": {6}}


def test_a_thinking_budget_is_part_of_a_cell_only_where_it_has_an_effect(mapping: Mapping) -> None:
    assert digests(mapping(max_thinking_tokens=None)) == digests(mapping())
    assert (
        len({*digests(mapping(max_thinking_tokens=0)), *digests(mapping(max_thinking_tokens=9)), *digests(mapping())})
        == 3
    )
    assert digests(mapping(max_thinking_tokens=9, answer_mode="options")) != digests(mapping(answer_mode="options"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": {"name": "remote", "url": "http://h/v1", "model": "m"}}, r"limit its reasoning by model\.extra"),
        (
            {"model": {"name": "hf", "path": "tiny"}, "decoding": {"name": "greedy", "sampling": {"beams": 2}}},
            "one length",
        ),
    ],
)  # fmt: skip
def test_a_model_or_a_sampler_without_a_thinking_budget_is_refused_before_the_run(
    more: dict[str, Any], message: str, mapping: Mapping
) -> None:
    grid = expand(load_config(mapping(**more, max_thinking_tokens=5)))
    with pytest.raises(PlanError, match=f"max_thinking_tokens: model .*{message}"):
        check_requirements(grid)


def test_the_plan_refuses_reasoning_before_options_on_an_endpoint(mapping: Mapping) -> None:
    more = {"model": {"name": "remote", "url": "http://h/v1", "model": "m"}}
    with pytest.raises(PlanError, match=r"max_thinking_tokens.*reasons first and scores the options after it, which"):
        check_requirements(expand(load_config(mapping(**more, max_thinking_tokens=5, answer_mode="options"))))


def test_options_after_reasoning_are_runnable_with_a_model_of_its_own_engine(mapping: Mapping) -> None:
    grid = {"max_thinking_tokens": [None, 5], "answer_mode": ["generate", "options"]}
    check_requirements(expand(load_config(mapping(model="hf", grid=grid))))


def test_a_negative_thinking_budget_is_refused_with_its_place(mapping: Mapping) -> None:
    with pytest.raises(ICLError, match="max_thinking_tokens must be an integer from 0 to 100000 or null, not -1"):
        load_config(mapping(max_thinking_tokens=-1))


def test_the_reasoning_before_a_choice_is_stored_with_the_sample(
    tmp_path: Path, mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (ReasoningMarkers("<a>", "<q>"),))
    config = mapping(model="hf", answer_mode="options", grid={"max_thinking_tokens": [None, 3]})
    assert not run(load_config(config), tmp_path).failed
    frame = load_run(tmp_path / "t").samples()
    rows = dict(list(frame.astype(object).groupby("max_thinking_tokens")))
    assert set(rows["3"]["thinking"]) <= {"open", "cut"}
    assert all(rows["3"]["reasoning"])
    assert not rows["none"]["reasoning"].fillna("").any()
    assert {len(set(own["cell"])) for own in rows.values()} == {1}
    for _, row in frame.iterrows():
        assert row["output"] in row["options"]
