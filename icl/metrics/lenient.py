"""Lenient accuracy: the output gives an accepted answer, whatever it is wrapped in.

`icl.metrics.answer_extraction` finds the answer in the output. Then one of these rules decides, by the kind of the
accepted answers. If an output names several answers, or takes one back ("not red but blue"), only what it stands by
counts.

1. Equal after the VQA normalization (`icl.metrics.normalize.normalize_vqa`, applied always): right.
2. Yes or no: `icl.metrics.yes_no.parse_yes_no`; an output that says neither, or both, is wrong.
3. With options: a letter ("(B)", "B.", "option B") chooses an option by its place. A letter beside the name of another
   option is wrong.
4. A number: the first number, in digits or words and with its sign, is equal. A range or an alternative is wrong.
   Numbers skip the rules 5 and 6, which lose signs. (VL-ICL cuts at the first full stop and drops the sign; this does
   neither.)
5. With options: the answer names an accepted answer, as whole words, and no other option (Link-Context Learning, Tai et
   al., CVPR 2024: the positive name is in the output and the negative is not). The longest name is read where several
   begin: "a hot dog" names the hot dog and no dog.
6. Otherwise the answer begins with an accepted answer, as whole words, after an opening such as "it is a" or "the color
   of the car is". All alternatives of an "or" have to be accepted.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.answer_extraction import check_rule, extract_answer
from icl.metrics.base import Better
from icl.metrics.normalize import is_number, normalize_text, normalize_vqa, parse_numbers
from icl.metrics.yes_no import asks_yes_no, parse_yes_no
from icl.registry import component
from icl.types import Example, Generation

_HEDGE = r"(?:maybe|perhaps|probably|possibly|likely|most likely|clearly)"
_VERB = r"(?:is|are|was|were|shows?|appears? to be|seems? to be|looks like|looks?|contains|has|depicts|says|reads)"
_OPENING = re.compile(
    rf"^(?:(?:well|so|sure|certainly|of course|ok|okay|yes|here|{_HEDGE})\s+"
    r"|(?:i think|i believe|i see|i would say|i'd say|my guess is)(?: that)?\s+"
    r"|(?:based on|in|from|according to) (?:this |given )?(?:image|picture|photo)\s+"
    r"|(?:answer|color|object|animal|it|this|that|there|they|these|those|he|she|one|image|picture|photo)"
    rf"(?: (?:in|of|on|at|shown)\b(?: \w+){{1,4}}?)?(?:'s|'re| {_VERB}| (?:would|may|might|could|must) be)"
    rf"(?: (?:{_HEDGE}|called|named|shown as))*\s+"
    r"|(?:it's|that's|this's|they're|there's|its|thats)\s+)+"
)
_COPULA = re.compile(rf"^(?P<subject>\w+(?:'s)?(?: \w+(?:'s)?){{0,7}}?) {_VERB} (?!not\b)(?P<rest>.+)$")
_PLACE = re.compile(r"^(?:in|on|at|near|visible|shown|here|there|present|sitting|standing|color|answer|correct)\b")
_NEGATION = re.compile(
    r"(?:\bnot|n't|\bnever|\brather than|\binstead of|\bunlike|\bneither|\bnor|\bexcept|\bother than|\bas opposed to)"
    r"(?! (?:sure|certain|clear|clearly|only|just|confident|possible)\b)(?: (?!but\b)\w+){0,3}? $"
)
_JOINED = re.compile(r"^ (?:or|and) $")
_CORRECTED = re.compile(r"^.* but (?:(?:it|this|that|actually|\w+) )*(?:it's|is|are|was) (?=\w)")
_OR = re.compile(r"\s+or\s+(?:maybe |possibly |perhaps )?")
_EITHER = re.compile(r"^(?:either|maybe|perhaps|probably|possibly|likely) ")
_NOT_BUT = re.compile(
    r"\b(?:it is |it's |is )?not (?:\w+ ){1,4}but (?:rather |instead )?|n't (?:\w+ ){1,4}but (?:rather )?"
)
_RANGE = re.compile(
    r"\d\s*(?:-|–|—|\bto\b|\bor\b)\s*\d|\bbetween\b|\beither\b|\b(?:or|to)\b\s+(?:\w+\s+)?(?:\d|\w+teen)"
)
_NOTHING = re.compile(r"^(?:there (?:is|are) )?(?:no|none|zero|nothing)\b", re.IGNORECASE)
_LETTERS = (
    re.compile(r"[(\[]([A-Za-z])[)\]]"),
    re.compile(r"\b(?:option|choice|letter|answer)\s+([A-Z])\b", re.IGNORECASE),
    re.compile(r"^([A-Za-z])\s*(?:[.):,](?!\w)|$)"),
    re.compile(r"^([A-Z])\s+(?:is\s+(?:the\s+)?(?:correct|right|best|answer)\b|[-–—]\s)"),
    re.compile(r"(?i:\bchoose|\bpick|\bselect|\bgo with|\bit's|\bis|\bbut|\bor|\band|/)\s*([A-Z])(?=[.,;:!)]|\s*$)"),
    re.compile(r"^(?i:either)\s+([A-Z])\b"),
    re.compile(r"^([A-Z])(?=\s*(?:,|/|&|\bor\b|\band\b)\s*[(\[]?[A-Z]\b)"),
)
_NOT_LETTER = re.compile(r"\b(?i:not)\s+(?:option\s+)?[(\[]?[A-Za-z][)\]]?(?![\w'])")


def contains_answer(output: str, answers: tuple[str, ...], options: tuple[str, ...] = (), rule: str = "auto") -> bool:
    """By all rules but the second. Yes/no questions go through `Lenient`, which applies rule 2 too.

    Args:
        rule: How the answer is found in the output (`icl.metrics.answer_extraction.extract_answer`).
    """
    answer = extract_answer(output, rule).text
    if not answer:
        return False
    if normalize_text(answer) in map(normalize_text, answers):
        return True
    letter = _chosen_by_letter(answer, options)
    if letter is not None:
        return normalize_text(letter) in map(normalize_text, answers) and not _names_another(answer, letter, options)
    numbers = [value for text in answers if is_number(text) for value in parse_numbers(text)]
    if numbers and _number(answer) in numbers:
        return True
    words = [text for text in answers if not is_number(text)]
    return bool(words) and _names_answer(normalize_vqa(answer), words, answers, options)


@component("metric", "lenient")
@dataclass(frozen=True)
class Lenient:
    """The output gives an accepted answer, whatever it is wrapped in (rules in the module `icl.metrics.lenient`)."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    answer: str = "auto"  # how the answer is found: auto, first_line, last_line, boxed, none, after:TEXT, regex:PATTERN

    def __post_init__(self) -> None:
        check_rule(self.answer)

    def score(self, generation: Generation, example: Example) -> float | None:
        if asks_yes_no(example):
            answer = parse_yes_no(extract_answer(generation.text, self.answer).text)
            return float(answer in [normalize_vqa(text) for text in example.answers])
        return float(contains_answer(generation.text, example.answers, example.options, self.answer))


