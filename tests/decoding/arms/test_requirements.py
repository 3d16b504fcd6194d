from typing import Any

import pytest

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import measure_weights, probe_branches, probe_prompt
from decoding.arms.requirements import degenerate_contrast, unsupported_reason
from decoding.strategies.greedy import GreedyDecoding
from decoding.strategies.vcd import VCD
from decoding.traits import Traits
from icl.errors import ConfigError

ANSWERS = frozenset({"generate"})
LOGITS = frozenset({"logits", "score"})


def test_a_model_with_logits_runs_every_strategy_so_far() -> None:
    for node in ("greedy", "sampling", "vcd", {"name": "mask_only", "of": "vcd"}):
        assert unsupported_reason(parse_arm(node), LOGITS) is None
        assert unsupported_reason(parse_arm(node), LOGITS, score="options") is None


def test_a_model_that_only_answers_runs_greedy() -> None:
    assert unsupported_reason(GreedyDecoding(), ANSWERS) is None


def test_what_is_missing_is_told_with_what_would_run() -> None:
    told = unsupported_reason(VCD(), ANSWERS)
    assert told is not None
    assert "'vcd' needs next-token logits" in told
    assert "it gives generate" in told
    assert "'greedy'" in told
    for arm, score in ((parse_arm("sampling"), "generate"), (parse_arm("greedy"), "options")):
        assert "next-token logits" in (unsupported_reason(arm, ANSWERS, score) or "")


def test_a_need_that_no_ability_covers_is_unmet() -> None:
    class Hooked(VCD):
        traits = Traits(needs=frozenset({"logits", "attention"}))

    assert "attention maps" in (unsupported_reason(Hooked(), LOGITS) or "")
    assert unsupported_reason(Hooked(), LOGITS | {"attention"}) is None


def test_a_contrast_of_equal_branches_is_told_what_it_has_become() -> None:
    def told(**node: object) -> str:
        return degenerate_contrast(parse_arm(node).strategy) or ""

    assert "has become mask_only" in told(name="icd", disturbance="")
    assert "has become mask_only" in told(name="contrast", branches=["none"])
    assert "temperature 0.25: it has become temperature_matched" in told(
        name="contrast", branches=["none"], weights=[1, 3]
    )
    assert "sum to 0" in told(name="contrast", branches=["none"], weights=[1, -1])
    for name in ("greedy", "vcd", "ced", "nbce", "code"):
        assert told(name=name) == ""
    bare = probe_prompt(shots=0)
    assert "has become mask_only" in (degenerate_contrast(parse_arm("cad").strategy, bare) or "")
    assert degenerate_contrast(parse_arm("vcd").strategy, bare) is None


@pytest.mark.parametrize("branches", [(), None, ("text",), "text"])
def test_what_is_no_prompt_is_told_with_the_strategy_s_name(branches: Any) -> None:
    class Wrong(VCD):
        def branches(self, prompt: Any, note: Any = None) -> Any:
            return branches

    with pytest.raises(ConfigError, match=r"Wrong\.branches\(\) gave no tuple of prompts"):
        probe_branches(Wrong())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda scores: None, "NoneType"),
        (lambda scores: scores[:, :-1], r"float32 \[1, 63\]"),
        (lambda scores: scores.long(), r"int64 \[1, 64\]"),
    ],
)
def test_what_is_no_score_of_each_token_is_told_with_the_strategy_s_name(change: Any, told: str) -> None:
    class Wrong(VCD):
        def combine(self, logits: Any, step: int) -> Any:
            return change(logits[0])

    with pytest.raises(ConfigError, match=rf"Wrong\.combine\(\) gave .*{told} for logits of"):
        measure_weights(Wrong())
