"""Branch prompts and their failures, without a model."""

from collections.abc import Sequence

from decoding.arms.arm import parse_arm
from decoding.engine.preparation import prepare_requests
from decoding.engine.requests import DecodingRequest, Failure, PreparedRequest
from icl.types import Prompt
from tests.decoding.prompts import prompt


def no_generation(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    raise AssertionError("nothing is generated")


def test_a_strategy_of_option_scores_is_refused_for_text_only() -> None:
    arm = parse_arm("pmi")
    requests = [DecodingRequest(prompt(1), arm, ("a", "b"), mode) for mode in ("generate", "options")]  # type: ignore[arg-type]
    refused, prepared = prepare_requests(requests, no_generation, lambda one: 1)
    assert isinstance(refused, Failure)
    assert refused.reason == "pmi scores options and cannot generate text. Use answer_mode: options."
    assert isinstance(prepared, PreparedRequest)
    assert prepared.branches == arm.strategy.branches(prompt(1))


def test_each_distinct_prompt_is_counted_once() -> None:
    counted: list[Prompt] = []

    def count_tokens(one: Prompt) -> int:
        counted.append(one)
        return len(counted)

    requests = [DecodingRequest(prompt(1), parse_arm(name)) for name in ("greedy", "cad", "ced")]
    greedy, cad, ced = prepare_requests(requests, no_generation, count_tokens)
    assert len(counted) == 2
    assert isinstance(greedy, PreparedRequest)
    assert isinstance(cad, PreparedRequest)
    assert isinstance(ced, PreparedRequest)
    assert (greedy.tokens, cad.tokens, ced.tokens) == ((1,), (1, 2), (1, 2))
