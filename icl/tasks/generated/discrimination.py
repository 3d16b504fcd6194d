"""Which of two inputs? As in DisCRn, discriminative cross-modal reasoning (X-InstructBLIP, 2311.18799).

A question names a color or a shape, and exactly one of two inputs has it. An input is an image of a colored shape, or
the words for it. `inputs` sets their modalities:

    images   both are images
    text     both are words
    mixed    one of each, in a random order: the comparison crosses modalities

`evidence: both` is the control: both inputs have the property, so that a right answer is a guess. Half of the answers
are `first`.

DisCRn asks about captioned pairs of images, audio, video and 3D objects with questions of a language model; this task
is generated. No released code was compared.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from icl import Example, StreamKey, component
from icl.tasks.generated import CONCEPT_SETS, Drawing, noun
from icl.tasks.generated.episode import NumberedTask, Split, balanced_choice, choice
from icl.tasks.generated.wording import with_article

ANSWERS = ("first", "second")
PROPERTIES = ("color", "shape")


@component("task", "discrimination")
@dataclass(frozen=True)
class DiscriminationTask(NumberedTask):
    """Questions which of two inputs, each an image or words, has a color or a shape."""

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
        answer = balanced_choice(self.seed, f"discrimination/{split}/answer", number, ANSWERS)
        pair = (right, choice(rng, others)) if answer == "first" else (choice(rng, others), right)
        mixed = choice(rng, [(True, False), (False, True)])
        is_image = {"images": (True, True), "text": (False, False), "mixed": mixed}[self.inputs]
        words = [
            f"{ordinal} input: {'an image' if image else with_article(noun(concept))}."
            for ordinal, image, concept in zip(ANSWERS, is_image, pair, strict=True)
        ]
        drawings = [
            Drawing(self.seed, f"{stream}/{ordinal}", "single", color=concept[0], shape=concept[1])
            for ordinal, image, concept in zip(ANSWERS, is_image, pair, strict=True)
            if image
        ]
        value = right[place] if self.by == "color" else with_article(right[place])
        return Example(
            id=name,
            images=tuple(drawing.image for drawing in drawings),
            question=f"{' '.join(words)} which input is {value}?",
            answers=(answer,),
            options=ANSWERS,
            label=answer,
            meta={"inputs": self.inputs, "evidence": self.evidence},
            secret={"concepts": [list(concept) for concept in pair]},
        )
