"""Architectures that split an image into tiles with their own tokens."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tests.random_models.common import WORDS, Made, Maker, Size, text_settings, tokenizer, tower_settings

_AYA = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")


def idefics2(size: Size) -> Made:
    """A resampler to a fixed number of tokens; images padded to the largest of a prompt."""
    named = {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"}
    words = tokenizer(named, ("<end_of_utterance>",))
    config = transformers.Idefics2Config(
        vision_config=tower_settings(size, image_size=64),
        perceiver_config={
            "hidden_size": size.width,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config=transformers.MistralConfig(**text_settings(words, size), sliding_window=None),
        image_token_id=words.image_token_id,
    )
    images = transformers.Idefics2ImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return Made(config, transformers.Idefics2Processor(images, words, image_seq_len=4), "<image>")


def idefics3(size: Size) -> Made:
    """Tiles in rows and columns, and the whole image."""
    words = _idefics_tokenizer()
    config = transformers.Idefics3Config(**_idefics_settings(words, size))
    images = transformers.Idefics3ImageProcessor(**_TILES)
    return Made(config, transformers.Idefics3Processor(images, words, image_seq_len=4), "<image>")


def smolvlm(size: Size) -> Made:
    """A smaller Idefics3."""
    words = _idefics_tokenizer()
    config = transformers.SmolVLMConfig(**_idefics_settings(words, size))
    images, video = transformers.SmolVLMImageProcessor(**_TILES), transformers.SmolVLMVideoProcessor()
    return Made(config, transformers.SmolVLMProcessor(images, words, video, image_seq_len=4), "<image>")


def internvl(size: Size) -> Made:
    """Tiles and a thumbnail, four patches merged into one."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(names)
    config = transformers.InternVLConfig(
        vision_config=tower_settings(size, image_size=(32, 32), patch_size=(8, 8)),
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    video = transformers.InternVLVideoProcessor(size={"height": 32, "width": 32})
    return Made(config, transformers.InternVLProcessor(images, words, video, image_seq_length=4), "<IMG_CONTEXT>")


def aya_vision(size: Size) -> Made:
    """Tiles and a thumbnail; a language model with sliding-window and full layers."""
    words = tokenizer({}, ("<image>", *_AYA))
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        text_config=transformers.Cohere2Config(**_sliding(words, size), logit_scale=1.0),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    processor = transformers.AyaVisionProcessor(images, words, patch_size=8, img_size=32, downsample_factor=2)
    return Made(config, processor, "<image>")


def cohere2_vision(size: Size) -> Made:
    """Tiles with a separator token; a language model with sliding-window and full layers."""
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    words = tokenizer(named)
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        text_config=transformers.Cohere2Config(**_sliding(words, size, tie_word_embeddings=True), logit_scale=1.0),
        image_token_id=words.image_token_id,
        downsample_factor=2,
        alignment_intermediate_size=2 * size.width,
        tie_word_embeddings=True,  # as published, and required by vLLM
    )
    images = transformers.Cohere2VisionImageProcessor(size={"height": 32, "width": 32}, max_patches=4, patch_size=2)
    return Made(config, transformers.Cohere2VisionProcessor(images, words), "<|IMG_PATCH|>")


def ovis2(size: Size) -> Made:
    """Visual words: features are mixtures of rows of an embedding table."""
    indicators = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    words = tokenizer({}, ("<image>", "<IMG_ATOM>", *indicators))
    tower = tower_settings(size, vocab_size=64, hidden_stride=2, num_visual_indicator_tokens=5)
    text = transformers.Qwen2Config(**text_settings(words, size))
    config = transformers.Ovis2Config(
        vision_config=tower,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=words.convert_tokens_to_ids(list(indicators)),
        hidden_size=size.width,
        vocab_size=WORDS,
        tie_word_embeddings=False,
    )
    images = transformers.Ovis2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    return Made(config, transformers.Ovis2Processor(images, words, image_seq_length=4), "<image>")


def lfm2_vl(size: Size) -> Made:
    """Short convolutions and attention; any resolution, with tiles."""
    rows = tuple(f"<|img_row_{r}_col_{c}|>" for r in range(1, 5) for c in range(1, 5))
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    words = tokenizer(named, rows)
    kinds = (["conv", "full_attention"] * size.layers)[: size.layers]
    config = transformers.Lfm2VlConfig(
        vision_config=transformers.Siglip2VisionConfig(
            **{k: v for k, v in tower_settings(size).items() if k != "image_size"},
            num_patches=64,
            vision_use_head=False,
        ),
        text_config=transformers.Lfm2Config(
            **text_settings(words, size, tie_word_embeddings=True),
            layer_types=kinds,
            block_auto_adjust_ff_dim=False,
            conv_dim=size.width,
            block_dim=size.width,
        ),
        image_token_id=words.image_token_id,
        projector_hidden_size=2 * size.width,
        downsample_factor=2,
        tie_word_embeddings=True,  # as published, and required by vLLM
    )
    images = transformers.Lfm2VlImageProcessor(
        tile_size=32,
        size={"height": 32, "width": 32},
        encoder_patch_size=8,
        min_image_tokens=1,
        max_image_tokens=4,
        max_tiles=4,
        min_tiles=2,
        max_num_patches=64,
    )
    return Made(config, transformers.Lfm2VlProcessor(images, words), "<image>")


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    grid = tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    return tokenizer(named, ("<end_of_utterance>", "<global-img>", *grid))


_TILES: dict[str, Any] = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}


def _idefics_settings(words: PreTrainedTokenizerFast, size: Size) -> dict[str, Any]:
    return {
        "vision_config": tower_settings(size),
        "text_config": transformers.LlamaConfig(**text_settings(words, size)),
        "image_token_id": words.image_token_id,
        "scale_factor": 2,
    }


def _sliding(words: PreTrainedTokenizerFast, size: Size, **more: Any) -> dict[str, Any]:
    """The parameters of a language model with alternating sliding-window and full layers."""
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    return text_settings(words, size, sliding_window=size.window, layer_types=kinds, **more)


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (idefics2, idefics3, smolvlm, internvl, aya_vision, cohere2_vision, ovis2, lfm2_vl)
}
