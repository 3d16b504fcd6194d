"""Architectures that read an image as a whole and in crops."""

from typing import Any

import transformers

from tests.random_models.common import (
    Made,
    Maker,
    Size,
    sections,
    text_settings,
    tokenizer,
    tower_settings,
)


def aria(size: Size) -> Made:
    """A mixture of experts; a projector with a fixed number of queries; padded images with a mask."""
    words = tokenizer({"image_token": "<|img|>"})
    config = transformers.AriaConfig(
        vision_config=transformers.Idefics3VisionConfig(**tower_settings(size, image_size=980, patch_size=140)),
        text_config=transformers.AriaTextConfig(
            **text_settings(words, size, intermediate_size=size.width),
            head_dim=size.width // 4,
            moe_num_experts=4,
            moe_topk=2,
            moe_num_shared_experts=1,
        ),
        projector_patch_to_query_dict={49: 4},
        image_token_index=words.image_token_id,
        tie_word_embeddings=False,
    )
    processor = transformers.AriaProcessor(transformers.AriaImageProcessor(), words, size_conversion={980: 4})
    return Made(config, processor, "<|img|>")


def llama4(size: Size) -> Made:
    """Tiles and a thumbnail; chunked and full attention; experts; layers without positions."""
    names = ("<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>")
    words = tokenizer({}, ("<|image|>", *names))
    config = transformers.Llama4Config(
        vision_config={
            **tower_settings(size),
            "intermediate_size": 4 * size.tower,
            "vision_output_dim": size.tower,
            "projector_input_dim": size.tower,
            "projector_output_dim": size.tower,
        },
        text_config={
            **text_settings(words, size, head_dim=size.width // 4),
            "intermediate_size_mlp": 2 * size.width,
            "num_local_experts": 4,
            "attention_chunk_size": 8192,
            "no_rope_layers": ([1, 0] * size.layers)[: size.layers],
            "layer_types": (["chunked_attention", "full_attention"] * size.layers)[: size.layers],
        },
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
        boi_token_index=words.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=words.convert_tokens_to_ids("<|image_end|>"),
    )
    images = transformers.Llama4ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    return Made(config, transformers.Llama4Processor(images, words, patch_size=8), "<|image|>")


def qianfan_ocr(size: Size) -> Made:
    """InternVL with layer scales; the placeholder of the template is another token than that of the image."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(names, ("<image>",))
    config = transformers.QianfanOCRConfig(
        vision_config=tower_settings(size, image_size=[32, 32], patch_size=[8, 8]),
        text_config=transformers.Qwen3Config(**text_settings(words, size, head_dim=size.width // 4)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    return Made(config, transformers.QianfanOCRProcessor(images, words, image_seq_length=4), "<image>")


def step3p7(size: Size) -> Made:
    """Crops and the whole image, each between tokens of its own; sliding-window layers; experts."""
    names = ("<im_patch>", "<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>")
    words = tokenizer({}, names)
    config = transformers.Step3p7Config(
        vision_config={
            **tower_settings(size, image_size=32, patch_size=4),
            "mlp_ratio": 2.0,
            "max_position_embeddings": 64,
        },
        text_config={
            **text_settings(words, size, head_dim=size.width // 4),
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": size.width,
            "share_expert_dim": size.width,
            "mlp_layer_types": (["dense", "sparse"] * size.layers)[: size.layers],
            "layer_types": (["sliding_attention", "full_attention"] * size.layers)[: size.layers],
            "sliding_window": size.window,
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 10000.0}
                for kind in ("sliding_attention", "full_attention")
            },
            "num_sliding_attention_heads": 4,
            "query_pre_attn_scalar": size.width // 4,
        },
        image_token_id=words.convert_tokens_to_ids("<im_patch>"),
    )
    images = transformers.Step3p7ImageProcessor(
        size={"height": 32, "width": 32}, patch_size=16, vision_patch_size=4, max_image_size=128
    )
    return Made(config, transformers.Step3p7Processor(images, words), "<im_patch>")


def molmo2(size: Size) -> Made:
    """Crops with attention pooling; features of two vision layers; bidirectional attention within an image."""
    patches = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    words = tokenizer({"image_token": "<|image|>", "video_token": "<|video|>"}, (*patches, "<im_low>"))
    words.bos_token = "<user>"  # the processor adds one to a prompt without it
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": size.tower // 2}
    ids = {name: words.convert_tokens_to_ids(token) for name, token in _MOLMO.items()}
    tower = tower_settings(size, image_size=[32, 32], num_position_embeddings=16, **heads)
    config = transformers.Molmo2Config(
        vision_config=tower,
        adapter_config={
            "hidden_size": size.tower,
            "vision_feature_layer": [1, 0],
            "intermediate_size": 2 * size.tower,
            "text_hidden_size": size.width,
            **heads,
        },
        text_config={
            **text_settings(words, size, head_dim=size.width // 4),
            "additional_vocab_size": 16,
            "rope_scaling_layers": list(range(size.layers)),
        },
        **ids,
    )
    images = transformers.Molmo2ImageProcessor(
        size={"height": 32, "width": 32}, patch_size=8, max_crops=4, overlap_margins=[1, 1]
    )
    video = transformers.Molmo2VideoProcessor(size={"height": 32, "width": 32}, patch_size=8)
    return Made(config, transformers.Molmo2Processor(images, video, words), "<|image|>")


_MOLMO = {
    "image_start_token_id": "<im_start>",
    "low_res_image_start_token_id": "<low_res_im_start>",
    "image_end_token_id": "<im_end>",
    "image_patch_id": "<im_patch>",
    "frame_start_token_id": "<frame_start>",
    "frame_end_token_id": "<frame_end>",
}


def minicpmv4_6(size: Size) -> Made:
    """Slices of any resolution, merged 16 to 1; image numbers in the text; recurrent layers and attention."""
    return _minicpm(size, transformers.MiniCPMV4_6Config, transformers.MiniCPMV4_6Processor)


def minicpmv4_7(size: Size) -> Made:
    """MiniCPM-V 4.6 with positions of its own."""
    return _minicpm(size, transformers.MiniCPMV4_7Config, transformers.MiniCPMV4_7Processor)


def _minicpm(size: Size, kind: Any, processor: Any) -> Made:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    words = tokenizer(named)
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_interleaved": True,
        "mrope_section": sections(size, 32, 64, 64),
    }
    kinds = (["linear_attention", "full_attention", "linear_attention"] * size.layers)[: size.layers]
    text = transformers.Qwen3_5TextConfig(
        **text_settings(words, size),
        head_dim=size.width // 4,
        rope_parameters=rope,
        layer_types=kinds,
        linear_key_head_dim=size.width // 2,
        linear_value_head_dim=size.width // 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    config = kind(
        text_config=text,
        vision_config=tower_settings(size, image_size=64, patch_size=4, insert_layer_id=0),
        insert_layer_id=0,
        image_size=32,
        patch_size=4,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    pixels = {"patch_size": 4, "scale_resolution": 32, "max_slice_nums": 4}
    images = transformers.MiniCPMV4_6ImageProcessor(**pixels)
    video = transformers.MiniCPMV4_6VideoProcessor(**pixels)
    return Made(config, processor(images, video, words), "<|image_pad|>")


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (aria, llama4, qianfan_ocr, step3p7, molmo2, minicpmv4_6, minicpmv4_7)
}
