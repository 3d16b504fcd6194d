"""The vision tower and connector of Idefics3 with its parameter names, reduced to what training needs.

64 x 64 pixels become 16 patches of 16 x 16; three transformer layers mix them; the connector folds them into one token.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class TowerShape:
    """Sizes of the tower; `out` is the width of the token that a decoder reads."""

    width: int = 160
    layers: int = 3
    hidden: int = 320
    patch: int = 16
    side: int = 64
    fold: int = 4  # patches per side that become one token
    out: int = 160

    @property
    def heads(self) -> int:
        return self.width // 32

    @property
    def grid(self) -> int:
        return self.side // self.patch

    def asdict(self) -> dict[str, int]:
        return asdict(self)

    @property
    def settings(self) -> dict[str, int]:
        """The sizes under the usual names of vision configs."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "image_size": self.side,
            "patch_size": self.patch,
        }


class VisionAttention(nn.Module):
    """Attention among the patches of one image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, width] -> [B, T, width]."""
        b, t, d = x.shape
        q, k, v = (
            p(x).view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return mixed


class VisionMLP(nn.Module):
    """Feed-forward layer of a patch."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class VisionLayer(nn.Module):
    """One layer of the tower, normed before each half."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = VisionAttention(width, heads), VisionMLP(width, hidden)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Tower(nn.Module):
    """uint8 images [B, 64, 64, 3] -> one token [B, out]."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        folded = shape.width * shape.fold**2
        self.patch_embedding = nn.Conv2d(3, shape.width, shape.patch, shape.patch)
        self.position_embedding = nn.Embedding(shape.grid**2, shape.width)
        self.layers = nn.ModuleList(VisionLayer(shape.width, shape.heads, shape.hidden) for _ in range(shape.layers))
        self.post_layernorm = nn.LayerNorm(shape.width, eps=1e-6)
        self.proj = nn.Linear(folded, shape.out, bias=False)
        nn.init.normal_(self.position_embedding.weight, std=0.5)
        nn.init.normal_(self.proj.weight, std=1 / math.sqrt(folded))

    def patches(self, images: Tensor) -> Tensor:
        """[B, 64, 64, 3] uint8 -> normed patch states [B, grid ** 2, width]."""
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.position_embedding.weight
        for layer in self.layers:
            x = layer(x)
        normed: Tensor = self.post_layernorm(x)
        return normed

    def forward(self, images: Tensor) -> Tensor:
        """The connector's fold of the whole grid into one row: row-major, as Idefics3's pixel shuffle orders it."""
        token: Tensor = self.proj(self.patches(images).flatten(1))
        return token


@torch.no_grad()
def tokens_of(tower: Tower, images: Tensor, size: int = 500) -> Tensor:
    """uint8 [N, 64, 64, 3] -> float32 [N, out], in slices of `size`."""
    return torch.cat([tower(images[i : i + size]) for i in range(0, len(images), size)])
