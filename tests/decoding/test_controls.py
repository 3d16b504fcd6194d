import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decoding.arms.arm import Arm, parse_arm
from decoding.arms.inspection import constant_strength, probe_prompt
from decoding.arms.requirements import unsupported_reason
from decoding.base import InitialStepState, Note, Strategy, Traits
from decoding.conformance import check_strategy, random_logits
from decoding.controls.constant_bias import ConstantBias
from decoding.controls.matched_sharpness import EntropyMatched, TemperatureMatched, temperature_of_entropy
from decoding.controls.negative_replacements import NoImage, OtherAnswers, ShuffledNegative, UnrelatedImage
from decoding.controls.other_methods import OLM, PBA, MoreDemonstrations, SelfConsistency
from decoding.controls.random_numbers import GaussianProxy, RandomGate
from decoding.controls.recombinations import MaskOnly, PlainAverage, Plus, SignFlip
from decoding.engine.decoding_step import combine_branches
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.formulas.distributions import entropy
from decoding.formulas.sampling import Sampling
from decoding.strategies.chasd import CHASD
from decoding.strategies.code import CODE
from decoding.strategies.context_aware import AdaCAD
from decoding.strategies.dcd import DCD
from decoding.strategies.prior_of_answer import CED
from decoding.strategies.sampling import SamplingDecoding
from decoding.strategies.vcd import VCD
from icl import edits
from icl.errors import ConfigError, PlanError
from icl.streams import StreamKey
from icl.types import Generation, Prompt
from tests.decoding.prompts import prompt
from tests.decoding.toy import Toy


@dataclass(frozen=True)
class Weighted(Strategy):
    """Two branches with undeclared weights."""

    first: float = 1.0
    second: float = 0.0

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        return prompt, prompt.edit(edits.Blank())

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return self.first * logits[0] + self.second * logits[1]


@dataclass(frozen=True)
class MasksByAll(Weighted):
    """Rules out the best tokens of the second branch."""

    traits = Traits(masks_in_combine=True)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        worst = logits[1] == logits[1].amax(-1, keepdim=True)
        return super().combine(logits, step).masked_fill(worst, -math.inf)


@dataclass(frozen=True)
class Winner(Weighted):
    """Only the more confident branch counts, with its confidence as weight, so the sum varies by row."""

    weights = None  # type: ignore[assignment]

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return logits.softmax(-1).amax(-1).amax(0)[:, None]

    def combine(self, logits: Tensor, step: int) -> Tensor:
        confidence = logits.softmax(-1).amax(-1)
        best = confidence.argmax(0)
        return self.strength(logits, step) * logits[best, torch.arange(logits.shape[1])]


def test_mask_only_is_the_methods_mask_on_the_references_scores() -> None:
    logits, method = random_logits(2), VCD(alpha=2.0, beta=0.2)
    own, _ = combine_branches(method, logits, 0)
    control, _ = combine_branches(MaskOnly(method), logits[:1], 0)
    alive = own > -math.inf
    assert torch.equal(control > -math.inf, alive)
    assert torch.equal(control[alive], logits[0][alive])
    assert not torch.equal(own[alive], control[alive])


def test_controls_read_only_the_reference_if_possible() -> None:
    question = prompt(1)
    assert [b.digest for b in MaskOnly(VCD()).branches(question)] == [question.digest]
    assert len(TemperatureMatched(VCD()).branches(question)) == 1
    assert len(EntropyMatched(VCD()).branches(question)) == 2
    assert len(MaskOnly(MasksByAll()).branches(question)) == 2


def test_controls_read_all_branches_for_a_mask_that_needs_them() -> None:
    logits = random_logits(2)
    control = MaskOnly(MasksByAll(first=3.0, second=-1.0))
    own, _ = combine_branches(control, logits, 0)
    out = logits[1] == logits[1].amax(-1, keepdim=True)
    assert torch.equal(own, logits[0].masked_fill(out, -math.inf))
    check_strategy(control)


@pytest.mark.parametrize(("first", "second", "strength"), [(2, -1, 1), (1, 3, 4), (1.5, -1, 0.5)])
def test_temperature_matched_is_the_reference_at_the_hidden_temperature(
    first: float, second: float, strength: float
) -> None:
    logits, control = random_logits(1), TemperatureMatched(Weighted(first, second))
    own, _ = combine_branches(control, logits, 0)
    torch.testing.assert_close(own.softmax(-1), (logits[0] / (1 / strength)).softmax(-1), rtol=2e-3, atol=1e-5)


