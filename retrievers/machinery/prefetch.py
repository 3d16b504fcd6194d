"""Decodes images in threads while the encoder works on the previous batch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from icl.images import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

WORKERS = 4


def decode_batches(images: Sequence[Image], size: int) -> "Iterator[list[PILImage]]":
    """Decode images in order, in batches, one batch ahead. Raises ImageError at the batch of an unreadable image."""
    if len(images) <= size:
        if images:
            yield [image.open() for image in images]
        return
    with ThreadPoolExecutor(WORKERS) as threads:
        starts = range(0, len(images), size)
        ahead = [threads.submit(image.open) for image in images[:size]]
        for start in starts:
            current, ahead = ahead, [threads.submit(image.open) for image in images[start + size : start + 2 * size]]
            yield [future.result() for future in current]
