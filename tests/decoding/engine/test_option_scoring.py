import math
from dataclasses import replace

import pytest
import torch

from decoding.arms.arm import Arm, parse_arm
from decoding.arms.greedy import GreedyDecoding
from decoding.base import Strategy
from decoding.engine import option_scoring as module
from decoding.engine.engine import run_requests
from decoding.engine.option_scoring import FLOOR, OptionScoring, combined_logprobs, normalize_score, score_options
from decoding.engine.requests import DecodingRequest, Failure
from decoding.strategies.dola import DoLa
from decoding.strategies.prior_of_answer import PMI
from decoding.strategies.vcd import VCD
from icl.types import Generation
from tests.decoding.prompts import prompt
from tests.decoding.toy import Row, Toy

OPTIONS = ((3,), (4, 5), (4, 6, 7), (8, 9))


def slow(model: Toy, strategy: Strategy, number: int, options: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    """Scores by a plain loop: each branch reads each option token by token."""
    scores = []
    for option in options:
        row = []
        for i, token in enumerate(option):
            read = []
            for branch in strategy.branches(prompt(number)):
                session = model.open([branch])
                if i:
                    session.extend([list(option[:i])])
                read.append(session.logits[0].double())
            z = torch.stack(read)[:, None]
            combined = strategy.combine(z, i)[0]
            mask = strategy.mask(z[0].float())
            alive = torch.ones_like(combined, dtype=torch.bool) if mask is None else mask[0]
            if alive[token]:
                row.append(float(combined[token] - combined[alive].logsumexp(-1)))
            else:
                row.append(FLOOR + float(z[0, 0].log_softmax(-1)[token]))
        scores.append(row)
    return scores


@pytest.mark.parametrize("strategy", [GreedyDecoding(), VCD(beta=0.0), VCD(alpha=2.0, beta=0.3)])
def test_scores_equal_those_of_a_plain_loop(strategy: Strategy) -> None:
    model = Toy()
    scorings, prompts = [], []
    for number in range(4):
        branches = strategy.branches(prompt(number))
        scorings.append(OptionScoring(strategy, tuple(range(len(prompts), len(prompts) + len(branches))), OPTIONS))
        prompts += branches
    session = model.open(prompts)
    before = session.logits.clone()
    score_options(session, scorings)
    assert torch.equal(session.logits, before)
    for number, scoring in enumerate(scorings):
        for ours, theirs in zip(scoring.logprobs, slow(model, strategy, number, OPTIONS), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_options_of_one_token_need_no_forward_pass() -> None:
    model = Toy()
    run_requests(model, [DecodingRequest(prompt(1), parse_arm("vcd"), ("w1", "w2"), "options")])
    assert model.counts["suffixes"] == 0


def test_masked_options_rank_last_in_the_order_of_the_reference() -> None:
    """beta = 1 leaves only the best token."""
    model = Toy()
    order = model.open([prompt(1)]).logits[0].argsort(descending=True).tolist()
    options = tuple(f"w{token}" for token in order)
    (answer,) = run_requests(
        model, [DecodingRequest(prompt(1), parse_arm({"name": "vcd", "beta": 1}), options[::-1], "options")]
    )
    assert isinstance(answer, Generation)
    ranked = sorted(answer.option_scores, key=answer.option_scores.__getitem__, reverse=True)
    assert ranked == list(options)
    assert answer.option_scores[ranked[0]] == pytest.approx(0.0, abs=1e-6)
    assert all(FLOOR - 100 < answer.option_scores[option] < FLOOR for option in ranked[1:])
    assert all(map(math.isfinite, answer.option_scores.values()))


@pytest.mark.parametrize("node", ["greedy", {"name": "vcd", "beta": 0.3}, {"name": "pmi"}])
def test_an_answer_says_whether_the_mask_excludes_all_options(node: object) -> None:
    """Against the scores of the plain loop, in which a masked token has FLOOR."""
    model, arm, answers = Toy(), parse_arm(node), set()
    for number in range(12):
        for options in (((4, 6, 7), (8, 9)), ((3,), (4,), (5,), (6,)), ((5, 5, 5, 5),)):
            texts = tuple(" ".join(f"w{token}" for token in option) for option in options)
            (answer,) = run_requests(model, [DecodingRequest(prompt(number), arm, texts, "options")])
            assert isinstance(answer, Generation)
            expected = all(min(tokens) <= FLOOR for tokens in slow(model, arm.strategy, number, options))
            assert answer.masked == expected
            answers.add(answer.masked)
    assert answers == ({False, True} if isinstance(node, dict) and "beta" in node else {False})


def test_a_token_that_the_reference_bans_has_a_finite_score() -> None:
    logprobs, faults = combined_logprobs(GreedyDecoding(), torch.tensor([[[0.0, -math.inf, 0.0]]]), 0)
    assert not faults
    assert logprobs[0].tolist() == pytest.approx([-math.log(2), 2 * FLOOR, -math.log(2)])


def test_normalizations() -> None:
    assert normalize_score([-1.0, -2.0, -6.0], "naïve") == -9.0
    assert normalize_score([-1.0, -2.0, -6.0], "naïve", "mean") == -3.0
    assert normalize_score([-1.0, -2.0, -6.0], "naïve", "bytes") == -1.5  # six bytes
    model, arm = Toy(), parse_arm("greedy")
    options = ("w1", "w2 w3 w4")
    by = {
        how: run_requests(model, [DecodingRequest(prompt(1), replace(arm, normalize=how), options, "options")])[0]  # type: ignore[arg-type]
        for how in ("sum", "mean")
    }
    sums, means = (answer.option_scores for answer in by.values() if isinstance(answer, Generation))
    assert means["w2 w3 w4"] == pytest.approx(sums["w2 w3 w4"] / 3)
    assert means["w1"] == sums["w1"]


def test_small_chunks_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, arm = Toy(), parse_arm("vcd")
    requests = [DecodingRequest(prompt(i), arm, ("w1 w2", "w1 w3 w4", "w5"), "options") for i in range(6)]
    whole = run_requests(model, requests)
    monkeypatch.setattr(module, "SUFFIX_BYTES", 1)
    assert run_requests(model, requests) == whole


def test_an_option_without_tokens_fails_its_own_request() -> None:
    model, arm = Toy(), parse_arm("greedy")
    bad, good = run_requests(
        model, [DecodingRequest(prompt(i), arm, o, "options") for i, o in enumerate([("w1", ""), ("w1", "w2")])]
    )
    assert isinstance(bad, Failure)
    assert "no tokens" in bad.reason
    assert isinstance(good, Generation)


def test_an_unusable_score_fails_its_own_request() -> None:
    model, arm = Toy(), parse_arm("vcd")
    model.poison[prompt(1).digest, 1] = (5, math.nan)
    bad, good = run_requests(model, [DecodingRequest(prompt(i), arm, ("w1 w2", "w3"), "options") for i in (1, 2)])
    assert isinstance(bad, Failure)
    assert "step 1, branch 0" in bad.reason
    assert isinstance(good, Generation)


def test_options_without_a_finite_score_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PMI, "combine", lambda self, logits, step: logits[0] * math.nan)
    (bad,) = run_requests(Toy(), [DecodingRequest(prompt(1), parse_arm("pmi"), ("w1 w2", "w3"), "options")])
    assert isinstance(bad, Failure)
    assert "the combined scores of PMI are not finite" in bad.reason


@pytest.mark.parametrize("options", [("w1", "w2"), ("w1 w4", "w2 w3 w5")])
def test_early_layers_score_options_as_a_loop_over_their_tokens(options: tuple[str, ...]) -> None:
    model, strategy = Toy(), DoLa(beta=0.0)
    (answer,) = run_requests(model, [DecodingRequest(prompt(1), Arm(strategy), options, "options")])
    assert isinstance(answer, Generation)
    for option, ids in zip(options, model.option_ids(prompt(1), options), strict=True):
        total = 0.0
        for i, token in enumerate(ids):
            rows = [Row(prompt(1), list(ids[:i]))]
            logits = torch.cat([model.logits_of(rows)[None], model.exits_of(rows)])
            total += float(strategy.combine(logits, i).log_softmax(-1)[0, token])
        assert answer.option_scores[option] == pytest.approx(total, abs=1e-4)
