"""Questions about marked shapes: `correspondence` between two images, and statements with an `inconsistency`.

Correspondence of objects between two images, as in "Are They the Same?" (MMVM, Zhou et al., 2501.04670).

The first image shows some shapes, one of them in a box. The second image shows the same shapes in other places, each
with a number. The question asks for the number of the shape in the box. Options are the numbers, so chance is one over
the number of shapes.

Each query names its cues in `meta`: `color` or `shape` if the shape in the box differs from all others in it, or both.
So `by: [cues]` divides a run as the benchmark does, into parts that overlap.

`marks: elsewhere` is the control: the numbers of the second image stand in empty cells. A model that answers by the
shapes can then be right by chance only.

The benchmark has photos and videos of 1,510 items; this task is generated, after its abstract.

Statements that contradict an image, as in MMIR (Yan et al., 2502.16033): which elements are inconsistent?

An image shows numbered shapes, and the question lists one statement for each number. With `wrong: 1` one statement
names a further shape of the image, which has no number. With `wrong: 2` two statements have exchanged their shapes, so
two elements are inconsistent. All stated shapes are in the image: only their places show which statement is false. The
metric `mmir` scores the numbers in the answer. `marks: elsewhere` is the control: the numbers stand in empty cells, so
no statement can be checked.

MMIR asks about web pages, slides and posters with five kinds of contradiction; this task is generated.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from icl import Example, StreamKey, component
from icl.edits.mark import RegionMarks
from icl.tasks.generated import CELLS, CONCEPT_SETS, PlacedShapes, cell_box, noun
from icl.tasks.generated.episode import NumberedTask, Split, balanced_choice, shuffled

QUESTION = "which number in the second image marks the shape in the box of the first?"


@component("task", "correspondence")
@dataclass(frozen=True)
class CorrespondenceTask(NumberedTask):
    """Questions which numbered shape of a second image is the shape in the box of the first image."""

    called: ClassVar[str] = "correspondence"

    objects: Annotated[int, Ge(2), Le(4)] = 3  # number of shapes in each image; chance is 1 / objects
    marks: Literal["objects", "elsewhere"] = "objects"  # what the numbers of the second image mark
    concept_set: Literal["held_out", "seen", "all"] = "all"  # pairs of color and shape that images may show

    @property
    def title(self) -> str:
        return f"correspondence · {self.objects} shapes" + (" · marks elsewhere" if self.marks == "elsewhere" else "")

    def example(self, split: Split, number: int, name: str) -> Example:
        stream = f"correspondence/{self.concept_set}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        concepts = tuple(shuffled(rng, CONCEPT_SETS[self.concept_set])[: self.objects])
        first, second = (tuple(shuffled(rng, range(CELLS))) for _ in range(2))
        numbers = tuple(range(1, self.objects + 1))
        answer = balanced_choice(self.seed, f"correspondence/{split}", number, numbers)
        marked = second[: self.objects] if self.marks == "objects" else second[self.objects : 2 * self.objects]
        boxed = concepts[answer - 1]
        cues = [name for i, name in enumerate(("color", "shape")) if [one[i] for one in concepts].count(boxed[i]) == 1]
        one = PlacedShapes(self.seed, f"{stream}/1", concepts, first[: self.objects]).image
        other = PlacedShapes(self.seed, f"{stream}/2", concepts, second[: self.objects]).image
        return Example(
            id=name,
            images=(
                one.edit(RegionMarks((cell_box(first[answer - 1]),), "box")),
                other.edit(RegionMarks(tuple(map(cell_box, marked)), "number", numbers)),
            ),
            question=QUESTION,
            answers=(str(answer),),
            options=tuple(map(str, numbers)),
            label=str(answer),
            meta={"marks": self.marks, "cues": cues},
            secret={"concept": list(boxed)},
        )


QUESTIONS = {1: "which number is wrong?", 2: "which two numbers are wrong?"}


@component("task", "inconsistency")
@dataclass(frozen=True)
class InconsistencyTask(NumberedTask):
    """Questions which of the statements about numbered shapes contradict the image."""

    called: ClassVar[str] = "inconsistency"

    objects: Annotated[int, Ge(2), Le(4)] = 4  # number of numbered shapes and statements
    wrong: Literal[1, 2] = 1  # number of false statements; two false ones have exchanged their shapes
    marks: Literal["objects", "elsewhere"] = "objects"  # what the numbers mark
    concept_set: Literal["held_out", "seen", "all"] = "all"  # pairs of color and shape that images may show

    @property
    def title(self) -> str:
        return f"inconsistency · {self.wrong} wrong" + (" · marks elsewhere" if self.marks == "elsewhere" else "")

    def example(self, split: Split, number: int, name: str) -> Example:
        stream = f"inconsistency/{self.concept_set}/{split}/{number}"
        rng = StreamKey(self.seed, stream).numpy("facts")
        order = shuffled(rng, CONCEPT_SETS[self.concept_set])
        concepts = tuple(order[: self.objects])
        in_image = tuple(order[: self.objects + 1]) if self.wrong == 1 else concepts
        cells = shuffled(rng, range(CELLS))
        places = sorted(shuffled(rng, range(self.objects))[: self.wrong])
        stated = list(concepts)
        if self.wrong == 1:
            stated[places[0]] = in_image[-1]
        else:
            stated[places[0]], stated[places[1]] = concepts[places[1]], concepts[places[0]]
        marked = (
            cells[: self.objects] if self.marks == "objects" else cells[len(in_image) : len(in_image) + self.objects]
        )
        image = PlacedShapes(self.seed, stream, in_image, tuple(cells[: len(in_image)])).image
        lines = ". ".join(f"{i}: {noun(concept)}" for i, concept in enumerate(stated, 1))
        return Example(
            id=name,
            images=(image.edit(RegionMarks(tuple(map(cell_box, marked)))),),
            question=f"{lines}. {QUESTIONS[self.wrong]}",
            answers=(" and ".join(str(place + 1) for place in places),),
            options=tuple(map(str, range(1, self.objects + 1))) if self.wrong == 1 else (),
            meta={"marks": self.marks},
            secret={"concepts": [noun(concept) for concept in in_image]},
        )
