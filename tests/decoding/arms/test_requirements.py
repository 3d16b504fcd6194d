from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.arms.greedy import GreedyDecoding
from decoding.arms.inspection import measure_weights, probe_branches, probe_prompt
from decoding.arms.requirements import (
    BEAMS_AND_BUDGET,
    degenerate_contrast,
    thinking_budget_refusal,
    unsupported_reason,
)
from decoding.base import Traits
from decoding.strategies.vcd import VCD
from icl.errors import ConfigError
from icl.models.vllm.model import VLLM
from tests.decoding.toy import Toy

ANSWERS = frozenset({"generate"})
LOGITS = frozenset({"logits", "score"})


def test_a_model_with_logits_runs_every_strategy() -> None:
    for node in ("greedy", "sampling", "vcd", {"name": "mask_only", "of": "vcd"}):
        assert unsupported_reason(parse_arm(node), LOGITS) is None
        assert unsupported_reason(parse_arm(node), LOGITS, score="options") is None


def test_a_model_without_logits_runs_greedy() -> None:
    assert unsupported_reason(GreedyDecoding(), ANSWERS) is None


def test_a_missing_ability_is_reported_with_what_would_run() -> None:
    reason = unsupported_reason(VCD(), ANSWERS)
    assert reason is not None
    assert "'vcd' needs next-token logits" in reason
    assert "it gives generate" in reason
    assert "'greedy'" in reason
    for arm, score in ((parse_arm("sampling"), "generate"), (parse_arm("greedy"), "options")):
        assert "next-token logits" in (unsupported_reason(arm, ANSWERS, score) or "")


def test_a_need_without_an_ability_is_reported() -> None:
    class Hooked(VCD):
        traits = Traits(needs=frozenset({"logits", "attention"}))

    assert "attention maps" in (unsupported_reason(Hooked(), LOGITS) or "")
    assert unsupported_reason(Hooked(), LOGITS | {"attention"}) is None


def test_a_contrast_of_equal_branches_is_reported_as_its_control() -> None:
    def sentence(**node: object) -> str:
        return degenerate_contrast(parse_arm(node).strategy) or ""

    assert "has become mask_only" in sentence(name="icd", disturbance="")
    assert "has become mask_only" in sentence(name="contrast", branches=["none"])
    assert "temperature 0.25: it has become temperature_matched" in sentence(
        name="contrast", branches=["none"], weights=[1, 3]
    )
    assert "sum to 0" in sentence(name="contrast", branches=["none"], weights=[1, -1])
    for name in ("greedy", "vcd", "ced", "nbce", "code"):
        assert sentence(name=name) == ""
    bare = probe_prompt(shots=0)
    assert "has become mask_only" in (degenerate_contrast(parse_arm("cad").strategy, bare) or "")
    assert degenerate_contrast(parse_arm("vcd").strategy, bare) is None


@pytest.mark.parametrize("branches", [(), None, ("text",), "text"])
def test_branches_that_are_no_prompts_are_reported_with_the_strategy(branches: Any) -> None:
    class Wrong(VCD):
        def branches(self, prompt: Any, note: Any = None) -> Any:
            return branches

    with pytest.raises(ConfigError, match=r"Wrong\.branches\(\) returned no tuple of prompts"):
        probe_branches(Wrong())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: None, "NoneType"),
        (lambda scores: scores[:, :-1], r"float32 \[1, 63\]"),
        (lambda scores: scores.long(), r"int64 \[1, 64\]"),
    ],
)
def test_scores_of_a_wrong_shape_are_reported_with_the_strategy(change: Any, message: str) -> None:
    class Wrong(VCD):
        def combine(self, logits: Any, step: int) -> Any:
            return change(logits[0])

    with pytest.raises(ConfigError, match=rf"Wrong\.combine\(\) returned .*{message} for logits of"):
        measure_weights(Wrong())


def test_a_model_that_cannot_limit_its_reasoning_is_reported_with_what_to_do_instead() -> None:
    arm, beams = parse_arm("greedy"), parse_arm({"name": "vcd", "sampling": {"beams": 3}})
    assert thinking_budget_refusal(arm, VLLM()) is None
    assert "use the model 'hf' or 'vllm'" in (thinking_budget_refusal(arm, Toy()) or "")
    assert thinking_budget_refusal(beams, VLLM()) == BEAMS_AND_BUDGET
