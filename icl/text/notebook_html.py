"""HTML for notebooks: escaped text, tables, and images as small data URIs."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from icl import PIL, Image, ImageError, strip_control_characters

THUMBNAIL_SIDE = 96
"""The longest side of an image in pixels."""

MAX_IMAGES = 64
"""The images of one object; further ones are counted, so that a notebook stays small."""

MAX_CHARACTERS = 4_000
"""The characters of one text; a longer one is cut."""

_BOX = "border:1px solid #8886;border-radius:4px;padding:4px 8px;margin:4px 0;text-align:left"
_DIM = "opacity:.65;font-size:90%"


def text_html(text: object) -> str:
    """The text, escaped, without control characters, cut if it is long, with its line breaks."""
    plain = strip_control_characters(str(text))
    cut = f"{plain[:MAX_CHARACTERS]} … ({len(plain):,} characters)" if len(plain) > MAX_CHARACTERS else plain
    return f'<span style="white-space:pre-wrap">{html.escape(cut)}</span>'


def dim_html(text: object) -> str:
    """A remark in a weaker color."""
    return f'<span style="{_DIM}">{html.escape(strip_control_characters(str(text)))}</span>'


def image_tag(source: str | None, title: str) -> str:
    """An image by its data URI, or its title if there is none."""
    if source is None:
        return dim_html(f"[{title}]")
    return (
        f'<img src="{source}" title="{html.escape(title)}" '
        f'style="display:inline-block;max-height:{THUMBNAIL_SIDE}px;margin:2px;vertical-align:middle">'
    )


def table_html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. `head` is plain text, and the cells of `rows` are HTML."""
    columns = "".join(f'<th style="text-align:left">{html.escape(name)}</th>' for name in head)
    style = "text-align:left;vertical-align:middle"
    lines = ("".join(f'<td style="{style}">{cell}</td>' for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def box_html(*contents: str) -> str:
    """HTML in a frame."""
    return f'<div style="{_BOX}">{"".join(contents)}</div>'


def thumbnail(image: "PIL.Image.Image") -> str:
    """The data URI of an RGB image, reduced to THUMBNAIL_SIDE."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Thumbnails:
    """The images of one object. Each distinct image is encoded once, and MAX_IMAGES are shown."""

    def __init__(self) -> None:
        self.count, self.sources = 0, dict[str, str]()

    def tag(self, image: Image, name: str = "") -> str:
        """The thumbnail of an image after its edits, or the reason why it cannot be read."""
        self.count += 1
        edits = "".join(f", {type(edit).__name__.lower()}" for edit in image.edits)
        title = f"{name}{': ' if name else ''}{image.origin}{edits}"
        if self.count > MAX_IMAGES:
            return dim_html("[image]")
        try:
            if image.digest not in self.sources:
                self.sources[image.digest] = thumbnail(image.open())
        except ImageError as error:
            return dim_html(f"[{error}]")
        return image_tag(self.sources[image.digest], title)

    def row(self, images: Iterable[Image]) -> str:
        return "".join(map(self.tag, images))

    def remark(self) -> str:
        """A line on the images that are left out, or nothing."""
        more = self.count - MAX_IMAGES
        further = f"{more:,} further images are left out"
        return f"<div>{dim_html(further)}</div>" if more > 0 else ""
