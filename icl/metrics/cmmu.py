"""CMMU's accuracy by the type of the question (He et al., 2401.14011), without a language model as judge.

    multiple-response    the capital letters after the last "答案" (answer), sorted, are the gold letters
    fill-in-the-blank    the best line of the output has a difflib ratio above .7 to the gold
    multiple-choice      the answer names the right option (`icl.metrics.machinery.option_parsing`)

The type is `meta["type"]`; examples without one have no score. Fixed phrases before an answer ("答案为", "因此") and a
unit behind a number are cut, as released.

Differs from the released code in outputs without a key word: only letters that stand alone count (there every capital
letter counts, so that "ABD is right, The rest is not" reads "ABDT"), and in repeated letters, which count once.
"""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import ClassVar

from icl import Better, Example, Fraction, Generation, component
from icl.metrics.machinery.option_parsing import is_correct

LETTER_CUES = ("故选", "正确选项为", "答案选", "答案为", "答案是", "答案")
TEXT_CUES = ("答案为", "答案是", "答案", "为", "因此", "结果", " = ")
_LETTERS = re.compile(r"(?<![A-Za-z0-9])[A-Z](?:[\s,、，]*[A-Z])*(?![A-Za-z0-9])")
_UNIT = re.compile(r"^(\d+)(?:cm|m|s|h|kg|g|l|ml|km|mm)$")
_SPELLINGS = str.maketrans({"：": ":", "（": "(", "）": ")", "，": ",", "。": ".", "$": None})


def chosen_letters(output: str) -> str:
    """The letters that an output chooses, sorted and each once. Several options can be chosen."""
    cue = next((one for one in LETTER_CUES if one in output), "")
    text = output.rpartition(cue)[2] if cue else output
    letters = {letter for match in _LETTERS.findall(text) for letter in match if letter.isalpha()}
    return "".join(sorted(letters))


def normalized_line(text: str) -> str:
    """A line of an answer after the phrases and marks that the released code cuts."""
    text = text.translate(_SPELLINGS).replace("√", "正确").replace("变小", "减小").replace("变大", "增大")
    cue = next((one for one in TEXT_CUES if one in text), "")
    text = (text.rpartition(cue)[2] if cue else text).strip().removeprefix(":")
    return _UNIT.sub(r"\1", text.rstrip(".,:; ")).strip()


@component("metric", "cmmu")
@dataclass(frozen=True)
class CMMUMetric:
    """Accuracy of CMMU's question types: one option, several options, or a blank."""

    similarity: Fraction = 0.7  # lowest difflib ratio of a right blank, exclusive

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        kind = example.meta.get("type")
        if kind == "multiple-response":
            return float(chosen_letters(generation.text) == "".join(sorted(example.answer)))
        if kind == "fill-in-the-blank":
            gold = normalized_line(example.answer)
            ratios = [
                SequenceMatcher(None, normalized_line(line), gold).ratio() for line in generation.text.split("\n")
            ]
            return float(max(ratios) > self.similarity)
        return float(is_correct(generation, example)) if kind == "multiple-choice" else None
