"""A judge's rating of an answer: MMHal-Bench (Sun et al., 2309.14525), where a language model rates 0 to 6 how
informative an answer is and whether it makes things up.

    6 5 4 3   nothing is made up: very informative, informative, somewhat, not
    2 1 0     something is made up, in the same order

The paper's score is the mean rating, and its hallucination rate the share below 3. The rule that reads a reply: the
number after the last "rating:", else the only number of the reply.

Differs from the paper in the prompt, which says the same in other words and has no worked examples, and in the model.
No released code was compared.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from icl import ConfigError, component, split_reasoning
from icl.metrics.machinery.judge import Judge, JudgeRequest, JudgeVerdict


@component("metric", "judge_rating")
@dataclass(frozen=True)
class JudgeRating(Judge):
    """The rating of an answer by a judge model. No score without one."""

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
