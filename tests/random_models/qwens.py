"""Qwen-VL and its descendants: any resolution, positions of height and width (M-RoPE)."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tests.random_models.common import Made, Maker, Size, merging_tower, sections, text_settings, tokenizer


def qwen2_vl(size: Size) -> Made:
    """Any resolution; positions of time, height and width (M-RoPE)."""
    words, slot = _qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections(size, 32, 32, 16)}
    config = transformers.Qwen2VLConfig(
        text_config=text_settings(words, size, rope_parameters=rope),
        vision_config={
            "depth": 2,
            "embed_dim": size.tower,
            "hidden_size": size.width,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 7,
        },
        **_qwen_ids(words),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=7, min_pixels=28 * 28, max_pixels=84 * 84)
    video = transformers.Qwen2VLVideoProcessor(patch_size=7)
    return Made(config, transformers.Qwen2VLProcessor(images, words, video), slot)


def qwen2_5_vl(size: Size) -> Made:
    """Any resolution, windowed attention in the vision tower, M-RoPE."""
    words, slot = _qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections(size, 32, 32, 16)}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_settings(words, size, rope_parameters=rope),
        vision_config=merging_tower(
            size, 7, intermediate_size=2 * size.tower, window_size=28, fullatt_block_indexes=[1]
        ),
        **_qwen_ids(words),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=7, min_pixels=28 * 28, max_pixels=84 * 84)
    video = transformers.Qwen2VLVideoProcessor(patch_size=7)
    return Made(config, transformers.Qwen2_5_VLProcessor(images, words, video), slot)


def qwen3_vl(size: Size) -> Made:
    """Any resolution, interleaved M-RoPE, features of inner vision layers added in later layers (deepstack)."""
    words, slot = _qwen_tokenizer()
    config = transformers.Qwen3VLConfig(
        text_config=text_settings(words, size, head_dim=size.width // 4, rope_parameters=_interleaved(size)),
        vision_config=_deep_tower(size),
        **_qwen_ids(words),
    )
    return Made(config, _qwen3_processor(words), slot)


def qwen3_vl_moe(size: Size) -> Made:
    """Qwen3-VL with a mixture of experts."""
    words, slot = _qwen_tokenizer()
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": size.width // 2,
        "decoder_sparse_step": 1,
    }
    text = text_settings(words, size, head_dim=size.width // 4, rope_parameters=_interleaved(size), **experts)
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config=_deep_tower(size), **_qwen_ids(words))
    routing = {"num_experts": experts["num_experts"], "norm_topk_prob": True}
    return Made(config, _qwen3_processor(words), slot, {"text_config": routing})


def qwen3_5(size: Size) -> Made:
    """Recurrent layers (gated delta rule) and attention, M-RoPE."""
    return _recurrent(size, transformers.Qwen3_5Config, {})


def qwen3_5_moe(size: Size) -> Made:
    """Qwen3.5 with a mixture of experts and a shared expert."""
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": size.width // 2,
        "shared_expert_intermediate_size": size.width // 2,
    }
    return _recurrent(size, transformers.Qwen3_5MoeConfig, experts)


def _recurrent(size: Size, kind: Any, more: dict[str, Any]) -> Made:
    words, slot = _qwen_tokenizer()
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
        "mrope_section": sections(size, 32, 64, 64),
    }
    kinds = (["linear_attention", "full_attention", "linear_attention"] * size.layers)[: size.layers]
    text = text_settings(
        words,
        size,
        head_dim=size.width // 4,
        rope_parameters=rope,
        layer_types=kinds,
        linear_key_head_dim=size.width // 2,
        linear_value_head_dim=size.width // 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        **more,
    )
    config = kind(
        text_config=text,
        vision_config=merging_tower(size, 8, intermediate_size=2 * size.tower, num_position_embeddings=64),
        **_qwen_ids(words),
    )
    return Made(config, _qwen3_processor(words), slot)


def _qwen_tokenizer() -> tuple[PreTrainedTokenizerFast, str]:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    return tokenizer(named), "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return {f"{name}_id": words.convert_tokens_to_ids(getattr(words, name)) for name in names}


def _interleaved(size: Size) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
        "mrope_section": sections(size, 32, 32, 16),
    }


def _deep_tower(size: Size) -> dict[str, Any]:
    """A vision config whose first layer is added to the language model a second time."""
    more = {"intermediate_size": 2 * size.tower, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    return merging_tower(size, 8, **more)


def _qwen3_processor(words: PreTrainedTokenizerFast) -> Any:
    images = transformers.Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96)
    return transformers.Qwen3VLProcessor(images, words, transformers.Qwen3VLVideoProcessor(patch_size=8))


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe)
}
