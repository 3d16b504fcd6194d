"""Image edits, which distinguish the branches of a strategy.

An edit is a frozen dataclass and a component of kind `edit`. `describe()` is its part of the image's digest. It changes
the 8-bit image (`apply_to_image`) or the processed pixel values of one image (`apply_to_pixel_values`), as published
diffusion noise does. An edit with random numbers is bound to the stream of its prompt (`bind`), so the same query gets
the same noise in any batch and at any decoding step. `stream` holds that binding.

`contrast`, the task `corrupted` and other components name an edit by its name or path.
"""

from icl.edits.base import Box, ColorLevel, Edit, ReplacementImage, build_edit
from icl.edits.colors import Blank, Blur, Color, Inversion, MeanColor, RandomColors
from icl.edits.geometry import Crop, Flip, MaskedPatches, RegionMask, Rotate, ShuffledPatches
from icl.edits.random_edits import DIFFUSION_STEPS, DiffusionNoise, RandomAugmentation, diffusion_scales

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
    "Inversion",
    "MaskedPatches",
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