def _number(answer: str) -> float | None:
    """The number that an answer stands by: its first; None without one, and for a range or alternatives."""
    text = _NOT_BUT.sub("", answer.rpartition("=")[2])
    values = parse_numbers(text)
    if not values:
        return 0.0 if _NOTHING.match(text) else None
    return None if len(set(values)) > 1 and _RANGE.search(text) else values[0]


def _chosen_by_letter(answer: str, options: tuple[str, ...]) -> str | None:
    """The option whose letter the answer gives; None if it gives none, or several."""
    text = _NOT_LETTER.sub("", answer)
    letters = {match[1].upper() for pattern in _LETTERS for match in pattern.finditer(text)}
    named = {option.strip().upper(): option for option in options}
    if not all(len(name) == 1 for name in named):
        named = {chr(ord("A") + place): option for place, option in enumerate(options[:26])}
    chosen = {named[letter] for letter in letters if letter in named}
    return chosen.pop() if len(chosen) == 1 else None


def _names_another(answer: str, letter_option: str, options: tuple[str, ...]) -> bool:
    """Whether an answer with a letter also names an option, and not the letter's."""
    offered = {normalize_vqa(option) for option in options if len(option.strip()) > 1}
    named = _mentions(normalize_vqa(answer), offered)
    return bool(named) and normalize_vqa(letter_option) not in named


def _names_answer(text: str, words: list[str], answers: tuple[str, ...], options: tuple[str, ...]) -> bool:
    """By rules 1, 5 and 6. text: the normalized answer."""
    normalized = [normal for normal in map(normalize_vqa, words) if normal]
    if text in normalized:
        return True
    accepted, offered = {normalize_vqa(answer) for answer in answers}, {normalize_vqa(option) for option in options}
    if offered - accepted:
        named = _mentions(_NOT_BUT.sub("", text), offered | accepted)
        return bool(named) and named <= accepted
    text = _CORRECTED.sub("", _NOT_BUT.sub("", text))
    parts = [_EITHER.sub("", part) for part in _OR.split(text)]
    if any(" or " in normal for normal in normalized):
        parts = [" or ".join(parts)]
    return all(any(_begins(part, answer) for answer in normalized) for part in parts)


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer as whole words, itself or after its opening."""
    opened, match = _OPENING.sub("", text), _COPULA.match(text)
    candidates = [opened] if opened != text else []
    if match:
        candidates.append(_OPENING.sub("", match["rest"]))
    if not match or match["subject"] == answer or _PLACE.match(match["rest"]):  # "the red car is blue" is not red
        candidates.append(text)
    if any(ord(letter) > 0x2E80 for letter in answer):  # scripts without blanks between words
        return any(candidate.startswith(answer) for candidate in candidates)
    return any(f"{candidate} ".startswith(f"{answer} ") for candidate in candidates)


def _mentions(text: str, names: set[str]) -> set[str]:
    """The names that a text stands by, as whole words, the longest first and none inside another."""
    longest = sorted((name for name in names if name), key=lambda name: (-len(name), name))
    if not longest:
        return set()
    mentions: dict[str, bool] = {}  # name -> whether all its mentions are negated
    end, negated = 0, False
    for match in re.finditer(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest))})(?!\S)", text):
        between = text[end : match.start()]
        negated = (negated and bool(_JOINED.match(between))) or bool(_NEGATION.search(between))
        mentions[match[0]] = mentions.get(match[0], True) and negated
        end = match.end()
    return {name for name, all_negated in mentions.items() if not all_negated}
