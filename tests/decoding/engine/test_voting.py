from collections import Counter
from dataclasses import dataclass, replace

import pytest

from decoding import Sampling
from decoding.arms.arm import Arm, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure
from decoding.engine.server_engine import arm_config
from decoding.engine.voting import _samples, _vote, unload_judges
from decoding.prompt_edits import question_text, replace_question
from decoding.strategies.best_of_n import BestOfN
from decoding.strategies.sampling import SamplingDecoding
from icl.errors import ConfigError, PlanError
from icl.streams import StreamKey
from icl.types import Generation, Usage
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy


def answer(text: str, *logprobs: float) -> Generation:
    return Generation(text, usage=Usage(10, len(logprobs), len(logprobs)), trace={"logprob": logprobs})


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (
            [answer("red", -0.1), answer("blue", -0.9), answer("Blue.", -0.8)],
            "Blue.",
        ),  # two of three; the likelier spelling
        ([answer("red", -0.4, -0.6), answer("blue", -0.3, -0.5)], "blue"),  # a tie: -.5 and -.4 a step
        ([answer("red", -0.9), answer("blue", -0.3, -0.3, -0.3, -0.3)], "blue"),  # not the sum
        ([answer("red", -0.4), answer("blue", -0.4)], "red"),  # the first
        ([answer("red"), answer("blue")], "red"),  # no trace
        (
            [
                answer("red", -0.9),
                answer("red", -0.2),
                answer("blue", -0.1),
                answer("blue", -0.3),
                answer("green", 0.0),
            ],
            "blue",
        ),
    ],
)
def test_the_most_frequent_answer_wins_and_ties_go_to_the_more_probable(answers: list[Generation], winner: str) -> None:
    voted = _vote(answers)
    assert isinstance(voted, Generation)
    assert voted.text == winner
    assert voted.usage.new_tokens == sum(answer.usage.new_tokens for answer in answers)


def test_a_failed_sample_fails_the_vote() -> None:
    assert _vote([answer("red", -0.1), Failure("broken")]) == Failure("broken")


def test_self_consistency_votes_over_samples_with_their_own_streams() -> None:
    """The samples equal those of the arm `sampling` with the documented streams."""
    model, sampled = Toy(vocabulary=5), parse_arm({"name": "sampling", "temperature": 0.7})
    arm = parse_arm({"name": "self_consistency", "samples": 3})
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=2) for i in range(8)]
    decided = 0
    for request, answer in zip(requests, run_requests(model, requests), strict=True):
        keys = [request.prompt.key, *(StreamKey(0, f"{request.prompt.key.query}/sample {i}") for i in (1, 2))]
        alone = run_requests(
            model, [replace(request, arm=sampled, prompt=replace(request.prompt, key=key)) for key in keys]
        )
        texts = [one.text for one in alone if isinstance(one, Generation)]
        assert isinstance(answer, Generation)
        count = Counter(texts)
        assert count[answer.text] == max(count.values())
        assert set(answer.trace["votes"]) == {max(count.values()) / 3}
        decided += texts[0] != answer.text
    assert decided  # the first sample does not always win


def test_a_vote_costs_its_samples_and_one_prefill() -> None:
    model, counters, reported = Toy(stop_bias=-9.0), Counters(), list[int]()
    requests = [
        DecodingRequest(prompt(i), parse_arm(name), max_new_tokens=4)
        for i in range(3)
        for name in ("self_consistency", "vcd")
    ]
    answers = run_requests(model, requests, counters, trace=False, on_result=lambda i, answer: reported.append(i))
    assert sorted(reported) == list(range(6))
    assert counters.prompts_prefilled == 3 * 2
    usages = [(a.usage.new_tokens, a.usage.forwards) for a in answers if isinstance(a, Generation)]
    assert usages == [(8, 8), (4, 8)] * 3  # as many forwards as the contrast
    assert all(not a.trace for a in answers if isinstance(a, Generation))


def test_under_option_scoring_it_is_the_reference() -> None:
    arms = [parse_arm("self_consistency"), parse_arm("greedy")]
    a, b = run_requests(
        Toy(), [DecodingRequest(prompt(1), Arm(arm.strategy, arm.sampler), ("w1", "w2 w3"), "options") for arm in arms]
    )
    assert a == b


def test_a_control_of_self_consistency_votes_too() -> None:
    (answer,) = run_requests(
        Toy(), [DecodingRequest(prompt(1), parse_arm({"name": "mask_only", "of": "self_consistency"}))]
    )
    assert isinstance(answer, Generation)
    assert set(answer.trace["votes"]) <= {0.5, 1.0}


