"""Everything else."""

import transformers

from icl.models.hf.random.common import Made, Maker, Size, text_settings, tokenizer, tower_settings


def gemma3(size: Size) -> Made:
    """Tokens of a picture see each other; sliding and full layers."""
    words = tokenizer({"image_token": "<image_soft_token>", "boi_token": "<soi>", "eoi_token": "<eoi>"})
    kinds = (["sliding_attention", "full_attention"] * size.layers)[: size.layers]
    text = text_settings(
        words,
        size,
        head_dim=size.width // 4,
        query_pre_attn_scalar=size.width // 4,
        sliding_window=size.window,
        layer_types=kinds,
    )
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size)),
        text_config=transformers.Gemma3TextConfig(**text),
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    images = transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    return config, transformers.Gemma3Processor(images, words, image_seq_length=4), "<soi>"


MAKERS: dict[str, Maker] = {make.__name__: make for make in (gemma3,)}
