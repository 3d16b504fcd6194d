"""Yes/no answers: parsing, the fraction of yes, and the fraction of outputs that are neither.

Two rules are in use. They disagree on outputs that say neither. `parse_yes_no` has three results: the first word
decides, or else the only one of the two words that occurs. Any other output is unparsed_rate; it counts as wrong and is
counted. `parse_pope` is the released evaluation of POPE (Li et al., EMNLP 2023). It reads the first sentence without
commas. The answer is "no" if one of the words is No, no or not; everything else, an empty output too, is "yes".
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl.metrics.base import Better
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Example, Generation

YesNo = Literal["yes", "no"]


def parse_yes_no(output: str) -> YesNo | None:
    """The first word, or the only one of yes and no that occurs; None: unparsed_rate."""
    words = re.findall(r"[a-z]+", output.casefold())
    if words and words[0] in ("yes", "no"):
        return "yes" if words[0] == "yes" else "no"
    answers = {word for word in words if word in ("yes", "no")}
    if len(answers) != 1:
        return None
    return "yes" if "yes" in answers else "no"


def parse_pope(output: str) -> YesNo:
    """POPE's released rule: for comparison with published numbers only."""
    words = output.partition(".")[0].replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def asks_yes_no(example: Example) -> bool:
    """The accepted answers are yes or no."""
    return {normalize_text(answer) for answer in example.answers} <= {"yes", "no"}


@component("metric", "yes_ratio")
@dataclass(frozen=True)
class YesRatio:
    """1 where the output says yes: its mean is the yes-ratio of the predictions (.5 where balanced)."""

    better: ClassVar[Better] = "neither"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(parse_yes_no(generation.text) == "yes") if asks_yes_no(example) else None


@component("metric", "unparsed_rate")
@dataclass(frozen=True)
class UnparsedRate:
    """1 where a yes/no question got an output that says neither, or both; such an output counts as wrong."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(parse_yes_no(generation.text) is None) if asks_yes_no(example) else None


@component("metric", "pope")
@dataclass(frozen=True)
class Pope:
    """Accuracy of yes/no answers by POPE's released rule, in which whatever does not say no or not is yes."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        if not asks_yes_no(example):
            return None
        return float(parse_pope(generation.text) in {normalize_text(answer) for answer in example.answers})
