"""Checkpoints of random weights in the shapes of Idefics3-8B-Llama3, made from a config without a download.

The processor is that of the shipped checkpoint, for images of 364 pixels. The weights are written tensor by tensor, so
that the main memory holds one file of at most SHARD_BYTES. Layers are left out where GPU or disk are too small.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf.checkpoint import TINY
from icl.models.hf.memory import GIB, ModelShape, model_shape, weights_bytes

SHARD_BYTES = 2 * GIB
WEIGHT_STD = 0.02
HEAD_STD = 0.08
"""A wider output head, so that the two best logits are apart as in trained models."""

MAX_GPU_FRACTION = 0.6
"""Part of the free memory of a GPU that weights may take."""

DISK_FACTOR = 1.2


@dataclass(frozen=True)
class Sizes:
    """The sizes of a checkpoint. The defaults are those of Idefics3-8B-Llama3."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 14336
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 128256
    vision_layers: int = 27
    vision_hidden: int = 1152
    vision_inner: int = 4304
    vision_heads: int = 16
    image_size: int = 364
    patch_size: int = 14
    scale_factor: int = 2

    @property
    def tokens_per_image(self) -> int:
        return (self.image_size // self.patch_size // self.scale_factor) ** 2


FULL = Sizes()
NARROW = Sizes(layers=4, vision_layers=4)
"""As FULL, with few layers: for checks in float32, and for `--quick`."""

TOY = Sizes(
    layers=2, hidden=128, inner=512, heads=4, kv_heads=2, vocabulary=512, vision_layers=1, vision_hidden=32,
    vision_inner=64, vision_heads=2, image_size=64, patch_size=8, scale_factor=2,
)  # fmt: skip
"""For comparisons of many steps. Its answers are long, which those of the shipped checkpoint are not."""


def config(sizes: Sizes) -> Any:
    """The config of transformers."""
    from transformers import Idefics3Config

    shipped = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    text = shipped["text_config"] | {
        "hidden_size": sizes.hidden, "intermediate_size": sizes.inner, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "vocab_size": sizes.vocabulary,
        "head_dim": sizes.hidden // sizes.heads, "max_position_embeddings": 8192,
    }  # fmt: skip
    vision = shipped["vision_config"] | {
        "hidden_size": sizes.vision_hidden, "intermediate_size": sizes.vision_inner,
        "num_hidden_layers": sizes.vision_layers, "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.image_size, "patch_size": sizes.patch_size,
    }  # fmt: skip
    rest = {key: value for key, value in shipped.items() if key not in ("text_config", "vision_config", "dtype")}
    made = Idefics3Config(**rest | {"scale_factor": sizes.scale_factor}, text_config=text, vision_config=vision)
    made.dtype = torch.bfloat16
    made.architectures = ["Idefics3ForConditionalGeneration"]
    return made


def layers_that_fit(sizes: Sizes, gpu_bytes: float, disk_bytes: float) -> int:
    """Layers of the language model whose weights fit a GPU and a disk; 0 if not even one layer does.

    Args:
        sizes: The sizes with all layers.
        gpu_bytes: Free memory of the GPU.
        disk_bytes: Free bytes of the disk.
    """
    room = min(gpu_bytes * MAX_GPU_FRACTION, disk_bytes / DISK_FACTOR)
    one, two = (checkpoint_bytes(with_layers(sizes, n)) for n in (1, 2))
    return max(0, min(sizes.layers, 1 + int((room - one) // (two - one))))


def with_layers(sizes: Sizes, layers: int) -> Sizes:
    """The sizes with another number of layers of the language model."""
    return replace(sizes, layers=layers)


def checkpoint_bytes(sizes: Sizes) -> float:
    """Bytes of the weights in bfloat16."""
    return weights_bytes(shape_of(sizes))


def shape_of(sizes: Sizes) -> ModelShape:
    """The sizes as the memory plan reads them."""
    return model_shape(config(sizes))


def write_checkpoint(folder: Path, sizes: Sizes, device: str = "cpu", seed: int = 0) -> Path:
    """Writes a checkpoint with its processor.

    Args:
        folder: A folder that does not exist yet.
        sizes: The sizes.
        device: Where random numbers are drawn.
        seed: Random seed.

    Raises:
        ModelError: The disk is full.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    made = config(sizes)
    generator = torch.Generator(device).manual_seed(seed)
    index: dict[str, str] = {}
    try:
        for number, shard in enumerate(_shards(_state_shapes(made)), 1):
            name = f"model-{number:05d}.safetensors"
            tensors = {key: _random(key, shape, generator, device) for key, shape in shard.items()}
            save_file(tensors, folder / name, metadata={"format": "pt"})
            index |= dict.fromkeys(shard, name)
    except OSError as error:
        raise ModelError(f"{folder}: the weights cannot be written: {error}. Free some space.") from error
    size = sum((folder / name).stat().st_size for name in set(index.values()))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index}), encoding="utf-8"
    )
    made.save_pretrained(folder)
    _write_processor(folder, sizes)
    return folder


def _state_shapes(made: Any) -> Mapping[str, torch.Size]:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(made)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shards(shapes: Mapping[str, torch.Size]) -> Iterator[dict[str, torch.Size]]:
    shard, size = dict[str, torch.Size](), 0
    for name, shape in shapes.items():
        own = shape.numel() * torch.bfloat16.itemsize
        if shard and size + own > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += own
    yield shard


def _random(name: str, shape: torch.Size, generator: torch.Generator, device: str) -> Tensor:
    """Norms are ones, biases zeros, and everything else is normal."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
    std = HEAD_STD if name.startswith("lm_head") else WEIGHT_STD
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
    return values.mul_(std).cpu()


def _write_processor(folder: Path, sizes: Sizes) -> None:
    for file in TINY.iterdir():
        if file.suffix in (".json", ".jinja") and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    side = {"longest_edge": sizes.image_size}
    settings["image_seq_len"] = sizes.tokens_per_image
    settings["image_processor"] |= {"max_image_size": side, "size": side}
    path.write_text(json.dumps(settings), encoding="utf-8")
