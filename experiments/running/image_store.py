"""Images outside the model: decoded ahead of it in a few threads, and kept for the report while they are few."""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from icl.errors import ImageError
from icl.images import Image

T = TypeVar("T")

THREADS = 2
PREFETCH_ITEMS = 32
"""Items whose images are decoded before they are needed: more would not stay in the cache of decoded images."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Room for a run's images; further ones are not kept, and the report shows their place without them."""

LONGEST_SIDE = 512
"""Larger images are kept at this size: for people, not for models."""


def prefetch_images(items: Iterable[T], images: Callable[[T], Sequence[Image]]) -> Iterator[T]:
    """The same items; their images were sent to be decoded `AHEAD` items earlier.

    An image that cannot be read says so when it is used, not here.
    """
    waiting: deque[T] = deque()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
    try:
        for item in items:
            for image in images(item):
                if "source_digest" not in vars(image):
                    threads.submit(_decode, image)
            waiting.append(item)
            if len(waiting) > PREFETCH_ITEMS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        threads.shutdown(cancel_futures=True)


def _decode(image: Image) -> None:
    try:
        image.source_digest  # noqa: B018
    except ImageError:
        return


class ImageStore:
    """Keeps images as `<digest>.png`, each once, in a thread of its own, within `room` bytes.

    problem: why it stopped keeping them (a full disk). Samples are not touched by that.
    """

    def __init__(self, folder: Path, room: int = MAX_IMAGE_BYTES) -> None:
        self.folder, self.room = folder, room
        self.problem: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        kept = list(folder.glob("*.png"))
        self.seen = {path.stem for path in kept}
        self.used = sum(path.stat().st_size for path in kept)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="album")

    def keep(self, images: Iterable[Image]) -> None:
        for image in images:
            if self.problem is None and self.used < self.room and image.digest not in self.seen:
                self.seen.add(image.digest)
                self.thread.submit(self._save, image)

    def close(self) -> None:
        """Waits for what is being written."""
        self.thread.shutdown(wait=True)

    def _save(self, image: Image) -> None:
        if self.used >= self.room or self.problem is not None:
            return
        try:
            pil_image = image.open()
            if max(pil_image.size) > LONGEST_SIDE:
                pil_image = pil_image.copy()
                pil_image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            path = self.folder / f"{image.digest}.png"
            part = path.with_suffix(f".{platform.node()}.{os.getpid()}.part")  # several workers may save one image
            pil_image.save(part, "PNG", compress_level=3)
            part.replace(path)
            self.used += path.stat().st_size
        except (OSError, ImageError) as error:
            self.problem = f"images for the report are no longer kept: {error}"
