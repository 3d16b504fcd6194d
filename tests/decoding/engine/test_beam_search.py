"""Beam search compared with an exhaustive search and with greedy decoding, alone and among other arms."""

from collections.abc import Iterator

import pytest
import torch

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.arms.requirements import unsupported_reason
from decoding.base import InitialStepState
from decoding.engine.engine import run_requests
from decoding.engine.hypotheses import AnswerBeams, BeamSearch, DecodingGroup, Hypothesis, LoopStep, StepBatch
from decoding.engine.requests import DecodingRequest, Failure
from decoding.engine.token_choice import choose
from decoding.formulas.sampling import Beam
from icl.errors import ConfigError
from icl.memory import StepIndices
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.test_engine_all import TOKENS, branches_and_note, step
from tests.decoding.test_strategies import made
from tests.decoding.toy import STOP, Toy


def tokens_of(answers: list[Generation | Failure]) -> list[tuple[int, ...]]:
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer.tokens for answer in answers if isinstance(answer, Generation)]


@pytest.mark.parametrize("name", TOKENS)
def test_one_beam_is_greedy_decoding(name: str) -> None:
    model, strategy = Toy(stop_bias=1.0), made(name)
    requests = [DecodingRequest(prompt(i, shots=i % 3), Arm(strategy, Beam(1)), max_new_tokens=5) for i in range(4)]
    greedy = [DecodingRequest(request.prompt, Arm(strategy), max_new_tokens=5) for request in requests]
    assert tokens_of(run_requests(model, requests)) == tokens_of(run_requests(model, greedy))


def every(model: Toy, arm: Arm, question: Prompt, limit: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """All answers of at most so many tokens, with their final scores."""
    assert isinstance(arm.sampler, Beam)
    (branches, note), power = branches_and_note(model, arm.strategy, question), arm.sampler.length_penalty
    open_ = [(0.0, list[int]())]
    for length in range(1, limit + 1):
        longer = []
        for total, tokens in open_:
            state = InitialStepState(question.key, note=note)
            logprobs = step(model, arm.strategy, branches, tokens, state).log_softmax(-1)[0]
            for token, value in enumerate(logprobs.tolist()):
                if value == -torch.inf:
                    continue
                if token == STOP or length == limit:
                    yield (total + value) / length**power, tuple(tokens + [token] * (token != STOP))
                if token != STOP:
                    longer.append((total + value, [*tokens, token]))
        open_ = longer


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("node", ["beam", {"name": "vcd", "beta": 0.05, "alpha": 2.0}, "adacad", "dola"], ids=str)
def test_many_beams_find_the_best_answer(node: object, penalty: float) -> None:
    """4 tokens, answers of up to 3: 64 beams contain every hypothesis."""
    model, arm = Toy(vocabulary=4, stop_bias=0.5), Arm(parse_arm(node).strategy, Beam(64, penalty))
    questions = [prompt(i, shots=i % 2) for i in range(5)]
    answers = tokens_of(run_requests(model, [DecodingRequest(p, arm, max_new_tokens=3) for p in questions]))
    assert answers == [max(every(model, arm, p, 3), key=lambda one: one[0])[1] for p in questions]


def test_more_beams_find_better_answers_and_length_is_penalized() -> None:
    model, question = Toy(vocabulary=6, stop_bias=0.5), [prompt(i) for i in range(12)]
    arms = [parse_arm("greedy"), *(Arm(made("beam"), Beam(5, power)) for power in (-2.0, 1.0, 4.0))]
    greedy, short, usual, long = (
        tokens_of(run_requests(model, [DecodingRequest(p, a, max_new_tokens=6) for p in question])) for a in arms
    )
    assert greedy != usual
    assert sum(map(len, short)) < sum(map(len, usual)) < sum(map(len, long))


def test_beams_in_a_batch_with_other_arms_answer_as_alone() -> None:
    nodes = [
        "greedy",
        "vcd",
        {"name": "vcd", "sampling": {"beams": 3}},
        "beam",
        {"name": "nbce", "sampling": {"beams": 2}},
    ]
    model, arms = Toy(stop_bias=0.5), [parse_arm(node) for node in nodes]
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=5) for i in range(4) for arm in arms]
    together = run_requests(model, requests)
    assert together == [run_requests(model, [request])[0] for request in requests]
    assert all(isinstance(answer, Generation) for answer in together)


