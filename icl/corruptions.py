"""Corruptions of pictures at five severities (Hendrycks and Dietterich, ICLR 2019), as edits.

The numbers are those of Tiny ImageNet-C, whose pictures have 64 pixels a side as the generated ones do:

    noise      Gaussian, standard deviation .04 .08 .12 .15 .18 of the range of a pixel
    blur       Gaussian, standard deviation .5 .75 1 1.25 1.5 pixels at 64 a side, in proportion to the shorter side
    contrast   .4 .3 .2 .1 .05 of each channel's distance from its mean over the picture
    jpeg       quality 65 58 50 40 25

A picture's noise is one draw, the same at each severity but for its size. JPEG's bytes depend on the library that
Pillow was built with; the others are the same on every machine.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from icl.edits import Edit
from icl.pictures import Picture
from icl.streams import StreamKey

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["noise", "blur", "contrast", "jpeg"]
Severity = Annotated[int, Ge(0), Le(5)]

NOISE = (0.04, 0.08, 0.12, 0.15, 0.18)
BLUR = (0.5, 0.75, 1.0, 1.25, 1.5)
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
QUALITY = (65, 58, 50, 40, 25)
SIDE = 64  # pixels of the pictures that BLUR is meant for


@dataclass(frozen=True)
class Corruption(Edit):
    """One kind at one severity, 1 to 5. stream: what the noise is drawn from."""

    kind: Kind = "noise"
    severity: int = 1
    stream: int = 0

    def on_picture(self, image: "Image") -> "Image":
        level = self.severity - 1
        if self.kind == "noise":
            return _noised(image, NOISE[level], self.stream)
        if self.kind == "blur":
            from PIL import ImageFilter

            return image.filter(ImageFilter.GaussianBlur(BLUR[level] * min(image.size) / SIDE))
        return _flat(image, CONTRAST[level]) if self.kind == "contrast" else _packed(image, QUALITY[level])


def corrupted(picture: Picture, kind: Kind, severity: int, seed: int = 0) -> Picture:
    """The picture at this severity; as it is at 0. Its noise belongs to the picture and the seed."""
    if severity == 0:
        return picture
    stream = StreamKey(seed, picture.identity).number("corruption", 63) if kind == "noise" else 0
    return picture.edit(Corruption(kind, severity, stream))


def _noised(image: "Image", size: float, stream: int) -> "Image":
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image) / 255
    noise = np.random.Generator(np.random.Philox(key=stream)).normal(size=pixels.shape)
    return Image.fromarray((np.clip(pixels + size * noise, 0, 1) * 255).round().astype(np.uint8))


def _flat(image: "Image", kept: float) -> "Image":
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image) / 255
    means = pixels.mean((0, 1), keepdims=True)
    return Image.fromarray((np.clip((pixels - means) * kept + means, 0, 1) * 255).round().astype(np.uint8))


def _packed(image: "Image", quality: int) -> "Image":
    from PIL import Image

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