def test_temperature_matched_keeps_the_mask() -> None:
    logits, method = random_logits(2), VCD(beta=0.3)
    own, _ = combine_branches(TemperatureMatched(method), logits[:1], 0)
    assert torch.equal(own > -math.inf, combine_branches(method, logits, 0)[0] > -math.inf)


def test_temperature_matched_follows_a_strength_that_varies() -> None:
    logits, method = random_logits(2), Winner()
    assert constant_strength(method) is None
    own, _ = combine_branches(TemperatureMatched(method), logits, 0)
    torch.testing.assert_close(own, logits[0] * method.strength(logits, 0))


def test_temperature_matched_reads_what_its_strength_and_mask_need() -> None:
    """The reference alone for constant weights; all branches for weights that vary, or for a mask in `combine`."""
    question, alone = prompt(1), TemperatureMatched(Weighted(1.0, 3.0))
    assert (len(alone.branches(question)), alone.weights) == (1, (4.0,))
    varying = TemperatureMatched(AdaCAD())
    assert (len(varying.branches(question)), varying.weights) == (2, None)
    masked = TemperatureMatched(MasksByAll(1.0, 3.0))
    assert (len(masked.branches(question)), masked.weights) == (2, (4.0, 0.0))
    assert float(varying.strength(random_logits(2), 0).min()) == 1.0


@pytest.mark.parametrize("second", [-1.0, -1.5])
def test_a_strength_of_zero_or_less_is_an_error_that_names_what_to_use(second: float) -> None:
    with pytest.raises(ConfigError, match="entropy_matched"):
        TemperatureMatched(Weighted(1.0, second))


def test_entropy_matched_has_the_methods_entropy_and_support_at_each_row() -> None:
    logits, method = random_logits(2, scale=2.0), VCD(alpha=2.5, beta=0.02)
    own, _ = combine_branches(method, logits, 0)
    control, _ = combine_branches(EntropyMatched(method), logits, 0)
    alive = own > -math.inf
    assert torch.equal(control > -math.inf, alive)
    torch.testing.assert_close(entropy(control), entropy(own), rtol=1e-3, atol=1e-3)
    slopes = (control / logits[0]).masked_fill(~alive, math.nan)
    for row in slopes:
        assert float(row[~row.isnan()].std()) < 1e-3 * float(row[~row.isnan()].mean())  # a temperature and nothing else


class Counted(TorchDispatchMode):
    """A counter of the operations that PyTorch dispatches."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [5, 3000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_temperature_of_an_entropy_is_that_of_sixty_bisections(size: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(size)
    logits = scale * torch.randn(12, size, generator=draw, dtype=torch.float64)
    logits[:4, 3:] = -float("inf")
    logits[0, 1:], logits[1, 1] = -float("inf"), logits[1, 0]  # one token; two equal tokens
    target = entropy(logits * (1 + torch.rand(12, 1, generator=draw)))
    target[11] = 10.0  # more than any temperature gives
    low, high = torch.full_like(target, 1e-4).log(), torch.full_like(target, 1e4).log()
    for _ in range(60):
        middle = (low + high) / 2
        is_too_high = entropy(logits / middle.exp()) > target
        low, high = torch.where(is_too_high, low, middle), torch.where(is_too_high, middle, high)
    with Counted() as operations:
        temperature = temperature_of_entropy(logits, target)
    expected = (low + high) / 2
    assert torch.allclose(entropy(logits / temperature), entropy(logits / expected.exp()), rtol=1e-7, atol=0)
    is_unique = torch.tensor([row != 1 for row in range(12)])  # of equal tokens, many temperatures give log 2
    assert (temperature.log() - expected)[is_unique].abs().max() < 1e-8
    assert operations.count <= 205, "sixty bisections are 600"


def test_entropy_matched_is_defined_where_the_weights_sum_to_zero() -> None:
    logits = random_logits(2)
    flat = torch.stack([logits[0], logits[0]])
    control, _ = combine_branches(EntropyMatched(Weighted(1.0, -1.0)), flat, 0)
    assert float(entropy(control).min()) == pytest.approx(math.log(logits.shape[-1]), abs=1e-3)


def test_controls_sample_as_their_method_does() -> None:
    sampled = SamplingDecoding(temperature=0.7)
    assert MaskOnly(sampled).sampler == Sampling(temperature=0.7)


def test_weights_are_measured_where_they_are_not_declared() -> None:
    facts = check_strategy(Weighted(1.5, -0.5))
    assert facts.weights == pytest.approx((1.5, -0.5))
    assert facts.strength == pytest.approx(1.0)
    assert check_strategy(Winner()).weights is None


def test_sign_flip_reflects_the_shift_by_hand() -> None:
    """VCD, alpha .5: (1 - .5) z + .5 z' = 1 + 1.25, .75 + .25, .5 + .5; at alpha 1 it is the noised branch."""
    logits = torch.tensor([[[2.0, 1.5, 1.0]], [[2.5, 0.5, 1.0]]])
    assert SignFlip(VCD(alpha=0.5)).combine(logits, 0)[0].tolist() == pytest.approx([2.25, 1.0, 1.0])
    assert SignFlip(VCD(alpha=1.0)).combine(logits, 0)[0].tolist() == pytest.approx([2.5, 0.5, 1.0])
    assert SignFlip(VCD(alpha=0.5)).weights == (0.5, 0.5)


