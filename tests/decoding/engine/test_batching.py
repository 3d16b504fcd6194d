"""Batches within a token budget."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from decoding.arms.arm import parse_arm
from decoding.engine.batching import BATCH_TOKENS, ROWS_PER_PREFILL, batches, token_budget
from decoding.engine.requests import DecodingRequest, PreparedRequest
from icl.memory.batch_limit import BatchLimit
from tests.decoding.prompts import prompt


def model(max_batch_tokens: int | None = None, budget: int | None = None) -> Any:
    return SimpleNamespace(max_batch_tokens=max_batch_tokens, token_budget=budget)


def prepared(number: int, tokens: int, new_tokens: int = 2, node: Any = "greedy", branches: int = 1) -> PreparedRequest:
    request = DecodingRequest(prompt(number), parse_arm(node), max_new_tokens=new_tokens)
    digests = tuple(f"{number}/{branch}" for branch in range(branches))
    return PreparedRequest(request, (prompt(number),) * branches, digests, (tokens,) * branches)


def sizes(requests: Sequence[PreparedRequest], budget: int) -> list[list[int]]:
    return [indices for indices, _ in batches(requests, BatchLimit(budget))]


def test_contexts_share_a_batch_up_to_the_budget_itself() -> None:
    three = [prepared(i, tokens=8) for i in range(3)]  # rows of 10 tokens with the answer
    assert sizes(three, 30) == [[0, 1, 2]]
    assert sizes(three, 29) == [[0, 1], [2]]
    assert sizes(three, 1) == [[0], [1], [2]]  # a context is never split


def test_long_contexts_come_first_and_decide_the_length_of_all_rows() -> None:
    mixed = [prepared(0, tokens=3), prepared(1, tokens=18), prepared(2, tokens=8)]
    assert sizes(mixed, 60) == [[1, 2, 0]]
    assert sizes(mixed, 59) == [[1, 2], [0]]


def test_a_context_counts_a_row_for_each_branch_and_beam() -> None:
    contrast = [prepared(i, tokens=8, node="vcd", branches=2) for i in range(2)]
    assert [sizes(contrast, budget) for budget in (40, 39)] == [[[0, 1]], [[0], [1]]]
    beams = [prepared(i, tokens=8, node={"name": "greedy", "sampling": {"beams": 3}}) for i in range(2)]
    assert [sizes(beams, budget) for budget in (60, 59)] == [[[0, 1]], [[0], [1]]]


def test_the_arms_of_a_context_stay_together() -> None:
    requests = [prepared(0, 8), prepared(1, 8), prepared(0, 8, node="cad"), prepared(1, 8, node="cad")]
    assert sizes(requests, 1) == [[0, 2], [1, 3]]


def test_the_budget_is_the_models_own_or_a_multiple_of_its_prefill_or_the_default() -> None:
    assert token_budget(model(7, 100)) == 7
    assert token_budget(model(None, 100)) == 100 * ROWS_PER_PREFILL
    assert token_budget(model()) == BATCH_TOKENS


def test_a_row_counts_what_it_needs_besides_its_tokens() -> None:
    three = [prepared(i, tokens=8) for i in range(3)]
    assert list(batches(three, BatchLimit(45), row_overhead=5)) == [([0, 1, 2], 45)]
    assert list(batches(three, BatchLimit(44), row_overhead=5)) == [([0, 1], 30), ([2], 15)]


def test_batches_follow_a_limit_that_changes_between_them() -> None:
    limit = BatchLimit(40)
    iterator = batches([prepared(i, tokens=8) for i in range(10)], limit)
    assert next(iterator) == ([0, 1, 2, 3], 40)
    limit.record_failure(40)
    assert list(iterator) == [([4, 5], 20), ([6, 7], 20), ([8, 9], 20)]


def test_a_context_of_a_size_that_failed_is_split_into_its_arms() -> None:
    arms = [prepared(0, 8, node=node) for node in ("greedy", "cad", "vcd")]
    limit = BatchLimit(100)
    assert list(batches(arms, limit)) == [([0, 1, 2], 30)]
    limit.record_failure(30)
    assert [size for _, size in batches(arms, limit)] == [10, 20]
