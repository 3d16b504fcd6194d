"""HTML of examples, contexts and prompts for notebooks: escaped text, and images as small data URIs."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from icl.errors import ImageError, strip_control_characters

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from icl.images import Image
    from icl.types import Context, Example, Prompt, Query

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


def thumbnail(image: "PILImage") -> str:
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

    def tag(self, image: "Image", name: str = "") -> str:
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

    def row(self, images: Iterable["Image"]) -> str:
        return "".join(map(self.tag, images))

    def remark(self) -> str:
        """A line on the images that are left out, or nothing."""
        more = self.count - MAX_IMAGES
        further = f"{more:,} further images are left out"
        return f"<div>{dim_html(further)}</div>" if more > 0 else ""


def prompt_html(prompt: "Prompt") -> str:
    """The turns of a prompt with their images in place. The title of an image is its span, origin and edits."""
    images = Thumbnails()
    turns = [
        box_html(
            f"<div>{dim_html(turn.role)}</div>",
            *(text_html(part.text) if part.image is None else images.tag(part.image, part.name) for part in turn.parts),
        )
        for turn in prompt.turns
    ]
    about = f"Prompt: {len(prompt.images)} images, {sum(len(part.text or '') for part in prompt.parts()):,} characters"
    return f"<div>{dim_html(about)}</div>{''.join(turns)}{images.remark()}"


def context_html(context: "Context") -> str:
    """The demonstrations in prompt order with similarity, rank and answer, then the query."""
    images, has_scores = Thumbnails(), any(demo.score for demo in context.demos)
    rows = []
    for number, demo in enumerate(context.demos):
        cells = _example_cells(demo.example, images)
        near = [f"{demo.score:.3f}"] if has_scores else []
        rows.append([str(number + 1), *cells, text_html(demo.example.answer), *near, str(demo.rank)])
    blank = [""] * (2 + has_scores)
    rows.append(["query", *_example_cells(context.query, images), *blank])
    head = ["", "id", "images", "question", "answer", *(["similarity"] if has_scores else []), "rank"]
    names = ", ".join(f"{old} → {new}" for old, new in context.label_map.items())
    notes = [*context.provenance, *([f"answers are renamed: {names}"] if names else [])]
    about = f"Context: {len(context.demos)} demonstrations, in prompt order"
    return (
        f"<div>{dim_html(about)}</div>"
        f"{table_html(head, rows)}{''.join(f'<div>{dim_html(note)}</div>' for note in notes)}{images.remark()}"
    )


def example_html(example: "Example | Query") -> str:
    """An example with its images, question, options and answers; a query has no answers."""
    images = Thumbnails()
    facts: list[tuple[str, Any]] = [
        ("id", example.id),
        ("question", example.question),
        ("options", " / ".join(example.options)),
        ("answers", " / ".join(getattr(example, "answers", ()))),
        ("label", getattr(example, "label", None)),
        *example.meta.items(),
    ]
    lines = (f"<div>{dim_html(name)} {text_html(value)}</div>" for name, value in facts if value not in ("", None))
    return box_html(f"<div>{images.row(example.images)}</div>", *lines, images.remark())


def _example_cells(example: "Example | Query", images: Thumbnails) -> list[str]:
    return [text_html(example.id), images.row(example.images), text_html(example.question)]
