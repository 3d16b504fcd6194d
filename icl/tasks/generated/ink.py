"""Rendering of shapes, textures and digits from polygons and strokes. Without fonts, pixels are the same everywhere."""

import math

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

Point = tuple[float, float]
RGB = tuple[int, int, int]

SIDE = 64  # pixels
ZOOM = 2  # shapes are drawn at twice the size and scaled down, so that edges are smooth


def _ring(x: float, y: float, r: float, corners: int, inner: float | None = None) -> list[Point]:
    """Corners of a regular polygon, or of a star with inner corners at `inner` of the radius. The first corner is on
    top.
    """
    n = corners if inner is None else 2 * corners
    radii = [r if inner is None or i % 2 == 0 else r * inner for i in range(n)]
    return [(x + q * math.sin(2 * math.pi * i / n), y - q * math.cos(2 * math.pi * i / n)) for i, q in enumerate(radii)]


_CROSS = ((-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1))
_ARROW = ((-1.0, -0.4), (0.0, -0.4), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.4), (-1.0, 0.4))


def _outline(rng: np.random.Generator, shape: str, x: float, y: float, r: float) -> list[Point]:  # noqa: PLR0911
    if shape == "circle":
        return _ring(x, y, r, 24)
    if shape == "star":
        return _ring(x, y, 1.1 * r, 5, inner=0.42)
    if shape == "rectangle":
        a, b = (float(v) * r for v in rng.uniform(0.45, 1, 2))
        return [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]
    if shape == "triangle":
        return [(x - r, y + 0.8 * r), (x + r, y + 0.8 * r), (x, y - 0.93 * r)]
    if shape == "cross":
        return [(x + i * r / 3, y + j * r / 3) for i, j in _CROSS]
    if shape == "diamond":
        return [(x, y - r), (x + 0.75 * r, y), (x, y + r), (x - 0.75 * r, y)]
    if shape == "arch":
        half = [math.pi * (1 + i / 10) for i in range(11)]
        return [(x + r * math.cos(t), y + 0.5 * r + 1.2 * r * math.sin(t)) for t in half]
    return [(x + i * r, y + j * r) for i, j in _ARROW]


def paint_shape(  # noqa: PLR0917
    canvas: PILImage.Image,
    rng: np.random.Generator,
    shape: str,
    ink: RGB,
    texture: str,
    x: float,
    y: float,
    r: float,
    ground: RGB,
) -> None:
    """Draw one shape at (x, y) with radius r, in pixels of the final image."""
    points = [(px * ZOOM, py * ZOOM) for px, py in _outline(rng, shape, x, y, r)]
    pen = ImageDraw.Draw(canvas)
    if texture == "solid":
        pen.polygon(points, fill=ink)
    elif texture == "hollow":
        pen.line(points + points[:2], fill=ink, width=max(3, int(0.22 * r * ZOOM)), joint="curve")
    else:
        mask, fill = PILImage.new("L", canvas.size, 0), PILImage.new("RGB", canvas.size, ink)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        brush, gap, reach = ImageDraw.Draw(fill), max(3.2, 0.4 * r) * ZOOM, 1.2 * r * ZOOM
        at = [(v * ZOOM - reach + gap * 0.25) for v in (x, y)]
        for j in range(int(2 * reach / gap) + 1):
            top = at[1] + j * gap
            if texture == "striped":
                brush.rectangle((at[0], top, at[0] + 2 * reach, top + gap * 0.45), fill=ground)
                continue
            for i in range(int(2 * reach / gap) + 1):
                brush.ellipse((at[0] + i * gap, top, at[0] + i * gap + gap * 0.5, top + gap * 0.5), fill=ground)
        canvas.paste(fill, (0, 0), mask)


# Strokes of the glyphs on a grid 2 wide and 4 high.
_GLYPHS: dict[str, tuple[tuple[Point, ...], ...]] = {
    "0": (((0.4, 0), (1.6, 0), (2, 0.6), (2, 3.4), (1.6, 4), (0.4, 4), (0, 3.4), (0, 0.6), (0.4, 0)),),
    "1": (((0.3, 0.8), (1.1, 0), (1.1, 4)), ((0.2, 4), (2, 4))),
    "2": (((0, 0.8), (0.4, 0), (1.6, 0), (2, 0.6), (2, 1.4), (0, 4), (2, 4)),),
    "3": (((0, 0), (2, 0), (0.9, 1.6), (1.7, 1.8), (2, 2.5), (2, 3.3), (1.5, 4), (0.4, 4), (0, 3.4)),),
    "4": (((1.5, 4), (1.5, 0), (0, 2.8), (2, 2.8)),),
    "5": (((2, 0), (0.2, 0), (0.1, 1.7), (1.5, 1.7), (2, 2.2), (2, 3.4), (1.5, 4), (0, 4)),),
    "6": (
        (
            (1.8, 0),
            (0.7, 0.8),
            (0, 2.4),
            (0, 3.4),
            (0.5, 4),
            (1.5, 4),
            (2, 3.4),
            (2, 2.6),
            (1.5, 2),
            (0.5, 2),
            (0, 2.6),
        ),
    ),
    "7": (((0, 0), (2, 0), (0.7, 4)),),
    "8": (
        ((0.5, 0), (1.5, 0), (1.9, 0.5), (1.9, 1.4), (1.5, 1.9), (0.5, 1.9), (0.1, 1.4), (0.1, 0.5), (0.5, 0)),
        ((0.5, 1.9), (1.5, 1.9), (2, 2.5), (2, 3.4), (1.5, 4), (0.5, 4), (0, 3.4), (0, 2.5), (0.5, 1.9)),
    ),
    "9": (
        (
            (2, 1.4),
            (1.5, 2),
            (0.5, 2),
            (0, 1.4),
            (0, 0.6),
            (0.5, 0),
            (1.5, 0),
            (2, 0.6),
            (2, 1.6),
            (1.3, 3.2),
            (0.3, 4),
        ),
    ),
    "?": (((0, 0.8), (0.5, 0), (1.5, 0), (2, 0.6), (2, 1.2), (1, 2), (1, 2.8)), ((1, 3.7), (1, 4))),
}


def paint_digits(rng: np.random.Generator, ground: RGB, left: int, right: int) -> PILImage.Image:
    """The image of "left ? right"."""
    canvas = PILImage.new("RGB", (SIDE * ZOOM, SIDE * ZOOM), ground)
    pen, scale = ImageDraw.Draw(canvas), float(rng.uniform(4.6, 5.6)) * ZOOM
    ink: RGB = (int(rng.integers(90)), int(rng.integers(90)), int(rng.integers(90)))
    x0, y0 = (float(rng.uniform(low, high)) * ZOOM for low, high in ((4, 8), (12, 30)))
    for i, glyph in enumerate((str(left), "?", str(right))):
        for stroke in _GLYPHS[glyph]:
            points = [(x0 + i * 22 * ZOOM + px * scale, y0 + py * scale) for px, py in stroke]
            pen.line(points, fill=ink, width=int(2.4 * ZOOM), joint="curve")
    return canvas.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR)