def test_the_best_of_n_is_the_sample_after_which_the_judge_most_probably_accepts() -> None:
    """The slow version samples alone, and reads the word's log-probability after each judge prompt from a session."""
    model, sampled = Toy(vocabulary=6), parse_arm({"name": "sampling", "temperature": 0.7})
    judge = "{question} Is {answer} right?"
    arm = parse_arm({"name": "best_of_n", "samples": 3, "judge": judge, "accept": "w4"})
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=2) for i in range(8)]
    counters, chosen, majority = Counters(), [], parse_arm({"name": "self_consistency", "samples": 3})
    votes = run_requests(model, [replace(request, arm=majority) for request in requests])
    for request, answer, vote in zip(requests, run_requests(model, requests, counters), votes, strict=True):
        keys = [request.prompt.key, *(StreamKey(0, f"{request.prompt.key.query}/sample {i}") for i in (1, 2))]
        alone = run_requests(
            model, [replace(request, arm=sampled, prompt=replace(request.prompt, key=key)) for key in keys]
        )
        texts = [one.text for one in alone if isinstance(one, Generation)]
        judge_questions = [judge.format(question=question_text(request.prompt), answer=text) for text in texts]
        logits = model.open([replace_question(request.prompt, text) for text in judge_questions]).logits
        rewards = logits.log_softmax(-1)[:, 4].tolist()
        assert isinstance(answer, Generation)
        assert isinstance(vote, Generation)
        assert answer.text == texts[rewards.index(max(rewards))]
        assert answer.usage.new_tokens >= sum(one.usage.new_tokens for one in alone if isinstance(one, Generation))
        chosen.append((answer.text != texts[0], answer.text != vote.text))
    assert all(map(any, zip(*chosen, strict=True))), "neither the first sample nor the vote always wins"


@dataclass(init=False, eq=False)
class ToyJudge(Toy):
    digest = "a toy judge"


def test_another_model_judges_the_samples_of_the_model_that_answers() -> None:
    """The samples are those of the vote, and the slow version reads the judge's word from a session of the judge."""
    model, judge = Toy(vocabulary=6), ToyJudge(vocabulary=6, image_share=3.0)
    text, chosen = "{question} Is {answer} right?", []
    arm = Arm(BestOfN(3, judge=text, accept="w4", judge_model=judge), Sampling(0.7))
    requests = [DecodingRequest(prompt(i), arm, max_new_tokens=2) for i in range(8)]
    own = [replace(one, arm=Arm(BestOfN(3, judge=text, accept="w4"), Sampling(0.7))) for one in requests]
    answers = run_requests(model, [*requests, *own])
    for request, answer, other in zip(requests, answers[:8], answers[8:], strict=True):
        samples = [replace(one, arm=Arm(SamplingDecoding(0.7), Sampling(0.7))) for one in _samples(request)]
        texts = [one.text for one in run_requests(model, samples) if isinstance(one, Generation)]
        questions = [text.format(question=question_text(request.prompt), answer=one) for one in texts]
        logits = judge.open([replace_question(request.prompt, one) for one in questions]).logits
        rewards = logits.log_softmax(-1)[:, 4].tolist()
        assert isinstance(answer, Generation)
        assert isinstance(other, Generation)
        assert answer.text == texts[rewards.index(max(rewards))]
        chosen.append(answer.text != other.text)
    assert any(chosen), "the judge chooses as the model itself"


def test_a_judge_with_the_digest_of_the_model_is_not_opened_and_others_are_unloaded() -> None:
    unloaded: list[str] = []

    class Unloadable(ToyJudge):
        def unload(self) -> None:
            unloaded.append(self.digest)

    model, twin, judge = Toy(vocabulary=6), ToyJudge(vocabulary=6), Unloadable(vocabulary=6)
    twin.digest = model.digest
    unload_judges()  # those of other tests
    answers = []
    for one in (twin, judge, judge, None):
        arm = Arm(BestOfN(3, accept="w4", judge_model=one), Sampling(0.7))
        answers.append(run_requests(model, [DecodingRequest(prompt(1), arm, max_new_tokens=2)])[0])
    assert twin.counts["open"] == 0
    assert isinstance(answers[0], Generation)
    assert isinstance(answers[3], Generation)
    assert answers[0].text == answers[3].text
    assert judge.counts["open"] == 2
    unload_judges()
    unload_judges()
    assert unloaded.count("a toy judge") == 1


def test_a_judge_without_logits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"judge_model: .* gives no log-probability of a word here\. Use 'hf'"):
        parse_arm({"name": "best_of_n", "judge_model": "fake-vote"})


def test_an_arm_with_a_judge_of_its_own_is_not_sent_to_a_server() -> None:
    arm = parse_arm({"name": "best_of_n", "judge_model": {"name": "hf", "path": "tiny"}})
    with pytest.raises(
        PlanError, match=r"^best_of_n\(judge_model=hf\): judge_model cannot be sent to a server\. Use the model 'hf'\."
    ):
        arm_config(arm)


def test_best_of_n_fails_with_its_judge_or_a_sample_and_asks_none_for_options() -> None:
    model = Toy(vocabulary=6)
    arm = parse_arm({"name": "best_of_n", "judge": "BROKEN {answer}", "accept": "w1"})
    model.broken["BROKEN"] = "out of order"
    (answer,) = run_requests(model, [DecodingRequest(prompt(1), arm, max_new_tokens=2)])
    assert answer == Failure("the judge: out of order")
    a, b = run_requests(
        model, [DecodingRequest(prompt(1), each, ("w1", "w2 w3"), "options") for each in (arm, parse_arm("greedy"))]
    )
    assert isinstance(a, Generation)
    assert isinstance(b, Generation)
    assert a.option_scores == b.option_scores


def test_a_judge_without_the_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"judge must have \{answer\} once"):
        parse_arm({"name": "best_of_n", "judge": "Is it right?"})
