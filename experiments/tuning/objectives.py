"""The losses of a batch of episodes: `sft`, the preferences of `dpo` and `realign`, and `distill`.

    sft             cross-entropy of the answers, a mean over the step's answer tokens
    dpo, realign    preference of the answer over its alternatives (`experiments.tuning.alternatives`), a mean over the
                    step's episodes, + sft_weight x sft
    distill         KL(base model with demonstrations || trained model without them), a mean over the step's answer
                    tokens, + sft_weight x sft. Vectors that are made of demonstrations read them on both sides

`dpo` is as SymDPO trains (Jia et al., CVPR 2025). SymDPO's pairs are episodes of the transform `symbols`: both answers
are symbols, and only the demonstrations tell which is right. The base model is the model with the adapter off.

Differs from the released code in its data: there the pairs are made ahead from other data sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decoding.prompt_edits import remove_demonstrations
from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.losses import answer_loss, distillation_loss, preference_loss, sequence_logprobs
from experiments.tuning.training_forward import AnsweredPrompt, answer_logits, encode_answered
from icl.errors import ModelError
from icl.models.hf.language_model import LanguageModel

if TYPE_CHECKING:
    from experiments.tuning.episodes import Episode
    from experiments.tuning.trained_part import TrainedPart
    from icl.models.hf.model import HF


@dataclass(frozen=True, eq=False)
class EncodedStep:
    """The episodes of a step as model inputs.

    Attributes:
        chosen: Each prompt with its answer.
        alternatives: For each number of an alternative, those of all episodes. Of `distill`: what the base model reads.
    """

    chosen: Sequence[AnsweredPrompt]
    alternatives: Sequence[Sequence[AnsweredPrompt]] = ()

    @property
    def answer_tokens(self) -> int:
        return sum(count for _, count in self.chosen)

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return sum(len(read) for read, _ in chain(self.chosen, *self.alternatives))


Encode = Callable[["HF", "TrainedPart", Sequence["Episode"]], EncodedStep]
"""The episodes, which have equally many alternatives, as model inputs. Raises ModelError."""
Loss = Callable[[LanguageModel, "TrainedPart", TuneSpec, EncodedStep, slice], Tensor]
"""The share of the step's loss that some of its episodes have, a scalar with gradients."""


@dataclass(frozen=True)
class Objective:
    """A value of `tune.objective`."""

    encode: Encode
    loss: Loss


def encode_step(model: "HF", part: "TrainedPart", spec: TuneSpec, episodes: "Sequence[Episode]") -> EncodedStep:
    """The episodes, which have equally many alternatives, as model inputs. Raises ModelError."""
    return OBJECTIVES[spec.objective].encode(model, part, episodes)


def chunk_loss(runner: LanguageModel, part: "TrainedPart", spec: TuneSpec, step: EncodedStep, start: int) -> Tensor:
    """The share of the step's loss that the `spec.rows` episodes from `start` on have, a scalar with gradients."""
    return OBJECTIVES[spec.objective].loss(runner, part, spec, step, slice(start, start + spec.rows))


def _with_alternatives(model: "HF", part: "TrainedPart", episodes: "Sequence[Episode]") -> EncodedStep:
    prompts, answers = [one.prompt for one in episodes], [one.answer for one in episodes]
    alternatives = zip(*(one.alternatives for one in episodes), strict=True)
    columns = [encode_answered(model, *map(list, zip(*pairs, strict=True))) for pairs in alternatives]
    return EncodedStep(encode_answered(model, part.prompts(prompts), answers), columns)


def _with_teachers(model: "HF", part: "TrainedPart", episodes: "Sequence[Episode]") -> EncodedStep:
    """The prompts without demonstrations, and with them for the base model."""
    prompts, answers = [one.prompt for one in episodes], [one.answer for one in episodes]
    students = prompts if part.reads_demonstrations else [remove_demonstrations(one) for one in prompts]
    return EncodedStep(
        encode_answered(model, part.prompts(students), answers), [encode_answered(model, prompts, answers)]
    )


def _supervised(runner: LanguageModel, part: "TrainedPart", spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    logits, targets = answer_logits(runner, step.chosen[chosen], part.image_features)
    return answer_loss(logits, targets)[0] / step.answer_tokens


def _preferred(runner: LanguageModel, part: "TrainedPart", spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    own = step.chosen[chosen]
    rows = [*own, *chain.from_iterable(each[chosen] for each in step.alternatives)]
    with torch.no_grad(), part.disabled():
        base = sequence_logprobs(*answer_logits(runner, rows, part.image_features))
    logits, targets = answer_logits(runner, rows, part.image_features)
    tuned, count = sequence_logprobs(logits, targets), len(own)
    preference = preference_loss(tuned.view(-1, count), base.view(-1, count), spec.beta) / len(step.chosen)
    return preference + spec.sft_weight * answer_loss(logits[:count], targets[:count])[0] / step.answer_tokens


def _distilled(runner: LanguageModel, part: "TrainedPart", spec: TuneSpec, step: EncodedStep, chosen: slice) -> Tensor:
    [teachers] = step.alternatives
    with torch.no_grad(), part.disabled():
        teacher, expected = answer_logits(runner, teachers[chosen], part.image_features)
    logits, targets = answer_logits(runner, step.chosen[chosen], part.image_features)
    if not torch.equal(targets, expected):
        raise ModelError(
            "tune.objective: an answer has other tokens after demonstrations than without them, so `distill` cannot "
            "compare them. Use a composer or template that ends prompts alike, such as composer: chat, or objective: "
            "sft."
        )
    loss = distillation_loss(logits, teacher, targets) + spec.sft_weight * answer_loss(logits, targets)[0]
    return loss / step.answer_tokens


OBJECTIVES: Mapping[str, Objective] = {
    "sft": Objective(_with_alternatives, _supervised),
    "dpo": Objective(_with_alternatives, _preferred),
    "realign": Objective(_with_alternatives, _preferred),
    "distill": Objective(_with_teachers, _distilled),
}
"""Value of `tune.objective` -> its inputs and its loss."""