def test_a_beam_carries_its_own_trace_and_counts_its_cost() -> None:
    model, arm = Toy(stop_bias=-9.0), parse_arm({"name": "vcd", "beta": 0, "sampling": {"beams": 3}})
    (answer,) = run_requests(model, [DecodingRequest(prompt(1), arm, max_new_tokens=4, top_logprobs=2)])
    assert isinstance(answer, Generation)
    assert answer.usage.forwards == 4 * 2 * 3
    branches, note = branches_and_note(model, arm.strategy, prompt(1))
    state = InitialStepState(note=note)
    expected = [
        float(step(model, arm.strategy, branches, list(answer.tokens[:i]), state).log_softmax(-1)[0, token])
        for i, token in enumerate(answer.tokens)
    ]
    assert answer.trace["logprob"] == pytest.approx(expected, abs=1e-4)
    assert answer.steps


@pytest.mark.parametrize("processors", [[], [{"name": "repetition_penalty", "penalty": 1.2}]], ids=["", "processed"])
def test_a_faulty_beam_fails_its_own_answer(processors: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Toy(stop_bias=-9.0)
    monkeypatch.setattr(model, "token_ids", lambda prompt: [1], raising=False)
    model.poison[prompt(1).digest, 1] = 3, float("nan")
    arm = parse_arm({"name": "beam", "logits_processors": processors})
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=4) for i in (1, 2)]
    bad, good = run_requests(model, requests)
    assert isinstance(bad, Failure)
    assert "step 1, branch 0: the score of token 3 is nan" in bad.reason
    assert isinstance(good, Generation)


def test_beams_are_a_key_of_sampling() -> None:
    arm = parse_arm({"name": "vcd", "sampling": {"beams": 3, "length_penalty": 0.5}})
    assert arm.sampler == Beam(3, 0.5)
    assert arm.label == "vcd, beams=3, length_penalty=0.5"
    assert arm.digest != parse_arm("vcd").digest
    assert parse_arm({"name": "vcd", "sampling": {"beams": 1}}).digest == parse_arm("vcd").digest
    with pytest.raises(ConfigError, match="'beam' has no parameter 'temperature'"):
        parse_arm({"name": "vcd", "sampling": {"beams": 3, "temperature": 0.5}})
    assert "beam(beams=3, length_penalty=0.5)" in [control.label for control in default_controls(arm)]


def test_a_model_without_sessions_has_no_beam_search() -> None:
    reason = unsupported_reason(parse_arm({"name": "vcd", "sampling": {"beams": 3}}), {"generate", "strategies"})
    assert reason is not None
    assert "needs rows that beams can take over from one another" in reason
    ranked = unsupported_reason(
        parse_arm({"name": "vcd", "sampling": {"beams": 3}}), {"generate", "strategies"}, "options"
    )
    assert ranked is None  # nothing is searched for there
    assert unsupported_reason(parse_arm("beam"), {"logits"}) is None


def test_option_scoring_ignores_beams() -> None:
    options = ("w1", "w2 w3")
    requests = [
        DecodingRequest(prompt(1), parse_arm(node), options, "options")
        for node in ("vcd", {"name": "vcd", "sampling": {"beams": 3}})
    ]
    plain, searched = run_requests(Toy(), requests)
    assert plain == searched


def test_the_search_ends_when_no_running_beam_can_improve() -> None:
    def is_over(score: float, steps: int, power: float = 0.0, scores: tuple[float, ...] = (-1.0, -2.0)) -> bool:
        beams = AnswerBeams(Hypothesis([0], 8), finished=[(one, Hypothesis([0], 8)) for one in scores])
        beams.running = [(score, Hypothesis([0], 8, steps=steps))]
        return BeamSearch(Beam(2, length_penalty=power), []).is_over(beams)

    assert [is_over(score, 1) for score in (-1.5, -2.0, -3.0)] == [False, True, True]
    assert not is_over(-9.0, 1, scores=(-1.0,))
    assert [is_over(-5.0, 4, power) for power in (0.0, 1.0)] == [True, False]  # -5, and -1.25 a token


