"""Pictures decoded in threads while the encoder works on the batch before."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from icl.images import Picture

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

WORKERS = 4


def decoded(pictures: Sequence[Picture], size: int) -> "Iterator[list[PILImage]]":
    """The images in order, in batches; the next batch is read meanwhile. Raises PictureError where it stands."""
    if len(pictures) <= size:
        if pictures:
            yield [picture.open() for picture in pictures]
        return
    with ThreadPoolExecutor(WORKERS) as threads:
        starts = range(0, len(pictures), size)
        ahead = [threads.submit(picture.open) for picture in pictures[:size]]
        for start in starts:
            now, ahead = ahead, [threads.submit(p.open) for p in pictures[start + size : start + 2 * size]]
            yield [each.result() for each in now]