def test_plus_uses_absolute_weights() -> None:
    """1.5 z + .5 z' = 3 + 1.25, 2.25 + .25, 1.5 + .5: the weights sum to 1 + 2 alpha."""
    logits = torch.tensor([[[2.0, 1.5, 1.0]], [[2.5, 0.5, 1.0]]])
    assert Plus(VCD(alpha=0.5)).combine(logits, 0)[0].tolist() == pytest.approx([4.25, 2.5, 2.0])
    assert constant_strength(Plus(VCD(alpha=0.5))) == 2.0
    with pytest.raises(ConfigError, match="sign_flip"):
        Plus(AdaCAD())


def test_plain_average_gives_all_branches_equal_weights() -> None:
    logits = torch.tensor([[[2.0, 1.5, -9.0]], [[2.5, 0.5, 1.0]]])
    scores, _ = combine_branches(PlainAverage(VCD()), logits, 0)
    assert scores[0].tolist() == pytest.approx([2.25, 1.0, -math.inf])


def test_the_gaussian_proxy_has_the_moments_of_the_shift_and_the_surviving_tokens() -> None:
    logits, method = torch.randn(2, 3, 4000, generator=torch.Generator().manual_seed(0)), VCD(alpha=2.0, beta=0.005)
    own, _ = combine_branches(method, logits, 0)
    states = [InitialStepState(StreamKey(0, f"q{i}")) for i in range(3)]
    proxy, _ = combine_branches(GaussianProxy(method), logits, 0, states)
    alive = own > -math.inf
    assert torch.equal(proxy > -math.inf, alive)
    for row in range(3):
        shift, noise = (scores[row, alive[row]] - logits[0, row, alive[row]] for scores in (own, proxy))
        assert float(noise.mean()) == pytest.approx(float(shift.mean()), abs=0.2)
        assert float(noise.std()) == pytest.approx(float(shift.std()), rel=0.1)
        assert abs(float(torch.corrcoef(torch.stack([shift, noise]))[0, 1])) < 0.1


def test_random_controls_depend_on_query_and_step() -> None:
    logits = random_logits(2, rows=12, scale=0.3)
    for control in (GaussianProxy(VCD()), RandomGate(DCD())):

        def scores_of(query: str, step: int, control: Strategy = control) -> torch.Tensor:
            states = [InitialStepState(StreamKey(0, f"{query}{i}")) for i in range(12)]
            return combine_branches(control, logits, step, states)[0]

        assert torch.equal(scores_of("a", 0), scores_of("a", 0))
        assert not torch.equal(scores_of("a", 0), scores_of("b", 0))
        assert any(not torch.equal(scores_of("a", 0), scores_of("a", step)) for step in (1, 2, 3))


def test_a_random_control_differs_by_query_even_for_equal_prompts() -> None:
    arm = parse_arm({"name": "gaussian_proxy", "of": {"name": "vcd", "beta": 0}})
    same = [replace(prompt(1), key=StreamKey(0, f"q{i}")) for i in range(12)]
    requests = [DecodingRequest(p, arm, max_new_tokens=3) for p in same]
    model = Toy(stop_bias=-99.0)
    together = run_requests(model, requests)
    assert [run_requests(model, [request])[0] for request in requests] == together
    of_cad = parse_arm({"name": "gaussian_proxy", "of": "cad"})  # its branches do not depend on the query's stream
    answers = run_requests(model, [DecodingRequest(p, of_cad, max_new_tokens=3) for p in same])
    assert len({a.tokens for a in answers if isinstance(a, Generation)}) > 1


