"""The upper bound by the model's own probability of the gold, of single demonstrations and of sets."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from icl.errors import PlanError
from icl.types import Prompt
from retrievers.base import EXCLUDE_LEAKS, Resources
from retrievers.likelihood_oracle import LikelihoodOracle
from retrievers.machinery.conformance import check_retriever, sample_pool, sample_queries

MODEL: Any = SimpleNamespace(abilities=frozenset({"logits"}))
RESOURCES = Resources(model=MODEL)


def worth(prompt: Prompt) -> float:
    """A logit of the gold: the nearest demonstrations count more, and the same answer twice counts nothing."""
    answers = [str(turn.parts[0].content) for turn in prompt.turns if turn.role == "assistant"][::-1]
    return sum(len(answer) / (i + 1) for i, answer in enumerate(answers) if answer not in answers[:i])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def probabilities(model: Any, prompts: Sequence[Prompt], options: Sequence[str]) -> Any:
        gold = np.array([1 / (1 + np.exp(-worth(prompt))) for prompt in prompts])
        rest = (1 - gold) / (len(options) - 1)
        return np.array([[g if option == "red" else r for option in options] for g, r in zip(gold, rest, strict=True)])

    monkeypatch.setattr("retrievers.likelihood_oracle.probabilities", probabilities)


@pytest.mark.parametrize("sets", ["single", "greedy"])
def test_it_keeps_the_promises_of_a_retriever(sets: Any) -> None:
    check_retriever(LikelihoodOracle(sets), resources=RESOURCES, shots=(0, 1, 2, 4))


def test_single_demonstrations_are_ranked_alone_and_greedy_ones_after_those_before() -> None:
    pool = sample_pool()
    query: Any = sample_queries()[0]
    is_allowed = EXCLUDE_LEAKS.allowed_for(query.query)

    def answers(sets: Any) -> list[str]:
        (demos,) = LikelihoodOracle(sets).fit(pool, RESOURCES).retrieve([query], 3)
        assert all(is_allowed(pool.by_id[demo.id]) for demo in demos)
        return [pool.by_id[demo.id].answer for demo in demos]

    assert answers("single") == ["green", "green", "green"]  # the longest answer, alone
    assert answers("greedy") == ["green", "blue", "red"]  # another answer adds to it, a third adds less


def test_queries_without_gold_and_models_without_logits_are_errors() -> None:
    pool, query = sample_pool(), sample_queries()[0]
    with pytest.raises(PlanError, match="needs the gold answers"):
        LikelihoodOracle().fit(pool, RESOURCES).retrieve([query.query], 1)
    with pytest.raises(PlanError, match="needs a model with logits"):
        LikelihoodOracle().fit(pool, Resources())


def test_a_greedy_set_is_scored_with_its_first_demonstration_next_to_the_query() -> None:
    query: Any = sample_queries()[0]
    (demos,) = LikelihoodOracle("greedy").fit(sample_pool(), RESOURCES).retrieve([query], 3)
    logits = [5, 5 + 4 / 2, 5 + 4 / 2 + 3 / 3]  # green; blue, green; red, blue, green
    assert [demo.score for demo in demos] == pytest.approx([1 / (1 + np.exp(-one)) for one in logits], abs=2e-6)
