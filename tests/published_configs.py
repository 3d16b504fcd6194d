"""Configs of published checkpoints, by the sizes of their config.json. No weights are read."""

from typing import Any

QWEN = {
    "7B": (3584, 18944, 28, 28, 4, 3420),
    "32B": (5120, 27648, 64, 40, 8, 3456),
    "72B": (8192, 29568, 80, 64, 8, 3456),
}
"""Of Qwen2.5-VL: hidden and inner size, layers, heads, key-value heads, inner size of the vision tower."""


def qwen(name: str) -> Any:
    """The config of Qwen2.5-VL-7B, -32B or -72B."""
    from transformers import Qwen2_5_VLConfig

    hidden, inner, layers, heads, kv_heads, vision_inner = QWEN[name]
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 152064,
            "tie_word_embeddings": False, "rope_parameters": rope,
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": vision_inner, "num_heads": 16,
            "out_hidden_size": hidden,
        },
        tie_word_embeddings=False,
    )  # fmt: skip
