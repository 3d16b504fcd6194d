"""What can be done to an image before a model sees it. A strategy's branches differ by these.

An edit is a frozen dataclass; `told()` is its part of the image's digest. It acts at one of two places: on the 8-bit
image (`apply_to_image`) or on the processed `pixel_values` of one image (`apply_to_pixel_values`), where published diffusion noise
lives. An edit that draws random numbers is bound to the stream of its prompt (`bind`) when it is put on one, so the
same query gets the same noise in any batch and at any step of decoding. `stream` is what it was bound to.

A component each, of kind `edit`; `contrast`, the task `corrupted` and anything else that takes one knows it by its name
or path.
"""

from icl.edits.base import Box, ColorLevel, Edit, build_edit
from icl.edits.blank import Blank
from icl.edits.blur import Blur
from icl.edits.color import Color
from icl.edits.crop import Crop
from icl.edits.flip import Flip
from icl.edits.mean_color import MeanColor
from icl.edits.noise import DIFFUSION_STEPS, DiffusionNoise, diffusion_scales
from icl.edits.random_augmentation import RandomAugmentation
from icl.edits.random_colors import RandomColors
from icl.edits.region import RegionMask
from icl.edits.replacement import ReplacementImage
from icl.edits.rotate import Rotate
from icl.edits.shuffled_patches import ShuffledPatches

__all__ = [
    "DIFFUSION_STEPS",
    "Blank",
    "Blur",
    "Box",
    "Color",
    "ColorLevel",
    "Crop",
    "DiffusionNoise",
    "Edit",
    "Flip",
    "MeanColor",
    "RandomAugmentation",
    "RandomColors",
    "RegionMask",
    "ReplacementImage",
    "Rotate",
    "ShuffledPatches",
    "build_edit",
    "diffusion_scales",
]
