"""The size of a model's largest request, from which its memory is estimated. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl.images import Image


@dataclass(frozen=True)
class RequestSize:
    """The largest request of a model: tokens of its longest prompt and of its answer, and its branches.

    Attributes:
        shots: Demonstrations of the longest prompt.
        image_tokens: Tokens of an image, at most. 0: those of the longest prompt.
        images: Number of distinct images of the run, whose features are cached.
        image_uses: Images of all contexts. Each use of an image that is not cached encodes it again.
        largest_image: The image with the most pixels. None: no image.
    """

    prompt_tokens: int
    new_tokens: int
    branches: int
    shots: int = 0
    image_tokens: float = 0
    images: float = 0
    image_uses: float = 0
    largest_image: "Image | None" = None
