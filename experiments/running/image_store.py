"""Images outside the model: decode them ahead in threads, and save some of them for the report."""

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from icl import PIL, Image, ImageError

T = TypeVar("T")

THREADS = 2
PREFETCH_ITEMS = 32
"""Items whose images are decoded ahead. More would not stay in the cache of decoded images."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Limit of a run's saved images. The report shows placeholders for further ones."""

LONGEST_SIDE = 512
"""Pixels. Larger images are saved at this size, for people and not for models."""


def prefetch_images(items: Iterable[T], images: Callable[[T], Sequence[Image]]) -> Iterator[T]:
    """Yields the same items. Threads decode their images `PREFETCH_ITEMS` items ahead, into the images' own cache.

    An image that cannot be read raises its error when it is used, not here.
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
    """A folder of `<digest>.png` for the report. A thread saves each image once, up to a limit of bytes.

    A file that is damaged counts as missing and is replaced.

    Attributes:
        problem: Why it stopped saving, for example a full disk. Samples do not depend on it.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_IMAGE_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.problem: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        paths = [path for path in folder.glob("*.png") if path.is_file() and _is_intact(path)]
        self.digests = {path.stem for path in paths}
        self.used = sum(path.stat().st_size for path in paths)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="image-store")

    def save(self, images: Iterable[Image]) -> None:
        for image in images:
            if self.problem is None and self.used < self.max_bytes and image.digest not in self.digests:
                self.digests.add(image.digest)
                self.thread.submit(self._save, image)

    def close(self) -> None:
        """Waits for images that are being written."""
        self.thread.shutdown(wait=True)

    def _save(self, image: Image) -> None:
        if self.used >= self.max_bytes or self.problem is not None:
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
            self.problem = f"no more images are saved for the report: {error}"


def _is_intact(path: Path) -> bool:
    """Whether a PNG file is complete and its chunks have their checksums."""
    try:
        with PIL.Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return False
    return True
