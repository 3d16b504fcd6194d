"""Architectures that combine parts of others."""

from typing import Any

import transformers

from tests.random_models.common import (
    Made,
    Maker,
    Size,
    text_settings,
    tokenizer,
    tower_settings,
)


def video_llava(size: Size) -> Made:
    """LLaVA with one tower for images and one for videos."""
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    config = transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_seq_length=16,
    )
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = transformers.VideoLlavaProcessor(
        transformers.VideoLlavaImageProcessor(**sizes),
        transformers.VideoLlavaVideoProcessor(**sizes),
        words,
        patch_size=7,
    )
    return Made(config, processor, "<image>")


def cosmos3_omni(size: Size) -> Made:
    """Qwen3-VL under another name."""
    from tests.random_models.qwens import qwen3_vl

    made = qwen3_vl(size)
    config = made.config.to_dict()
    parts = {"text_config": config["text_config"], "vision_config": config["vision_config"]}
    ids = {name: value for name, value in config.items() if name.endswith("_token_id")}
    return made._replace(config=transformers.Cosmos3OmniConfig(**parts, **ids))


def mistral_large4(size: Size) -> Made:
    """Pixtral's vision tower; latent attention with an index of keys, which picks among ties by padding; experts."""
    words = tokenizer({}, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    heads = {"head_dim": size.tower // 2, "num_attention_heads": 2}
    default = transformers.MistralLarge4Config().text_config.to_dict()
    config = transformers.MistralLarge4Config(
        vision_config=transformers.PixtralVisionConfig(**tower_settings(size, image_size=64, **heads)),
        text_config={
            "model_type": default["model_type"],
            **text_settings(words, size, num_key_value_heads=4),
            **_latent(size),
            "index_head_dim": 16,
            "index_n_heads": 2,
            "index_topk": 4096,
            "layer_types": [default["layer_types"][0]] * size.layers,
            "indexer_types": ["full"] * size.layers,
            "no_rope_layers": [1] * size.layers,
        },
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = transformers.PixtralImageProcessor(patch_size={"height": 8, "width": 8}, size={"longest_edge": 64})
    return Made(config, transformers.PixtralProcessor(images, words, patch_size=8, spatial_merge_size=2), "[IMG]")


def phi4_multimodal(size: Size) -> Made:
    """Crops of dynamic size with separators; the class is not in AutoModelForImageTextToText."""
    words = tokenizer({"image_token": "<|endoftext10|>", "audio_token": "<|endoftext11|>"})
    config = transformers.Phi4MultimodalConfig(
        **text_settings(words, size),
        vision_config={
            **tower_settings(size, image_size=64, patch_size=2),
            "crop_size": 64,
            "image_token_id": words.image_token_id,
        },
        audio_config={
            "hidden_size": size.tower,
            "intermediate_size": size.tower,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "nemo_conv_channels": 8,
            "ext_pw_out_channel": size.tower,
            "depthwise_separable_out_channel": size.tower,
            "audio_token_id": words.audio_token_id,
        },
    )
    images = transformers.Phi4MultimodalImageProcessor(size={"height": 64, "width": 64}, patch_size=2, dynamic_hd=1)
    sound = transformers.Phi4MultimodalFeatureExtractor()
    return Made(config, transformers.Phi4MultimodalProcessor(images, sound, words), "<|endoftext10|>")


def kimi_k25(size: Size) -> Made:
    """Any resolution, four patches merged into one; latent attention and experts."""
    words = tokenizer({"image_token": "<|media_pad|>", "video_token": "<|video_pad|>"})
    default = transformers.Kimi_K25Config()
    config = transformers.Kimi_K25Config(
        text_config={
            "model_type": default.text_config.model_type,
            **text_settings(words, size, num_key_value_heads=4),
            **_latent(size),
            "head_dim": 16,
        },
        vision_config={**tower_settings(size), "pos_emb_height": 4, "pos_emb_width": 4},
        projection_hidden_size=size.tower,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    images = transformers.Kimi_K25ImageProcessor(patch_size=8, max_patches=64)
    video = transformers.Kimi_K25VideoProcessor(patch_size=8)
    return Made(config, transformers.Kimi_K25Processor(images, words, video), "<|media_pad|>")


def lfm3_vl(size: Size) -> Made:
    """A tower of any resolution; short convolutions and attention."""
    names = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    words = tokenizer({"image_token": "<image>", "video_token": "<video>", **names})
    default = transformers.Lfm3VlConfig()
    config = transformers.Lfm3VlConfig(
        text_config={
            "model_type": default.text_config.model_type,
            **text_settings(words, size),
            "layer_types": (["conv", "full_attention"] * size.layers)[: size.layers],
            "head_dim": size.width // 4,
        },
        vision_config={
            "hidden_size": size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "patch_size": 8,
            "layer_types": ["conv", "full_attention"],
        },
        projector_hidden_size=size.width,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96)
    video = transformers.Qwen3VLVideoProcessor(patch_size=8)
    return Made(config, transformers.Lfm3VlProcessor(images, words, video), "<image>")


def _latent(size: Size) -> dict[str, Any]:
    """Parameters of latent attention (MLA) and experts."""
    return {
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": size.width,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    }


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (video_llava, cosmos3_omni, mistral_large4, phi4_multimodal, kimi_k25, lfm3_vl)
}