def test_a_random_gate_replaces_the_gate() -> None:
    """An open gate favors the text and a closed one the image, whatever their confidence."""
    logits = torch.tensor([[[0.5, 0.3, 0.2]], [[0.2, 0.7, 0.1]]]).log()
    always, never = (combine_branches(RandomGate(DCD(), share), logits, 0)[0] for share in (1.0, 0.0))
    assert torch.equal(always, DCD(direction="text").combine(logits, 0))
    assert torch.equal(never, DCD(direction="image").combine(logits, 0))
    confident = torch.tensor([[[0.96, 0.02, 0.02]], [[0.5, 0.3, 0.2]]]).log()
    gated = CHASD(VCD(beta=0.1), threshold=0.9)
    shut, opened = (combine_branches(RandomGate(gated, share), confident, 0)[0] for share in (0.0, 1.0))
    assert torch.equal(shut, confident[0])
    assert torch.equal(opened, combine_branches(VCD(beta=0.1), confident, 0)[0])
    with pytest.raises(ConfigError, match="no gate"):
        RandomGate(VCD())


def test_negative_replacements_combine_as_the_method() -> None:
    question, logits = prompt(1, shots=2), random_logits(2)
    for control in (NoImage(VCD(alpha=0.5)), UnrelatedImage(VCD(alpha=0.5))):
        assert torch.equal(combine_branches(control, logits, 0)[0], combine_branches(VCD(alpha=0.5), logits, 0)[0])
        first, other = control.branches(question)
        assert first == question
        assert other.images[:2] == question.images[:2]
    assert NoImage(VCD()).branches(question)[1].images == question.images[:2]
    (edit,) = UnrelatedImage(VCD()).branches(question)[1].images[2].edits
    assert isinstance(edit, edits.RandomColors)


def test_a_shuffled_negative_is_the_contrast_branch_of_another_sample() -> None:
    question, logits = prompt(1, shots=2), random_logits(2)
    control, method = ShuffledNegative(VCD(alpha=0.5)), VCD(alpha=0.5)
    assert question.paired_prompt is not None
    first, negative = control.branches(question)
    assert first == question
    assert (
        negative.digest == method.branches(question.paired_prompt)[1].digest
    )  # with its own noise: prefilled once for both
    assert torch.equal(combine_branches(control, logits, 0)[0], combine_branches(method, logits, 0)[0])
    assert control.weights == method.weights


def test_a_shuffled_negative_is_prepared_with_the_paired_prompt() -> None:
    question, questions = prompt(1, shots=0), list[str]()

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        questions.extend(p.images[0].digest for p in prompts)
        return [f"an image {p.images[0].digest}" for p in prompts]

    assert question.paired_prompt is not None
    control = ShuffledNegative(CODE())
    (note,) = control.prepare([question], generate)
    assert questions == [question.paired_prompt.images[0].digest]
    assert question.paired_prompt.images[0].digest in control.branches(question, note)[1].text


def test_a_shuffled_negative_without_another_sample_is_refused() -> None:
    (answer,) = run_requests(
        Toy(), [DecodingRequest(replace(prompt(1), paired_prompt=None), Arm(ShuffledNegative(VCD())))]
    )
    assert isinstance(answer, Failure)
    assert "but this prompt has none" in answer.reason


def test_equal_prompts_with_different_paired_prompts_are_different_requests() -> None:
    model, arm = Toy(stop_bias=-9.0), Arm(ShuffledNegative(VCD(alpha=3.0, beta=0)))
    requests = [DecodingRequest(replace(prompt(1), paired_prompt=prompt(i)), arm, max_new_tokens=6) for i in (2, 3, 2)]
    a, b, c = run_requests(model, requests)
    assert isinstance(a, Generation)
    assert isinstance(b, Generation)
    assert a.tokens != b.tokens
    assert a == c


def test_more_demonstrations_decodes_as_the_reference() -> None:
    control, logits = MoreDemonstrations(factor=3), random_logits(1)
    assert (control.traits.demonstration_factor, VCD().traits.demonstration_factor) == (3, 1)
    assert torch.equal(combine_branches(control, logits, 0)[0], logits[0])


