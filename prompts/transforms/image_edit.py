"""Images after an edit: marks to point at, crops, blur or any other edit, in what the model reads.

    transforms: [{name: image_edit, where: query, edit: {name: mark, boxes: [[0.1, 0.1, 0.4, 0.5]], style: number}}]

With `mark` this is Set-of-Mark prompting (Yang et al., 2310.11441): a question can name a region by its number. The
control is the same mark at a wrong box, as one more value of the axis. Text stays. Random edits depend on the example
and the query, not on the position in the prompt.

No released code was compared.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from icl import Context, NestedComponent, component, describe
from icl.edits import Edit
from icl.edits.mark import RegionMarks
from icl.types import Where
from prompts import change_examples


@component("transform", "image_edit")
@dataclass(frozen=True)
class ImageEdit:
    """A transform that shows images after an edit."""

    needs: ClassVar[frozenset[str]] = frozenset()

    edit: Annotated[Edit, NestedComponent("edit")] = field(default_factory=RegionMarks)  # what changes the images
    where: Where = "query"  # owners of the images

    def transform(self, context: Context) -> Context:
        def changed(item: Any) -> Any:
            images = (image.edit(self.edit.bind(context.key, f"{item.id}/{j}")) for j, image in enumerate(item.images))
            return replace(item, images=tuple(images)) if item.images else item

        return change_examples(context, self.where, changed, f"images: {describe(self.edit)['name']}")
