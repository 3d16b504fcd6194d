"""The largest requests of each model among the prompts that were counted, from which its memory is estimated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from experiments.grid.grid import Cell
from icl.errors import ICLError
from icl.models.hf.request_size import RequestSize

if TYPE_CHECKING:
    from icl.images import Image
    from icl.models.base import Model


@dataclass
class LargestRequests:
    """The largest request of each cell: longest prompt, longest answer, most branches, largest image.

    Sizes of different cells do not mix: no cell makes a request with the prompt of one and the branches of another.

    Attributes:
        sizes: id of a model -> id of a cell -> the cell and its sizes.
        uses: id of a model -> images that its contexts read.
        pixels: Digest of an image -> its pixels.
    """

    sizes: "dict[int, dict[int, tuple[Cell, RequestSize]]]" = field(default_factory=dict)
    uses: dict[int, float] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)

    def add(self, cell: Cell, branches: int, tokens: int, images: "Sequence[Image]") -> None:
        """A prompt of `tokens` tokens with these images, which share them at most."""
        of_model = self.sizes.setdefault(id(cell.model), {})
        before = of_model.get(id(cell), (cell, RequestSize(0, 0, 0)))[1]
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
        of_model[id(cell)] = cell, size

    def _largest_image(self, before: "Image | None", images: "Sequence[Image]") -> "Image | None":
        """The image with the most pixels, of several and the largest one before. One that cannot be read is left out.

        Such an image fails the samples that show it.
        """
        largest, most_pixels = before, self._pixels(before) if before is not None else 0
        for image in images:
            if (pixels := self._pixels(image)) > most_pixels:
                largest, most_pixels = image, pixels
        return largest

    def _pixels(self, image: "Image") -> int:
        """Width times height; 0 if it cannot be read."""
        try:
            if image.digest not in self.pixels:
                width, height = image.open().size
                self.pixels[image.digest] = width * height
            return self.pixels[image.digest]
        except ICLError:
            return 0

    def add_image_uses(self, model: "Model", uses: float) -> None:
        """So many images are read in contexts of a model."""
        self.uses[id(model)] = self.uses.get(id(model), 0.0) + uses

    def by_model(self) -> Iterator[tuple[Cell, list[RequestSize]]]:
        """A cell of each model, and its requests without those that another one exceeds or equals in every size.

        Memory grows with each size, so that the largest need is among these.
        """
        for id_, of_cells in self.sizes.items():
            by_key = {self._key(size): size for _, size in of_cells.values()}
            keys = [key for key in by_key if not any(_covers(other, key) for other in by_key if other != key)]
            cell, _ = next(iter(of_cells.values()))
            yield cell, [replace(by_key[key], image_uses=self.uses.get(id_, 0.0)) for key in keys]

    def _key(self, size: RequestSize) -> tuple[float, ...]:
        pixels = self._pixels(size.largest_image) if size.largest_image is not None else 0
        return size.prompt_tokens, size.new_tokens, size.branches, size.image_tokens, pixels


def _covers(larger: tuple[float, ...], smaller: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(larger, smaller, strict=True))