def test_pba_adds_its_suffix_to_the_question() -> None:
    assert PBA().branches(prompt(1, shots=0))[1].text == (
        "[user] <image>What is number 1? Answer the question using a single word or phrase. Answer yes whenever "
        "possible."
    )
    logits = random_logits(2)
    assert torch.equal(PBA().combine(logits, 0), logits[1])


@pytest.mark.parametrize(
    ("yes", "no", "wins"),
    [
        (0.3, 0.4, "yes"),
        (0.1, 0.65, "no"),
        (0.05, 0.1, "no"),
        (0.05, 0.5, "yes"),
        (0.7, 0.05, "yes"),
        (0.1, 0.11, "yes"),
    ],
)
def test_olm_prefers_the_favored_option_if_both_are_likely(yes: float, no: float, wins: str) -> None:
    """Of .3 and .4 the sum is above .2 and the difference below .5; .1 and .65 differ by .55; .05 + .1 is below .2."""
    scores = OLM().combine(torch.tensor([[[yes, no]]]).log(), 0)[0]
    assert ("yes", "no")[int(scores.argmax())] == wins


class Spelled(Toy):
    """A tokenizer with one id per word; " Yes" and " no" begin with the same token."""

    ids: ClassVar = {"yes": 1, "Yes": 2, "YES": 3, "no": 4, "No": 5, "NO": 6}

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[7, self.ids[o.strip()]] if o.startswith(" ") else [self.ids[o]] for o in options]


def test_olm_sums_distinct_first_tokens_of_all_spellings() -> None:
    model, question = Spelled(), prompt(1)
    (answer,) = run_requests(
        model, [DecodingRequest(question, parse_arm({"name": "olm", "total": 1}), ("yes", "no"), "options")]
    )
    p = model.open([question]).logits[0].softmax(-1)
    shares = torch.stack([p[1:4].sum(), p[4:7].sum()])
    assert isinstance(answer, Generation)
    assert list(answer.option_scores.values()) == pytest.approx((shares / shares.sum()).log().tolist(), abs=1e-4)


def test_a_constant_bias_changes_option_scores_only() -> None:
    model, question, options = Toy(), prompt(1), ("w1", "w2 w3")
    arms = [parse_arm("greedy"), parse_arm({"name": "constant_bias", "biases": [0.0, 2.5]})]
    plain, moved = run_requests(model, [DecodingRequest(question, arm, options, "options") for arm in arms])
    assert isinstance(plain, Generation)
    assert isinstance(moved, Generation)
    gaps = [answer.option_scores["w2 w3"] - answer.option_scores["w1"] for answer in (plain, moved)]
    assert gaps[1] - gaps[0] == pytest.approx(2.5, abs=1e-4)


def test_strategies_for_option_scoring_generate_no_text() -> None:
    for name in ("constant_bias", "olm"):
        arm = parse_arm(name)
        (answer,) = run_requests(Toy(), [DecodingRequest(prompt(1), arm)])
        assert isinstance(answer, Failure)
        assert "answer_mode: options" in answer.reason
        assert "answer_mode: options" in (unsupported_reason(arm, {"logits"}) or "")
        assert unsupported_reason(arm, {"logits"}, "options") is None
        assert "whole options" in (unsupported_reason(arm, {"strategies"}, "options") or "")


def test_wrong_demonstration_answers_replace_the_contrast_branch() -> None:
    question = probe_prompt(shots=3)
    for how in ("wrong", "shuffled"):
        control = OtherAnswers(CED(), how=how)  # type: ignore[arg-type]
        first, other = control.branches(question)
        assert first == question
        assert [p.text for p in other.parts() if p.name.endswith("answer")] != ["red", "blue", "green"]
        assert other.images == question.images
        assert torch.equal(
            combine_branches(control, random_logits(2), 0)[0], combine_branches(CED(), random_logits(2), 0)[0]
        )
    with pytest.raises(PlanError, match="two different"):
        OtherAnswers(CED()).branches(probe_prompt(shots=1))


@pytest.mark.parametrize("control", [EntropyMatched, GaussianProxy, SignFlip, PlainAverage, TemperatureMatched, Plus])
def test_a_control_rules_out_the_tokens_that_the_methods_combination_rules_out(control: type[Strategy]) -> None:
    logits, method = random_logits(2), MasksByAll(first=3.0, second=-1.0)
    own, _ = combine_branches(method, logits, 0)
    scores, _ = combine_branches(control(method), logits, 0)  # type: ignore[call-arg]
    assert torch.equal(scores > -math.inf, own > -math.inf)
    assert not bool((scores == math.inf).any())


