"""Memory of a vision tower, estimated from the config of a checkpoint alone.

b is the size of an element in bytes, H the hidden size, I the inner size, h the heads, d = H / h, P the pixel values of
a patch in all channels, t the patches of all images of a pass, and T the patches that attend to each other.

    peak       t P b + rotary + max(A, M, J)
               rotary = 2 t d 4         cosines and sines in float32, if the tower has rotary embeddings
               A = t H (5 b + 6 × 4)    rotary embeddings in float32; 8 t H b without them
               A = t b 7 H + 8 h t T    eager attention, if that is more: two copies of the scores; with rotary
                                        embeddings those of one image
               M = t b (4 H + a I) [+ h t T b]      MLP; eager attention without rotary embeddings keeps its weights
               J = t b 2 H + 3 n E b    projection to the n tokens of the images, each of E values in the decoder

a is 2 if the activation is one operation (GELU), and 3 if it has an intermediate value or a gate. Towers that pool
patches, keep the states of several layers or pad images need more or less; `tests/icl/models/hf/test_tower_memory.py`
compares the estimate with real models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icl.models.hf.image_processing import BATCH
from icl.models.hf.memory_budgets import largest_that_fits

SINGLE_OPERATIONS = ("gelu", "gelu_pytorch_tanh", "relu")
"""Activations without an intermediate value."""


@dataclass(frozen=True)
class TowerSizes:
    """The sizes of a vision tower that decide the memory of a pass.

    Attributes:
        inner: Size of the hidden layer of an MLP.
        patch_values: Pixel values of a patch in all channels.
        inner_copies: Tensors of the inner size that exist at once in an MLP.
        has_rotary: Whether positions are rotary embeddings.
        max_patches: Patches that attend to each other, at most: those of a tile. 0: those of an image.
    """

    hidden: int
    inner: int
    heads: int
    patch_values: int
    inner_copies: int = 3
    has_rotary: bool = False
    max_patches: int = 0

    def patches(self, inputs: Mapping[str, Any]) -> int:
        """Patches in the processed inputs of an image. 0 if they have no pixel values of this tower."""
        pixels = inputs.get("pixel_values")
        return 0 if pixels is None else int(pixels.numel()) // self.patch_values

    def peak_bytes(
        self,
        patches: float,
        images: int = 1,
        element_bytes: float = 2.0,
        *,
        attention: str = "sdpa",
        tokens: float = 0.0,
        token_values: int = 0,
    ) -> float:
        """Peak of one pass above the weights, in bytes.

        Args:
            patches: Patches of one image.
            images: Images of the pass, of equal size.
            element_bytes: Bytes of an activation.
            attention: Implementation of attention. All but 'eager' count as 'sdpa'.
            tokens: Tokens of the prompt that one image takes. 0: the projection is not counted.
            token_values: Hidden size of the decoder.
        """
        count, hidden, size = patches * images, self.hidden, element_bytes
        mlp = count * size * (4 * hidden + self.inner_copies * self.inner)
        products = count * hidden * (5 * size + 6 * 4 if self.has_rotary else 8 * size)
        if attention == "eager":
            scores = self.heads * patches * (min(patches, self.max_patches) if self.max_patches else patches)
            together = 1 if self.has_rotary else images
            products = max(products, count * size * 7 * hidden + 8 * scores * together)
            mlp += 0 if self.has_rotary else scores * images * size
        projection = count * size * 2 * hidden + 3 * tokens * images * token_values * size
        angles = 2 * count * hidden / self.heads * 4 if self.has_rotary else 0.0
        return count * self.patch_values * size + angles + max(products, mlp, projection)


@dataclass(frozen=True)
class TowerPass:
    """The largest image of a run in the vision tower.

    Attributes:
        patches: Its patches.
        tokens: Tokens of the prompt that it takes.
        token_values: Hidden size of the decoder.
        element_bytes: Bytes of an activation.
        attention: Implementation of attention.
    """

    sizes: TowerSizes
    patches: float
    tokens: float = 0.0
    token_values: int = 0
    element_bytes: float = 2.0
    attention: str = "sdpa"

    def peak_bytes(self, images: int) -> float:
        """Peak of a pass over so many such images, in bytes."""
        return self.sizes.peak_bytes(
            self.patches,
            images,
            self.element_bytes,
            attention=self.attention,
            tokens=self.tokens,
            token_values=self.token_values,
        )

    def largest_bytes(self, limit: float) -> float:
        """Peak of the largest pass within a limit in bytes, or of a pass over one image."""
        fitting = largest_that_fits(lambda images: self.peak_bytes(images) <= limit, BATCH)
        return self.peak_bytes(fitting)


def tower_sizes(config: Any) -> TowerSizes | None:
    """The sizes of a checkpoint's vision tower. None if its config names them otherwise."""
    vision = getattr(config, "vision_config", None)

    def size(*names: str) -> Any:
        return next((value for name in names if (value := getattr(vision, name, None))), None)

    def side(name: str) -> Any:
        """A size that is one number, or a height and a width."""
        value = size(name)
        return max(value) if isinstance(value, list | tuple) else value

    hidden, heads = size("embed_dim", "hidden_size"), size("num_attention_heads", "num_heads", "attention_heads")
    patch_side, image_side = side("patch_size"), side("image_size")
    if not all(isinstance(value, int) for value in (hidden, heads, patch_side)):
        return None
    inner = size("intermediate_size") or (size("mlp_ratio") or 4) * hidden
    rotary = size("rope_parameters") is not None
    return TowerSizes(
        hidden,
        int(inner),
        heads,
        (size("num_channels", "in_channels") or 3) * patch_side**2 * (size("temporal_patch_size") or 1),
        inner_copies=2 if size("hidden_act") in SINGLE_OPERATIONS and not rotary else 3,
        has_rotary=rotary,
        max_patches=math.ceil(image_side / patch_side) ** 2 if isinstance(image_side, int) and not rotary else 0,
    )
