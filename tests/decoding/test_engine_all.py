"""Every registered strategy in the engine, compared with a plain loop without batch and cache."""

import pytest
import torch

from decoding.arms.arm import Arm
from decoding.arms.greedy import GreedyDecoding
from decoding.base import InitialStepState, Note, Strategy
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.formulas.sampling import Sampler, Sampling
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.test_strategies import ALL, made
from tests.decoding.toy import STOP, Row, Toy

TOKENS = [
    name
    for name in ALL
    if not (made(name).traits.requires_options or made(name).traits.rows_per_beam or name == "other_answers")
]
"""Without `other_answers`, which needs two answers, and searches, which read more than logits."""
OPTIONS = ("w1", "w2 w5", "w3 w7 w1", "w9")


def branches_and_note(model: Toy, strategy: Strategy, question: Prompt) -> tuple[tuple[Prompt, ...], Note]:
    def generate(prompts: object, max_new_tokens: int) -> list[str]:
        return [slow(model, GreedyDecoding(), Sampling(0.0), p, max_new_tokens)[1] for p in prompts]  # type: ignore[attr-defined]

    (note,) = strategy.prepare([question], generate)
    return strategy.branches(question, note), note


def step(
    model: Toy, strategy: Strategy, branches: tuple[Prompt, ...], tokens: list[int], state: InitialStepState
) -> torch.Tensor:
    logits = torch.stack([model.logits_of([Row(branch, list(tokens))]) for branch in branches])
    if strategy.traits.reads_early_exits:
        logits = torch.cat([logits, model.exits_of([Row(branches[0], list(tokens))])])
    mask = strategy.mask(logits[0])
    scores = strategy.combine_stateful(logits, len(tokens), [state])
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def slow(model: Toy, strategy: Strategy, sampler: Sampler, question: Prompt, limit: int) -> tuple[tuple[int, ...], str]:
    branches, note = branches_and_note(model, strategy, question)
    state = InitialStepState(question.key, note=note)
    tokens: list[int] = []
    while len(tokens) < limit:
        scores = step(model, strategy, branches, tokens, state)
        token = int(sampler.choose(scores, [question.key], len(tokens)))
        if token == STOP:
            break
        tokens.append(token)
    return tuple(tokens), model.text(tokens)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        (name, sampler)
        for name in TOKENS
        for sampler in (Sampling(0.0), Sampling(1.3, top_k=7))
        if sampler.deterministic or made(name).traits.num_samples == 1  # several samples: see test_votes
    ],
)
def test_the_engine_equals_a_plain_loop(name: str, sampler: Sampler) -> None:
    model, arm = Toy(stop_bias=1.0), Arm(made(name), sampler)
    questions = [prompt(i, shots=i % 4) for i in range(6)]
    answers = run_requests(model, [DecodingRequest(p, arm, max_new_tokens=5 + i) for i, p in enumerate(questions)])
    assert all(isinstance(answer, Generation) for answer in answers), answers
    tokens = [answer.tokens for answer in answers if isinstance(answer, Generation)]
    assert tokens == [slow(model, arm.strategy, sampler, p, 5 + i)[0] for i, p in enumerate(questions)]


@pytest.mark.parametrize("name", TOKENS)
def test_options_of_one_token_score_as_tokens_of_the_loop(name: str) -> None:
    """Every token is an option, so the loop's choice is among them, and their scores are its distribution."""
    model, arm = Toy(vocabulary=12), Arm(made(name), Sampling(0.0))
    every = tuple(f"w{i}" for i in range(12))
    questions = [prompt(i, shots=i % 4) for i in range(6)]
    scored = run_requests(model, [DecodingRequest(p, arm, every, "options") for p in questions])
    generated = run_requests(model, [DecodingRequest(p, arm, max_new_tokens=1) for p in questions])
    for question, a, b in zip(questions, scored, generated, strict=True):
        assert isinstance(a, Generation), a
        assert isinstance(b, Generation), b
        assert a.text == (b.text or "w0")
        branches, note = branches_and_note(model, arm.strategy, question)
        state = InitialStepState(question.key, note=note)
        expected = step(model, arm.strategy, branches, [], state).log_softmax(-1)[0]
        scores = torch.tensor(list(a.option_scores.values()))
        alive = expected > -torch.inf
        torch.testing.assert_close(scores[alive], expected[alive], rtol=0, atol=2e-6)
        assert bool((scores[~alive] < -900).all())


@pytest.mark.parametrize("name", [name for name in TOKENS if not made(name).traits.combines_options])
def test_option_scores_equal_those_of_a_plain_loop(name: str) -> None:
    model, arm = Toy(), Arm(made(name))
    for number in (1, 2, 7):
        question = prompt(number, shots=number % 4)
        (answer,) = run_requests(model, [DecodingRequest(question, arm, OPTIONS, "options")])
        assert isinstance(answer, Generation), answer
        branches, note = branches_and_note(model, arm.strategy, question)
        for option, ids in zip(OPTIONS, model.option_ids(question, OPTIONS), strict=True):
            state, expected = InitialStepState(question.key, note=note), []
            for i, token in enumerate(ids):
                expected.append(float(step(model, arm.strategy, branches, ids[:i], state).log_softmax(-1)[0, token]))
            if all(value > -torch.inf for value in expected):
                assert answer.option_scores[option] == pytest.approx(sum(expected), abs=1e-3)
            else:
                assert answer.option_scores[option] < -900
