"""Studies whose strategies choose tokens in one part of a reasoning output."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.feasibility import check_requirements
from experiments.grid.grid import expand
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run
from experiments.running.run import run
from experiments.store.run_state import equivalence_digest
from icl.errors import PlanError
from icl.text.reasoning_blocks import ReasoningMarkers
from tests.experiments.test_intervene_axis import MINUS, TINY

CAD = {"name": "cad", "alpha": 4.0}


def keys(**more: Any) -> dict[str, Any]:
    return {"name": "t", "task": {**MINUS, "queries": 4}, "model": TINY, "shots": 3, "max_new_tokens": 4, **more}


def digests(**more: Any) -> list[str]:
    return [cell.digest for cell in expand(load_config(keys(max_thinking_tokens=5, **more))).cells]


def test_an_arm_that_acts_in_one_part_is_another_cell() -> None:
    plain = digests(decoding=CAD)
    parts = digests(decoding=CAD, grid={"decoding.acts_in": ["both", "think", "answer"]})
    assert parts[0] == plain[0]
    assert len(set(parts)) == 3
    assert digests(decoding={"name": "greedy", "acts_in": "answer"}) == digests(decoding="greedy")


def test_a_neutral_strategy_in_one_part_has_the_answers_of_greedy_decoding() -> None:
    nodes = [{"name": "cad", "alpha": 0.0, "acts_in": "think"}, "greedy", {**CAD, "acts_in": "think"}]
    cells = expand(load_config(keys(max_thinking_tokens=5, grid={"decoding": nodes}))).cells
    neutral, greedy, contrast = (equivalence_digest({**cell.config, "model_digest": ""}) for cell in cells)
    assert neutral == greedy != contrast


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"acts_in: think needs to know.*Set max_thinking_tokens \(and answer_mode: generate\)"),
        ({"max_thinking_tokens": 5, "answer_mode": "options"}, "answer_mode: generate"),
        ({"max_thinking_tokens": 5, "model": "fake-copy"}, r"change within an output \(acts_in\).*cannot"),
        ({"max_thinking_tokens": 5, "decoding": {**CAD, "acts_in": "think", "sampling": {"beams": 2}}}, "beams end at"),
    ],
)
def test_the_plan_refuses_it_where_no_output_has_such_parts(more: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_requirements(expand(load_config(keys(**{"decoding": {**CAD, "acts_in": "think"}, **more}))))


def test_arms_of_a_study_act_in_their_own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """<a> ends every prompt. As the opening marker of reasoning, it lets the tiny model think."""
    monkeypatch.setattr("icl.text.reasoning_blocks.REASONING_MARKERS", (ReasoningMarkers("<a>", "<q>"),))
    arms = ["greedy", *({**CAD, "acts_in": part, "label": part} for part in ("think", "answer", "both"))]
    run(load_config(keys(max_thinking_tokens=1, grid={"decoding": arms})), tmp_path)
    frame = load_run(tmp_path / "t").samples()
    assert not frame["failed"].notna().any()
    texts = {name: list(own.sort_values("query")["output"]) for name, own in frame.groupby("decoding")}
    reasoning = {name: [text.split("<q>")[0] for text in own] for name, own in texts.items()}
    assert reasoning["answer"] == reasoning["greedy"]
    assert reasoning["think"] == reasoning["both"] != reasoning["greedy"]
    assert len(set(map(tuple, texts.values()))) == 4


def test_a_report_says_that_outputs_have_no_reasoning_for_a_strategy_to_act_in(tmp_path: Path) -> None:
    run(load_config(keys(max_thinking_tokens=2, decoding={**CAD, "acts_in": "answer", "label": "late"})), tmp_path)
    notes = view_run(load_run(tmp_path / "t")).answer_notes
    expected = "4 of 4 outputs under late have no reasoning block, so it cannot change their first token"
    assert [one for one in notes if "reasoning" in one] == [expected]
