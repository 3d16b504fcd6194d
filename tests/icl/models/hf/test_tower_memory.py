"""The estimated peak of a vision tower equals that of real models."""

from typing import Any

import pytest
import torch
from live_storages import LiveStorages

from icl.models.hf.tower_memory import tower_sizes

PATCH = 14
TINY, LARGE = (64, 160, 3, 2), (768, 3072, 12, 12)
"""Hidden size, inner size, layers, heads. The large tower has 85 to 115 million parameters."""


def config_of(kind: str, sizes: tuple[int, int, int, int], side: int) -> Any:
    """LLaVA with a tower of CLIP or SigLIP, or Qwen2.5-VL. side: patches of a side of the image."""
    from transformers import LlavaConfig, Qwen2_5_VLConfig

    hidden, inner, layers, heads = sizes
    text = {
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99,
    }  # fmt: skip
    if kind == "qwen":
        rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}
        return Qwen2_5_VLConfig(
            text_config={
                **text, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "rope_parameters": rope,
            },
            vision_config={
                "depth": layers, "hidden_size": hidden, "intermediate_size": inner, "num_heads": heads,
                "out_hidden_size": 64, "fullatt_block_indexes": [1],
            },
        )  # fmt: skip
    tower = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": side * PATCH, "patch_size": PATCH,
    }  # fmt: skip
    return LlavaConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": f"{kind}_vision_model", **tower},
        image_token_index=98,
    )


def peak_of_tower(config: Any, images: int, side: int, *, attention: str, dtype: torch.dtype) -> float:
    """Bytes that the tower of a real model takes above its weights."""
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    with no_init_weights():  # random numbers for 100 million weights take seconds
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    if config.model_type == "llava":
        pixels, more = torch.rand(images, 3, side * PATCH, side * PATCH), {}
    else:
        pixels = torch.rand(images * side**2, 3 * 2 * PATCH**2)
        more = {"image_grid_thw": torch.tensor([[1, side, side]] * images)}
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    with torch.inference_mode(), LiveStorages() as live:
        pixels = pixels.to(dtype, copy=True)
        model.model.get_image_features(pixels, return_dict=True, **more)
    return live.peak


@pytest.mark.parametrize(
    "case",
    [
        ("clip", TINY, 2, 16, torch.float32, "sdpa"),
        ("clip", TINY, 1, 16, torch.bfloat16, "eager"),
        ("siglip", TINY, 1, 16, torch.bfloat16, "sdpa"),
        ("siglip", TINY, 2, 16, torch.float32, "eager"),
        ("qwen", TINY, 2, 16, torch.float32, "sdpa"),
        ("qwen", TINY, 3, 24, torch.float32, "eager"),
        ("qwen", TINY, 1, 24, torch.bfloat16, "sdpa"),
        ("qwen", TINY, 1, 24, torch.bfloat16, "eager"),
        ("clip", LARGE, 1, 8, torch.float32, "sdpa"),
        ("qwen", LARGE, 1, 8, torch.float32, "eager"),
    ],
    ids=str,
)
def test_the_peak_of_a_vision_tower_is_that_of_live_storages(
    case: tuple[str, tuple[int, int, int, int], int, int, torch.dtype, str],
) -> None:
    kind, sizes, images, side, dtype, attention = case
    config, tokens = config_of(kind, sizes, side), side**2 / (4 if kind == "qwen" else 1)
    measured = peak_of_tower(config, images, side, attention=attention, dtype=dtype)
    tower = tower_sizes(config)
    assert tower is not None
    estimate = tower.peak_bytes(side**2, images, dtype.itemsize, attention=attention, tokens=tokens, token_values=64)
    assert estimate == pytest.approx(measured, rel=0.1)
