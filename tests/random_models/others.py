"""Further architectures."""

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


def video_llama_3(size: Size) -> Made:
    """Any resolution; the class always returns the logits of all tokens."""
    words = tokenizer({"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})
    tower = {k: v for k, v in tower_settings(size).items() if k != "image_size"}
    config = transformers.VideoLlama3Config(
        vision_config=tower,
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    images = transformers.VideoLlama3ImageProcessor(patch_size=8, merge_size=2, size=pixels)
    video = transformers.VideoLlama3VideoProcessor(patch_size=8)
    return Made(config, transformers.VideoLlama3Processor(images, words, video), "<|image_pad|>")


def lighton_ocr(size: Size) -> Made:
    """A vision tower of any resolution, four patches merged into one, no separator tokens."""
    names = {"image_token": "<img>", "image_break_token": "<img_break>", "image_end_token": "<img_end>"}
    words = tokenizer(names)
    heads = {"head_dim": size.tower // 2, "num_attention_heads": 2}
    config = transformers.LightOnOcrConfig(
        vision_config=transformers.PixtralVisionConfig(**tower_settings(size, image_size=64, **heads)),
        text_config=transformers.Qwen3Config(**text_settings(words, size, head_dim=size.width // 4)),
        image_token_id=words.image_token_id,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    images = transformers.PixtralImageProcessor(patch_size={"height": 16, "width": 16}, size={"longest_edge": 64})
    return Made(config, transformers.LightOnOcrProcessor(images, words, patch_size=8, spatial_merge_size=2), "<img>")


def paddleocr_vl(size: Size) -> Made:
    """Any resolution, four patches merged into one by a separate projector, M-RoPE."""
    names = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|IMAGE_START|>",
        "vision_end_token": "<|IMAGE_END|>",
    }
    words = tokenizer(names)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections(size, 32, 32, 16)}
    config = transformers.PaddleOCRVLConfig(
        vision_config=tower_settings(size),
        text_config=text_settings(words, size, head_dim=size.width // 4, rope_parameters=rope),
        tie_word_embeddings=False,
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    images = transformers.PaddleOCRVLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96)
    slot = "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    return Made(config, transformers.PaddleOCRVLProcessor(images, words), slot)


def blip_2(size: Size) -> Made:
    """A class whose language model is hidden behind it, without a KV cache; reported, not run."""
    words = tokenizer({"image_token": "<image>"})
    text = text_settings(words, size)
    config = transformers.Blip2Config(
        vision_config=tower_settings(size),
        qformer_config={
            "hidden_size": size.tower,
            "intermediate_size": size.tower,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "encoder_hidden_size": size.tower,
            "vocab_size": 8,
        },
        text_config=transformers.LlamaConfig(**text).to_dict(),
        image_token_index=words.image_token_id,
        image_text_hidden_size=size.tower,
        num_query_tokens=4,
    )
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    return Made(config, transformers.Blip2Processor(images, words, num_query_tokens=4), "<image>")


def kosmos_2(size: Size) -> Made:
    """One image before the text, so no demonstrations with images; reported, not run."""
    words = tokenizer({"unk_token": "<unk>"})
    text = {
        "vocab_size": 512,
        "embed_dim": size.width,
        "layers": size.layers,
        "ffn_dim": 2 * size.width,
        "attention_heads": 4,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
    }
    config = transformers.Kosmos2Config(
        text_config=text, vision_config=tower_settings(size, image_size=28, patch_size=7), latent_query_num=4
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return Made(config, transformers.Kosmos2Processor(images, words, num_patch_index_tokens=16), "<image>")


MAKERS: dict[str, Maker] = {
    make.__name__: make for make in (video_llama_3, lighton_ocr, paddleocr_vl, blip_2, kosmos_2)
}
