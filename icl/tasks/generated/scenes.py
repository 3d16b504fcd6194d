"""Questions about one generated scene: does an object exist, how many are there, which attribute has it?"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar, Literal

import numpy as np

from icl import (
    ConfigError,
    Example,
    Fraction,
    GeneratedCount,
    Pool,
    PositiveInt,
    StreamKey,
    component,
    later_parameter,
    parameter,
)
from icl.tasks.generated import (
    ATTRIBUTE_QUESTIONS,
    ATTRIBUTES,
    CAPTION_QUESTIONS,
    CONCEPT_SETS,
    EXISTENCE_QUESTIONS,
    SIZES,
    TEXTURES,
    Drawing,
    NumberedTask,
    Split,
    balanced_choice,
    caption,
    groups_of,
    noun,
    scene,
    shuffled,
    with_article,
)
from icl.tasks.generated.episode import BankTask, choice, query_id, query_number
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
from icl.tasks.generated.world import (
    COLORS,
    CONCEPTS,
    MAX_GROUPS,
    MAX_TOTAL,
    SHAPES,
    Concept,
    ImageFacts,
    companion,
    popularity,
)

FREQUENT = 10  # number of the most frequent absent objects that 'popular' draws from
Sampling = Literal["random", "popular", "adversarial"]


@component("task", "existence")
@dataclass(frozen=True)
class ExistenceTask(NumberedTask):
    """Yes/no questions about objects in scenes, in POPE's random, popular and adversarial samplings.

    Object existence in the three samplings of POPE (Li et al., EMNLP 2023): "is there a red circle in the image?".

    The objects of "yes" questions are in the scene. Those of "no" questions are absent, and drawn

        random        uniformly from all absent objects
        popular       from the ten most frequent absent objects
        adversarial   from the absent objects that most often occur with a present one (its companion);
                      as popular if every companion is present

    POPE takes popular and adversarial objects in the order of their frequency. With few questions for each image, that
    repeats the same objects again and again, and any demonstration answers them. So this task draws from the first
    ones.

    A method that only says yes more often gains at one ratio of labels and loses at another: run `yes_ratio` .25, .5
    and .75. Questions about one image share a group. Questions with the same number have the same scene in every
    sampling, so samplings are paired. The pool is sampled like the queries, from other scenes.
    """

    called: ClassVar[str] = "existence"

    sampling: Sampling = "random"  # sampling of absent objects
    yes_ratio: Fraction = 0.5  # share of questions with the answer yes, in queries and pool
    per_image: PositiveInt = 2  # questions about one image, each about a different object (POPE: 6)
    query_limit: GeneratedCount = parameter("queries", 300)  # number of queries
    support: GeneratedCount = parameter("pool_size", 200)  # questions in the pool

    def __post_init__(self) -> None:
        if np.ceil(self.per_image * self.yes_ratio) > MAX_GROUPS:
            raise ConfigError(
                f"per_image {self.per_image} with yes_ratio {self.yes_ratio} needs more than {MAX_GROUPS} objects "
                f"in a scene. Use fewer questions per image."
            )
        if self.per_image > FREQUENT:
            raise ConfigError(f"per_image {self.per_image} is more than {FREQUENT}.")

    @property
    def title(self) -> str:
        return f"existence · {self.sampling}"

    def example(self, split: Split, number: int, name: str) -> Example:
        image, place = divmod(number, self.per_image)
        stream = f"existence/{split}/{image}"
        yes = self._yes(image)
        drawing = scene(self.seed, stream, max(yes, 1))
        present = [group.concept for group in groups_of(drawing)]
        rng = StreamKey(self.seed, stream)
        questions = [(concept, "yes") for concept in shuffled(rng.numpy("present"), present)[:yes]]
        absent = _absent(rng.numpy("absent"), present, self.sampling)[: self.per_image - yes]
        questions += [(concept, "no") for concept in absent]
        concept, answer = shuffled(rng.numpy("order"), questions)[place]
        return Example(
            id=name,
            images=(drawing.image,),
            question=EXISTENCE_QUESTIONS[0].format(noun=with_article(noun(concept))),
            answers=(answer,),
            options=("yes", "no"),
            label=answer,
            group=f"existence-{split}-image-{image}",
            meta={"sampling": self.sampling, "object": noun(concept)},
            secret={"objects": [noun(concept) for concept in present]},
        )

    def _yes(self, image: int) -> int:
        """Number of yes questions for this image. The share is exact over all images."""
        share = self.per_image * self.yes_ratio
        return int((image + 1) * share + 1e-9) - int(image * share + 1e-9)


def _absent(rng: np.random.Generator, present: list[Concept], sampling: Sampling) -> list[Concept]:
    """Absent objects in the order of the questions."""
    absent = [concept for concept in CONCEPTS if concept not in present]
    if sampling == "random":
        return shuffled(rng, absent)
    frequent = shuffled(rng, sorted(absent, key=lambda c: -popularity(c))[:FREQUENT])
    if sampling == "popular":
        return frequent
    companions = [companion(concept) for concept in present if companion(concept) in absent]
    companions = shuffled(rng, list(dict.fromkeys(companions)))
    return companions + [concept for concept in frequent if concept not in companions]


Word = tuple[str | None, str | None]
TRIES = 40  # attempts to draw a scene with the target number; then any is used


@component("task", "counting")
@dataclass(frozen=True)
class CountingTask(NumberedTask):
    """Counts of the shapes of a color, of a kind, or of both. Answers are digits.

    Counting in scenes: how many red shapes, how many circles, how many red circles, how many shapes.

    With `bare: true` the question is a single word ("red?"), and only the demonstrations show whether its number or its
    presence is asked. With `pair: true` as well, it is a property and its value ("color: red"), as in VL-ICL's count
    induction (Zong et al., ICLR 2025), whose rule is always to count.

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


