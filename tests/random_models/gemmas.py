"""Gemma with images: bidirectional attention within an image, sliding-window and full layers."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer, tower_settings

_LINES = tuple("\n" * count for count in (1, 2, 3, 4))
"""Tokens that vLLM looks up."""
_MOST_TOKENS = 70
"""Of an image. vLLM reads the number from the config, under the names of published configs."""


def gemma3(size: Size) -> Made:
    """Bidirectional attention within an image; sliding-window and full layers."""
    words, images, config = _gemma3(size, transformers.Gemma3Config)
    return Made(config, transformers.Gemma3Processor(images, words, image_seq_length=4), "<start_of_image>")


def shieldgemma2(size: Size) -> Made:
    """Gemma 3 under a processor for safety policies."""
    words, images, config = _gemma3(size, transformers.ShieldGemma2Config)
    return Made(config, transformers.ShieldGemma2Processor(images, words, image_seq_length=4), "<start_of_image>")


def gemma4(size: Size) -> Made:
    """Any resolution, patches pooled; embeddings of each layer; two head sizes."""
    words = _gemma4_tokenizer()
    tower = tower_settings(size, pooling_kernel_size=2, position_embedding_size=64, head_dim=size.tower // 2)
    tower |= {"num_key_value_heads": 2, "default_output_length": _MOST_TOKENS}
    text = _gemma4_text(words, size) | {
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 320,
    }
    config = transformers.Gemma4Config(text_config=text, vision_config=tower, **_gemma4_ids(words))
    images = transformers.Gemma4ImageProcessor(patch_size=8, pooling_kernel_size=2, max_soft_tokens=_MOST_TOKENS)
    return _gemma4(config, words, images, transformers.Gemma4Processor, transformers.Gemma4VideoProcessor)


def gemma4_unified(size: Size) -> Made:
    """Gemma 4 without a vision tower: patches are projected into the language model."""
    words = _gemma4_tokenizer()
    tower = {"patch_size": 8, "pooling_kernel_size": 2, "num_soft_tokens": _MOST_TOKENS}
    config = transformers.Gemma4UnifiedConfig(
        text_config=_gemma4_text(words, size), vision_config=tower, **_gemma4_ids(words)
    )
    images = transformers.Gemma4UnifiedImageProcessor(patch_size=8, pooling_kernel_size=2, max_soft_tokens=_MOST_TOKENS)
    kinds = transformers.Gemma4UnifiedProcessor, transformers.Gemma4UnifiedVideoProcessor
    return _gemma4(config, words, images, *kinds)


def _gemma3(size: Size, kind: Any) -> tuple[PreTrainedTokenizerFast, Any, Any]:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(named, unused=_LINES)
    text = text_settings(words, size, query_pre_attn_scalar=size.width // 4, **_windows(size))
    config = kind(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size)),
        text_config=transformers.Gemma3TextConfig(**text),
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    return words, transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}), config


def _windows(size: Size) -> dict[str, Any]:
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    return {"head_dim": size.width // 4, "sliding_window": size.window, "layer_types": kinds}


def _gemma4_tokenizer() -> PreTrainedTokenizerFast:
    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    return tokenizer(named, ("<|video|>",), unused=_LINES)


def _gemma4_text(words: PreTrainedTokenizerFast, size: Size) -> dict[str, Any]:
    kinds = _windows(size) | {"layer_types": (["sliding_attention"] * (size.layers - 1)) + ["full_attention"]}
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    }
    # As published, and required by vLLM, which reads the embeddings of token 0 in each layer where an image stands.
    return text_settings(words, size, rope_parameters=rope, pad_token_id=0, **kinds)


def _gemma4_ids(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = ("image_token", "audio_token", "boi_token", "eoi_token", "boa_token")
    ids = {f"{name}_id": words.convert_tokens_to_ids(getattr(words, name)) for name in names}
    return ids | {"video_token_id": words.convert_tokens_to_ids("<|video|>"), "eoa_token_index": words.eoa_token_id}


def _gemma4(config: Any, words: PreTrainedTokenizerFast, images: Any, kind: Any, video: Any) -> Made:
    sound = transformers.Gemma4AudioFeatureExtractor()
    processor = kind(sound, images, words, video(patch_size=8, pooling_kernel_size=2), image_seq_length=_MOST_TOKENS)
    return Made(config, processor, "<|image|>")


MAKERS: dict[str, Maker] = {make.__name__: make for make in (gemma3, shieldgemma2, gemma4, gemma4_unified)}
