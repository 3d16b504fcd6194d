"""Counting in scenes: how many red shapes, how many circles, how many red circles, how many shapes.

With `bare: true` the question is a single word ("red?"), and only the demonstrations show whether its number or its
presence is asked. With `pair: true` as well, it is a property and its value ("color: red"), as in VL-ICL's count
induction (Zong et al., ICLR 2025), whose rule is always to count.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import ConfigError, Example, GeneratedCount, StreamKey, component, parameter
from icl.tasks.generated import Drawing, NumberedTask, Split, balanced_choice, groups_of, scene, shuffled
from icl.tasks.generated.wording import (
    ATTRIBUTE_WORDS,
    BARE_QUESTIONS,
    COUNT_ALL,
    COUNT_BY_BOTH,
    COUNT_BY_COLOR,
    COUNT_BY_SHAPE,
    PAIR_QUESTION,
    plural,
)
from icl.tasks.generated.world import COLORS, CONCEPTS, MAX_TOTAL, SHAPES, ImageFacts

Word = tuple[str | None, str | None]
TRIES = 40  # attempts to draw a scene with the target number; then any is used


@component("task", "counting")
@dataclass(frozen=True)
class CountingTask(NumberedTask):
    """Counts of the shapes of a color, of a kind, or of both. Answers are digits.

    The answers 0, 1, 2 and 3 are about equally frequent, in the queries and in the pool. With `by: all` the answers
    follow the scenes, 1 to 6. The options are the digits 0 to 6, or yes and no.
    """

    called: ClassVar[str] = "counting"

    by: Literal["color", "shape", "both", "all"] = "color"  # property that the question restricts the count to
    bare: bool = False  # whether the question is one word; by color or shape only
    pair: bool = False  # whether the bare question also names the property: "color: red"
    answer: Literal["number", "presence"] = "number"  # meaning of a bare word, which only the demonstrations show
    support: GeneratedCount = parameter("pool_size", 200)  # questions in the pool

    def __post_init__(self) -> None:
        if self.bare and self.by not in ("color", "shape"):
            raise ConfigError(f"bare: true asks one word, by color or by shape, not by {self.by}.")
        if self.answer == "presence" and not self.bare:
            raise ConfigError("answer: presence needs bare: true; 'how many' asks for a number. See task 'existence'.")
        if self.pair and not self.bare:
            raise ConfigError("pair: true is a form of the bare question; it needs bare: true.")

    @property
    def title(self) -> str:
        bare = f" · {'a pair' if self.pair else 'one word'}, {self.answer}" if self.bare else ""
        return f"counting · by {self.by}{bare}"

    def example(self, split: Split, number: int, name: str) -> Example:
        drawing, (color, shape) = self._scene(split, number)
        count = _number(drawing, color, shape)
        presence = self.answer == "presence"
        answer = ("yes" if count else "no") if presence else str(count)
        return Example(
            id=name,
            images=(drawing.image,),
            question=self._question(color, shape),
            answers=(answer,),
            options=("yes", "no") if presence else tuple(map(str, range(MAX_TOTAL + 1))),
            label=answer,
            meta={"by": self.by},
            secret={"groups": [[g.color, g.shape, g.count] for g in groups_of(drawing)]},
        )

    def _scene(self, split: str, number: int) -> tuple[Drawing, Word]:
        """The first of several random scenes with a word whose number is the target."""
        target = balanced_choice(
            self.seed, f"counting/{split}", number, (0, 1) if self.answer == "presence" else (0, 1, 2, 3)
        )
        drawing, words = self._scene_with_words(split, number, 0)
        for attempt in range(TRIES):
            drawing, words = self._scene_with_words(split, number, attempt)
            for word in words:
                count = _number(drawing, *word)
                if self.by == "all" or (min(count, 1) if self.answer == "presence" else count) == target:
                    return drawing, word
        return drawing, words[0]

    def _scene_with_words(self, split: str, number: int, attempt: int) -> tuple[Drawing, list[Word]]:
        stream = f"counting/{split}/{number}/{attempt}"
        every: dict[str, list[Word]] = {
            "color": [(color, None) for color in COLORS],
            "shape": [(None, shape) for shape in SHAPES],
            "both": [(color, shape) for color, shape in CONCEPTS],
            "all": [(None, None)],
        }
        return scene(self.seed, stream), shuffled(StreamKey(self.seed, stream).numpy("word"), every[self.by])

    def _question(self, color: str | None, shape: str | None) -> str:
        if self.pair:
            return PAIR_QUESTION.format(property=ATTRIBUTE_WORDS[self.by], word=color or shape)
        if self.bare:
            return BARE_QUESTIONS[0].format(word=color or shape)
        forms = {"color": COUNT_BY_COLOR, "shape": COUNT_BY_SHAPE, "both": COUNT_BY_BOTH, "all": COUNT_ALL}
        return forms[self.by][0].format(color=color, plural=plural(shape) if shape else "")


def _number(drawing: Drawing, color: str | None, shape: str | None) -> int:
    return ImageFacts("scene", groups_of(drawing)).number(color, shape)
