"""Questions about a pair of inputs: whether they match (`matching`), and which of them (`discrimination`)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Example, GeneratedCount, StreamKey, component, parameter
from icl.tasks.generated import CONCEPT_SETS, Concept, Drawing, NumberedTask, Split, balanced_choice, choice, noun
from icl.tasks.generated.wording import with_article

QUESTION = "do they match?"
YES_NO = ("yes", "no")


@component("task", "matching")
@dataclass(frozen=True)
class MatchingTask(NumberedTask):
    """Yes/no questions whether two images match; only the demonstrations show what must be equal.

    Matching pairs, as in VL-ICL (Zong et al., ICLR 2025): do two images have the relation of the demonstrations?

    The question does not say what must be equal (the concept, the color or the shape). VL-ICL's shot is a same pair
    followed by a different one, always in this order. So the last answer is always "no", and a model that copies it
    says "no" to everything. Here every two pairs of the pool have one of each in a random order, as do the queries.
    `official_order` has the pool in the published order, for retrievers that keep it.

    Half of the queries and half of the pool are yes. All queries share the pool, and none of its images belongs to a
    query.
    """

    called: ClassVar[str] = "matching"

    by: Literal["pair", "color", "shape"] = "pair"  # property that is equal in a match; pair: color and shape together
    concept_set: Literal["held_out", "seen", "all"] = "held_out"  # pairs of color and shape that images may show
    official_order: bool = False  # whether the pool is always yes, no, yes, no
    support: GeneratedCount = parameter("pool_size", 200)  # pairs of images in the pool

    @property
    def title(self) -> str:
        return "matching" if self.by == "pair" else f"matching · by {self.by}"

    def is_match(self, one: Concept, other: Concept) -> bool:
        """Whether two concepts match."""
        return {"pair": one == other, "color": one[0] == other[0], "shape": one[1] == other[1]}[self.by]

    def example(self, split: Split, number: int, name: str) -> Example:
        answer = balanced_choice(self.seed, f"matching/{split}/answer", number, YES_NO)
        if self.official_order and split == "pool":
            answer = YES_NO[number % 2]
        stream = f"matching/{self.concept_set}/{self.by}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("concepts")
        concepts = CONCEPT_SETS[self.concept_set]
        one = choice(rng, concepts)
        other = choice(rng, [concept for concept in concepts if self.is_match(one, concept) == (answer == "yes")])
        drawings = (
            Drawing(self.seed, f"{stream}/{place}", "single", color=color, shape=shape)
            for place, (color, shape) in enumerate((one, other))
        )
        return Example(
            id=name,
            images=tuple(drawing.image for drawing in drawings),
            question=QUESTION,
            answers=(answer,),
            options=YES_NO,
            label=answer,
            secret={"concepts": [list(one), list(other)]},
        )


ORDINALS = ("first", "second")
PROPERTIES = ("color", "shape")


@component("task", "discrimination")
@dataclass(frozen=True)
class DiscriminationTask(NumberedTask):
    """Questions which of two inputs, each an image or words, has a color or a shape.

    This is the form of DisCRn, discriminative cross-modal reasoning (X-InstructBLIP, 2311.18799).

    A question names a color or a shape, and exactly one of two inputs has it. An input is an image of a colored shape,
    or the words for it. `inputs` sets their modalities:

        images   both are images
        text     both are words
        mixed    one of each, in a random order: the comparison crosses modalities

    `evidence: both` is the control: both inputs have the property, so that a right answer is a guess. Half of the
    answers are `first`.

    DisCRn asks about captioned pairs of images, audio, video and 3D objects with questions of a language model; this
    task is generated. No released code was compared.
    """

    called: ClassVar[str] = "discrimination"

    inputs: Literal["images", "text", "mixed"] = "mixed"  # modalities of the two inputs
    evidence: Literal["one", "both"] = "one"  # inputs that have the property; both: the control
    by: Literal["color", "shape"] = "color"  # the property
    concept_set: Literal["held_out", "seen", "all"] = "all"  # pairs of color and shape that inputs may have

    @property
    def title(self) -> str:
        return f"discrimination · {self.inputs}" + (" · both" if self.evidence == "both" else "")

    def example(self, split: Split, number: int, name: str) -> Example:
        stream = f"discrimination/{self.concept_set}/{self.by}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("concepts")
        place, concepts = PROPERTIES.index(self.by), CONCEPT_SETS[self.concept_set]
        right = choice(rng, concepts)
        others = [one for one in concepts if (one[place] == right[place]) == (self.evidence == "both") and one != right]
        answer = balanced_choice(self.seed, f"discrimination/{split}/answer", number, ORDINALS)
        pair = (right, choice(rng, others)) if answer == "first" else (choice(rng, others), right)
        mixed = choice(rng, [(True, False), (False, True)])
        is_image = {"images": (True, True), "text": (False, False), "mixed": mixed}[self.inputs]
        words = [
            f"{ordinal} input: {'an image' if image else with_article(noun(concept))}."
            for ordinal, image, concept in zip(ORDINALS, is_image, pair, strict=True)
        ]
        drawings = [
            Drawing(self.seed, f"{stream}/{ordinal}", "single", color=concept[0], shape=concept[1])
            for ordinal, image, concept in zip(ORDINALS, is_image, pair, strict=True)
            if image
        ]
        value = right[place] if self.by == "color" else with_article(right[place])
        return Example(
            id=name,
            images=tuple(drawing.image for drawing in drawings),
            question=f"{' '.join(words)} which input is {value}?",
            answers=(answer,),
            options=ORDINALS,
            label=answer,
            meta={"inputs": self.inputs, "evidence": self.evidence},
            secret={"concepts": [list(concept) for concept in pair]},
        )
