"""The same task as text and as images, as in a study of multimodal ICL with text and image demonstrations (2604.13403).

    task: {name: as_text, of: {name: operators}, form: text}        "image: 3 ? 2. what is the result?"
    task: {name: as_text, of: {name: operators}, form: image}       unchanged

Images of generated tasks are drawn from facts, which are written in words before the question. Queries keep their ids,
so the two forms are paired. Run both under several numbers of shots: the effect of images is the interaction of form
and shots, since both forms can be equal at 0 shots. `where: demos` or `query` changes one side only.

Differs from the released code in the tasks, which are generated here, and in the wording.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from icl import DataError, Example, Image, NestedComponent, Task, component
from icl.tasks.base import AlteredTask
from icl.tasks.generated import PLACES, DigitImage, Drawing, ImageFacts, PlacedShapes
from icl.tasks.generated.wording import NUMBER_WORDS, caption, plural, with_article


@component("task", "as_text")
@dataclass(frozen=True, kw_only=True)
class AsTextTask(AlteredTask):
    """A generated task with its images written as words, or the task itself for comparison."""

    of: Annotated[Task, NestedComponent("task")]  # generated task
    form: Literal["text", "image"] = "text"  # words in place of images, or the images
    where: Literal["all", "query", "demos"] = "all"  # owners of the images that become words
    text: str = "image: {words}. "  # format of each image's words before the question

    @property
    def title(self) -> str:
        return f"{self.of.title} · as {self.form}"

    def altered(self, example: Example, in_pool: bool) -> Example:
        meta = {**example.meta, "form": self.form}
        if self.form == "image" or self.where not in ("all", "demos" if in_pool else "query"):
            return replace(example, meta=meta)
        words = "".join(self.text.format(words=words_of(image)) for image in example.images)
        return replace(example, images=(), question=words + example.question, meta=meta)


def words_of(image: Image) -> str:
    """The facts of a generated image in words. Raises DataError for another image, or an edited one."""
    recipe: Any = image.load
    if isinstance(recipe, Drawing) and not image.edits:
        return _in_words(recipe.render()[1])
    if isinstance(recipe, DigitImage) and not image.edits:
        return str(recipe.value)
    if isinstance(recipe, PlacedShapes) and not image.edits:
        placed = zip(recipe.concepts, recipe.cells, strict=True)
        return ", ".join(f"{with_article(' '.join(concept))} at the {PLACES[cell]}" for concept, cell in placed)
    raise DataError(
        f"as_text: {image.origin} has no facts to write in words. It must be an unedited image of a generated task, "
        "such as those of operators, binding or counting."
    )


def _in_words(facts: ImageFacts) -> str:
    if facts.kind == "digits":
        return f"{facts.left} ? {facts.right}"
    if facts.kind == "scene":
        return caption(facts.groups)
    texture = f"{facts.texture} " if facts.texture else ""
    shape = f"{texture}{facts.color} {plural(facts.shape or '', facts.count or 1)}"
    if facts.kind == "count":
        return f"{NUMBER_WORDS[facts.count or 0]} {shape}"
    size = f"{facts.size} " if facts.size else ""
    return f"{with_article(size + shape)} at the {facts.place}"
