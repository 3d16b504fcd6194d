"""Another image. It is not a component, because a config cannot name it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from icl.edits.base import Edit

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from icl.images import Image


@dataclass(frozen=True)
class ReplacementImage(Edit):
    """An edit that replaces the image by another one."""

    keeps_size: ClassVar[bool] = False

    image: "Image"

    def describe(self) -> str:
        return f"Another({self.image.digest})"

    def apply_to_image(self, image: "PILImage") -> "PILImage":
        return self.image.open()
