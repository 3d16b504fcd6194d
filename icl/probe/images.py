"""Images of the probe: large saturated shapes, all of one size, so that token counts do not tell images apart."""

import base64
import io
import random
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

SIZE = 224
NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEVELS = (0, 40, 128, 215, 255)


def draw(seed: int, size: int = SIZE) -> Image.Image:
    """An RGB image of `size` x `size` pixels: five shapes on a colored ground, chosen by the seed."""
    choice = random.Random(seed)

    def color() -> tuple[int, ...]:
        return tuple(choice.choice(LEVELS) for _ in range(3))

    image = Image.new("RGB", (size, size), color())
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        left, top = choice.randrange(size * 3 // 4), choice.randrange(size * 3 // 4)
        width = choice.randrange(size // 5, size * 2 // 3)
        shape = pen.rectangle if choice.random() < 0.5 else pen.ellipse
        shape([left, top, left + width, top + width], fill=color())
    return image


@cache
def pixels(name: str) -> Image.Image:
    """The image with a name of one letter, A to Z."""
    return draw(NAMES.index(name))


def data_url(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """The image as a data URL. `options` go to `Image.save`."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


@cache
def url(name: str) -> str:
    """The data URL of a named image."""
    return data_url(pixels(name))


def near_twins() -> tuple[str, str]:
    """Two images that differ in one quarter, as uncompressed PNG files with equal first bytes and lengths.

    A cache whose key is a part of the file takes one for the other.
    """
    twin = pixels("A").copy()
    half = SIZE // 2
    twin.paste(pixels("B").crop((half, half, SIZE, SIZE)), (half, half))
    return data_url(pixels("A"), compress_level=0), data_url(twin, compress_level=0)


def checkerboard(cell: int, phase: int) -> Image.Image:
    """A board with fields of `cell` pixels; the other `phase` exchanges black and white."""
    n = SIZE // cell
    board = Image.new("L", (n, n))
    board.putdata([255 * ((i // n + i % n + phase) % 2) for i in range(n * n)])
    return board.resize((SIZE, SIZE), Image.Resampling.NEAREST).convert("RGB")
