"""What the engine's prefix cache can hold of a prompt: its whole blocks of tokens, each named by all that it follows.

A block is found where another prompt has the same tokens and the same images up to its end. The last token of a
prompt is always computed, so a block that ends with it is never found.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl.models.hf.model import HF
    from icl.types import Prompt


def blocks(hf: "HF", prompt: "Prompt", size: int) -> list[int]:
    """A number for each block of `size` tokens that can be found; equal numbers are equal beginnings."""
    shown = prompt.images
    pieces = [hf.pixels.text(image, len(shown)) for image in shown]
    ids = hf.ids(prompt)
    places = set(hf.checkpoint.processor.image_token_ids) - {None}
    lengths = [sum(token in places for token in hf.renderer.ids(piece)) for piece in pieces]
    names = iter([hf.pixels.key(p, len(shown)) for p, n in zip(shown, lengths, strict=True) for _ in range(n)])
    tokens = [(token, next(names, None) if token in places else None) for token in ids]
    found, before = list[int](), 0
    for start in range(0, (len(ids) - 1) // size * size, size):
        before = hash((before, *tokens[start : start + size]))
        found.append(before)
    return found
