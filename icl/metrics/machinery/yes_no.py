"""Yes/no answers: parsing, the fraction of yes, and the fraction of outputs that are neither.

Two rules are in use. `parse_yes_no` has three results: yes, no, or neither. An output that says neither, or both,
counts as wrong, and the metric `unparsed_rate` counts it. A sentence without the words yes and no answers the question
only if it shares a word with it: "The image shows a cat" and "there is no image" answer no question about a dog. What
a model cannot do or does not know answers none. `parse_pope` is the released evaluation of POPE (Li et al.,
EMNLP 2023). It reads the first sentence without commas. The answer is "no" if one of the words is No, no or not;
everything else, an empty output too, is "yes".

Differs from the released code in nothing known in `pope`. `parse_yes_no` is this toolkit's.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from icl import Better, Example, Generation, component, normalize_text, singular
from icl.metrics import chosen_by_place, extract_answer, is_accepted

YesNo = Literal["yes", "no"]

_IDIOMS = re.compile(
    r"\b(?:no|without a) (?:doubt|question)\b|\bno (?:problem|worries|idea|clue|way to (?:tell|know))\b"
)
_BOTH = re.compile(r"\byes\b\W*(?:and|or|/)\W*\bno\b|\byes\b\W+no\b(?!\s+\w)|\bno\b\W*(?:and|or|/)\W*\byes\b")
_NEGATED = re.compile(r"\b(?:is|are|was|were|do|does|did|can|could|has|have)(?:n't| not)\b")
_IMAGE = (
    r"(?:images?|pictures?|photos?|photographs?|scenes?|screenshots?|attachments?|charts?|graphs?|figures?|diagrams?"
    r"|files?)"
)
_SEES = rf"(?:\w+ly )?(?:see|spot|find|detect|notice|identify|observe|locate)\b(?!(?: \w+){{0,3}} {_IMAGE}\b)"
_UNABLE = re.compile(
    r"(?:\b(?:i|we)\b(?: am| are|'m|'re)?(?: \w+){0,2}?(?: cannot| can't| can not| couldn't| could not| not able to"
    r"| (?:do|did)(?: not|n't) (?:know|have)| not (?:sure|certain))|\bunable to|\b(?:not |im)possible to"
    r"|\b(?:hard|difficult) to|\b(?:not (?:\w+ )?clear|unclear|not enough)"
    r"|(?:\bnot|n't) (?:\w+ )?(?:provide|specify|say|indicate|mention)\b)"
    rf"(?! {_SEES})[^.!?;]*|\b(?:whether|if)\b[^.!?;,]*"
)
"""An inability up to the end of its sentence, and an embedded question. Not to see something is an answer."""

_ABOUT_IMAGE = re.compile(
    rf"^(?:the|this|that|your|an?) (?:\w+ )?{_IMAGE} (?!.*(?:\b(?:no|not|neither|none)\b|n't\b))"
    rf"|\bno (?:(?!in\b|on\b|of\b)\w+ )?{_IMAGE}\b|\b{_IMAGE} (?:is|was|were|are|has)(?: not|n't)\b"
    r"|(?:\bnot|n't|\bcannot)(?: (?!in\b|on\b|of\b|by\b|from\b)\w+){0,2} (?:any|an?|the|your) "
    rf"{_IMAGE}\b"
)
"""A sentence about the image itself: what it shows, or that it is missing."""

_SAYS_IT = re.compile(
    rf"\W*(?:yes\b|yeah\b|yep\b|yup\b|nope\b|nah\b|no\b(?! (?:\w+ )?{_IMAGE}\b))|.*\b(?:yes|no)\W*$", re.DOTALL
)
"""A sentence with yes or no as its first or last word."""

_PRONOUN = re.compile(r"\W*(?:it|he|she|they|this|that|these|those)\b")
"""A subject that stands for that of the question."""

_CLAUSES = re.compile(r"(?<=[.!?;:])\s+|\n+")
_WORDS = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_FUNCTION_WORDS = re.compile(
    r".*'.*|.*ly|an?|the|th(?:is|at|ese|ose|ere|ey|em|eir|en|an)|its?|he|him|his|she|hers?|here|i|me|my|we|us|you|your"
    r"|ones?|any(?:one|thing|where)?|some(?:one)?|all|both|each|other|another|such|and|or|but|so|if|as|of|in|on|at|to|from"
    r"|by|with|for|about|into|is|are|was|were|be|been|being|am|do|does|did|has|have|had|can(?:not)?|could|will|would"
    r"|shall|should|may|might|must|not|no|yes|none|nothing|nobody|never|neither|nor|what|which|who|where|when|why|how"
    r"|many|much|more|most|also|just|very|quite|indeed|far|way|see|seen|visible|present|shown|appears?|seems?|looks?"
    r"|think|believe|guess|say|afraid|sure|course|true|false|correct|incorrect|right|wrong|like|well"
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

_WITHOUT = re.compile(r"\b(?:not|without)(?: (?:an?|any|the))? (\w+)")


def _content(text: str) -> set[str]:
    """The words of a text that carry its content, in the singular."""
    words = (word for word in _WORDS.findall(text) if not _FUNCTION_WORDS.fullmatch(word))
    return {singular(word) for word in words if not re.fullmatch(_IMAGE, word)}


def _answering(text: str, question: str) -> str:
    """The sentences of a text that can answer a question: they say yes or no, or something about its subject."""
    topic, answering = _content(question.casefold()), []
    for sentence in _CLAUSES.split(text):
        if _SAYS_IT.match(sentence) or _JUDGMENT.search(sentence):
            answering.append(sentence)
            continue
        able = _UNABLE.sub("", sentence)
        words = _content(able)
        may_refer = not topic or not words or _PRONOUN.match(able) is not None
        if (topic & words or (may_refer and not _ABOUT_IMAGE.search(able))) and (words or able == sentence):
            answering.append(able)
        else:
            answering.append("…")  # the next sentence is not the first one
    return " ".join(answering)


def _read_phrase(text: str, topic: set[str]) -> YesNo | None:
    """Yes or no in a phrase such as "it appears so", "not really" or "the statement is false"; None for others.

    Args:
        text: A text without the words yes and no.
        topic: The words of the question. To deny one ("a cat, not a dog") is no.
    """
    if match := _JUDGMENT.search(text):
        return "yes" if bool(match["yes"]) != bool(match["not"]) else "no"
    if _DISSENT.search(text) or any(singular(match[1]) in topic for match in _WITHOUT.finditer(text)):
        return "no"
    return "yes" if _ASSENT.search(text) else None


def parse_yes_no(output: str, question: str = "") -> YesNo | None:
    """Whether an answer says yes or no; None where it says neither, or both.

    The first word decides, or else the only one of yes and no that occurs. Without both, a first word such as "true"
    or a negated verb ("there isn't one") decides.
    """
    text = _answering(_IDIOMS.sub("", output.casefold()), question)
    words = re.findall(r"[a-z]+", text)
    answers = {word for word in words if word in ("yes", "no")}
    if conclusion := _FINAL.search(text):
        return "yes" if conclusion[1] == "yes" else "no"
    if _BOTH.search(text):
        return None
    if words and words[0] in answers:
        answers = {words[0]}
    if not answers and (phrase := _read_phrase(" ".join(text.split()), _content(question.casefold()))):
        answers = {phrase}
    if not answers and words:
        answers = {_SYNONYMS[words[0]]} if words[0] in _SYNONYMS else {"no"} if _NEGATED.search(text) else set()
    if len(answers) != 1:
        return None
    return "yes" if "yes" in answers else "no"


@lru_cache(4096)
def read_yes_no(output: str, rule: str = "auto", options: tuple[str, ...] = (), question: str = "") -> YesNo | None:
    """Whether the answer that an output gives is yes or no (`icl.metrics.machinery.answer_extraction` finds it).

    Args:
        output: The generated text.
        rule: How the answer is found.
        options: Options that the output may choose by a letter.
        question: What the answer has to be about.
    """
    answer = extract_answer(output, rule).text
    return parse_yes_no(answer, question) or parse_yes_no(chosen_by_place(answer, options) or "")


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
        return float(read_yes_no(generation.text, question=example.question) == "yes") if asks_yes_no(example) else None


@component("metric", "unparsed_rate")
@dataclass(frozen=True)
class UnparsedRate:
    """1 if the output to a yes/no question says neither or both. Such an output counts as wrong."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(read_yes_no(generation.text, question=example.question) is None) if asks_yes_no(example) else None


@component("metric", "pope")
@dataclass(frozen=True)
class Pope:
    """Accuracy of yes/no answers by POPE's released rule: everything that does not contain no or not is yes."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        if not asks_yes_no(example):
            return None
        return float(is_accepted(parse_pope(generation.text), example.answers))
