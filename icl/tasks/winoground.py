"""Winoground (Thrush et al., CVPR 2022): two images and two captions with the same words, as four yes/no questions.

An item of the data has `image_0`, `caption_0`, `image_1` and `caption_1`. Each caption is combined with each image. The
metrics `winoground_text`, `winoground_image` and `winoground_group` read the four answers. Use `answer_mode: options`.
Access to the data set (hub id facebook/winoground) must be requested. Other data with these columns work too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from icl import ConfigError, DataError, Example, Pool, SharedPoolTask, StreamKey, nested_choice
from icl.registry import Fraction, PositiveInt, component, later_parameter
from icl.tasks import DataSource, RelativePaths, cell_images, open_source, text_of

COLUMNS = ("image_0", "image_1", "caption_0", "caption_1")


@component("task", "winoground")
@dataclass(frozen=True)
class WinogroundTask(SharedPoolTask, RelativePaths):
    """Yes/no questions whether a caption matches an image, from Winoground or similar data.

    An item has two captions with each of two images. The pool is a share of the items, the queries are the others. All
    four questions of an item are on one side.
    """

    title: ClassVar[str] = "winoground"

    path: str = "facebook/winoground"  # hub id, folder or file
    revision: str | None = later_parameter(None)  # branch, tag or commit of a hub data set; None: the newest
    split: str | None = later_parameter(None, "test")  # split that is divided; None: all rows of a file, or test
    question: str = 'does the caption "{caption}" match the image?'  # question with the placeholder {caption}
    pool_fraction: Fraction = 0.5  # share of the items that become the pool
    items: PositiveInt | None = None  # number of items, four questions each; a nested choice; None: all
    seed: int = 0  # random seed of choice and division, independent of the seeds of a run

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.question.count("{caption}") != 1:
            raise ConfigError("question has {caption} once: what is asked about the image.")

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        rows = self._rows[self._cut :]
        if self.items is not None and self.items > len(rows):
            raise DataError(
                f"items: {self.items} is more than the {len(rows)} items that are asked. Use a smaller number."
            )
        return tuple(self._questions(rows[: self.items], "query"))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._questions(self._rows[: self._cut], "pool")))

    @property
    def pool_size(self) -> int:
        return 4 * self._cut

    @property
    def _cut(self) -> int:
        return round(self.pool_fraction * len(self._rows))

    @cached_property
    def _source(self) -> DataSource:
        source = open_source(self.path, None, self.split, revision=self.revision, folders=self._folders)
        missing = [column for column in COLUMNS if column not in source.columns]
        if missing:
            raise DataError(
                f"{source.name} has no column {' and '.join(missing)}: an item is {', '.join(COLUMNS)}. "
                f"Columns: {', '.join(source.columns)}."
            )
        return source

    @property
    def data_revision(self) -> str:
        """The id and commit of the data set of the hub."""
        return self._source.revision

    @cached_property
    def _rows(self) -> list[int]:
        """All items in a random order."""
        names = [f"item-{i}" for i in range(len(self._source))]
        return nested_choice(names, len(names), self.seed, "winoground")

    def _questions(self, rows: list[int], split: Literal["query", "pool"]) -> Iterator[Example]:
        views = [self._source.data.select_columns([f"image_{i}"]) for i in (0, 1)]
        captions = self._source.data.select_columns(list(COLUMNS[2:]))
        for row in rows:
            name = f"winoground-{split}-{row:04d}"
            turned = StreamKey(self.seed, name).number("turned", 2)  # which caption and which image is called 0
            values = captions[row]
            for place in range(4):
                caption, image = (place >> 1) ^ (turned >> 1), (place & 1) ^ (turned & 1)
                answer = "yes" if caption == image else "no"
                yield Example(
                    id=f"{name}-{place}",
                    images=tuple(cell_images(views[image], self._source, f"image_{image}", row)),
                    question=self.question.replace("{caption}", text_of(values[f"caption_{caption}"])),
                    answers=(answer,),
                    options=("yes", "no"),
                    label=answer,
                    group=name,
                    meta={"caption": place >> 1, "image": place & 1},
                )
