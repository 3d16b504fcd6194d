"""Demonstrations that the model makes itself from the query: it varies the question, answers, and keeps the surest.

    q_i = variation i of the question          a_i = greedy answer to q_i about the query's image
    v_i = whether the model confirms that a_i answers q_i

The first `count` confirmed pairs, else the first pairs, stand before the question as text: "Question: q_i Answer: a_i".
The model answers this prompt. The controls are `self_consistency` with as many calls (3 `variations`), and
`shuffled: true`, which exchanges the answers. Runs on models without logits too.

No released code: a reconstruction without a source; the wording and the numbers are parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from decoding import Generate, Note, Traits, question_text, remove_demonstrations, replace_question, wrap_question
from icl import ConfigError, PositiveInt, Prompt, Strategy, Tensor, component, normalize_text, spans

VARY = "{question}\nWrite another short question of the same kind about this image. Variation {number}:"
CONFIRM = "Question: {question} Answer: {answer}\nIs this answer right? Answer yes or no."
Pair = tuple[str, str]


@component("strategy", "self_demonstrations")
@dataclass(frozen=True)
class SelfDemonstrations(Strategy):
    """The prompt with questions and answers that the model itself made about the query's image."""

    weights: ClassVar[tuple[float, float]] = (0.0, 1.0)

    count: PositiveInt = 2  # demonstrations to show
    variations: PositiveInt = 4  # questions to make, at least `count`; three calls each
    shuffled: bool = False  # whether the answers are exchanged: the control
    text: str = "Question: {question} Answer: {answer}\n"  # format of a demonstration before the question
    max_new_tokens: PositiveInt = 24  # length limit of a question and of an answer in tokens

    traits = Traits(needs=frozenset({"generate"}), rewrites_prompt=True)

    def __post_init__(self) -> None:
        if self.variations < self.count:
            raise ConfigError(f"variations: {self.variations} is less than the {self.count} demonstrations to choose.")
        if self.text.count("{question}") != 1 or self.text.count("{answer}") != 1:
            raise ConfigError(f"text must have {{question}} and {{answer}} once each; it is {self.text!r}.")

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> Sequence[str]:
        """The text of the demonstrations for each prompt; '' for a prompt without a question."""
        owners = [i for i, prompt in enumerate(prompts) if spans.QUESTION in prompt.spans]
        bare = {i: remove_demonstrations(prompts[i]) for i in owners}
        asked_of = [i for i in owners for _ in range(self.variations)]
        numbers = [number for _ in owners for number in range(1, self.variations + 1)]
        requests = [
            replace_question(bare[i], VARY.format(question=question_text(prompts[i]), number=number))
            for i, number in zip(asked_of, numbers, strict=True)
        ]
        questions = [text.strip() for text in generate(requests, self.max_new_tokens)]
        replies = generate([replace_question(bare[i], q or "?") for i, q in zip(asked_of, questions, strict=True)],
                           self.max_new_tokens)  # fmt: skip
        pairs = [(question, reply.strip()) for question, reply in zip(questions, replies, strict=True)]
        checks = [
            replace_question(bare[i], CONFIRM.format(question=question, answer=answer))
            for i, (question, answer) in zip(asked_of, pairs, strict=True)
        ]
        confirmed = [normalize_text(text).startswith("yes") for text in generate(checks, self.max_new_tokens)]
        notes = [""] * len(prompts)
        for i in owners:
            mine = [(p, ok) for p, ok, owner in zip(pairs, confirmed, asked_of, strict=True) if owner == i]
            notes[i] = self._written(chosen_pairs(mine, self.count))
        return notes

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, Prompt]:
        """The prompt, and the prompt with the demonstrations. note: their text."""
        return prompt, wrap_question(prompt, before=str(note)) if note else prompt

    def combine(self, logits: Tensor, step: int) -> Tensor:
        return logits[1]

    def _written(self, pairs: Sequence[Pair]) -> str:
        answers = [answer for _, answer in pairs]
        answers = answers[1:] + answers[:1] if self.shuffled else answers
        return "".join(
            self.text.replace("{answer}", answer).replace("{question}", question)
            for (question, _), answer in zip(pairs, answers, strict=True)
        )


def chosen_pairs(pairs: Sequence[tuple[Pair, bool]], count: int) -> list[Pair]:
    """The first `count` different pairs without an empty text, those that were confirmed first."""
    usable: dict[Pair, bool] = {}
    for pair, is_confirmed in pairs:
        if all(pair):
            usable.setdefault(pair, is_confirmed)
    return sorted(usable, key=lambda pair: not usable[pair])[:count]
