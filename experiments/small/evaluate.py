"""The figures of a training: binding, naming and controls on nouns and drawings that it did not see."""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from experiments.small.drawings_data import DrawingSet
from experiments.small.episodes import TrainingTurn
from experiments.small.model import IGNORED, SmallModel
from icl.tasks.drawings.naming import QUESTIONS
from icl.tasks.generated.wording import BINDING_QUESTIONS, NONCE

Names = Callable[[Random, Sequence[str]], list[str]]


def made_up(rng: Random, nouns: Sequence[str]) -> list[str]:
    """Names that are no words."""
    return rng.sample(NONCE, len(nouns))


def swapped(rng: Random, nouns: Sequence[str]) -> list[str]:
    """Each noun has the name of another."""
    return [*nouns[1:], nouns[0]]


class Evaluation:
    """Accuracy by the likeliest option.

    Args:
        questions: Questions of each figure.
        seed: Random seed of the questions.
    """

    def __init__(self, model: SmallModel, data: DrawingSet, questions: int, seed: int = 0) -> None:
        self.model, self.data, self.questions, self.seed = model, data, questions, seed

    def figures(self) -> dict[str, float]:
        """Name -> proportion of right answers. The binding figures have standard errors of .5 / sqrt(questions)."""
        out = {}
        for shots in (1, 2, 4):
            for names in (made_up, swapped):
                out[f"binding 2-way {names.__name__} {shots}+{shots}"] = self.binding(2, shots, names)
        out["binding 4-way made_up 2 each"] = self.binding(4, 2, made_up)
        out["binding 2-way made_up 2+2, blank demonstrations"] = self.binding(2, 2, made_up, blank=True)
        out["naming 50 held-out nouns"] = self.naming(self.data.held_out)
        out["naming 100 training nouns"] = self.naming(self.data.test, options=100)
        out["naming 50 held-out nouns, blank image"] = self.naming(self.data.held_out, blank=True)
        out["naming 50 held-out nouns, 2 demonstrations of others"] = self.naming(self.data.held_out, others=2)
        out["naming 50 held-out nouns, 2 demonstrations with the own"] = self.naming(
            self.data.held_out, others=1, own=True
        )
        return out

    def binding(self, ways: int, shots: int, names: Names, *, blank: bool = False) -> float:
        """Accuracy among the names of `ways` held-out nouns with `shots` demonstrations each."""
        by_noun = {noun: indices for noun, indices in self.data.held_out.items() if len(indices) > shots}
        right = 0
        for number in range(self.questions):
            rng = Random(f"{self.seed}/{ways}/{shots}/{number}")
            nouns = rng.sample(sorted(by_noun), ways)
            labels = names(rng, nouns)
            images = {noun: rng.sample(by_noun[noun], shots + 1) for noun in nouns}
            demos = [
                TrainingTurn(self.data.blank if blank else i, BINDING_QUESTIONS[0], label, False)
                for noun, label in zip(nouns, labels, strict=True)
                for i in images[noun][1:]
            ]
            rng.shuffle(demos)
            order = rng.sample(range(ways), ways)  # so that a tie is no right answer
            options = [labels[i] for i in order]
            best = self._best(demos, images[nouns[0]][0], BINDING_QUESTIONS[0], options)
            right += order[best] == 0
        return right / self.questions

    def naming(
        self,
        by_noun: dict[str, list[int]],
        *,
        options: int = 50,
        blank: bool = False,
        others: int = 0,
        own: bool = False,
    ) -> float:
        """Top-1 among the `options` nouns with the most drawings."""
        nouns = sorted(sorted(by_noun), key=lambda noun: -len(by_noun[noun]))[:options]
        right = 0
        for number in range(self.questions):
            rng = Random(f"{self.seed}/naming/{number}")
            noun = rng.choice(nouns)
            query, *more = rng.sample(by_noun[noun], min(2, len(by_noun[noun])))
            demos = [
                TrainingTurn(rng.choice(by_noun[one]), QUESTIONS["noun"], one, False)
                for one in rng.sample([one for one in nouns if one != noun], others)
            ]
            demos += [TrainingTurn(more[0], QUESTIONS["noun"], noun, False)] if own and more else []
            rng.shuffle(demos)
            best = self._best(demos, self.data.blank if blank else query, QUESTIONS["noun"], nouns)
            right += nouns[best] == noun
        return right / self.questions

    @torch.inference_mode()
    def _best(self, demos: Sequence[TrainingTurn], query: int, question: str, options: Sequence[str]) -> int:
        """The option with the highest log-probability. All options share one forward pass over the prompt."""
        sequences = [[*demos, TrainingTurn(query, question, option, True)] for option in options]
        batch = self.model.batch(sequences, self.data.features)
        scores = option_scores(self.model.base, batch.embeddings, batch.labels)
        return int(scores.argmax())


@torch.inference_mode()
def option_scores(language_model: Any, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each row's labeled tokens; all rows begin with the same prompt.

    Args:
        language_model: LlamaForCausalLM.
        embeddings: [rows, T, d], padded on the right.
        labels: [rows, T]; IGNORED before the option and in the padding.

    Returns:
        float32 of [rows].
    """
    begin = int((labels[0] != IGNORED).nonzero()[0])
    cache = language_model(inputs_embeds=embeddings[:1, : begin - 1], use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(embeddings))
    logits = language_model(inputs_embeds=embeddings[:, begin - 1 : -1].contiguous(), past_key_values=cache).logits
    targets = labels[:, begin:]
    scores: Tensor = logits.float().log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return scores.masked_fill(targets == IGNORED, 0).sum(1)


@torch.inference_mode()
def perplexity(language_model: Any, text: Tensor) -> float:
    """Perplexity of token ids, [rows, tokens]."""
    losses = [float(language_model(input_ids=row[None], labels=row[None]).loss) for row in text]
    return math.exp(sum(losses) / len(losses))
