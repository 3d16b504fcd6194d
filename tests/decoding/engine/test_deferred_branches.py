"""Deferred branches give the answers of eager ones with less work, and the counters record the savings."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.arms.arm import Arm, parse_arm
from decoding.arms.greedy import GreedyDecoding
from decoding.base import InitialStepState, Note, Strategy
from decoding.conformance import apply_mask, random_logits
from decoding.engine import batch as batch_module
from decoding.engine.batch import (
    COPY_COST,
    FORWARD_TOKENS,
    IMAGE_TOKENS,
    MAX_COST_RATIO,
    can_defer_branches,
    is_lazy_cheaper,
    unshared_tokens,
)
from decoding.engine.engine import run_requests
from decoding.engine.requests import ArmWork, Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest
from decoding.formulas.sampling import Greedy, Sampler, Sampling
from decoding.strategies.chasd import CHASD
from decoding.strategies.prior_of_answer import CDK
from decoding.strategies.several_prompts import NBCE
from decoding.strategies.vcd import VCD
from icl.edits import Blank
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.test_engine_all import TOKENS
from tests.decoding.test_strategies import made
from tests.decoding.toy import Row, Toy, ToySession

TEXTS = [name for name in TOKENS if name != "shuffled_negative"]
SAMPLERS: dict[str, Sampler] = {"greedy": Greedy(), "sampled": Sampling(1.3, top_k=7)}


class Sharp(Toy):
    """A confident model: about half of the steps leave one surviving token. opens: the prompts of each call."""

    def __init__(self, sharpness: float = 3.0, stop_bias: float = 0.5) -> None:
        super().__init__(stop_bias=stop_bias)
        self.sharpness, self.opens = sharpness, list[list[str]]()

    def logits_of(self, rows: Sequence[Row]) -> Tensor:
        return super().logits_of(rows) * self.sharpness

    def open(self, prompts: Sequence[Prompt], **more: bool) -> ToySession:
        self.opens.append([p.digest for p in prompts])
        return super().open(prompts, **more)


def decode_all(
    model: Toy, requests: list[DecodingRequest], lazy_branches: LazyBranches, counters: Counters | None = None
) -> list[Generation]:
    answers = run_requests(model, requests, counters, lazy_branches=lazy_branches)
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Generation)]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", TEXTS)
def test_lazy_answers_equal_eager_ones_for_every_strategy(name: str, sampler: str) -> None:
    arm = Arm(made(name), SAMPLERS[sampler])
    requests = [DecodingRequest(prompt(i, shots=i % 3), arm, max_new_tokens=4 + i) for i in range(8)]
    assert decode_all(Sharp(), requests, "always") == decode_all(Sharp(), requests, "never")  # traces and all


@pytest.mark.parametrize("name", [name for name in TEXTS if not made(name).traits.reads_early_exits])
def test_rows_that_the_reference_decides_do_not_depend_on_other_branches(name: str) -> None:
    strategy = made(name)
    count, states = (
        len(strategy.branches(prompt(1), None)) if name != "code" else 2,
        [InitialStepState() for _ in range(5)],
    )
    for scale in (0.3, 3.0, 12.0):
        logits = random_logits(count, 5, scale)
        reference_decides = strategy.reference_decides(logits[0])
        if reference_decides is None or strategy.traits.keeps_state:
            continue
        alone = logits[:1].expand(count, -1, -1)
        first, second = (
            apply_mask(strategy, strategy.combine_stateful(z, 2, states), z[0]).softmax(-1)[reference_decides]
            for z in (logits, alone)
        )
        assert torch.equal(first, second)
        assert (
            count > 1
            or name in ("greedy", "sampling", "mask_only", "temperature_matched")
            or not reference_decides.any()
        )


def needing(model: Toy, requests: list[DecodingRequest]) -> list[bool]:
    """Whether each answer has a step with two surviving tokens, by a plain loop."""
    needs_contrast = []
    for request in requests:
        tokens, (original, noised), needs = list[int](), request.arm.strategy.branches(request.prompt), False
        while len(tokens) < request.max_new_tokens:
            z = torch.cat([model.logits_of([Row(branch, list(tokens))]) for branch in (original, noised)])[:, None]
            mask = request.arm.strategy.mask(z[0])
            assert mask is not None
            needs |= int(mask.sum()) > 1
            token = int(request.arm.strategy.combine(z, len(tokens)).masked_fill(~mask, -torch.inf).argmax())
            if token in model.stop_tokens:
                break
            tokens.append(token)
        needs_contrast.append(needs)
    return needs_contrast


@pytest.mark.parametrize("sharpness", [2.0, 5.0, 9.0])
def test_contrasts_are_prefilled_only_for_answers_that_need_them(sharpness: float) -> None:
    model, counters = Sharp(sharpness), Counters()
    requests = [DecodingRequest(prompt(i), Arm(VCD()), max_new_tokens=3) for i in range(24)]
    decode_all(model, requests, "always", counters)
    needs = needing(model, requests)
    assert 0 < sum(needs) < 24
    contrasts = {
        request.arm.strategy.branches(request.prompt)[1].digest
        for request, need in zip(requests, needs, strict=True)
        if need
    }
    assert {digest for opened in model.opens[1:] for digest in opened} == contrasts
    assert len(model.opens[0]) == 24
    assert model.counts["prompts"] == counters.prompts_prefilled == 24 + sum(needs)
    assert counters.prompts_saved == 24 - sum(needs)
    assert counters.arms["vcd"].prefills_saved == 24 - sum(needs)
    assert counters.duplicates_merged == 0


def test_lazy_branches_are_prefilled_together_and_read_the_answer_in_one_forward_pass() -> None:
    @dataclass(frozen=True)
    class From(Strategy):
        """Leaves two surviving tokens from the third step on."""

        def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
            return prompt, prompt.edit(Blank())

        def mask(self, reference: Tensor) -> Tensor:
            best = reference.topk(2).values
            return reference >= torch.where(at[0] >= 2, best[:, 1:], best[:, :1])

        def combine(self, logits: Tensor, step: int) -> Tensor:
            return logits[0] - logits[1]

    class Steps(Toy):
        chunks: list[list[list[int]]]

        def open(self, prompts: Sequence[Prompt], **more: bool) -> ToySession:
            model = self

            class Session(ToySession):
                def extend(self, chunks: Sequence[Sequence[int]]) -> None:
                    model.chunks.append([list(chunk) for chunk in chunks])
                    super().extend(chunks)

            opened = super().open(prompts, **more)
            return Session(self, opened.rows)

        def logits_of(self, rows: Sequence[Row]) -> Tensor:
            if len(rows) > 1:
                at[0] = torch.tensor(len(rows[0].tokens))
            return super().logits_of(rows)

    at = [torch.tensor(0)]
    model, counters = Steps(stop_bias=-99.0), Counters()
    model.chunks = []
    requests = [DecodingRequest(prompt(i), Arm(From()), max_new_tokens=6) for i in range(3)]
    lazy_branches = decode_all(model, requests, "always", counters)
    assert model.chunks == [[list(answer.tokens[:2]) for answer in lazy_branches]]
    (work,) = counters.arms.values()
    assert (work.lazy, work.contrasts, work.prefills_saved) == (3, 3, 0)
    assert (work.tokens, work.tokens_saved) == (3 * 5, 0)
    assert work.forwards_saved == 3 * 1  # two tokens in one forward
    assert counters.rows == 3 * 2 + 6 * 3
    at[0] = torch.tensor(0)
    assert lazy_branches == decode_all(model, requests, "never")


def arms() -> list[Arm]:
    nodes = [
        {"name": "vcd"},
        {"name": "vcd", "alpha": 3.0, "beta": 0.02, "sampling": {"temperature": 1.5}},
        {"name": "vcd", "alpha": 0.2, "beta": 0.3},
        {"name": "plain_average", "of": "vcd"},
        {"name": "chasd", "threshold": 0.7},
        {"name": "chasd", "threshold": 0.5, "sampling": {"temperature": 2.0}},
        {"name": "cad"},  # no mask: eager always
        {"name": "icd"},
        "greedy",
    ]
    return [parse_arm(node) for node in nodes]


@pytest.mark.parametrize("lazy_branches", ["always", "auto"])
def test_arms_that_share_prompts_answer_as_alone_and_prefill_once(lazy_branches: LazyBranches) -> None:
    model, counters = Sharp(), Counters()
    requests = [
        DecodingRequest(prompt(i, shots=i % 3), arm, max_new_tokens=3 + i % 4) for arm in arms() for i in range(7)
    ]
    together = decode_all(model, requests, lazy_branches, counters)
    assert together == decode_all(Sharp(), requests, "never")
    assert together == [decode_all(Sharp(), [request], lazy_branches)[0] for request in requests]
    opened = [digest for call in model.opens for digest in call]
    assert len(opened) == len(set(opened)) == counters.prompts_prefilled
    if lazy_branches == "always":
        assert counters.prompts_saved > 0


def test_gated_branches_read_only_at_steps_with_an_open_gate() -> None:
    model, counters = Sharp(1.0, stop_bias=-99.0), Counters()
    method = CHASD(VCD(beta=0.0), threshold=0.4)
    requests = [DecodingRequest(prompt(i), Arm(method), max_new_tokens=12) for i in range(10)]
    answers = decode_all(model, requests, "always", counters)
    assert answers == decode_all(Sharp(1.0, stop_bias=-99.0), requests, "never")
    forwards = read = prefills = 0
    for request, answer in zip(requests, answers, strict=True):
        unsure = [
            step
            for step in range(12)
            if float(model.logits_of([Row(request.prompt, list(answer.tokens[:step]))]).softmax(-1).max()) < 0.4
        ]
        prefills += bool(unsure)
        forwards += len([step for step in unsure if step > 0])
        read += max(unsure, default=0)
    (work,) = counters.arms.values()
    assert work.gated == 10
    assert 0 < forwards < 80
    assert (work.contrasts - work.prefills_saved, work.tokens - work.tokens_saved) == (prefills, read)
    assert work.tokens - work.forwards_saved == forwards
    assert counters.rows == 10 * 11  # the loop's own rows are references alone


def test_a_strategy_with_state_or_without_a_mask_is_eager() -> None:
    assert not can_defer_branches(NBCE())
    assert not can_defer_branches(VCD(beta=0.0))
    assert can_defer_branches(VCD())
    counters = Counters()
    decode_all(Sharp(), [DecodingRequest(prompt(1), Arm(CHASD(NBCE())))], "always", counters)
    assert [work.eager for work in counters.arms.values()] == [1]


def test_lazy_branches_can_be_turned_off() -> None:
    model, counters = Sharp(9.0), Counters()
    decode_all(model, [DecodingRequest(prompt(i), Arm(VCD()), max_new_tokens=2) for i in range(5)], "never", counters)
    assert counters.arms["vcd"] == ArmWork(eager=5, contrasts=5, tokens=counters.arms["vcd"].tokens)
    assert model.counts["prompts"] == 10


def test_short_answers_are_lazy_and_long_ones_eager() -> None:
    class Wordy(Sharp):
        """Images of many tokens."""

        def count_tokens(self, prompt: Prompt) -> int:
            return super().count_tokens(prompt) + 150 * len(prompt.images)

    for limit, way in ((2, "lazy"), (48, "eager")):
        counters = Counters()
        decode_all(
            Wordy(9.0),
            [DecodingRequest(prompt(i, 0), Arm(VCD()), max_new_tokens=limit) for i in range(40)],
            "auto",
            counters,
        )
        assert getattr(counters.arms["vcd"], way) == 40


def test_the_engine_learns_how_long_answers_are_and_how_often_they_need_a_contrast() -> None:
    model, counters = Sharp(30.0, stop_bias=4.0), Counters()
    requests = [DecodingRequest(prompt(i, 0), Arm(VCD()), max_new_tokens=48) for i in range(64)]
    decode_all(model, requests[:32], "auto", counters)
    assert counters.arms["vcd"].eager == 32
    decode_all(model, requests[32:], "auto", counters)  # sure of their few tokens
    assert counters.arms["vcd"].lazy == 32
    assert counters.arms["vcd"].prefills_saved > 16


def test_a_prompt_that_shares_its_prefix_with_the_reference_costs_little() -> None:
    prompt_8 = prompt(1, shots=8)
    original, noised = VCD().branches(prompt_8)
    _, everywhere = VCD(images="all").branches(prompt_8)
    assert unshared_tokens(original, noised, 300) < 300 / 8
    assert unshared_tokens(original, everywhere, 300) == 300
    assert unshared_tokens(original, original, 300) == 0


def test_a_contrast_that_cannot_be_prefilled_fails_its_own_answer() -> None:
    model = Sharp()
    requests = [
        DecodingRequest(prompt(i, question=f"What is {'broken' if i == 3 else i}?"), Arm(VCD())) for i in range(6)
    ]
    untouched = decode_all(model, requests, "always")
    icd = parse_arm("icd")
    contrast = icd.strategy.branches(requests[0].prompt)[1].text
    word = next(w for w in contrast.split() if w not in requests[0].prompt.text)
    model.broken[word] = "this instruction cannot be read."
    mixed = [requests[0], DecodingRequest(requests[1].prompt, icd), *requests[2:]]
    answers = run_requests(model, mixed, lazy_branches="always")
    assert isinstance(answers[1], Failure)
    assert "cannot be read" in answers[1].reason
    assert [answers[0], *answers[2:]] == [untouched[0], *untouched[2:]]


def test_step_traces_read_all_branches() -> None:
    counters = Counters()
    (answer,) = decode_all(
        Sharp(9.0), [DecodingRequest(prompt(1), Arm(VCD()), max_new_tokens=2, top_logprobs=3)], "always", counters
    )
    assert counters.arms["vcd"].eager == 1
    assert answer.steps


def test_an_arm_with_one_branch_is_eager() -> None:
    counters = Counters()
    decode_all(Sharp(), [DecodingRequest(prompt(1), Arm(GreedyDecoding()))], "always", counters)
    assert not counters.arms


def test_the_costs_of_lazy_branches_are_tokens_of_forward_passes() -> None:
    """Two answers of 11 tokens with 100 new tokens of contrast each: eager reads 2 x 100 + 2 x 10 = 220 tokens.

    Lazy reads this for the share that needs it, and each joining costs two forward passes and a copy of the rows.
    """

    def work(number: int) -> PreparedRequest:
        branches = prompt(number, 0, "a b c"), prompt(number, 0, "other words").without_images()
        return PreparedRequest(DecodingRequest(branches[0], Arm(VCD())), branches, ("a", "b"), (50, 100))

    both = [work(1), work(2)]
    new_tokens = sum(unshared_tokens(*one.branches, 100) for one in both)
    images = IMAGE_TOKENS * sum(map(batch_module._num_new_images, both))
    eager = new_tokens + 2 * 10 + images

    def lazy(needing: float) -> float:
        joins = min(11, needing * 2) * (2 * FORWARD_TOKENS + COPY_COST * 100)
        return needing * (200 + 2 * 10 + images) + joins

    shares = [i / 200 for i in range(201)]
    expected = [lazy(share) < MAX_COST_RATIO * eager for share in shares]
    assert [is_lazy_cheaper(both, 11, share) for share in shares] == expected
    assert {True, False} == set(expected)


def test_a_mask_that_needs_a_larger_vocabulary_is_not_deferred() -> None:
    assert can_defer_branches(CDK(k=5, alpha=1.0)) is False  # five tokens survive
    assert can_defer_branches(CDK(k=600)) is False
    assert can_defer_branches(CDK(k=1)) is True
