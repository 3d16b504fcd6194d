"""Architectures for documents and of the DeepSeek family: high-resolution towers, one or two for an image."""

from typing import Any

import transformers

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer, tower_settings


def deepseek_vl(size: Size) -> Made:
    """One size for every image, padded to a square."""
    words = tokenizer({"image_token": "<image_placeholder>"})
    config = transformers.DeepseekVLConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.DeepseekVLImageProcessor(size={"height": 32, "width": 32}, min_size=8)
    return Made(config, transformers.DeepseekVLProcessor(images, words, num_image_tokens=16), "<image_placeholder>")


def deepseek_vl_hybrid(size: Size) -> Made:
    """Two vision towers, one of high resolution."""
    words = tokenizer({"image_token": "<image_placeholder>"})
    config = transformers.DeepseekVLHybridConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        high_res_vision_config=transformers.SamVisionConfig(**_sam(size), num_pos_feats=8),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.DeepseekVLHybridImageProcessor(
        size={"height": 32, "width": 32}, high_res_size={"height": 128, "width": 128}, min_size=8
    )
    processor = transformers.DeepseekVLHybridProcessor(images, words, num_image_tokens=16)
    return Made(config, processor, "<image_placeholder>")


def deepseek_ocr2(size: Size) -> Made:
    """The whole image and crops through two towers, the second a language model."""
    words = tokenizer({"image_token": "<image>"})
    config = transformers.DeepseekOcr2Config(
        vision_config={
            "sam_config": {
                **_sam(size),
                "image_size": 1024,
                "patch_size": 16,
                "mlp_ratio": 2.0,
                "downsample_channels": [size.tower, size.tower],
            },
            "encoder_config": {**text_settings(words, size), "hidden_size": size.tower, "num_hidden_layers": 2},
        },
        text_config={
            **text_settings(words, size),
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": size.width,
            "mlp_layer_types": (["dense", "sparse"] * size.layers)[: size.layers],
        },
        image_token_id=words.image_token_id,
    )
    images = transformers.DeepseekOcr2ImageProcessor(max_patches=2)
    return Made(config, transformers.DeepseekOcr2Processor(images, words), "<image>")


def got_ocr2(size: Size) -> Made:
    """A tower of high resolution, 256 tokens for an image."""
    words = tokenizer({}, ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"))
    config = transformers.GotOcr2Config(
        vision_config={**_sam(size), "image_size": 256, "patch_size": 4},
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_token_index=words.convert_tokens_to_ids("<imgpad>"),
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 256, "width": 256})
    return Made(config, transformers.GotOcr2Processor(images, words), "<img><imgpad></img>")


def granite_docling(size: Size) -> Made:
    """Idefics3's tiles, with features of inner vision layers added in later layers (deepstack)."""
    grid = tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    words = tokenizer(named, ("<end_of_utterance>", "<global-img>", *grid))
    config = transformers.GraniteDoclingConfig(
        text_config=text_settings(words, size) | dict.fromkeys(_MULTIPLIERS, 1.0),
        vision_config={
            **tower_settings(size),
            "out_hidden_size": size.width,
            "scale_factor": 2,
            "deepstack_visual_indexes": [0],
            "use_fine_route": False,
        },
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.GraniteDoclingImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    return Made(config, transformers.GraniteDoclingProcessor(images, words, image_seq_len=4), "<image>")


def granite4_vision(size: Size) -> Made:
    """LLaVA-NeXT's tiles through Q-Formers, added at several layers of the language model."""
    words = tokenizer({"image_token": "<image>"})
    grid = [[32, 64], [64, 32], [64, 64]]
    config = transformers.Granite4VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size, hidden_size=64), vision_use_head=False),
        text_config=text_settings(words, size),
        qformer_config={
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "encoder_hidden_size": 64,
        },
        image_token_index=words.image_token_id,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=grid,
        image_seq_length=4,
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0]],
        spatial_target_layers=[1],
        use_spatial_sampling=False,
    )
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grid
    )
    processor = transformers.Granite4VisionProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="full", downsample_rate="1/2"
    )
    return Made(config, processor, "<image>")


_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")


def _sam(size: Size) -> dict[str, Any]:
    """The parameters of a tower of the Segment Anything Model."""
    return {
        "hidden_size": size.tower,
        "output_channels": size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 128,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 2 * size.tower,
    }


MAKERS: dict[str, Maker] = {
    make.__name__: make
    for make in (deepseek_vl, deepseek_vl_hybrid, deepseek_ocr2, got_ocr2, granite_docling, granite4_vision)
}
