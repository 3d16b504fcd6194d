"""Scores that a judge model gives: MMHal-Bench's rating, and MMIR's open answers."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from icl import ConfigError, Example, PositiveInt, canonical_digest, component, split_reasoning
from icl.metrics.machinery.judge import Judge, JudgeRequest, JudgeVerdict
from icl.metrics.published_rules import marked_text, numbers_in, score_elements


@component("metric", "judge_rating")
@dataclass(frozen=True)
class JudgeRating(Judge):
    """The rating of an answer by a judge model. No score without one.

    In MMHal-Bench (Sun et al., 2309.14525), a language model rates from 0 to 6 how informative an answer is and whether
    it makes things up.

        6 5 4 3   nothing is made up: very informative, informative, somewhat, not
        2 1 0     something is made up, in the same order

    The paper's score is the mean rating, and its hallucination rate the share below 3. The rule that reads a reply: the
    number after the last "rating:", else the only number of the reply.

    Differs from the paper in the prompt, which says the same in other words and has no worked examples, and in the
    model. No released code was compared.
    """

    accuracy: ClassVar[bool] = False

    prompt: str = "mmhal_rating.txt"  # a file with {question} and {answer}, and perhaps {gold} and {image_content}
    highest: int = 6  # the best rating; the worst is 0
    passing: int = 3  # the lowest rating of a right answer, for the judge's controls

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.passing <= self.highest:
            raise ConfigError(f"passing must be a rating from 1 to {self.highest} (highest), not {self.passing}.")

    @property
    def rule(self) -> tuple[str | int, ...]:
        return "rating", self.highest, self.passing, self.max_new_tokens

    def value(self, verdict: JudgeVerdict | None, request: JudgeRequest) -> float | None:
        return None if verdict is None else self.rating(verdict["reply"])

    def parse(self, reply: str, request: JudgeRequest) -> bool | None:
        """Whether the rating is that of a right answer, None if there is no rating."""
        rating = self.rating(reply)
        return None if rating is None else rating >= self.passing

    def rating(self, reply: str) -> float | None:
        """The rating in a reply, by the rule of the module. None if it has none, or another number."""
        text = split_reasoning(reply).answer.lower()
        numbers = re.findall(r"rating\W*(\d+)\b", text)[-1:] or re.findall(r"\d+", text)
        return float(numbers[0]) if len(numbers) == 1 and int(numbers[0]) <= self.highest else None


@component("metric", "mmir_open")
@dataclass(frozen=True)
class MMIROpen(Judge):
    """MMIR's score of an open answer, whose elements a judge model names. No score without its reply.

    MMIR's open answers (Yan et al., 2502.16033): a judge model matches a sentence with the elements of the document.

        prompt    the sentence between <ans> and </ans>, and the numbered elements (column `descs`); no question
        reply     one or two element numbers between <id> and </id>
        score     as in the metric `mmir`: half of the credit if only one of two numbers is right

    `meta` of the task must have `descs`, as the released `questions_open.json` names the elements. The released judge
    is o1-mini; here it is any model. In the controls of a judge, an answer with any credit counts as right; the
    sentences of accepted answers are their numbers.

    Differs from the released code in the words of the prompt; in outputs without <ans>, which are matched whole (there
    the sentence is empty); in replies without <id>, in which all numbers count (there they score 0); and in replies
    without <id> and without a number, which have no score and are reported.
    """

    accuracy: ClassVar[bool] = False
    fields: ClassVar[tuple[str, ...]] = ("answer", "descs")
    exchangeable: ClassVar[bool] = False  # a sentence is no gold answer

    prompt: str = "mmir_open.txt"  # a file with {answer} and {descs}, and perhaps {question}
    max_new_tokens: PositiveInt = 64  # length limit of a reply

    @property
    def rule(self) -> tuple[str | int, ...]:
        return "elements", self.max_new_tokens

    def request(self, output: str, example: Example) -> JudgeRequest:
        request = super().request(marked_text(output, "ans"), example)
        return replace(request, key=canonical_digest([request.key, request.texts["gold"]]))

    def value(self, verdict: JudgeVerdict | None, request: JudgeRequest) -> float | None:
        gold = numbers_in(request.texts["gold"])
        if verdict is None or not 1 <= len(gold) <= 2:
            return None
        text = marked_text(verdict["reply"], "id")
        elements = numbers_in(text)
        return score_elements(elements, gold) if elements or text != verdict["reply"] else None

    def parse(self, reply: str, request: JudgeRequest) -> bool | None:
        """Whether a reply names a right element, None if it names none."""
        score = self.value({"right": None, "reply": reply}, request)
        return None if score is None else score > 0
