"""LLaVA and its descendants: a vision tower, a projector, a language model."""

from typing import Any

import transformers

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer, tower_settings


def llava(size: Size) -> Made:
    """One size for every image."""
    words = tokenizer({"image_token": "<image>"})
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_index=words.image_token_id,
        image_seq_length=16,
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return Made(config, processor, "<image>")


def llava_onevision(size: Size) -> Made:
    """Tiles for a single image, none for several."""
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_grid_pinpoints=grid,
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
    )
    images = transformers.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    video = transformers.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    processor = transformers.LlavaOnevisionProcessor(
        images, words, video, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    return Made(config, processor, "<image>")


def llava_next_video(size: Size) -> Made:
    """LLaVA-NeXT with a class that also reads videos."""
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextVideoConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_grid_pinpoints=grid,
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
    )
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = transformers.LlavaNextVideoProcessor(
        transformers.LlavaNextVideoVideoProcessor(**sizes),
        transformers.LlavaNextImageProcessor(**sizes, image_grid_pinpoints=grid),
        words,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return Made(config, processor, "<image>")


def llava_next(size: Size) -> Made:
    """Tiles of an image without padding, a row separator token."""
    words = tokenizer({"image_token": "<image>"})
    grid = [[28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.MistralConfig(**text_settings(words, size), sliding_window=None),
        image_grid_pinpoints=grid,
        image_token_index=words.image_token_id,
    )
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
    )
    processor = transformers.LlavaNextProcessor(
        images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return Made(config, processor, "<image>")


def vipllava(size: Size) -> Made:
    """Features of several vision layers, concatenated."""
    words = tokenizer({"image_token": "<image>"})
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_index=words.image_token_id,
        vision_feature_layers=[-2, -1],
        vision_feature_layer=[-2, -1],
        image_seq_length=16,
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return Made(config, processor, "<image>")


def pixtral(size: Size) -> Made:
    """LLaVA with a vision tower of any resolution; a row separator token."""
    words, images, tower = _pixtral(size)
    config = transformers.LlavaConfig(
        vision_config=tower,
        text_config=transformers.MistralConfig(**text_settings(words, size), head_dim=size.width // 4),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return Made(config, transformers.PixtralProcessor(images, words, patch_size=8), "[IMG]")


def mistral3(size: Size) -> Made:
    """Pixtral's vision tower, four patches merged into one."""
    words, images, tower = _pixtral(size)
    config = transformers.Mistral3Config(
        vision_config=tower,
        text_config=transformers.MistralConfig(**text_settings(words, size), head_dim=size.width // 4),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return Made(config, transformers.PixtralProcessor(images, words, patch_size=8, spatial_merge_size=2), "[IMG]")


def paligemma(size: Size) -> Made:
    """Bidirectional attention over the prompt; the processor adds text to the template."""
    words = tokenizer({"image_token": "<image>"}, unused=("\n",))  # vLLM looks up this token
    words.bos_token = "<user>"  # the processor adds one between images and text
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(
            **tower_settings(size), vision_use_head=False, projection_dim=size.width
        ),
        text_config=transformers.GemmaConfig(**text_settings(words, size, head_dim=size.width // 4, vocab_size=1536)),
        image_token_index=words.image_token_id,
        projection_dim=size.width,
        tie_word_embeddings=False,
    )
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    return Made(config, transformers.PaliGemmaProcessor(images, words), "<image>")


def _pixtral(size: Size) -> tuple[Any, Any, Any]:
    words = tokenizer({}, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    images = transformers.PixtralImageProcessor(patch_size={"height": 8, "width": 8}, size={"longest_edge": 64})
    heads = {"head_dim": size.tower // 2, "num_attention_heads": 2}
    return words, images, transformers.PixtralVisionConfig(**tower_settings(size, image_size=64, **heads))


MAKERS: dict[str, Maker] = {
    make.__name__: make
    for make in (llava, llava_next, llava_next_video, llava_onevision, vipllava, pixtral, mistral3, paligemma)
}
