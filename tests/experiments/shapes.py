"""A task for tests, used by path as a third party's would be: one colored square a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icl.images import Image
from icl.registry import component, parameter
from icl.tasks.base import Pool
from icl.types import Example

COLORS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 210)}


@component("task", "test-shapes")
@dataclass(frozen=True)
class Shapes:
    """Which color is the square?"""

    query_limit: int = parameter("queries", 6)
    pool_count: int = 9
    optionless: bool = False
    broken: str = ""  # a file that is the image of the second query
    salt: str = ""  # changes the pool and nothing else
    spoilt: str = ""  # stands behind the second query's question

    @property
    def title(self) -> str:
        return "shapes"

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self._example(f"q-{i:04d}", i, i, "query") for i in range(self.query_limit))

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._example(f"p-{i:04d}", i, 5000 + i, "pool") for i in range(self.pool_count)))

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return self.pool_count

    def _example(self, name: str, color: int, place: int, split: str) -> Example:
        word = list(COLORS)[color % 3]
        image = Image.from_source(lambda: _square(word, place), f"{split}/{name}{self.salt if split == 'pool' else ''}")
        if self.broken and name == "q-0001":
            image = Image.from_path(Path(self.broken))
        return Example(
            name,
            (image,),
            f"Which color?{self.spoilt if name == 'q-0001' else ''}",
            (word,),
            () if self.optionless else tuple(COLORS),
            word,
            group=f"g{place % 4}",
            meta={"split": split},
        )


def _square(word: str, place: int):  # type: ignore[no-untyped-def]
    from PIL import Image as PILImage

    image = PILImage.new("RGB", (16, 16), COLORS[word])
    image.putpixel((place % 16, place // 16 % 16), (place % 251, place // 251 % 251, 7))
    return image
