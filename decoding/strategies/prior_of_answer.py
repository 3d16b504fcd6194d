"""Contrast with the prior of an answer or of the context."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoding import AblationContrast, Note, PlausibleStrategy, Strategy, Traits, kth_plausibility_mask
from decoding.prompt_edits import AblatedPart, remove_demonstrations, remove_part, replace_question
from icl import Fraction, PositiveInt, Prompt, Tensor, component


@component("strategy", "pmi")
@dataclass(frozen=True)
class PMI(Strategy):
    """Log-probability of an option minus that after a premise without content. For option scoring only.

    Domain-conditional PMI (Holtzman et al., EMNLP 2021, 2104.08315): options relative to their probability a priori.

        score = log p(option | prompt) - log p(option | premise)

    Options with the same meaning share its probability, and common words win over rare ones. Dividing by the
    probability after a short text about the domain leaves what the prompt adds. Here this premise replaces the
    question, without the query's image and, as in the paper, without demonstrations.

    No released code was compared.
    """

    weights: ClassVar[tuple[float, float]] = (1.0, -1.0)

    premise: str = "The answer is:"  # replaces the query's question
    without: Literal["image", "both"] = "both"  # what else is removed; image: demonstrations remain

    traits = Traits(combines_options=True, requires_options=True)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, replace_question(remove_part(prompt, self.without), self.premise)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        scores: Tensor = logits[0] - logits[1]
        return scores


@component("strategy", "cd_k")
@dataclass(frozen=True)
class CDK(AblationContrast):
    """Difference that the image makes, among tokens plausible relative to the k-th best token.

    CD-K (CM3Leon, Yu et al., 2309.02591): contrastive decoding with a plausibility mask relative to the k-th best
    token.

        scores = l(y | prompt) - l(y | ablated prompt),      if p(y | prompt) >= alpha times the k-th largest p

    Expert and amateur are the same model with and without its condition. The weights sum to zero, so surviving tokens
    have equal scores if the branches agree. The paper's alpha and k are not verified; the defaults are not its numbers.
    k = 1, the default, is the mask of contrastive decoding. With a larger k, at least k tokens survive, however
    unlikely. If the model is certain, as of a short answer, the difference then chooses among implausible tokens.

    No released code.
    """

    weights: ClassVar[tuple[float, float]] = (1.0, -1.0)

    alpha: Fraction = 0.1  # minimal probability relative to the k-th best token; 0 masks nothing
    k: PositiveInt = 1  # rank of the token that others are compared with; 1 is the best token
    without: AblatedPart = "image"  # what the second branch lacks; 'image' means the images of the query

    def mask(self, reference: Tensor) -> Tensor | None:
        return kth_plausibility_mask(reference, self.alpha, self.k)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        with_condition, without_condition = logits.log_softmax(-1)
        scores: Tensor = with_condition - without_condition
        return scores


@component("strategy", "ced")
@dataclass(frozen=True)
class CED(PlausibleStrategy):
    """Difference that the demonstrations make, among plausible tokens (MVCD).

    Contrastive example decoding (MVCD, Pang et al., ICASSP 2025, 2502.11751): what the demonstrations add.

        scores = l(y | demonstrations, query) - l(y | query),      if p(y | demonstrations, query) >= beta max p

    The weights sum to zero, so surviving tokens have equal scores if the demonstrations change nothing. The paper first
    converts images to text (tags, attributes, captions). Here such texts are inputs, made by transforms and tasks. The
    released code ends an answer if either branch ends it. Here the combined token decides.

    Differs from the released code in the end of an answer (see above), in the prompts, which differ in the
    demonstrations only (there also in the system text), in the visual texts, which are inputs, and in masked tokens,
    which score -inf (there -1000).
    """

    weights: ClassVar[tuple[float, float]] = (1.0, -1.0)

    beta: Fraction = 0.1  # minimal probability relative to the best token; 0 masks nothing

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        return prompt, remove_demonstrations(prompt)

    def combine(self, logits: Tensor, step: int) -> Tensor:
        with_demos, without_demos = logits.log_softmax(-1)
        scores: Tensor = with_demos - without_demos
        return scores
