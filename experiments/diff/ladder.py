"""Prompts of which each adds one stage that can differ, so that the first rung that parts names the stage.

This holds even if a backend hides its insides: a difference that needs a large image is in resizing.
"""

from dataclasses import dataclass

from PIL import Image as PILImage

from icl import Image, Part, Prompt, Turn
from icl.probe.images import draw

DEFAULT_EDGE = 224
QUESTION = "What is in the last image?"
GRAY, RED = (128, 128, 128), (230, 20, 60)


@dataclass(frozen=True)
class Rung:
    """A prompt.

    Attributes:
        name: Its name.
        prompt: The prompt.
        cause: What it adds to the rungs before it, and what is thus likely if the sides part here for the first time.
        raw_images: Whether servers get its images as they are in their files.
    """

    name: str
    prompt: Prompt
    cause: str
    raw_images: bool = False


def ladder(edge: int) -> tuple[Rung, ...]:
    """The rungs in order.

    Args:
        edge: Side in pixels of a square image that is not resized.
    """
    drawing, large = draw(5, edge), draw(5, 4 * edge)
    wide = draw(6, 6 * edge).resize((6 * edge, 2 * edge), PILImage.Resampling.NEAREST)
    clear = drawing.convert("RGBA")
    clear.putalpha(PILImage.linear_gradient("L").resize(clear.size))
    a, b, c = draw(7, edge), draw(8, edge), draw(9, edge)
    question = _user(drawing, QUESTION)
    turns = (_user(a, "What is this?"), _answer("dax"), _user(b, "What is this?"), _answer("wug"), _user(c, QUESTION))
    return (
        Rung(
            "text", Prompt((_user(QUESTION),)),
            "chat template, special tokens or tokenizer; else dtype, or another checkpoint",
        ),
        Rung(
            "gray", Prompt((_user(PILImage.new("RGB", (edge, edge), GRAY), QUESTION),)),
            "the image is dropped, its number of tokens, or the scale and mean of pixel values",
        ),
        Rung(
            "red", Prompt((_user(PILImage.new("RGB", (edge, edge), RED), QUESTION),)),
            "order of the color channels (RGB, BGR), or their normalization",
        ),
        Rung("exact", Prompt((question,)), "resize: a smaller target size, cropping, or the order of patches"),
        Rung("large", Prompt((_user(large, QUESTION),)), "resize: image size limit, target size or filter"),
        Rung("wide", Prompt((_user(wide, QUESTION),)), "resize: aspect ratio, padding or tiles"),
        Rung(
            "alpha", Prompt((_user(clear, QUESTION),)),
            "transparency: `icl` flattens it on white before it sends an image, other clients do not", raw_images=True,
        ),
        Rung(
            "two", Prompt((_user(a, b, QUESTION),)),
            "order of images, an image that is dropped, or tiles that depend on the number of images",
        ),
        Rung(
            "between", Prompt((_user("first", a, "second", b, QUESTION),)),
            "order of texts and images within a turn",
        ),
        Rung("system", Prompt((Turn("system", (Part("Answer in French."),)), question)), "the system turn"),
        Rung("turns", Prompt(turns), "turns: answers, order of images, or an image that is dropped"),
    )  # fmt: skip


def _user(*content: str | PILImage.Image) -> Turn:
    return Turn("user", tuple(Part(one if isinstance(one, str) else Image.from_pil(one)) for one in content))


def _answer(text: str) -> Turn:
    return Turn("assistant", (Part(text),))
