"""Knowledge conflict as in DCD (Zhu et al., 2410.03659): answers from text against answers from the image.

The metrics cover the items that the model recognizes: the answer to the question `recognize` is right. If there is no
such question, they cover all items. With the answer y_t from text alone and the answer y_v from the image:

    recognized accuracy   share of items with y_v right
    flip rate      FR     share of items with y_t not y_v; an answer outside the options flips, as in the released code
    conflict rate  CR     FR - (accuracy of y_t - accuracy of y_v)

Three shares of items matter: b are right by text alone, c by the image alone, and d wrong in both with different
answers. FR = b + c + d and CR = 2c + d. So CR leaves out b, the items that the image makes wrong, and counts plain
ignorance. `icl analyze RUN conflict` reports all five cells and the agreement beyond chance.

The questions of an item share a group and differ in `meta["mode"]`: text, image, recognize.

Differs from the released code in the names: its script prints the flip rate as conflict rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, normalize_text
from icl.metrics import is_correct, named_option, ratio_over_groups

MODES = ("text", "image", "recognize")


@dataclass(frozen=True)
class ConflictItem:
    """The answers to one item. recognized: whether the model recognizes it, true without such a question."""

    text: ScoredSample
    image: ScoredSample
    recognized: bool

    @property
    def flips(self) -> bool:
        text_option, image_option = (named_option(one.output or "", one.options) for one in (self.text, self.image))
        return text_option is None or image_option is None or text_option != image_option

    @property
    def text_correct(self) -> bool:
        return self.text.score == 1

    @property
    def image_correct(self) -> bool:
        return self.image.score == 1


def conflict_item(members: Sequence[ScoredSample], recognition: bool) -> ConflictItem | None:
    """The item of a group. None if one of its questions is missing. recognition: whether `recognize` must be among
    them.
    """
    by_mode = {str(member.meta.get("mode")): member for member in members}
    modes = MODES if recognition else MODES[:2]
    if not set(modes) <= set(by_mode) or any(by_mode[mode].score is None for mode in modes):
        return None
    return ConflictItem(by_mode["text"], by_mode["image"], not recognition or by_mode["recognize"].score == 1)


def asks_to_recognize(samples: Sequence[ScoredSample]) -> bool:
    """Whether a cell has a question of mode `recognize`."""
    return any(sample.meta.get("mode") == "recognize" for sample in samples)


@dataclass(frozen=True)
class ItemRate:
    """Base class of rates over recognized items. A sample's score is whether its answer is right."""

    better: ClassVar[Better] = "neither"
    reads_answers: ClassVar[bool] = True
    reads_outputs: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if example.meta.get("mode") in MODES else None

    def counts(self, item: ConflictItem) -> float:
        """The contribution of a recognized item."""
        raise NotImplementedError

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        recognition = asks_to_recognize(samples)

        def counted(members: Sequence[ScoredSample]) -> tuple[float, float] | None:
            item = conflict_item(members, recognition)
            if item is None or (item.image.output is None and self.reads_outputs):
                return None
            return (self.counts(item), 1.0) if item.recognized else (0.0, 0.0)

        return ratio_over_groups(samples, counted)


@component("metric", "recognized_accuracy")
@dataclass(frozen=True)
class RecognizedAccuracy(ItemRate):
    """Share of recognized items with a right answer from the image."""

    better: ClassVar[Better] = "higher"
    reads_outputs: ClassVar[bool] = False

    def counts(self, item: ConflictItem) -> float:
        return float(item.image_correct)


@component("metric", "flip_rate")
@dataclass(frozen=True)
class FlipRate(ItemRate):
    """Share of recognized items with different answers from text alone and from the image."""

    def counts(self, item: ConflictItem) -> float:
        return float(item.flips)


@component("metric", "conflict_rate")
@dataclass(frozen=True)
class ConflictRate(ItemRate):
    """The flip rate minus the loss of accuracy by the image, over recognized items: a lower bound of conflict."""

    def counts(self, item: ConflictItem) -> float:
        return item.flips - (float(item.text_correct) - float(item.image_correct))


@component("metric", "misled_rate")
@dataclass(frozen=True)
class MisledRate:
    """1 if the answer repeats a printed word or a statement that contradicts the image, otherwise 0."""

    better: ClassVar[Better] = "lower"
    reads_answers: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        contradiction = example.secret.get("contradiction")
        if not contradiction or example.meta.get("mode", "image") != "image":
            return None
        scores = generation.option_scores
        answer = max(scores, key=scores.__getitem__) if scores else named_option(generation.text, example.options)
        return float(answer is not None and normalize_text(answer) == normalize_text(contradiction))
