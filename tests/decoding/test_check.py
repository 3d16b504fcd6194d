from decoding.arm import parse_arm
from decoding.check import become, unmet
from decoding.probe import probe_prompt
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


def test_a_contrast_of_equal_branches_is_told_what_it_has_become() -> None:
    def told(**node: object) -> str:
        return become(parse_arm(node).strategy) or ""

    assert "has become mask_only" in told(name="icd", disturbance="")
    assert "has become mask_only" in told(name="contrast", branches=["none"])
    assert "temperature 0.25: it has become temperature_matched" in told(
        name="contrast", branches=["none"], weights=[1, 3]
    )
    assert "sum to 0" in told(name="contrast", branches=["none"], weights=[1, -1])
    for name in ("greedy", "vcd", "ced", "nbce", "code"):
        assert told(name=name) == ""
    bare = probe_prompt(shots=0)
    assert "has become mask_only" in (become(parse_arm("cad").strategy, bare) or "")
    assert become(parse_arm("vcd").strategy, bare) is None
