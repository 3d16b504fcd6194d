"""Knowledge conflict (the protocol of DCD, Zhu et al., 2410.03659): answers from text against answers from the image.

Each item has questions in three modes that share a group:

    text        no image, "this is an image of a red circle." and the question              y_t
    image       the image, the question, and a contradiction of the image                   y_v
    recognize   the image and the other question (its shape if the color is asked): was the object recognized?

The paper names an entity and asks for its facts. Here the entity is a colored shape. One of its two properties is the
question, the other one tests recognition, so that the text alone suffices and so does the image. `against` sets the
contradiction, which occurs in the image question only:

    printed     a label in the image with the word of another answer
    statement   a sentence before the question: "this is an image of a blue circle."
    none        nothing: the control

The gold is always the shape in the image. `recognized_accuracy`, `flip_rate` and `conflict_rate` read the group.
`misled_rate` is the share of answers that repeat the contradiction. Items that `queries` cuts are left out.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from icl import ConfigError, Example, GeneratedCount, Pool, StreamKey, component, parameter
from icl.tasks.generated import COLORS, CONCEPT_SETS, SHAPES, Concept, Drawing, LabeledDrawing, noun
from icl.tasks.generated.episode import choice, query_id, query_number, shuffled
from icl.tasks.generated.wording import PLAIN_COLOR_QUESTIONS, PLAIN_SHAPE_QUESTIONS, with_article

Mode = Literal["text", "image", "recognize"]
By = Literal["color", "shape"]
STATEMENT = "this is an image of {noun}."
QUESTIONS: dict[By, str] = {"color": PLAIN_COLOR_QUESTIONS[0], "shape": PLAIN_SHAPE_QUESTIONS[0]}
VALUES: dict[By, tuple[str, ...]] = {"color": tuple(COLORS), "shape": SHAPES}
OTHER: dict[By, By] = {"color": "shape", "shape": "color"}
WAYS = 4


@component("task", "conflict")
@dataclass(frozen=True)
class ConflictTask:
    """Questions about an image that a printed word or a statement contradicts, and the same questions from text alone.

    The options are four values in a random order: the true one, the contradicting one and two others. Each mode has its
    own pool, without contradictions: demonstrations teach the format only.
    """

    by: By = "color"  # property of the question; the other one tests recognition
    against: Literal["printed", "statement", "none"] = "printed"  # what contradicts the image
    modes: tuple[Mode, ...] = ("text", "image", "recognize")  # questions of an item, in this order
    concept_set: Literal["held_out", "seen", "all"] = "all"  # pairs of color and shape that images may show
    query_limit: GeneratedCount = parameter("queries", 300)  # number of questions; an item has one for each of `modes`
    support: GeneratedCount = parameter("pool_size", 100)  # items in the pool of a mode
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise ConfigError("modes are one to three of text, image and recognize, each once.")

    @property
    def title(self) -> str:
        return f"conflict · {self.against}" + (" · shape" if self.by == "shape" else "")

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(
            self.example("query", i // len(self.modes), self.modes[i % len(self.modes)], query_id("conflict", i))
            for i in range(self.query_limit)
        )

    def pool(self, query_id: str) -> Pool:
        number = query_number("conflict", query_id, self.query_limit)
        return self._pools[self.modes[number % len(self.modes)]]

    @property
    def pool_size(self) -> int:
        return self.support

    @cached_property
    def _pools(self) -> dict[Mode, Pool]:
        return {
            mode: Pool(
                tuple(self.example("pool", i, mode, f"conflict-pool-{mode}-{i:05d}") for i in range(self.support))
            )
            for mode in self.modes
        }

    def example(self, split: Literal["query", "pool"], item: int, mode: Mode, name: str) -> Example:
        """An item in one mode."""
        stream = f"conflict/{self.concept_set}/{split}/{item}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        concept = choice(rng, CONCEPT_SETS[self.concept_set])
        by = OTHER[self.by] if mode == "recognize" else self.by
        true, false = _of(concept, self.by), choice(rng, [v for v in VALUES[self.by] if v != _of(concept, self.by)])
        against = self.against if split == "query" else "none"
        drawing = Drawing(self.seed, stream, "single", color=concept[0], shape=concept[1], texture="solid",
                          size="medium", place="center")  # fmt: skip
        image = LabeledDrawing(drawing, false).image if against == "printed" else drawing.image
        statement = concept if mode == "text" else _with(concept, self.by, false)
        stated = mode == "text" or (mode == "image" and against == "statement")
        prefix = f"{STATEMENT.format(noun=with_article(noun(statement)))} " if stated else ""
        return Example(
            id=name,
            images=() if mode == "text" else (image,),
            question=prefix + QUESTIONS[by],
            answers=(_of(concept, by),),
            options=self._options(stream, by, concept, false),
            label=_of(concept, by),
            group=f"conflict-{split}-item-{item}",
            meta={"mode": mode, "against": against},
            secret={"true": true, "contradiction": false if against != "none" else None, "concept": list(concept)},
        )

    def _options(self, stream: str, by: By, concept: Concept, false: str) -> tuple[str, ...]:
        first = [_of(concept, by), *([false] if by == self.by else [])]
        rng = StreamKey(self.seed, stream).numpy(f"options/{by}")
        others = shuffled(rng, [value for value in VALUES[by] if value not in first])
        return tuple(shuffled(rng, [*first, *others[: WAYS - len(first)]]))


def _of(concept: Concept, by: By) -> str:
    return concept[0] if by == "color" else concept[1]


def _with(concept: Concept, by: By, value: str) -> Concept:
    return (value, concept[1]) if by == "color" else (concept[0], value)
