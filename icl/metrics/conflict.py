"""Knowledge conflict, as DCD measures it (Zhu et al., 2410.03659): text answers against answers to the image.

Over the items that the model recognizes (the answer to the question `recognize` is right; all, where it is not asked),
with y_t the answer from text alone and y_v the answer to the image:

    recognized accuracy   share of items with y_v right
    flip rate      FR     share of items with y_t not y_v; an answer that is no option flips, as in the released code
    conflict rate  CR     FR - (accuracy of y_t - accuracy of y_v)

With b items right by text alone, c by the image alone and d wrong twice and differently, FR = b + c + d and CR = 2c +
d (shares): CR leaves out b, the items where seeing does harm, and counts plain ignorance. `icl analyze RUN conflict`
has all five cells and the agreement beyond chance.

A task asks each item in several ways that share a group and are told apart by `meta["mode"]`: text, seen, recognize.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better, Judged
from icl.metrics.chosen_option import chosen, right
from icl.metrics.normalize import plain
from icl.metrics.over_run import Parts, ratio_of_groups
from icl.registry import component
from icl.types import Example, Generation

MODES = ("text", "seen", "recognize")


@dataclass(frozen=True)
class Item:
    """The answers to one item, and which of them are right. recognized: true where it was not asked."""

    text: Judged
    seen: Judged
    recognized: bool

    @property
    def flips(self) -> bool:
        said, saw = (chosen(one.output or "", one.options) for one in (self.text, self.seen))
        return said is None or saw is None or said != saw

    @property
    def text_right(self) -> bool:
        return self.text.score == 1

    @property
    def seen_right(self) -> bool:
        return self.seen.score == 1


def item_of(members: Sequence[Judged], recognition: bool) -> Item | None:
    """The item of a group; None where one of its questions is missing. recognition: whether that is one of them."""
    ways = {str(member.meta.get("mode")): member for member in members}
    wanted = MODES if recognition else MODES[:2]
    if not set(wanted) <= set(ways) or any(ways[mode].score is None for mode in wanted):
        return None
    return Item(ways["text"], ways["seen"], not recognition or ways["recognize"].score == 1)


def asks_to_recognize(samples: Sequence[Judged]) -> bool:
    """Whether any item of a cell is asked what it shows."""
    return any(sample.meta.get("mode") == "recognize" for sample in samples)


@dataclass(frozen=True)
class Rate:
    """Base of the rates over recognized items. A sample's score is whether it was answered rightly."""

    better: ClassVar[Better] = "neither"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(right(generation, example)) if example.meta.get("mode") in MODES else None

    def counts(self, item: Item) -> float:
        """What a recognized item adds."""
        raise NotImplementedError

    def over_run(self, samples: Sequence[Judged]) -> Parts:
        recognition = asks_to_recognize(samples)

        def counted(members: Sequence[Judged]) -> tuple[float, float] | None:
            item = item_of(members, recognition)
            if item is None or (item.seen.output is None and self.reads_outputs):
                return None
            return (self.counts(item), 1.0) if item.recognized else (0.0, 0.0)

        return ratio_of_groups(samples, counted)

    @property
    def reads_outputs(self) -> bool:
        return True


@component("metric", "recognized_accuracy")
@dataclass(frozen=True)
class RecognizedAccuracy(Rate):
    """Of the items that were recognized, the share whose question was answered rightly from the image."""

    better: ClassVar[Better] = "higher"

    def counts(self, item: Item) -> float:
        return float(item.seen_right)

    @property
    def reads_outputs(self) -> bool:
        return False


@component("metric", "flip_rate")
@dataclass(frozen=True)
class FlipRate(Rate):
    """Of the items that were recognized, the share where text alone and the image get different answers."""

    def counts(self, item: Item) -> float:
        return float(item.flips)


@component("metric", "conflict_rate")
@dataclass(frozen=True)
class ConflictRate(Rate):
    """The flip rate less what the image costs in accuracy, over recognized items: a lower bound of conflict."""

    def counts(self, item: Item) -> float:
        return item.flips - (float(item.text_right) - float(item.seen_right))


@component("metric", "misled")
@dataclass(frozen=True)
class Misled:
    """1 where the answer is what a printed word or a statement says against the image."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        told = example.secret.get("told")
        if not told or example.meta.get("mode", "seen") != "seen":
            return None
        scores = generation.option_scores
        said = max(scores, key=scores.__getitem__) if scores else chosen(generation.text, example.options)
        return float(said is not None and plain(said) == plain(told))
