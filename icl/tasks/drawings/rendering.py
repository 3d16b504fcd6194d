"""One form for all drawings: on white, cropped to what is drawn, in the middle of a square of 256 pixels."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icl.limited_process import TIMED_OUT, LimitedProcess

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

SIDE = 256
RENDER_SIDE = 512
"""Pixels of the wider side of a rendered SVG, before it is cropped."""
DPI = 96
"""Without it, sizes in points are invalid."""
MAX_PIXELS = 40_000_000
INK = 245
"""A pixel counts as drawn if one of its channels is darker than this (0 to 255)."""
MIN_INK = 0.005
"""Share of drawn pixels below which a drawing is blank."""
THUMBNAIL = 16
NEAR_COPY = 2.0
"""Mean difference of two thumbnails (0 to 255) below which one drawing is a copy of the other."""

SVG_PROCESS = LimitedProcess(Path(__file__).with_name("svg_worker.py"), "renders SVGs")


class UnusableDrawingError(Exception):
    """A drawing that is left out; its message is the reason."""


def render(name: str, content: bytes) -> "PILImage":
    """The drawing of an SVG or PNG file as an RGB image of SIDE x SIDE pixels.

    Raises:
        UnusableDrawingError: It cannot be read, is too large or blank.
    """
    from PIL import Image

    try:
        if name.endswith(".svg"):
            content = _png(content.decode("utf-8", "replace"))
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise UnusableDrawingError("too large")
        rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableDrawingError("unreadable") from error
    on_white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    on_white.alpha_composite(rgba)
    return _centered(on_white.convert("RGB"))


def _png(svg: str) -> bytes:
    """The PNG of an SVG, rendered in a process with limits."""
    answer = SVG_PROCESS.ask({"svg": svg, "width": RENDER_SIDE, "dpi": DPI})
    if isinstance(answer, int):
        raise UnusableDrawingError("takes too long" if answer == TIMED_OUT else "ends the renderer")
    if "error" in answer:
        raise UnusableDrawingError(answer["error"])
    return base64.b64decode(answer["png"])


def _centered(image: "PILImage") -> "PILImage":
    """The drawn part of an image, scaled to SIDE, in the middle of a white square."""
    from PIL import Image

    ink = np.asarray(image).min(axis=2) < INK
    if ink.mean() < MIN_INK:
        raise UnusableDrawingError("blank")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cropped = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    scale = SIDE / max(cropped.size)
    size = max(1, round(cropped.width * scale)), max(1, round(cropped.height * scale))
    scaled = cropped.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    square.paste(scaled, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def thumbnail(image: "PILImage") -> np.ndarray:
    """A vector of THUMBNAIL x THUMBNAIL x 3 values, by which near copies are recognized."""
    from PIL import Image

    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).reshape(-1)