@component("task", "attribute")
@dataclass(frozen=True)
class AttributeTask(BankTask):
    """Questions about color, shape, texture or size; only the demonstrations show which one is meant.

    The question is "which one is it?". All demonstrations of a query answer with one attribute. A model that ignores
    them can only guess which of four true answers is meant.

    The four attributes are equally frequent. The options are the four true answers for the query's image, always in the
    order color, shape, texture, size. Option scoring tests the choice of the attribute (chance 1/4), free answers also
    test the reading of the image.
    """

    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    attribute: Literal["color", "shape", "texture", "size"] | None = later_parameter(None)  # of all queries; null: all

    @property
    def title(self) -> str:
        return f"attribute · {self.attribute}" if self.attribute else "attribute"

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self._query(number) for number in range(self.query_limit))

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_number("attribute", query_id, self.query_limit))

    def _query(self, number: int) -> Example:
        name = query_id("attribute", number)
        attribute_name: str = self.attribute or balanced_choice(self.seed, "attribute/asked", number, ATTRIBUTES)
        return self._example(name, f"query/{name}", attribute_name)

    def _example(self, name: str, image: str, attribute_name: str) -> Example:
        stream = f"attribute/{self.concept_set}/{image}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        color, shape = choice(rng, CONCEPT_SETS[self.concept_set])
        facts = {"color": color, "shape": shape, "texture": choice(rng, TEXTURES), "size": choice(rng, tuple(SIZES))}
        return Example(
            id=name,
            images=(
                Drawing(
                    self.seed,
                    stream,
                    "single",
                    color=color,
                    shape=shape,
                    texture=facts["texture"],
                    size=facts["size"],
                ).image,
            ),
            question=ATTRIBUTE_QUESTIONS[0],
            answers=(facts[attribute_name],),
            options=tuple(facts[attribute] for attribute in ATTRIBUTES),
            label=facts[attribute_name],
            secret={"asked": attribute_name, **facts},
        )


@lru_cache(maxsize=512)
def _pool(task: AttributeTask, number: int) -> Pool:
    query = task._query(number)
    chosen = shuffled(StreamKey(task.seed, query.id).numpy("pool"), range(task.bank))[: task.support]
    attribute_name = query.secret["asked"]
    return Pool(tuple(task._example(f"{query.id}-s{i:03d}", f"bank/{k}", attribute_name) for i, k in enumerate(chosen)))


VOCABULARY = tuple(noun(concept) for concept in CONCEPTS)
"""Every object that a caption can name: the vocabulary of CHAIR."""


@component("task", "captions")
@dataclass(frozen=True)
class CaptionsTask(NumberedTask):
    """Captions of scenes. The answer is one reference caption, and the objects of the scene are stored for CHAIR.

    Captions have 8 to 20 words. CHAIR (Rohrbach et al., EMNLP 2018) measures the objects that they hallucinate.

    There are no options. Score captions with `chair_i`, `chair_s` and `chair_recall`; `strict` requires the exact
    words.
    """

    called: ClassVar[str] = "captions"
    title: ClassVar[str] = "captions"

    def example(self, split: Split, number: int, name: str) -> Example:
        drawing = scene(self.seed, f"captions/{split}/{number}")
        groups = groups_of(drawing)
        return Example(
            id=name,
            images=(drawing.image,),
            question=CAPTION_QUESTIONS[0],
            answers=(caption(groups),),
            secret={"objects": [noun(group.concept) for group in groups], "vocabulary": VOCABULARY},
        )
