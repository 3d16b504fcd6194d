"""Yes/no answers: parsing, the fraction of yes, and the fraction of outputs that are neither.

Two rules are in use. `parse_yes_no` has three results: yes, no, or neither. An output that says neither, or both,
counts as wrong, and the metric `unparsed_rate` counts it. `parse_pope` is the released evaluation of POPE (Li et al.,
EMNLP 2023). It reads the first sentence without commas. The answer is "no" if one of the words is No, no or not;
everything else, an empty output too, is "yes".

Differs from the released code in nothing known in `pope`. `parse_yes_no` is this toolkit's.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from icl.metrics.answer_extraction import extract_answer
from icl.metrics.base import Better
from icl.metrics.normalize import normalize_text
from icl.metrics.option_letters import chosen_by_place
from icl.registry import component
from icl.types import Example, Generation

YesNo = Literal["yes", "no"]


_IDIOMS = re.compile(
    r"\b(?:no|without a) (?:doubt|question)\b|\bno (?:problem|worries|idea|clue|way to (?:tell|know))\b"
)
_BOTH = re.compile(r"\byes\b\W*(?:and|or|/)\W*\bno\b|\byes\b\W+no\b(?!\s+\w)|\bno\b\W*(?:and|or|/)\W*\byes\b")
_NEGATED = re.compile(
    r"\b(?:is|are|was|were|do|does|did|can|could|has|have)(?:n't| not)\b"
    r"(?! (?:clear|possible|sure|certain|enough|provide|specify|say|indicate|mention|show enough|know|have enough))"
)
_SYNONYMS = {
    **dict.fromkeys(
        (
            "yeah",
            "yep",
            "yup",
            "true",
            "correct",
            "absolutely",
            "definitely",
            "certainly",
            "indeed",
            "exactly",
            "affirmative",
        ),
        "yes",
    ),
    **dict.fromkeys(("nope", "nah", "false", "incorrect", "negative"), "no"),
}


_DISSENT = re.compile(
    r"^(?:definitely|certainly|absolutely|probably|of course|most likely|likely|clearly|surely) not\b"
    r"|^not (?:really|at all|quite|that i can see|in|on|here|visible|present|there)\b|\bsee none\b"
    r"|^not\W*$|^(?:never|neither|none)\b|^n$"
    r"|^(?:it|that|this) (?:appears|seems) not\b"
    r"|^(?:nobody|no one|nothing (?:like|of|can|is))\b|\bafraid not\b|^i (?:think|believe|guess) not\b"
    r"|\b(?:can't|cannot|can not|couldn't|don't) (?:see|find|spot|identify|detect|notice) (?:any|one|an?)\b"
    r"|^i do(?:n't| not) (?:think|believe) so"
    r"|\bthere(?:'s| is| was) (?:nobody|nothing|no one|none)\b|\bnone of (?:them|the|these)\b"
)
_FINAL = re.compile(r"\b(?:so|therefore|thus|hence),? (?:the answer is |it is )?(yes|no)\W*$")
_ASSENT = re.compile(
    r"^(?:it|that|this) (?:appears|seems|looks)(?: to be)? (?:so|that way|like it)\b|^i (?:think|believe|guess) so\b"
    r"|\b(?:is|are) (?:clearly |also |indeed )?(?:visible|present)\b"
    r"|^the (?:image|picture|photo|scene) (?:clearly |does )?"
    r"(?:contains?|shows?|includes?|depicts?|features?|has|have) "
    r"|^(?:i|we|they|it|he|she|this|that|these|those) (?:do|does) (?!not\b)\w+"
    r"|^y$|^of course\b"
    r"|^sure\b(?!\W+(?:please|i'd|i would|i can|i'll|let|here|could|what|happy)\b)|"
    r"^there(?:'s| is| are| was| were),? (?!not\b|no\b)"
    r"|^(?:it|that|this|there|they|he|she|these|those) (?:is|are|does|do|was|were|has|have|can)\W*$"
)
_JUDGMENT = re.compile(
    r"\b(?:statement|claim|caption|description|assertion|sentence|that|this|it|which)"
    r"(?:'s|[^.?!]{0,200}? is| was| would be)"
    r"(?P<not> not|n't)? (?:(?:entirely|completely|actually|indeed|an?) )?"
    r"(?:(?P<yes>true|correct|right|accurate)|false|incorrect|wrong|inaccurate|untrue)\b(?! (?:side|hand|of)\b)"
)


def _read_phrase(text: str) -> YesNo | None:
    """Yes or no in a phrase such as "it appears so", "not really" or "the statement is false"; None for others."""
    if match := _JUDGMENT.search(text):
        return "yes" if bool(match["yes"]) != bool(match["not"]) else "no"
    if _DISSENT.search(text):
        return "no"
    return "yes" if _ASSENT.search(text) else None


def parse_yes_no(output: str) -> YesNo | None:
    """Whether an answer says yes or no; None where it says neither, or both.

    The first word decides, or else the only one of yes and no that occurs. Without both, a first word such as "true"
    or a negated verb ("there isn't one") decides.
    """
    text = _IDIOMS.sub("", output.casefold())
    words = re.findall(r"[a-z]+", text)
    answers = {word for word in words if word in ("yes", "no")}
    if conclusion := _FINAL.search(text):
        return "yes" if conclusion[1] == "yes" else "no"
    if _BOTH.search(text):
        return None
    if words and words[0] in answers:
        answers = {words[0]}
    if not answers and (phrase := _read_phrase(" ".join(text.split()))):
        answers = {phrase}
    if not answers and words:
        answers = {_SYNONYMS[words[0]]} if words[0] in _SYNONYMS else {"no"} if _NEGATED.search(text) else set()
    if len(answers) != 1:
        return None
    return "yes" if "yes" in answers else "no"


def read_yes_no(output: str, rule: str = "auto", options: tuple[str, ...] = ()) -> YesNo | None:
    """Whether the answer that an output gives is yes or no (`icl.metrics.answer_extraction` finds it).

    Args:
        output: The generated text.
        rule: How the answer is found.
        options: Options that the output may choose by a letter.
    """
    answer = extract_answer(output, rule).text
    return parse_yes_no(answer) or parse_yes_no(chosen_by_place(answer, options) or "")


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
    """1 if the output says yes. The mean is the yes-ratio of the predictions (.5 if balanced)."""

    better: ClassVar[Better] = "neither"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(read_yes_no(generation.text) == "yes") if asks_yes_no(example) else None


@component("metric", "unparsed_rate")
@dataclass(frozen=True)
class UnparsedRate:
    """1 if the output to a yes/no question says neither or both. Such an output counts as wrong."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(read_yes_no(generation.text) is None) if asks_yes_no(example) else None


@component("metric", "pope")
@dataclass(frozen=True)
class Pope:
    """Accuracy of yes/no answers by POPE's released rule: everything that does not contain no or not is yes."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        if not asks_yes_no(example):
            return None
        return float(parse_pope(generation.text) in {normalize_text(answer) for answer in example.answers})
