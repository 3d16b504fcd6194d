"""The largest request of each model among the prompts that were counted, from which its memory is estimated."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.grid.grid import Cell
from icl.models.hf.request_size import RequestSize

if TYPE_CHECKING:
    from icl.images import Image
    from icl.models.base import Model


@dataclass
class LargestRequests:
    """The largest request of each model: longest prompt, longest answer, most branches, largest image.

    Attributes:
        sizes: A cell of the model, and the sizes.
        pixels: Digest of an image -> its pixels.
    """

    sizes: dict[int, tuple[Cell, RequestSize]] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)

    def add(self, cell: Cell, branches: int, tokens: int, images: "Sequence[Image]") -> None:
        """A prompt of `tokens` tokens with these images, which share them at most."""
        before = self.sizes.get(id(cell.model), (cell, RequestSize(0, 0, 0)))[1]
        is_longer = tokens > before.prompt_tokens
        size = replace(
            before,
            prompt_tokens=max(before.prompt_tokens, tokens),
            new_tokens=max(before.new_tokens, cell.max_output_tokens),
            branches=max(before.branches, branches),
            shots=cell.shots if is_longer else before.shots,
            image_tokens=max(before.image_tokens, tokens / len(images) if images else 0.0),
            largest_image=self._largest_image(before.largest_image, images),
        )
        self.sizes[id(cell.model)] = cell, size

    def _largest_image(self, before: "Image | None", images: "Sequence[Image]") -> "Image | None":
        """The image with the most pixels, of several and the largest one before."""
        for image in images:
            if image.digest not in self.pixels:
                size = image.open().size
                self.pixels[image.digest] = size[0] * size[1]
        candidates = [*images, *([before] if before is not None else [])]
        return max(candidates, key=lambda image: self.pixels[image.digest], default=None)

    def add_image_uses(self, model: "Model", uses: float) -> None:
        """So many images are read in contexts of a model whose prompts were added."""
        if id(model) in self.sizes:
            cell, size = self.sizes[id(model)]
            self.sizes[id(model)] = cell, replace(size, image_uses=size.image_uses + uses)
