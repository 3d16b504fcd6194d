"""The figures of a training: binding, naming and controls on nouns and drawings that it did not see."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.tuning.objectives import IGNORED
from icl.tasks.drawings.questions import QUESTIONS
from icl.tasks.generated.wording import BINDING_QUESTIONS, NONCE
from lab.small.drawings_data import DrawingSet
from lab.small.episodes import TrainingTurn
from lab.small.model import SmallModel

BINDING_FIGURES = ((2, 1), (2, 2), (2, 4), (4, 2))
"""(nouns, demonstrations of each)."""
NAMING = "naming 50 held-out nouns"
Names = Callable[[Random, Sequence[str]], list[str]]


def made_up(rng: Random, nouns: Sequence[str]) -> list[str]:
    """Names that are no words."""
    return rng.sample(NONCE, len(nouns))


def swapped(rng: Random, nouns: Sequence[str]) -> list[str]:
    """Each noun has the name of another."""
    return [*nouns[1:], nouns[0]]


@dataclass(frozen=True)
class BindingEpisode:
    """Demonstrations of named nouns and a query of the first noun.

    Attributes:
        images: Index of the drawing and name of each demonstration, in the order of the prompt.
        options: The names in random order, so that a tie does not count as a right answer.
    """

    images: tuple[tuple[int, str], ...]
    query: int
    answer: str
    options: tuple[str, ...]


class Evaluation:
    """Counts of right answers by the likeliest option.

    Args:
        questions: Questions of each figure.
        seed: Random seed of the questions.
    """

    def __init__(self, model: SmallModel, data: DrawingSet, questions: int, seed: int = 0) -> None:
        self.model, self.data, self.questions, self.seed = model, data, questions, seed

    def figures(self) -> dict[str, Callable[[], int]]:
        """Name -> a function that counts right answers."""
        held_out = self.data.held_out
        out: dict[str, Callable[[], int]] = {}
        for ways, shots in BINDING_FIGURES:
            each = f"{ways}-way, {shots} each"
            for names in (made_up, swapped):
                out[f"binding {each}, {names.__name__} names"] = partial(self.binding, ways, shots, names)
            out[f"binding {each}, nearest neighbor on the features"] = partial(self.nearest_neighbor, ways, shots)
        out["binding 2-way, 2 each, blank demonstrations"] = partial(self.binding, 2, 2, made_up, blank="demos")
        out["binding 2-way, 2 each, blank query"] = partial(self.binding, 2, 2, made_up, blank="query")
        out[NAMING] = partial(self.naming, held_out)
        out[f"{NAMING}, blank image"] = partial(self.naming, held_out, image="blank")
        out[f"{NAMING}, image of another noun"] = partial(self.naming, held_out, image="other")
        out[f"{NAMING}, 2 demonstrations of others"] = partial(self.naming, held_out, others=2)
        out[f"{NAMING}, 2 demonstrations, one of the own noun"] = partial(self.naming, held_out, others=1, own=True)
        out["naming 100 training nouns"] = partial(self.naming, self.data.test, options=100)
        return out

    def binding(self, ways: int, shots: int, names: Names, *, blank: Literal["", "demos", "query"] = "") -> int:
        """Right answers among the names of `ways` held-out nouns with `shots` demonstrations each."""
        right = 0
        for number in range(self.questions):
            episode = self._episode(ways, shots, names, number)
            demos = [
                TrainingTurn(self.data.blank if blank == "demos" else i, BINDING_QUESTIONS[0], name, False)
                for i, name in episode.images
            ]
            query = self.data.blank if blank == "query" else episode.query
            best = self._best(demos, query, BINDING_QUESTIONS[0], episode.options)
            right += episode.options[best] == episode.answer
        return right

    def nearest_neighbor(self, ways: int, shots: int) -> int:
        """Right answers of the name of the demonstration with the most similar features, on the same episodes."""
        vectors = self.data.features.float().mean(1)
        right = 0
        for number in range(self.questions):
            episode = self._episode(ways, shots, made_up, number)
            demos = vectors[[i for i, _ in episode.images]]
            nearest = torch.cosine_similarity(vectors[episode.query], demos, dim=1).argmax()
            right += episode.images[int(nearest)][1] == episode.answer
        return right

    def _episode(self, ways: int, shots: int, names: Names, number: int) -> BindingEpisode:
        by_noun = {noun: indices for noun, indices in self.data.held_out.items() if len(indices) > shots}
        rng = Random(f"{self.seed}/{ways}/{shots}/{number}")
        nouns = rng.sample(sorted(by_noun), ways)
        labels = names(rng, nouns)
        images = {noun: rng.sample(by_noun[noun], shots + 1) for noun in nouns}
        demos = [(i, label) for noun, label in zip(nouns, labels, strict=True) for i in images[noun][1:]]
        rng.shuffle(demos)
        return BindingEpisode(tuple(demos), images[nouns[0]][0], labels[0], tuple(rng.sample(labels, ways)))

    def naming(
        self,
        by_noun: dict[str, list[int]],
        *,
        options: int = 50,
        image: Literal["own", "blank", "other"] = "own",
        others: int = 0,
        own: bool = False,
    ) -> int:
        """Right answers among the `options` nouns with the most drawings."""
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
            wrong = rng.choice(by_noun[rng.choice([one for one in nouns if one != noun])])
            query_image = {"own": query, "blank": self.data.blank, "other": wrong}[image]
            right += nouns[self._best(demos, query_image, QUESTIONS["noun"], nouns)] == noun
        return right

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
