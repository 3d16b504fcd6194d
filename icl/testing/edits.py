"""Public checks of image edits, for the toolkit's own and for users' edits (`icl check edit`).

    check_edit(Mine(strength=2))

The same edit, bound to the same prompt, gives the same pixels and the same digest in any order. Input images stay
unchanged. Each parameter of the edit is part of the digest, through `describe`.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from icl import spans
from icl.edits import Edit
from icl.images import Image
from icl.registry import describe
from icl.streams import StreamKey
from icl.testing.require import accepts_class, require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

SIZES = ((12, 8), (31, 47), (64, 64))
KEY, PLACE = StreamKey(0, "query"), spans.image(spans.QUERY)


@accepts_class
def check_edit(edit: Any) -> None:
    """Check an edit. Raises AssertionError with a sentence."""
    name = type(edit).__name__
    require(isinstance(edit, Edit), f"{name} does not extend icl.edits.Edit.")
    parameters = getattr(type(edit), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, f"{name} is not a frozen dataclass.")
    require(describe(edit) == describe(dataclasses.replace(edit)), f"{name} is described differently each time.")
    bound = edit.bind(KEY, PLACE)
    require(isinstance(bound, Edit), f"{name}.bind() returned {type(bound).__name__}, which is not an edit.")
    require(bound == edit.bind(KEY, PLACE), f"{name}.bind() draws something else for the same prompt.")
    described = edit.bind(KEY, PLACE).describe()
    require(bound.describe() == described, f"{name}.describe() describes the same edit in two ways.")
    for size in SIZES:
        _check_image(name, bound, size)
    _check_pixels(name, bound)


def _check_image(name: str, edit: Edit, size: tuple[int, int]) -> None:
    at = f"{name}, an image of {size[0]} x {size[1]}"
    pil_image = _image(size)
    before = pil_image.tobytes()
    changed, again = edit.apply_to_image(pil_image), edit.apply_to_image(_image(size))
    require(pil_image.tobytes() == before, f"{at}: apply_to_image() changed the image that it was given.")
    require(changed.mode == "RGB", f"{at}: apply_to_image() returned mode {changed.mode}, not RGB.")
    require(changed.tobytes() == again.tobytes(), f"{at}: apply_to_image() returned other pixels in the second call.")
    require(
        not edit.keeps_size or changed.size == size,
        f"{at} came out as {changed.size[0]} x {changed.size[1]}. Declare keeps_size = False if it must.",
    )
    image = Image.from_pil(_image(size))
    require(image.edit(edit).digest != image.digest, f"{at}: an edited image has the digest of the image.")


def _check_pixels(name: str, edit: Edit) -> None:
    """Only an edit that declares it changes processed pixels."""
    import torch

    pixels = torch.linspace(-2, 2, 3 * 8 * 8).reshape(1, 3, 8, 8)
    original = pixels.clone()
    changed = edit.apply_to_pixel_values(pixels)
    require(
        bool(torch.equal(pixels, original)), f"{name}.apply_to_pixel_values() changed the pixels that it was given."
    )
    require(
        changed.shape == original.shape,
        f"{name}.apply_to_pixel_values() returned {tuple(changed.shape)} for {tuple(original.shape)}.",
    )
    require(
        changed.dtype == original.dtype,
        f"{name}.apply_to_pixel_values() returned {changed.dtype} for {original.dtype}.",
    )
    require(
        bool(torch.equal(changed, edit.apply_to_pixel_values(original.clone()))),
        f"{name}.apply_to_pixel_values() returned another result in the second call.",
    )
    same = bool(torch.equal(changed, original))
    require(
        edit.applies_to_pixel_values or same,
        f"{name} changes processed pixels: declare applies_to_pixel_values = True.",
    )


def _image(size: tuple[int, int]) -> "PILImage":
    from PIL import Image as PILImage

    wide, high = size
    return PILImage.fromarray(np.random.default_rng(wide).integers(0, 256, (high, wide, 3), dtype=np.uint8))
