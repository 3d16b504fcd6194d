"""Texts cut at stop strings."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.arms.greedy import GreedyDecoding
from decoding.base import Note, Strategy
from decoding.engine.decoding_step import combine_branches
from decoding.engine.hypotheses import DecodingGroup, Hypothesis, cut_at_stop_string, cut_generation
from decoding.engine.token_loop import TokenLoop
from decoding.engine.trace import MAX_GAP
from decoding.formulas.sampling import Greedy, Sampling
from decoding.strategies.vcd import VCD
from icl.models.base import Request
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt, vcd_one_at_a_time
from tests.decoding.toy import STOP, Toy


def run(model: Toy, strategy: Strategy, prompts: list[Prompt], limits: list[int], **more: object) -> list[Hypothesis]:
    branches = [strategy.branches(p) for p in prompts]
    opened = [b[n] for n in range(len(branches[0])) for b in branches]  # branch-major
    hypotheses = [
        Hypothesis([n * len(prompts) + i for n in range(len(branches[0]))], limit, prompts[i].key)
        for i, limit in enumerate(limits)
    ]
    TokenLoop(
        model.open(opened), [DecodingGroup(strategy, strategy.sampler, list(hypotheses))], model.stop_tokens, **more
    ).run()  # type: ignore[arg-type]
    return hypotheses


@pytest.mark.parametrize("stop_bias", [-2.0, 1.5])
def test_greedy_is_the_models_own_greedy_answer(stop_bias: float) -> None:
    model = Toy(stop_bias=stop_bias)
    prompts = [prompt(i, shots=i % 4) for i in range(8)]
    limits = [3 + i % 5 for i in range(8)]
    theirs = model.generate([Request(p, max_new_tokens=limit) for p, limit in zip(prompts, limits, strict=True)])
    ours = run(model, GreedyDecoding(), prompts, limits)
    assert [tuple(hypothesis.tokens) for hypothesis in ours] == [g.tokens for g in theirs]
    assert [hypothesis.finish for hypothesis in ours] == [g.finish for g in theirs]
    assert {"stop", "length"} >= {hypothesis.finish for hypothesis in ours}


@pytest.mark.parametrize("method", [VCD(), VCD(alpha=3.0, beta=0.01), VCD(alpha=0.3, beta=0.5)])
def test_vcd_equals_an_independent_plain_loop(method: VCD) -> None:
    model = Toy(stop_bias=1.0)
    prompts = [prompt(i, shots=i % 3) for i in range(10)]
    ours = run(model, method, prompts, [7] * 10)
    assert [tuple(hypothesis.tokens) for hypothesis in ours] == [
        vcd_one_at_a_time(model, method, p, 7) for p in prompts
    ]
    plain = run(model, GreedyDecoding(), prompts, [7] * 10)
    assert sum(a.tokens != b.tokens for a, b in zip(ours, plain, strict=True)) >= 3  # greedy runs the method


def test_the_end_is_decided_on_the_combined_token() -> None:
    """The reference stops and the contrast branch does not, and vice versa."""

    @dataclass(frozen=True)
    class Second(Strategy):
        def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
            return VCD(noise_step=999).branches(prompt)

        def combine(self, logits: Tensor, step: int) -> Tensor:
            return logits[1]

    model = Toy(stop_bias=2.0, image_share=3.0)
    prompts = [prompt(i) for i in range(30)]
    noised = [VCD(noise_step=999).branches(p)[1] for p in prompts]
    ours = run(model, Second(), prompts, [4] * 30)
    wants = [int(model.open([p]).logits.argmax()) == STOP for p in prompts]
    says = [int(model.open([p]).logits.argmax()) == STOP for p in noised]
    assert [hypothesis.steps == 1 and hypothesis.finish == "stop" for hypothesis in ours] == says
    assert wants != says


def test_finished_rows_do_not_affect_others() -> None:
    model = Toy(stop_bias=1.0)
    prompts = [prompt(i) for i in range(12)]
    limits = [1, 9, 2, 8, 3, 7, 4, 6, 5, 5, 1, 9]
    together = run(model, VCD(), prompts, limits)
    for p, limit, hypothesis in zip(prompts, limits, together, strict=True):
        assert run(model, VCD(), [p], [limit])[0].tokens == hypothesis.tokens


def test_finished_rows_are_not_forwarded() -> None:
    model = Toy(stop_bias=-99.0)
    run(model, VCD(), [prompt(i) for i in range(3)], [1, 2, 4])
    assert model.counts["forwards"] == 3
    assert model.counts["rows"] == 2 * (2 + 1 + 1)  # the last token of an answer is never read


def test_rows_of_ended_answers_leave_by_eighths() -> None:
    model, prompts, limits = Toy(stop_bias=-99.0), [prompt(i) for i in range(24)], list(range(2, 26))
    together = run(model, GreedyDecoding(), prompts, limits)
    copies, rows = model.counts["take"], model.counts["rows"]
    assert [one.tokens for one in together] == [
        run(model, GreedyDecoding(), [p], [limit])[0].tokens for p, limit in zip(prompts, limits, strict=True)
    ]
    read = sum(limit - 1 for limit in limits)
    assert copies < 16  # of 23 ends
    assert read < rows < read * 8 / 7


@pytest.mark.parametrize(("shots", "rows"), [(0, 16), (4, 15)])
def test_an_ended_row_that_is_longer_than_all_others_leaves_at_once(shots: int, rows: int) -> None:
    model = Toy(stop_bias=-99.0)
    run(model, GreedyDecoding(), [prompt(0, shots=shots), *(prompt(i) for i in range(1, 16))], [1] + [9] * 15)
    assert model.counts["rows"] == rows * 8


def test_no_ended_row_is_left_when_new_rows_may_join() -> None:
    model = Toy(stop_bias=-99.0)
    hypotheses = [Hypothesis([i], 1 if i == 0 else 9, prompt(i).key) for i in range(16)]
    group = DecodingGroup(GreedyDecoding(), Greedy(), list(hypotheses))
    loop = TokenLoop(model.open([prompt(i) for i in range(16)]), [group], model.stop_tokens)
    loop.run(least=15)
    assert len(loop.session) == loop.num_running == 15


def test_equal_states_share_a_row_until_they_differ() -> None:
    model = Toy(stop_bias=-99.0)
    p = prompt(1)
    hypotheses = [Hypothesis([0], 6, p.key), Hypothesis([0], 6, p.key), Hypothesis([0, 1], 6, p.key)]
    groups = [
        DecodingGroup(GreedyDecoding(), Greedy(), [hypotheses[0]]),
        DecodingGroup(GreedyDecoding(), Sampling(temperature=0), [hypotheses[1]]),
        DecodingGroup(VCD(alpha=0.0), Greedy(), [hypotheses[2]]),
    ]
    work = TokenLoop(model.open(VCD().branches(p)), groups, model.stop_tokens).run()
    assert hypotheses[0].tokens == hypotheses[1].tokens == hypotheses[2].tokens
    assert (work.forwards, work.rows, work.rows_without_sharing) == (5, 10, 20)


def test_strategies_with_different_answers_have_their_own_rows() -> None:
    model = Toy(stop_bias=1.0, image_share=3.0)
    prompts = [prompt(i) for i in range(6)]
    methods = [VCD(alpha=3.0, beta=0.01), GreedyDecoding(), VCD(alpha=0.5, beta=0.2)]
    opened = [branch for p in prompts for branch in VCD().branches(p)]
    groups = [
        DecodingGroup(
            method,
            Greedy(),
            [Hypothesis([2 * i, 2 * i + 1][: len(method.branches(p))], 7, p.key) for i, p in enumerate(prompts)],
        )
        for method in methods
    ]
    hypotheses = [list(group.hypotheses) for group in groups]
    TokenLoop(model.open(opened), groups, model.stop_tokens).run()
    for method, own in zip(methods, hypotheses, strict=True):
        assert [hypothesis.tokens for hypothesis in own] == [run(model, method, [p], [7])[0].tokens for p in prompts]
    assert len({str([hypothesis.tokens for hypothesis in own]) for own in hypotheses}) == 3


def test_sampling_does_not_depend_on_batch_and_order() -> None:
    model = Toy(stop_bias=-1.0)
    prompts = [prompt(i) for i in range(9)]
    sampled = VCD(beta=0.01)

    def answers(order: list[int]) -> dict[int, list[int]]:
        branches = [sampled.branches(prompts[i]) for i in order]
        hypotheses = [Hypothesis([i, len(order) + i], 6, prompts[q].key) for i, q in enumerate(order)]
        session = model.open([b[0] for b in branches] + [b[1] for b in branches])
        TokenLoop(
            session, [DecodingGroup(sampled, Sampling(temperature=2.0), list(hypotheses))], model.stop_tokens
        ).run()
        return {q: hypothesis.tokens for q, hypothesis in zip(order, hypotheses, strict=True)}

    whole = answers(list(range(9)))
    assert answers([4, 8, 0, 2, 1, 7, 3, 6, 5]) == whole
    assert {q: tokens for i in range(9) for q, tokens in answers([i]).items()} == whole


def test_trace_fields_by_hand() -> None:
    @dataclass(frozen=True)
    class Two(Strategy):
        """The two best tokens of the reference, the second preferred three to one."""

        def mask(self, reference: Tensor) -> Tensor:
            return reference >= reference.topk(2).values[:, -1:]

        def combine(self, logits: Tensor, step: int) -> Tensor:
            best = logits[0] == logits[0].amax(-1, keepdim=True)
            return torch.where(best, 0.0, math.log(3.0))

    (hypothesis,) = run(Toy(stop_bias=-99.0), Two(), [prompt(1)], [3])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert [row[0] for row in hypothesis.trace] == [2, 2, 2]
    assert [row[1] for row in hypothesis.trace] == pytest.approx([entropy] * 3)
    assert [row[2] for row in hypothesis.trace] == [1, 1, 1]
    assert [row[3] for row in hypothesis.trace] == pytest.approx([math.log(0.75)] * 3)
    assert [row[4] for row in hypothesis.trace] == pytest.approx([math.log(3.0)] * 3)
    (alone,) = run(Toy(stop_bias=-99.0), VCD(beta=1.0), [prompt(1)], [3])
    assert [[row[0], *row[3:]] for row in alone.trace] == [[1, 0.0, MAX_GAP]] * 3
    (plain,) = run(Toy(stop_bias=-99.0), GreedyDecoding(), [prompt(1)], [3])
    assert [[row[0], row[2]] for row in plain.trace] == [[24, 0]] * 3
    assert run(Toy(), GreedyDecoding(), [prompt(1)], [3], trace=False)[0].trace == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("branch", [0, 1])
def test_a_nan_fails_its_own_answer_with_step_and_branch(value: float, branch: int) -> None:
    model = Toy(stop_bias=-99.0)
    prompts = [prompt(i) for i in range(4)]
    untouched = run(model, VCD(), prompts, [5] * 4)
    bad = VCD().branches(prompts[2])[branch]
    model.poison[bad.digest, 2] = (untouched[2].tokens[2], value)
    hypotheses = run(model, VCD(), prompts, [5] * 4)
    if value == -math.inf and branch == 0:  # the reference's own ban
        assert hypotheses[2].finish == "length"
        assert hypotheses[2].tokens[2] != untouched[2].tokens[2]
    else:
        assert hypotheses[2].finish == "fault"
        assert f"step 2, branch {branch}" in hypotheses[2].fault
    for i in (0, 1, 3):
        assert hypotheses[i].tokens == untouched[i].tokens


def test_tokens_banned_by_the_reference_stay_banned() -> None:
    logits = torch.zeros(2, 1, 4)
    logits[0, 0, 1] = -math.inf
    for other in (-math.inf, -5.0, 5.0):
        logits[1, 0, 1] = other
        combined, faults = combine_branches(VCD(beta=0.0), logits, 0)
        assert not faults
        assert combined[0].tolist() == [0, -math.inf, 0, 0]


def test_a_reference_that_bans_every_token_is_a_fault() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[0, 1] = -math.inf
    combined, faults = combine_branches(VCD(), logits, 7)
    assert faults == {1: "step 7, branch 0: the reference bans every token"}
    assert combined[1].tolist() == [0, 0, 0, 0]


def test_scores_that_rule_out_every_token_are_a_fault() -> None:
    @dataclass(frozen=True)
    class Nothing(Strategy):
        def combine(self, logits: Tensor, step: int) -> Tensor:
            scores = logits[0].clone()
            scores[1:] = -math.inf
            return scores

    hypotheses = run(Toy(), Nothing(), [prompt(1), prompt(2)], [2, 2])
    assert "rule out every token" in hypotheses[1].fault
    assert "step 0" in hypotheses[1].fault
    assert hypotheses[0].finish != "fault"


def test_half_precision_logits_are_combined_in_float32() -> None:
    dtypes: list[torch.dtype] = []

    @dataclass(frozen=True)
    class Looks(Strategy):
        def combine(self, logits: Tensor, step: int) -> Tensor:
            dtypes.append(logits.dtype)
            return logits[0]

    model = Toy()
    session = model.open([prompt(1)])
    session.logits = session.logits.bfloat16()
    TokenLoop(session, [DecodingGroup(Looks(), Greedy(), [Hypothesis([0], 1)])], model.stop_tokens).run()
    assert dtypes == [torch.float32]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("red. blue", (".",), "red"),
        ("red. blue; green", (";", "."), "red"),
        (". red", (".",), ""),
        ("red", (".",), "red"),
        ("red.", (), "red."),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text: str, stops: tuple[str, ...], expected: str) -> None:
    assert cut_at_stop_string(text, stops) == expected
    generation = cut_generation(Generation(text, (1, 2)), stops)
    assert (generation.text, generation.tokens) == (expected, (1, 2))
