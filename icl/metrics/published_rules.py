"""Matching rules of single benchmarks: an output is compared with the accepted answers as its authors do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import ClassVar, Literal

from icl import Better, Example, Fraction, Generation, component, in_texts
from icl.metrics import asks_yes_no, is_correct, is_number, normalize_vqa


def vqa_accuracy(output: str, votes: Sequence[str], normalize: Literal["always", "official"] = "always") -> float:
    """Agreement of an answer with ten annotators. votes: the answer of each annotator, with repetitions."""
    text, *references = (answer.replace("\n", " ").replace("\t", " ").strip() for answer in (output, *votes))
    if normalize == "always" or len(set(references)) > 1:
        text, references = normalize_vqa(text), [normalize_vqa(vote) for vote in references]
    matches = [vote == text for vote in references]
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(matches)


@component("metric", "vqa")
@dataclass(frozen=True)
class VQA:
    """Soft accuracy against ten annotators, leave-one-out, with the official normalization of answers.

    VQA accuracy (Antol et al., ICCV 2015; also OK-VQA, VizWiz): agreement with ten annotators.

        mean over annotators of min(1, how many of the others gave this answer / 3)

    so 1, 2, 3, 4 of ten annotators give .3, .6, .9, 1: not min(n / 3, 1), which papers print. "The others" excludes one
    annotator by position. The released script excludes by value, which counts wrongly if answers have no number.

    Answers and output are normalized by `icl.metrics.normalize.normalize_vqa`. The script normalizes only if annotators
    disagree, so "2" against ten times "two" is wrong there, and so is "Yes" against ten times "yes". `normalize:
    official` does the same.

    Differs from the released code in the normalization where all annotators agree, unless `normalize: official` is set,
    and in answers without a number (see above).
    """

    better: ClassVar[Better] = "higher"

    normalize: Literal["always", "official"] = "always"  # official: only where the annotators disagree

    def score(self, generation: Generation, example: Example) -> float | None:
        votes = example.secret.get("votes", ())
        is_renamed = {*map(normalize_vqa, votes)}.isdisjoint(map(normalize_vqa, in_texts(example).answers))
        # The votes for renamed answers have the old names.
        return None if len(votes) < 2 or is_renamed else vqa_accuracy(generation.text, votes, self.normalize)


Rule = Literal["exact", "number", "yes_no"]


def truncate_output(output: str) -> str:
    """The output cut as by the released scorers."""
    text = output.strip().strip("\n")
    end = text.find("\n")
    if end <= 0:
        end = text.find(".")
    return text[:end] if end > 0 else text


def is_vl_icl_match(output: str, answer: str, rule: Rule) -> bool:
    """Whether the released scorer of this rule counts the output as right."""
    text = truncate_output(output)
    if rule == "yes_no":
        return ("yes" in text.lower()) == (answer.lower() == "yes")
    if rule == "number":
        match = re.search(r"\d+", text)
        text = match.group() if match else ""
    return text.lower() == answer.lower()


@component("metric", "vl_icl")
@dataclass(frozen=True)
class VLICL:
    """Accuracy by VL-ICL's released scorers, including their faults.

    VL-ICL's own scorers (Zong et al., ICLR 2025), for comparison with its published numbers.

    The output is cut at its first line break, otherwise at its first full stop unless it begins with one. So "3.5"
    becomes "3", and a line break wins over an earlier full stop. Then

        exact    equal to the answer, in lower case                          (open-ended binding, TextOCR, CLEVR)
        number   the first run of digits is the answer, without a sign       (operator induction, both forms)
        yes_no   for the answer yes, the output contains "yes"; for no, it does not                     (matching)

    `strict` and `lenient` do not have these faults.

    Differs from the released code in nothing known.
    """

    better: ClassVar[Better] = "higher"

    rule: Literal["auto", "exact", "number", "yes_no"] = "auto"  # auto: by the kind of the answer; CLEVR's is exact

    def score(self, generation: Generation, example: Example) -> float | None:
        rule: Rule
        if self.rule != "auto":
            rule = self.rule
        else:
            rule = "yes_no" if asks_yes_no(example) else "number" if is_number(example.answer) else "exact"
        return float(is_vl_icl_match(generation.text, example.answer, rule))


SIDES = ("latent", "text")


def names_one_word(output: str, word: str, words: Sequence[str]) -> bool:
    """Whether the output has `word` and no other of `words`, as whole words in any case."""
    spaced = " ".join(["", *re.findall(r"[^\W_]+", output.lower()), ""])
    return {one.lower() for one in words if f" {one.lower()} " in spaced} == {word.lower()}


@component("metric", "cobsat")
@dataclass(frozen=True)
class CobsatMetric:
    """Whether a description names the latent word and the word of the text, and no other word of their lists.

    CoBSAT's accuracy in text mode (Zeng et al., 2402.01293).

        right(list) = the output has the list's gold word, and no other word of the list
        both        = right(latent) and right(text)

    Words count as whole words in any case. An example has its lists in `meta["words"]` and its gold words in `secret`,
    as the tasks `cobsat` and `vl_icl` make them. Other examples have no score.

    Differs from the released code in the judge: there a vision-language model answers two questions with ten options
    each about an image or a description. VL-ICL's judge asks one yes/no question for each word.
    """

    of: Literal["both", "latent", "text"] = "both"  # which word must be right

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        lists = example.meta.get("words")
        if not isinstance(lists, dict) or not set(SIDES) <= lists.keys() & example.secret.keys():
            return None
        sides = SIDES if self.of == "both" else (self.of,)
        return float(all(names_one_word(generation.text, str(example.secret[s]), lists[s]) for s in sides))


_NUMBER = re.compile(r"\d+")


def marked_text(text: str, tag: str) -> str:
    """What stands between <tag> and </tag> the first time; without them, the whole text."""
    marked = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return marked[1] if marked else text


def score_elements(predicted: set[int], gold: set[int]) -> float:
    """The score of the predicted numbers. gold: one or two numbers."""
    if not 1 <= len(predicted) <= 2:
        return 0.0
    hits = len(predicted & gold)
    return hits / max(len(predicted), len(gold))


@component("metric", "mmir")
@dataclass(frozen=True)
class MMIR:
    """Score of the numbers of inconsistent elements: one or two, half of the credit if only one of two is right.

    MMIR's score of a set of element numbers (Yan et al., 2502.16033).

        no number, or more than two          0
        one right number                     1 if it is the only number, .5 if it is one of two
        two right numbers                    the share of them in the output

    The numbers are the distinct integers of the output, and of the gold answers together. If the output has an answer
    between <ans> and </ans>, as the released prompts ask for, only the first one counts. Examples with no number or
    more than two in the gold have no score.

    Differs from the released code in outputs without <ans>, where all numbers of the text count (there none).
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        gold = numbers_in(" ".join(example.answers))
        if not 1 <= len(gold) <= 2:
            return None
        return score_elements(numbers_in(marked_text(generation.text, "ans")), gold)


