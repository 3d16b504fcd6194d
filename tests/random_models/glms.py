"""GLM-V and others with patch merging as in Qwen-VL: any resolution, M-RoPE."""

from typing import Any

import transformers

from tests.random_models.common import Made, Maker, Size, merging_tower, sections, text_settings, tokenizer


def glm4v(size: Size) -> Made:
    """Any resolution, partial M-RoPE."""
    return _glm(size, transformers.Glm4vConfig, {"image_size": 32})


def glm4v_moe(size: Size) -> Made:
    """Glm4v with shared and routed experts after the first layer."""
    experts = {
        "first_k_dense_replace": 1,
        "moe_intermediate_size": size.width // 2,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    }
    made = _glm(size, transformers.Glm4vMoeConfig, {"image_size": 32}, experts)
    return made._replace(published={"text_config": {"head_dim": size.width // 4, "use_qk_norm": False}})


def glm_ocr(size: Size) -> Made:
    """Glm4v with query-key norms and without position embeddings in the vision tower."""
    merged = 3 * size.width  # width of the merging layer, which vLLM takes from the language model
    return _glm(size, transformers.GlmOcrConfig, {}, {"intermediate_size": merged})


def glm46v(size: Size) -> Made:
    """Glm4v under another config and processor."""
    made = _glm(size, transformers.Glm46VConfig, {"image_size": 32}, {"model_type": "glm4v_text"})
    processor = made.processor
    pixels = {"shortest_edge": 32 * 32 * 2, "longest_edge": 96 * 96 * 2}
    images = transformers.Glm46VImageProcessor(patch_size=8, size=pixels)
    video = transformers.Glm46VVideoProcessor(patch_size=8, size=pixels)
    return made._replace(processor=transformers.Glm46VProcessor(images, processor.tokenizer, video))


def _glm(size: Size, kind: Any, tower: dict[str, Any], text: dict[str, Any] | None = None) -> Made:
    named = {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_start_token": "<|begin_of_image|>",
        "image_end_token": "<|end_of_image|>",
        "video_start_token": "<|begin_of_video|>",
        "video_end_token": "<|end_of_video|>",
    }
    words = tokenizer(named)
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": sections(size, 64, 64, 32),
    }
    config = kind(
        text_config=text_settings(words, size, rope_parameters=rope, **(text or {})),
        vision_config=merging_tower(size, 8, intermediate_size=2 * size.tower, **tower),
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    pixels = {"shortest_edge": 32 * 32 * 2, "longest_edge": 96 * 96 * 2}  # of the two frames of an image
    images = transformers.Glm4vImageProcessor(patch_size=8, size=pixels)
    video = transformers.Glm4vVideoProcessor(patch_size=8, size=pixels)
    return Made(
        config, transformers.Glm4vProcessor(images, words, video), "<|begin_of_image|><|image|><|end_of_image|>"
    )


def ernie4_5_vl_moe(size: Size) -> Made:
    """Separate experts for text and images, any resolution, M-RoPE."""
    named = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    words = tokenizer(named)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections(size, 32, 32, 16)}
    experts = {
        "moe_intermediate_size": [size.width // 2, size.width // 4],
        "moe_k": 2,
        "moe_num_experts": 4,
        "moe_num_shared_experts": 1,
    }
    config = transformers.Ernie4_5_VLMoeConfig(
        text_config=text_settings(words, size, rope_parameters=rope, **experts),
        vision_config={
            "depth": 2,
            "hidden_size": size.tower,
            "num_heads": 2,
            "patch_size": 8,
            "intermediate_size": 2 * size.tower,
        },
        tie_word_embeddings=False,
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    images = transformers.Ernie4_5_VLMoeImageProcessor(patch_size=8, size=pixels)
    video = transformers.Ernie4_5_VLMoeVideoProcessor(patch_size=8, size=pixels, draw_on_frames=False)
    return Made(
        config,
        transformers.Ernie4_5_VLMoeProcessor(images, words, video),
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    )


MAKERS: dict[str, Maker] = {make.__name__: make for make in (glm4v, glm4v_moe, glm46v, glm_ocr, ernie4_5_vl_moe)}
