"""Names for the blocks of a prompt that the engine's prefix cache can reuse.

A block is reused if another prompt has the same tokens and the same images up to the end of the block. The last token
of a prompt is always computed, so a block that ends with it is never reused.
"""

from typing import TYPE_CHECKING

from icl.models.hf.image_placeholder import image_placeholder

if TYPE_CHECKING:
    from icl.models.hf.model import HF
    from icl.types import Prompt


def blocks(hf: "HF", prompt: "Prompt", size: int) -> list[int]:
    """A number for each reusable block of `size` tokens. Equal numbers mean equal prompts up to the block's end."""
    images = prompt.images
    pieces = [hf.pixels.text(image, len(images)) for image in images]
    ids = hf.ids(prompt)
    image_tokens = set(image_placeholder(hf.checkpoint.processor).ids)
    lengths = [sum(token in image_tokens for token in hf.renderer.ids(piece)) for piece in pieces]
    names = iter([hf.pixels.key(p, len(images)) for p, n in zip(images, lengths, strict=True) for _ in range(n)])
    tokens = [(token, next(names, None) if token in image_tokens else None) for token in ids]
    hashes, previous = list[int](), 0
    for start in range(0, (len(ids) - 1) // size * size, size):
        previous = hash((previous, *tokens[start : start + size]))
        hashes.append(previous)
    return hashes
