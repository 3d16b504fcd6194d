"""Controls that are methods of their own, at the cost or with the means of a contrast."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from decoding import Arm, ControlTarget, Note, Sampler, Sampling, Strategy, Traits, UnitSumStrategy, wrap_question
from decoding.arms.inspection import branch_count
from icl import Count, Fraction, Positive, Prompt, Tensor, component, parameter, torch

SUFFIX = " Answer the question using a single word or phrase. Answer yes whenever possible."


@component("strategy", "pba")
@dataclass(frozen=True)
class PBA(Strategy):
    """Control: the question with a request to answer yes whenever possible.

    PBA (Yin et al., NeurIPS 2025, 2504.10020): the prompt asks for the answer that contrasts favor.

    The question is followed by " Answer the question using a single word or phrase. Answer yes whenever possible.", as
    released. If this gains more than a method, the gain of the method may be a bias towards yes as well. The unchanged
    prompt is branch 0, for traces, and has no weight.

    Differs from the released code in nothing known: the suffix is as released.
    """

    weights: ClassVar[tuple[float, float]] = (0.0, 1.0)

    suffix: str = SUFFIX  # text after the query's question

    traits = Traits(is_control=True)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, wrap_question(prompt, after=self.suffix)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[1]


@component("strategy", "more_demonstrations")
@dataclass(frozen=True)
class MoreDemonstrations(Strategy):
    """Control: the reference with twice the demonstrations, at the cost of a contrast of two branches.

    More demonstrations: the reference with twice as many demonstrations.

    A prompt of twice the length costs as much as a second branch. The run uses the arm's own retriever, so the first
    half are the demonstrations of the arm. If the pool has fewer examples, all are used, and the sample records their
    number. At 0 shots this is the reference.
    """

    factor: Annotated[int, Ge(2)] = 2  # multiplies the number of shots of the run

    control_rank: ClassVar[int] = 240

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """For runs with demonstrations."""
        return None if target.shots == 0 else target.with_strategy(MoreDemonstrations(), target.sampler)

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, demonstration_factor=self.factor)


@component("strategy", "self_consistency")
@dataclass(frozen=True)
class SelfConsistency(Strategy):
    """Control: the most frequent of several sampled answers, at the cost of a contrast of as many branches.

    Self-consistency (Wang et al., ICLR 2023, 2203.11171): a majority vote over sampled answers.

    A contrast of two branches costs two forward passes per token, and so do two samples. `decoding.engine.voting`
    defines equal answers and ties. The first sample uses the random stream of the query, as `sampling` does. Option
    scores are not sampled, so there this is the reference.

    No released code was compared.
    """

    num_samples: Annotated[int, Ge(2)] = parameter("samples", 2)  # number of sampled answers
    temperature: Positive = 0.7  # of the samples, unless the arm has the key `sampling`

    control_rank: ClassVar[int] = 230

    @classmethod
    def control_for(cls, target: ControlTarget) -> Arm | None:
        """One sample per branch of the target, at equal cost."""
        if target.options:
            return None
        control = SelfConsistency(max(2, branch_count(target.strategy)))
        return target.with_strategy(control, target.sampler if target.is_sampled else control.sampler, "sum")

    @property
    def traits(self) -> Traits:
        return Traits(is_control=True, num_samples=self.num_samples)

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature)


@component("strategy", "olm")
@dataclass(frozen=True)
class OLM(UnitSumStrategy):
    """Control: prefers one option if it and its best rival are both likely. For option scoring only.

    Output layer modification (OLM, Yin et al., NeurIPS 2025, 2504.10020): answers yes if yes and no are both likely.

        favored option         if p(yes) + p(no) > total and |p(yes) - p(no)| < margin
        more probable option   otherwise

    p of an option is summed over the first tokens of all its spellings (every casing, with and without a leading
    space). The rule does not use the image, so its gain comes from the label prior.

    Differs from the released code in the tokens of yes and no, which are all spellings of the options of a task.
    """

    favored: Count = 0  # index of the preferred option; 0 is yes for [yes, no]
    total: Fraction = 0.2  # minimal sum of the two probabilities
    margin: Fraction = 0.5  # maximal difference of the two probabilities

    traits = Traits(combines_options=True, requires_options=True, sums_first_tokens=True, is_control=True)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        options = logits[0]
        is_favored = torch.arange(options.shape[-1], device=options.device) == min(self.favored, options.shape[-1] - 1)
        favored = options[:, is_favored].exp()
        rival = options.masked_fill(is_favored, -float("inf")).amax(-1, keepdim=True).exp()
        applies = (favored + rival > self.total) & ((favored - rival).abs() < self.margin)
        return torch.where(applies & is_favored, options.amax(-1, keepdim=True) + 1, options)
