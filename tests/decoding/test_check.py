from decoding.arm import parse_arm
from decoding.check import unmet
from decoding.strategies.greedy import GreedyDecoding
from decoding.strategies.vcd import VCD

ANSWERS = frozenset({"generate"})
LOGITS = frozenset({"logits", "score"})


def test_a_model_with_logits_runs_every_strategy_so_far() -> None:
    for node in ("greedy", "sampling", "vcd", {"name": "mask_only", "of": "vcd"}):
        assert unmet(parse_arm(node), LOGITS) is None
        assert unmet(parse_arm(node), LOGITS, score="options") is None


def test_a_model_that_only_answers_runs_greedy() -> None:
    assert unmet(GreedyDecoding(), ANSWERS) is None


def test_what_is_missing_is_told_with_what_would_run() -> None:
    told = unmet(VCD(), ANSWERS)
    assert told is not None
    assert "'vcd' needs next-token logits" in told
    assert "it gives generate" in told
    assert "'greedy'" in told
    for arm, score in ((parse_arm("sampling"), "generate"), (parse_arm("greedy"), "options")):
        assert "next-token logits" in (unmet(arm, ANSWERS, score) or "")


def test_a_need_that_no_ability_covers_is_unmet() -> None:
    class Hooked(VCD):
        needs = frozenset({"logits", "attention"})

    assert "attention maps" in (unmet(Hooked(), LOGITS) or "")
    assert unmet(Hooked(), LOGITS | {"attention"}) is None
