"""A random change that keeps the content of an image."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from icl import PIL, Edit, NestedComponent, StreamKey, component
from icl.edits.colors import Blur, Color
from icl.edits.geometry import Crop, Flip, Rotate


@component("edit", "random_augmentation")
@dataclass(frozen=True)
class RandomAugmentation(Edit):
    """One of RITUAL's six changes that keep the content (Woo et al., 2405.17821), drawn once for each prompt.

    The changes are flips, a rotation, a change of colors, blur and a crop. The set is the paper's; strengths are
    random.
    """

    change: Annotated[Edit, NestedComponent("edit")] = field(default_factory=Flip)  # the chosen change, once bound

    def bind(self, key: StreamKey, place: str) -> "RandomAugmentation":
        draw = key.numpy(f"ritual/{place}")
        brightness, contrast, saturation = draw.uniform(0.4, 1.6, 3).round(3).tolist()
        left, top, side = draw.uniform([0, 0, 0.5], [0.3, 0.3, 0.7]).round(3).tolist()
        changes = [
            Flip("horizontal"),
            Flip("vertical"),
            Rotate(round(float(draw.uniform(-180, 180)), 3)),
            Color(brightness, contrast, saturation, round(float(draw.uniform(-0.5, 0.5)), 3)),
            Blur(round(float(draw.uniform(1.5, 2.0)), 3)),
            Crop(left, top, left + side, top + side),
        ]
        return replace(self, change=changes[int(draw.integers(len(changes)))])

    def apply_to_image(self, image: "PIL.Image.Image") -> "PIL.Image.Image":
        return self.change.apply_to_image(image)
