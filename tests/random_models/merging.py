"""Architectures of any resolution whose vision tower merges patches into one token, as in Qwen-VL."""

from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast

from tests.random_models.common import Made, Maker, Size, merging_tower, sections, text_settings, tokenizer

_PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


def cohere_compass(size: Size) -> Made:
    """Features of inner vision layers added in later layers (deepstack); sliding-window and full layers."""
    names = {name: token.upper() for name, token in _NAMES.items()}
    words = tokenizer(names)
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    heads = {"head_dim": size.width // 4, "sliding_window": size.window, "layer_types": kinds, "logit_scale": 1.0}
    rope = {kind: _ROPE | {"mrope_section": sections(size, 32, 32, 16)} for kind in set(kinds)}
    config = transformers.CohereCompassConfig(
        text_config=text_settings(words, size, rope_parameters=rope, **heads),
        vision_config=_tower(size, num_position_embeddings=64, deepstack_visual_indexes=[0]),
        **_ids(words, names),
    )
    images = transformers.CohereCompassImageProcessor(patch_size=8, size=_PIXELS)
    video = transformers.CohereCompassVideoProcessor(patch_size=8)
    return Made(config, transformers.CohereCompassProcessor(images, words, video), _SLOT.upper())


def cosmos3_edge(size: Size) -> Made:
    """A SigLIP tower of any resolution, M-RoPE."""
    words = tokenizer(_NAMES)
    rope = _ROPE | {"mrope_section": sections(size, 32, 32, 16)}
    config = transformers.Cosmos3EdgeConfig(
        text_config=text_settings(words, size, head_dim=size.width // 4, rope_parameters=rope),
        vision_config={
            "hidden_size": size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
            "num_patches": 16,
        },
        projector_hidden_size=2 * size.width,
        **_ids(words, _NAMES),
    )
    images = transformers.Cosmos3EdgeImageProcessor(patch_size=8, size=_PIXELS)
    video = transformers.Cosmos3EdgeVideoProcessor(patch_size=8)
    return Made(config, transformers.Cosmos3EdgeProcessor(images, words, video), _SLOT)


def exaone4_5(size: Size) -> Made:
    """Windowed attention and grouped heads in the vision tower; sliding-window and full layers."""
    words = tokenizer(_NAMES)
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    config = transformers.Exaone4_5_Config(
        text_config=transformers.Exaone4Config(
            **text_settings(words, size), sliding_window=size.window, layer_types=kinds, sliding_window_pattern=2
        ),
        vision_config=_tower(size, patch=7, window_size=28, fullatt_block_indexes=[1], num_key_value_heads=1),
        **_ids(words, ("image_token", "video_token")),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=7, min_pixels=28 * 28, max_pixels=84 * 84)
    video = transformers.Qwen2VLVideoProcessor(patch_size=7)
    return Made(config, transformers.Exaone4_5_Processor(images, words, video), _SLOT)


def hyperclovax_vision_v2(size: Size) -> Made:
    """The vision tower of Qwen2.5-VL with plain positions; scaled residuals."""
    words = tokenizer(_NAMES)
    config = transformers.HyperCLOVAXVisionV2Config(
        text_config=transformers.HyperCLOVAXConfig(**text_settings(words, size), head_dim=size.width // 4),
        vision_config=_tower(size, patch=7, window_size=28, fullatt_block_indexes=[1]),
        tie_word_embeddings=False,
        **_ids(words, ("image_token", "video_token")),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=7, min_pixels=28 * 28, max_pixels=84 * 84)
    video = transformers.Qwen2VLVideoProcessor(patch_size=7)
    return Made(config, transformers.HyperCLOVAXVisionV2Processor(images, words, video), _SLOT)


def minimax_m3_vl(size: Size) -> Made:
    """A mixture of experts with a shared expert; the processor writes start and end tokens itself."""
    names = ("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[")
    words = tokenizer({}, names)
    experts = {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "dense_intermediate_size": 2 * size.width,
        "shared_intermediate_size": size.width,
        "mlp_layer_types": (["dense", "sparse"] * size.layers)[: size.layers],
        "rotary_dim": size.width // 8,
    }
    text = text_settings(words, size, head_dim=size.width // 4, rope_parameters=_ROPE, **experts)
    config = transformers.MiniMaxM3VLConfig(
        text_config=text | {"layer_types": ["full_attention"] * size.layers},
        vision_config={
            "hidden_size": 2 * size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 8,
            "image_size": 96,
        },
        projector_hidden_size=size.width,
        merged_hidden_size=4 * size.width,
        image_token_index=words.convert_tokens_to_ids(names[0]),
        video_token_index=words.convert_tokens_to_ids(names[1]),
    )
    images = transformers.MiniMaxM3VLImageProcessor(patch_size=8, size=_PIXELS)
    video = transformers.MiniMaxM3VLVideoProcessor(patch_size=8)
    return Made(config, transformers.MiniMaxM3VLProcessor(images, words, video), names[0])


def muse_glimmer(size: Size) -> Made:
    """Windowed and full attention in the vision tower; layers with a window and layers without positions."""
    names = ("<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>")
    more = ("<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>")
    words = tokenizer({}, (*names, *more))
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    config = transformers.MuseGlimmerConfig(
        text_config=text_settings(
            words,
            size,
            head_dim=size.width // 4,
            rope_parameters=_ROPE,
            sliding_window=size.window,
            layer_types=kinds,
            layer_rope_theta=([10000.0, 0] * size.layers)[: size.layers],
        ),
        vision_config=_muse_tower(size),
        out_hidden_size=size.width,
        projector_hidden_size=size.width,
        image_token_id=words.convert_tokens_to_ids(names[0]),
        video_token_id=words.convert_tokens_to_ids(names[3]),
    )
    images = transformers.MuseGlimmerImageProcessor(patch_size=8, max_image_tokens=16)
    video = transformers.MuseGlimmerVideoProcessor(patch_size=8)
    return Made(config, transformers.MuseGlimmerProcessor(images, video, words), names[0])


def hunyuan_vl(size: Size) -> Made:
    """Any resolution; a separator token for each row; positions of four axes."""
    names = {"image_token": "<img>", "image_start_token": "<img_start>", "image_end_token": "<img_end>"}
    words = tokenizer(names, ("<img_newline>",))
    rope = _ROPE | {"mrope_section": sections(size, 32, 32, 32, 32)}
    config = transformers.HunYuanVLConfig(
        text_config=text_settings(words, size, head_dim=size.width // 4, rope_parameters=rope),
        vision_config={
            "hidden_size": size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "out_hidden_size": size.width,
            "text_hidden_size": size.width,
            "patch_size": 8,
            "max_image_size": 96,
            "min_image_size": 32,
        },
        tie_word_embeddings=False,
        image_token_id=words.image_token_id,
        im_start_id=words.image_start_token_id,
        im_end_id=words.image_end_token_id,
        im_newline_id=words.convert_tokens_to_ids("<img_newline>"),
    )
    images = transformers.HunYuanVLImageProcessor(patch_size=8, size=_PIXELS)
    return Made(config, transformers.HunYuanVLProcessor(images, words), "<img_start><img><img_end>")


def _tower(size: Size, patch: int = 8, **more: Any) -> dict[str, Any]:
    return merging_tower(size, patch, intermediate_size=2 * size.tower, **more)


def _muse_tower(size: Size) -> dict[str, Any]:
    return {
        "hidden_size": size.tower,
        "intermediate_size": 2 * size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "pos_emb_height": 4,
        "pos_emb_width": 4,
        "max_position_embeddings": 64,
        "layer_types": ["window_attention", "full_attention"],
    }


def _ids(words: PreTrainedTokenizerFast, names: Any) -> dict[str, int]:
    return {f"{name}_id": words.convert_tokens_to_ids(getattr(words, name)) for name in names}


MAKERS: dict[str, Maker] = {
    make.__name__: make
    for make in (
        cohere_compass,
        cosmos3_edge,
        exaone4_5,
        hyperclovax_vision_v2,
        minimax_m3_vl,
        muse_glimmer,
        hunyuan_vl,
    )
}