def test_the_gaussian_proxy_takes_the_moments_of_surviving_tokens_only() -> None:
    """Two of three tokens survive with shifts of 1 and 3: mean 2, deviation 1. The third has a shift of 100."""
    reference, other = torch.tensor([[[0.0, 0.0, -9.0]]]), torch.tensor([[[-1.0, -3.0, -109.0]]])
    states = [InitialStepState(StreamKey(0, "q"))]
    scores = GaussianProxy(VCD(alpha=1.0, beta=0.5)).combine_stateful(torch.cat([reference, other]), 4, states)
    noise = torch.randn(3, generator=states[0].key.torch("gaussian/4"))
    torch.testing.assert_close(scores[0, :2], 2 + noise[:2])


def test_a_favored_option_beyond_the_last_one_is_the_last_one() -> None:
    logits = torch.tensor([[[0.4, 0.3, 0.3]]]).log()
    scores = [int(OLM(favored=favored).combine(logits, 0)[0].argmax()) for favored in (0, 1, 2, 3, 9)]
    assert scores == [0, 1, 2, 2, 2]


def test_controls_that_wrap_nothing_are_controls_with_their_published_numbers() -> None:
    for control in (MoreDemonstrations(), SelfConsistency(), PBA(), OLM()):
        assert control.traits.is_control
    assert MoreDemonstrations().factor == MoreDemonstrations().traits.demonstration_factor == 2
    assert SelfConsistency().num_samples == SelfConsistency().traits.num_samples == 2
    assert (OLM().favored, OLM().total, OLM().margin) == (0, 0.2, 0.5)
    assert RandomGate().probability == 0.5


def test_plain_average_has_as_many_weights_as_the_method_or_none() -> None:
    assert PlainAverage(VCD()).weights == (0.5, 0.5)
    assert PlainAverage(AdaCAD()).weights is None


def test_equal_biases_of_no_option_leave_the_scores() -> None:
    options = torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    assert torch.equal(ConstantBias((0.0, 1.0)).combine(options, 0)[0], options[0, 0] + torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(
        ConstantBias((0.0, 1.0, 2.0, 3.0)).combine(options, 0)[0], options[0, 0] + torch.tensor([0.0, 1.0, 2.0])
    )


WRAPPING = (
    MaskOnly, TemperatureMatched, EntropyMatched, GaussianProxy, SignFlip, Plus, PlainAverage, OtherAnswers, NoImage,
    UnrelatedImage, ShuffledNegative,
)  # fmt: skip


@pytest.mark.parametrize("control", [*(kind(VCD(beta=0.1)) for kind in WRAPPING), RandomGate()], ids=repr)
def test_a_control_keeps_the_best_token_of_the_reference_exactly_if_it_says_so(control: Strategy) -> None:
    logits = random_logits(3 if isinstance(control, RandomGate) else 2, rows=200)
    logits = logits[: len(control.branches(probe_prompt()))]
    states = [InitialStepState(StreamKey(0, f"q{i}")) for i in range(200)]
    scores = control.combine_stateful(logits, 1, states)
    mask = control.mask(logits[0])
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    keeps = bool((scores.argmax(-1) == logits[0].argmax(-1)).all())
    assert control.traits.preserves_argmax is keeps
    assert control.traits.is_control


def test_controls_with_random_numbers_say_so_and_others_read_nothing_of_the_method() -> None:
    assert [kind(VCD()).traits.draws_random_numbers for kind in WRAPPING] == [
        kind is GaussianProxy for kind in WRAPPING
    ]
    assert (RandomGate().traits.draws_random_numbers, RandomGate().traits.masks_in_combine) == (True, True)
    assert not MaskOnly(GaussianProxy(VCD())).traits.draws_random_numbers
    assert MaskOnly(RandomGate()).traits.draws_random_numbers, "its mask depends on the gate"


def test_both_limits_of_olm_are_excluded() -> None:
    even = torch.tensor([[[0.25, 0.5]]]).log()
    assert torch.equal(OLM(total=0.75, margin=1.0).combine(even, 0), even[0]), "the sum is not above the total"
    assert torch.equal(OLM(total=0.5, margin=0.25).combine(even, 0), even[0]), "the difference is not below the margin"
    assert int(OLM(total=0.5, margin=0.26).combine(even, 0).argmax()) == 0
