"""The largest requests of each model, from prompts that are counted before the model is loaded.

`LargestRequests` collects them, for `icl.models.hf.memory`. `estimate_sizes` renders a few prompts
for an engine that reserves memory for images and tokens when it starts. An estimate that is too small costs time but no
sample: an engine that meets a larger prompt restarts with its largest size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from decoding.arms.inspection import probe_branches
from experiments.config.keys import DEFAULTS
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.grid.grid import Cell
from icl import Example, ICLError, Image, Model, build, nested_choice
from icl.models.hf.memory import RequestSize
from retrievers import Retriever

SAMPLED_QUERIES = 8
"""Queries of each task and number of shots whose prompts are measured."""

MARGIN = 1.25
"""Other prompts may be longer by this factor."""


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

    def add(self, cell: Cell, branches: int, tokens: int, images: Sequence[Image]) -> None:
        """Add a prompt of `tokens` tokens with these images; each image has at most an equal share of the tokens."""
        of_model = self.sizes.setdefault(id(cell.model), {})
        before = of_model.get(id(cell), (cell, RequestSize(0, 0, 0)))[1]
        largest = max((before.largest_image, *images), key=self._pixels)
        size = RequestSize(
            prompt_tokens=max(before.prompt_tokens, tokens),
            new_tokens=max(before.new_tokens, cell.max_output_tokens),
            branches=max(before.branches, branches),
            shots=cell.shots if tokens > before.prompt_tokens else before.shots,
            image_tokens=max(before.image_tokens, tokens / len(images) if images else 0.0),
            largest_image=largest if self._pixels(largest) else None,
        )
        of_model[id(cell)] = cell, size

    def _pixels(self, image: Image | None) -> int:
        """Width times height; 0 for none, and for one that cannot be read, which fails the samples that show it."""
        try:
            if image is not None and image.digest not in self.pixels:
                width, height = image.open().size
                self.pixels[image.digest] = width * height
            return 0 if image is None else self.pixels[image.digest]
        except ICLError:
            return 0

    def add_image_uses(self, model: Model, uses: float) -> None:
        """Count images that contexts of a model read."""
        self.uses[id(model)] = self.uses.get(id(model), 0.0) + uses

    def by_model(self) -> Iterator[tuple[Cell, list[RequestSize]]]:
        """A cell of each model, and its requests without those that another one exceeds or equals in every size.

        Memory grows with each size, so that the largest need is among these.
        """
        for id_, of_cells in self.sizes.items():
            by_key = {
                self._key(size): replace(size, image_uses=self.uses.get(id_, 0.0)) for _, size in of_cells.values()
            }
            keys = [key for key in by_key if not any(_covers(other, key) for other in by_key if other != key)]
            yield next(iter(of_cells.values()))[0], [by_key[key] for key in keys]

    def images(self) -> "Iterator[tuple[Cell, Image]]":
        """A cell of each model that reads images, and the largest image."""
        for cell, sizes in self.by_model():
            image = max((size.largest_image for size in sizes), key=self._pixels, default=None)
            if image is not None:
                yield cell, image

    def _key(self, size: RequestSize) -> tuple[float, ...]:
        pixels = self._pixels(size.largest_image)
        return size.prompt_tokens, size.new_tokens, size.branches, size.image_tokens, pixels


def _covers(larger: tuple[float, ...], smaller: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(larger, smaller, strict=True))


def estimate_sizes(cells: Sequence[Cell]) -> tuple[int, int, int]:
    """What the largest prompt of one model's cells needs.

    Returns:
        Its number of images, its number of tokens with a margin and the answer's, and the largest number of branches.

    All branches count. The model is not called: random demonstrations stand in for a retriever's.
    """
    images = tokens = most_branches = 0
    retriever, groups = placeholder_retriever(), dict[tuple[int, int], list[Cell]]()
    for cell in cells:
        groups.setdefault((id(cell.task), cell.shots), []).append(cell)
    for group in groups.values():
        measured = [replace(cell, retriever=cell.retriever and retriever) for cell in without_model_calls(group)]
        task = group[0].task
        rows = build_contexts(
            Retrieval(task, group[0].model), prompt_specs(measured), sample_queries(task.queries, SAMPLED_QUERIES)
        )
        for item in (render(item) for row in rows for item in row):
            for cell in item.spec.cells if item.prompt is not None else ():
                try:
                    branches = probe_branches(cell.decoding.strategy, item.prompt)
                    length = max(map(cell.model.count_tokens, branches))
                except ICLError:  # the sample fails with this error when it is computed
                    continue
                images = max(images, *(len(branch.images) for branch in branches))
                tokens = max(tokens, round(MARGIN * length) + cell.max_output_tokens)
                most_branches = max(most_branches, len(branches))
    return images, tokens, most_branches


def sample_queries(queries: Sequence[Example], limit: int) -> list[Example]:
    """A fixed random choice of at most `limit` queries, in the order of the task."""
    return [queries[i] for i in sorted(nested_choice([query.id for query in queries], limit, 0, "plan"))]


def placeholder_retriever() -> Retriever:
    """The default retriever, which needs no model, for prompts that are only counted."""
    return cast("Retriever", build("retriever", DEFAULTS["retriever"]))


def has_placeholder_retriever(cell: Cell) -> bool:
    """Whether the cell has the default retriever, while its label names another."""
    default, label = DEFAULTS["retriever"], str(cell.labels["retriever"])
    _, name = getattr(type(cell.retriever), "component", ("retriever", ""))
    return bool(name == default and not label.startswith(default))


def without_model_calls(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the default order in place of an orderer that calls the model, and without such transforms.

    A prompt has the same length in any order. Retrievers stay; callers replace them.
    """
    default, replaced = build("orderer", DEFAULTS["order"]), []
    for cell in cells:
        order = default if "model" in getattr(cell.order, "needs", ()) else cell.order
        transforms = tuple(transform for transform in cell.transforms if "model" not in transform.needs)
        replaced.append(replace(cell, order=order, transforms=transforms))
    return replaced