def plain_beam_search(model: Toy, arm: Arm, question: Prompt, limit: int) -> tuple[int, ...]:
    """Beam search as transformers describes it, one hypothesis at a time and without a cache."""
    assert isinstance(arm.sampler, Beam)
    (branches, note), size = branches_and_note(model, arm.strategy, question), arm.sampler.beams
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        candidates = []
        for total, tokens in running:
            state = InitialStepState(question.key, note=note)
            logprobs = step(model, arm.strategy, branches, tokens, state).log_softmax(-1)[0]
            candidates += [(total + value, tokens, token) for token, value in enumerate(logprobs.tolist())]
        best = sorted((one for one in candidates if one[0] > -torch.inf), key=lambda one: -one[0])[: 2 * size]
        running = []
        for rank, (total, tokens, token) in enumerate(best):
            text = tokens if token == STOP else [*tokens, token]
            if token == STOP or length == limit:
                if rank < size:
                    finished.append((total / length**arm.sampler.length_penalty, text))
            elif len(running) < size:
                running.append((total, text))
        finished = sorted(finished, key=lambda one: -one[0])[:size]
        bound = max((total / length**arm.sampler.length_penalty for total, _ in running), default=-torch.inf)
        if not running or (len(finished) == size and bound <= finished[-1][0]):
            break
    return tuple(finished[0][1])


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("beams", [2, 3])
@pytest.mark.parametrize("node", ["beam", {"name": "vcd", "beta": 0.02}], ids=str)
def test_a_few_beams_answer_as_a_plain_beam_search(node: object, beams: int, penalty: float) -> None:
    model, arm = Toy(vocabulary=12, stop_bias=1.0), Arm(parse_arm(node).strategy, Beam(beams, penalty))
    questions = [prompt(i, shots=i % 2) for i in range(12)]
    answers = run_requests(model, [DecodingRequest(one, arm, max_new_tokens=5) for one in questions])
    expected = [plain_beam_search(model, arm, one, 5) for one in questions]
    assert tokens_of(answers) == expected
    greedy = run_requests(model, [DecodingRequest(one, Arm(arm.strategy), max_new_tokens=5) for one in questions])
    assert tokens_of(greedy) != expected  # the beams matter


def extend(group: DecodingGroup, logits: torch.Tensor, number: int = 0, trace: bool = False) -> None:
    """One step of a group of beams."""
    assert group.search is not None
    step = LoopStep(number, StepIndices(logits.device), frozenset({STOP}), trace)
    (choice,) = choose([StepBatch(group, group.search.hypotheses, logits)], step)
    choice.record()


def test_a_running_answer_has_at_most_as_many_beams_as_the_sampler() -> None:
    """Of four candidates that continue, two run."""
    search = BeamSearch(Beam(2), [Hypothesis([0], 8)])
    group = DecodingGroup(parse_arm("beam").strategy, Beam(2), search.hypotheses, search=search)
    logits = torch.tensor([[[-9.0, 3.0, 2.0, 1.0, 0.0]]])
    extend(group, logits)
    assert [hypothesis.tokens for hypothesis in search.hypotheses] == [[1], [2]]


def test_a_beam_ends_by_a_stop_token_and_by_a_stop_string() -> None:
    search = BeamSearch(Beam(2), [Hypothesis([0], 8)])
    group = DecodingGroup(parse_arm("beam").strategy, Beam(2), search.hypotheses, search=search)
    group.stop_criterion = lambda tokens, scores: tokens[:, -1] == 2  # type: ignore[assignment, misc]
    logits = torch.tensor([[[3.0, 1.0, 2.0, 0.0, -1.0]]])  # the stop token, then a token that completes a stop string
    extend(group, logits)
    (beams,) = search.answers
    assert [(one.tokens, one.finish) for _, one in beams.finished] == [([], "stop"), ([2], "stop")]


def test_a_beam_counts_the_steps_that_left_several_tokens() -> None:
    search = BeamSearch(Beam(1), [Hypothesis([0], 8)])
    group = DecodingGroup(parse_arm("beam").strategy, Beam(1), search.hypotheses, search=search)
    counts = []
    for step_number, plausible in enumerate((2, 1, 3)):
        logits = torch.full((1, 1, 5), -torch.inf)
        logits[..., 1 : 1 + plausible] = torch.arange(plausible, 0, -1.0)
        extend(group, logits, step_number, trace=True)
        counts.append(search.hypotheses[0].undecided_steps)
    assert counts == [1, 1, 2]
