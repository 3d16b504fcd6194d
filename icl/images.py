"""Lazily opened images with a digest and a list of edits.

An `Image` stores where its pixels come from and which edits apply to them. Its digest is the sha256 of the decoded RGB
pixels and of the edits. Two files with the same pixels are therefore one image in the embedding cache, in a model's
feature cache and in the leak check of a pool.
"""

import hashlib
import io
import stat
import struct
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from icl import PIL, ImageError, LRUByteCache

if TYPE_CHECKING:
    from icl.edits.base import Edit

MAX_PIXELS = 100_000_000
"""Larger images are refused: they are decompression bombs, or scans too large for any model."""

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""The formats that are decoded. Pillow's decoders of others start programs (EPS: Ghostscript) or are seldom tested."""

BYTES, MEMORY = "bytes", "memory"  # origins of images that came without a name
_UNNAMED = (BYTES, MEMORY)


class _CachedWithoutLock:
    """`cached_property` for several threads. That of Python 3.11 lets one thread at a time compute, for all images."""

    def __init__(self, compute: Callable[[Any], str]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = vars(instance)[self.compute.__name__] = self.compute(instance)
        return value


if TYPE_CHECKING:
    _cached_without_lock = property
else:
    _cached_without_lock = _CachedWithoutLock


@dataclass(frozen=True, eq=False)
class Image:
    """A lazily opened image. Make it with `from_path`, `from_bytes`, `from_pil` or `from_source`."""

    load: Callable[[], "PIL.Image.Image"]
    origin: str
    edits: tuple["Edit", ...] = ()

    @classmethod
    def from_path(cls, path: str | Path, origin: str | None = None) -> "Image":
        """An image file. `origin` is a name that is the same on every machine, if the path is not."""
        return cls(partial(open_image_file, str(path)), origin or str(path))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = BYTES) -> "Image":
        return cls(partial(decode_image, data), origin)

    @classmethod
    def from_pil(cls, image: "PIL.Image.Image", origin: str = MEMORY) -> "Image":
        return cls(partial(_itself, image), origin)

    @classmethod
    def from_source(cls, load: Callable[[], "PIL.Image.Image"], origin: str) -> "Image":
        """An image from a function that returns a PIL image. `origin` names it in error messages."""
        return cls(load, origin)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the unedited image in pixels, read from the header. Raises ImageError."""
        with _readable(self):
            image = self.load()
            return image.width, image.height

    @_cached_without_lock
    def source_digest(self) -> str:
        """sha256 of the unedited pixels. Images with equal source digests are the same image."""
        image = self._decoded()
        head = f"{image.width}x{image.height}:".encode()
        return hashlib.sha256(head + image.tobytes()).hexdigest()

    @_cached_without_lock
    def digest(self) -> str:
        """sha256 of the pixels and the edits, in order."""
        if not self.edits:
            return self.source_digest
        text = "|".join([self.source_digest, *(edit.describe() for edit in self.edits)])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """The origin of the unedited image, or the digest of its pixels if it has no name. Opens no named file."""
        return self.source_digest if self.origin in _UNNAMED else self.origin

    def edit(self, *edits: "Edit") -> "Image":
        edited = replace(self, edits=self.edits + edits)
        if "source_digest" in self.__dict__:  # the pixels are the same: hash them once
            edited.__dict__["source_digest"] = self.source_digest
        return edited

    def open(self) -> "PIL.Image.Image":
        """The RGB image after the edits of 8-bit images. The model applies the edits of processed pixel values."""
        image = self._decoded()
        for edit in self.edits:
            image = edit.apply_to_image(image)
        return image

    @property
    def pixel_value_edits(self) -> tuple["Edit", ...]:
        """The edits that act on a model's processed pixel values, in order."""
        return tuple(edit for edit in self.edits if edit.applies_to_pixel_values)

    def _decoded(self) -> "PIL.Image.Image":
        return _DECODED.get(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        edits = "".join(f", {edit!r}" for edit in self.edits)
        return f"Image({self.origin!r}{edits})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.open().save(buffer, "PNG")
        return buffer.getvalue()


class _Decoded:
    """Cache of decoded images, bounded in bytes. Digest, embedding and model share one decoding."""

    def __init__(self, limit: int) -> None:
        self.lock = Lock()
        self.images: LRUByteCache[Any, PIL.Image.Image] = LRUByteCache(
            limit, lambda image: image.width * image.height * 3
        )

    def get(self, image: Image) -> "PIL.Image.Image":
        key: Any = image.load
        if not isinstance(key, Hashable):  # a user's own loader
            return _rgb(image)
        with self.lock:
            cached = self.images.get(key)
        if cached is not None:
            return cached
        pil_image = _rgb(image)
        with self.lock:
            return self.images.get(key) or self.images.put(key, pil_image)


_DECODED = _Decoded(128 * 2**20)

_BROKEN = (OSError, ValueError, SyntaxError, RuntimeError, EOFError, LookupError, ArithmeticError, struct.error)
"""The exceptions that Pillow raises for truncated and broken files, by format."""


@contextmanager
def _readable(image: Image) -> Iterator[None]:
    """Turn errors of opening or decoding an image into ImageError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"image {image.origin} does not exist.") from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"image {image.origin} is too large to open ({error}). Make it smaller.") from error
    except PIL.UnidentifiedImageError as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise ImageError(f"image {image.origin} is not an image in one of the formats {formats}.") from error
    except _BROKEN as error:
        raise ImageError(f"image {image.origin} cannot be read: {error}.") from error


def _rgb(image: Image) -> "PIL.Image.Image":
    """Decode to upright RGB. Transparent pixels are composed over white."""
    with _readable(image):
        pil_image = image.load()
        if pil_image.width * pil_image.height > MAX_PIXELS:
            raise ImageError(
                f"image {image.origin} has {pil_image.width} x {pil_image.height} pixels, more than the limit of "
                f"{MAX_PIXELS:,}. Make it smaller."
            )
        pil_image = PIL.ImageOps.exif_transpose(pil_image)
        if pil_image.mode == "F":
            raise ImageError(f"image {image.origin} has pixels of unknown range (floats). Save it with 8 or 16 bits.")
        if pil_image.mode.startswith("I"):  # 16 bits: scaled, where Pillow's own conversion would clip
            pil_image = pil_image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
        if pil_image.mode in ("RGBA", "LA", "PA") or "transparency" in pil_image.info:
            over = pil_image.convert("RGBA")
            pil_image = PIL.Image.new("RGBA", over.size, "white")
            pil_image.alpha_composite(over)
        return pil_image.convert("RGB")


def open_image_file(path: str) -> "PIL.Image.Image":
    """Open an image file with Pillow. Raises ValueError for a folder, and for a pipe or device, which may never end."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError("it is a pipe, a device or a folder, not a file")
    return decode_image(path)


def decode_image(source: "str | Path | BinaryIO | bytes") -> "PIL.Image.Image":
    """Open a file, a stream or bytes with Pillow, in one of `IMAGE_FORMATS`. The file name does not matter.

    Raises:
        UnidentifiedImageError: The format is another one, or the data is not an image.
    """
    return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS)


def _itself(image: "PIL.Image.Image") -> "PIL.Image.Image":
    return image
