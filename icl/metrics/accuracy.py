"""Accuracy: of the whole output, of the answer in it, and of the option with the highest score."""

from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, component, in_texts, metrics
from icl.metrics import is_accepted, normalize_vqa


@component("metric", "strict", "accuracy", "exact_match")
@dataclass(frozen=True)
class Strict:
    """Accuracy of the whole output, apart from case, blanks and a final full stop.

    This is VL-ICL's "exact match, case-insensitive". A model that answers in a sentence is wrong here. The difference
    to `lenient` shows how much of a gain is learning the format.
    """

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_accepted(generation.text, example.answers))


@component("metric", "lenient", "accuracy")
@dataclass(frozen=True)
class Lenient:
    """Accuracy of the answer in the output, in any form, by the rules below.

    `answer_extraction` finds the answer in the output. Then one of these rules decides, by the kind of the
    accepted answers. If an output names several answers, or takes one back ("not red but blue"), only what it stands by
    counts.

    1. Equal after the VQA normalization (`icl.metrics.normalize.normalize_vqa`, applied always): right.
    2. Yes or no: `yes_no.parse_yes_no`; an output that says neither, or both, is wrong. A sentence about the image
       itself ("no image is attached", "the image shows a cat") answers no question about something else.
    3. With options: a letter ("(B)", "B.", "option B") or a place ("the second one") chooses an option
       (`option_letters`). A letter next to the name of another option is wrong, also where the options are letters
       and the question has their texts (`icl.option_listing`); so are several letters ("A or B"). An accepted
       answer that is a capital letter is chosen by this rule alone, also without options.
    4. A number: the result or total that the answer states, else its first number, is equal, in digits or words and
       with its sign (`quantities`). A range or an alternative is wrong, and the number of an image ("image 5") is a
       name. Numbers skip the rules 5 and 6, which lose signs.
    5. With options: the answer names an accepted answer, as whole words, and no other option (Link-Context
       Learning, Tai et al., CVPR 2024: the positive name is in the output and the negative is not). The longest
       name is read where several begin: "a hot dog" names the hot dog and no dog. Of several names, the one that
       the last clause states counts.
    6. Otherwise the answer begins with an accepted answer, as whole words, after an opening such as "it is a" or
       "the color of the car is", or a clause of it states one: in what is said of the subject, not negated, and in
       no enumeration. All alternatives of an "or" have to be accepted. Text around the answer states nothing: an
       explanation in parentheses, a concession ("although it looks like a wolf"), a hedged alternative (", maybe a
       cat").
    7. What these rules refuse is read again with quantities, dates and clock times in one spelling (`quantities`):
       "4 July 2021" is July 4, 2021, and "45 percent" is 45%.

    `contains_answer` applies the rules 5 and 6.

    An output that these rules read, but not with certainty, is unread (`icl.metrics.reading`): its score stays, and
    every comparison also counts it as right and as wrong.

    The modules named here are those of `icl.metrics.machinery`. No released code. `pope`, `vqa`, `vl_icl` and
    `link_context` are released rules.
    """

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    answer: str = "auto"  # how the answer is found: auto, first_line, last_line, boxed, none, after:TEXT, regex:PATTERN

    def __post_init__(self) -> None:
        if self.answer != "auto":
            metrics.check_rule(self.answer)

    @property
    def reads_answers(self) -> bool:
        """Whether outputs can be unread. A rule of your own is what it is."""
        return self.answer == "auto"

    def score(self, generation: Generation, example: Example) -> float | None:
        example = in_texts(example)
        # Read through `metrics`, which loads them late: their patterns take time to compile.
        if metrics.asks_yes_no(example):
            answer = metrics.read_yes_no(generation.text, self.answer, example.options, example.question)
            return float(answer in [normalize_vqa(text) for text in example.answers])
        return float(metrics.contains_answer(generation.text, example.answers, example.options, self.answer))


@component("metric", "option", "accuracy")
@dataclass(frozen=True)
class OptionAccuracy:
    """Accuracy of the option with the highest score. A tie with a wrong option is wrong. Needs option scores."""

    better: ClassVar[Better] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        scores = generation.option_scores
        return float(metrics.is_best_option(scores, example.answers)) if scores else None
