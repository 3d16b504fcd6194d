"""Architectures that also generate images: a vision tower or a codebook in front of a language model."""

import transformers

from experiments.architectures.random.common import Made, Maker, Size, text_settings, tokenizer


def janus(size: Size) -> Made:
    """A vision tower to read images, a codebook to write them; the processor does not name its image token id."""
    words = tokenizer({"image_token": "<image_placeholder>", "boi_token": "<begin>", "eoi_token": "<end>"})
    tower = {
        "hidden_size": size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": size.width,
        "mlp_ratio": 2.0,
        "depth": 2,
        "num_image_tokens": 16,
    }
    codes = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "num_patches": 4,
        "projection_dim": size.width,
        "image_token_embed_dim": size.width,
    }
    config = transformers.JanusConfig(
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        vision_config=transformers.JanusVisionConfig(**tower),
        vq_config=transformers.JanusVQVAEConfig(**codes),
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.JanusImageProcessor(size={"height": 32, "width": 32}, min_size=8)
    return Made(config, transformers.JanusProcessor(images, words, num_image_tokens=16), "<image_placeholder>")


MAKERS: dict[str, Maker] = {make.__name__: make for make in (janus,)}