def numbers_in(text: str) -> set[int]:
    """The distinct integers of a text."""
    return set(map(int, _NUMBER.findall(text)))


def names_only_answer(output: str, answers: tuple[str, ...], options: tuple[str, ...]) -> bool:
    """Whether the output has an accepted name and, without these names, none of the other options."""
    text, accepted = output.lower(), [answer.lower() for answer in answers]
    has_answer = any(answer in text for answer in accepted)
    for answer in sorted(accepted, key=len, reverse=True):
        text = text.replace(answer, "")
    others = {option.lower() for option in options} - set(accepted)
    return has_answer and not any(other in text for other in others)


@component("metric", "link_context")
@dataclass(frozen=True)
class LinkContextMetric:
    """Accuracy by Link-Context Learning's rule: the output has the right name and no other option, anywhere in it.

    The rule for two names (Tai et al., CVPR 2024).

    As released, the right name is removed from the output first, so that "wildcat" does not also contain "cat". Names
    match anywhere, also within a word. The released code lower-cases the names but not the output; here both are.

    `lenient` matches whole words and is the recommended score. Use this metric for comparison with published numbers.

    Differs from the released code in the case of the output (see above).
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        if len(example.options) < 2:
            return None
        return float(names_only_answer(generation.text, example.answers, example.options))


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
    """Accuracy of CMMU's question types: one option, several options, or a blank.

    CMMU's accuracy by the type of the question (He et al., 2401.14011), without a language model as judge.

        multiple-response    the capital letters after the last "答案" (answer), sorted, are the gold letters
        fill-in-the-blank    the best line of the output has a difflib ratio above .7 to the gold
        multiple-choice      the answer names the right option (`icl.metrics.machinery.option_parsing`)

    The type is `meta["type"]`; examples without one have no score. Fixed phrases before an answer ("答案为", "因此")
    and a unit behind a number are cut, as released.

    Differs from the released code in outputs without a key word: only letters that stand alone count (there every
    capital letter counts, so that "ABD is right, The rest is not" reads "ABDT"), and in repeated letters, which count
    once.
    """

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
