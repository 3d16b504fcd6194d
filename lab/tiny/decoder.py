"""A llama decoder with Hugging Face's parameter names, so that its weights load into `LlamaModel` unchanged."""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HeadStates = list[tuple[Tensor, Tensor]]  # a layer's rotated queries and keys, each [B, heads, T, head_dim]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder; heads are 32 wide."""

    vocabulary: int
    width: int = 160
    layers: int = 4
    hidden: int = 384
    theta: float = 10_000.0
    context: int = 2048

    @property
    def heads(self) -> int:
        return self.width // 32

    def asdict(self) -> dict[str, float]:
        return asdict(self)


class RMSNorm(nn.Module):
    """Root mean square norm with a learned scale."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles, each float32 [length, head_dim]."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angle = torch.outer(torch.arange(length).float(), inverse)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., T, head_dim] rotated by the rotary angles."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keep: HeadStates | None) -> Tensor:
        """x [B, T, width], cos and sin [T, head_dim] -> [B, T, width].

        Written out: at this size on a CPU it takes a third of the time of the fused kernel and its backward.
        """
        b, t, d = x.shape
        weights = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        q, k, v = F.linear(x, weights).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).contiguous()
        q, k = rotate(q, cos.to(q.dtype), sin.to(q.dtype)), rotate(k, cos.to(k.dtype), sin.to(k.dtype))
        if keep is not None:
            keep.append((q, k))
        future = torch.full((t, t), -torch.inf, dtype=q.dtype).triu(1)
        share = ((q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5 + future).softmax(-1)
        out: Tensor = self.o_proj((share.to(v.dtype) @ v).transpose(1, 2).reshape(b, t, d))
        return out


class MLP(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One decoder layer, normed before each half."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape.width, shape.heads), MLP(shape.width, shape.hidden)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(shape.width), RMSNorm(shape.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keep: HeadStates | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, keep)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Llama(nn.Module):
    """Embeddings [B, T, width] -> normed states [B, T, width]. Padding is on the right."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        cos, sin = rotary(shape.context, 32, shape.theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                std = 1.0 if "embed" in name else 1 / math.sqrt(p.shape[1])
                if "o_proj" in name or "down_proj" in name:
                    std /= math.sqrt(2 * shape.layers)
                nn.init.normal_(p, std=std)

    def forward(self, x: Tensor, keep: HeadStates | None = None) -> Tensor:
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin, keep)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """The llama, its head, and `mix`, a linear map of image tokens that assembly folds into the connector."""

    def __init__(self, shape: DecoderShape, mix: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.lm = Llama(shape)
        self.mix = nn.Linear(shape.width, shape.width, bias=False)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(shape.width) if mix is None else mix)
            self.lm_head.weight.copy_(self.lm.embed_tokens.weight / math.sqrt(shape.width))

    def forward(self, tokens: Tensor, image_at: Tensor, features: Tensor, keep: HeadStates | None = None) -> Tensor:
        """tokens [B, T], image_at [P, 2] (row, position), features [P, width] -> states [B, T, width]."""
        x = self.lm.embed_tokens(tokens)
        if len(features):
            x = x.index_put((image_at[:, 0], image_at[:, 1]), self.mix(features).to(x.dtype))
        states: Tensor = self.lm(x, keep)
        return states
