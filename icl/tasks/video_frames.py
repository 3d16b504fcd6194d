"""Frames of a video file as lazily opened images, decoded by PyAV (the extra `video`).

The frames are the middles of equal parts, as `frame_grid` takes them: of 12 frames in 6 parts, 1, 3, 5, 7, 9 and 11. A
video with fewer frames repeats some. The frames of a file are decoded together, at the first access to one of them.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl.errors import DataError
from icl.images import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True)
class VideoFrame:
    """A loader of one of the frames that are taken from a video file."""

    path: str
    place: int
    count: int

    def __call__(self) -> "PILImage":
        return _decoded(self.path, self.count)[self.place]


def video_frames(path: Path, count: int, origin: str) -> tuple[Image, ...]:
    """The middles of `count` equal parts of a video. Raises DataError if PyAV is not installed."""
    if find_spec("av") is None:
        raise DataError(
            f"{origin} is a video, and the package av, which decodes it, is not installed. "
            "Run: pip install 'mm-icl[video]'."
        )
    return tuple(
        Image.from_source(VideoFrame(str(path), place, count), f"{origin}, frame {place + 1} of {count}")
        for place in range(count)
    )


@lru_cache(maxsize=8)
def _decoded(path: str, count: int) -> "tuple[PILImage, ...]":
    """The chosen frames. Raises ValueError if the file is no video, or has no frame."""
    import av

    try:
        with av.open(path) as container:
            total = int(container.streams.video[0].frames) or _count(path)
            places = [(2 * i + 1) * total // (2 * count) for i in range(count)]
            frames: dict[int, Any] = {}
            for number, frame in enumerate(container.decode(video=0)):
                if number in places:
                    frames[number] = frame.to_image()
                if number >= places[-1]:
                    break
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"it is not a video that can be decoded ({error})") from error
    if not frames:
        raise ValueError("it has no frame that can be decoded")
    last = frames[max(frames)]  # a file may have fewer frames than its header says
    return tuple(frames.get(place, last) for place in places)


def _count(path: str) -> int:
    """The number of frames of a file whose header does not give it."""
    import av

    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))
