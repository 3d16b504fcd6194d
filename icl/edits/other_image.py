"""Another picture: no component, since a config cannot name it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from icl.edits.base import Edit

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from icl.images import Picture


@dataclass(frozen=True)
class Another(Edit):
    """Another picture in the place of this one."""

    keeps_size: ClassVar[bool] = False

    picture: "Picture"

    def told(self) -> str:
        return f"Another({self.picture.digest})"

    def on_picture(self, image: "PILImage") -> "PILImage":
        return self.picture.open()
