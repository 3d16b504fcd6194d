"""Lenient accuracy: the output gives an accepted answer, whatever it is wrapped in.

The rules, by the kind of the accepted answers; the output is first cut to its first line that is not empty, without a
leading "answer:".

1. Equal after the VQA normalization (`icl.metrics.normalize.normalize_vqa`, applied always): right.
2. Yes or no: `icl.metrics.yes_no.parse_yes_no`; an output that says neither, or both, is wrong.
3. A number: the first number of the line, in digits or words and with its sign, is equal. Numbers skip the
   other rules, which lose signs. (VL-ICL cuts at the first full stop and drops the sign; this does neither.)
4. With options: the line names an accepted answer, as whole words, and no other option (Link-Context Learning, Tai et
   al., CVPR 2024: the positive name is in the output and the negative is not). The longest name is read where several
   begin: "a hot dog" names the hot dog and no dog.
5. Otherwise the line begins with an accepted answer, as whole words, after an opening such as "it is a".
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better
from icl.metrics.normalize import is_number, normalize_vqa, parse_number
from icl.metrics.yes_no import asks_yes_no, parse_yes_no
from icl.registry import component
from icl.types import Example, Generation

_OPENING = re.compile(
    r"^(?:(?:the )?answer(?: is)?|(?:it|this|that|there)(?: is|'s)|(?:it|this|that)s|they are|i see|i think)\b[\s:]*"
)


def contains_answer(output: str, answers: tuple[str, ...], options: tuple[str, ...] = ()) -> bool:
    """By rules 1, 3, 4 and 5. Yes/no questions go through `Lenient`, which applies rule 2 too."""
    line = _first_line(output)
    numbers = [answer for answer in answers if is_number(answer)]
    if numbers:
        value = parse_number(line)
        if value is not None and value in [parse_number(answer) for answer in numbers]:
            return True
    words = [answer for answer in answers if not is_number(answer)]
    if not words:
        return False
    text, normalized = normalize_vqa(line), [normalize_vqa(answer) for answer in words]
    if text in normalized:
        return True
    accepted, offered = {normalize_vqa(answer) for answer in answers}, {normalize_vqa(option) for option in options}
    if offered - accepted:
        named = _named(text, offered | accepted)
        return bool(named) and named <= accepted
    rest = _OPENING.sub("", text)
    return any(answer and (f"{rest} ").startswith(f"{answer} ") for answer in normalized)


@component("metric", "lenient")
@dataclass(frozen=True)
class Lenient:
    """The output gives an accepted answer, whatever it is wrapped in (rules in the module `icl.metrics.lenient`)."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        if asks_yes_no(example):
            return float(
                parse_yes_no(_first_line(generation.text)) in [normalize_vqa(answer) for answer in example.answers]
            )
        return float(contains_answer(generation.text, example.answers, example.options))


def _first_line(output: str) -> str:
    line = next((line.strip() for line in output.splitlines() if line.strip()), "")
    return re.sub(r"^answer\s*:\s*", "", line, flags=re.IGNORECASE)


def _named(text: str, names: set[str]) -> set[str]:
    """The names that occur as whole words, the longest first and none inside another."""
    longest = sorted((name for name in names if name), key=lambda name: (-len(name), name))
    return set(re.findall(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest))})(?!\S)", text))
