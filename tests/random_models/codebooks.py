"""Architectures without a vision tower of the usual kind: codebooks of images, patches as tokens, images as output."""

from typing import Any

import transformers

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer


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
    codes = {"num_patches": 4, "projection_dim": size.width, "image_token_embed_dim": size.width}
    config = transformers.JanusConfig(
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        vision_config=transformers.JanusVisionConfig(**tower),
        vq_config=transformers.JanusVQVAEConfig(**_codes(), num_embeddings=16, **codes),
        image_token_id=words.image_token_id,
        tie_word_embeddings=False,
    )
    images = transformers.JanusImageProcessor(size={"height": 32, "width": 32}, min_size=8)
    return Made(config, transformers.JanusProcessor(images, words, num_image_tokens=16), "<image_placeholder>")


def chameleon(size: Size) -> Made:
    """Images as codes of a codebook, which are words of the language model; a separator after the prompt."""
    names = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>", "sep_token": "<reserved>"}
    codes = tuple(f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(i))}Z" for i in range(16))
    words = tokenizer(names, codes)
    config = transformers.ChameleonConfig(
        **text_settings(words, size),
        vq_config={**_codes(), "num_embeddings": 16, "resolution": 32},
        vocabulary_map=words.get_vocab(),
        image_token_id=words.image_token_id,
    )
    images = transformers.ChameleonImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return Made(config, transformers.ChameleonProcessor(images, words, image_seq_length=256), "<image>")


def emu3(size: Size) -> Made:
    """Images as codes of a codebook, which are words of the language model; rows of any length."""
    names = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    codes = tuple(f"<|visual token {i:06d}|>" for i in range(16))
    words = tokenizer(names, (*codes, "<|extra_200|>", "<|extra_204|>"))
    words.bos_token = "<user>"
    config = transformers.Emu3Config(
        text_config=text_settings(words, size, attention_dropout=0.0, bos_token_id=words.bos_token_id),
        vq_config={
            "codebook_size": 16,
            "embed_dim": 4,
            "latent_channels": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "hidden_size": 32,
            "attn_resolutions": [],
            "temporal_downsample_factor": 1,
        },
        vocabulary_map=words.get_vocab(),
        image_token_id=words.image_token_id,
    )
    images = transformers.Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=48 * 48)
    return Made(config, transformers.Emu3Processor(images, words), "<image>")


def fuyu(size: Size) -> Made:
    """Patches projected into the language model, a separator token for each row; no vision tower."""
    words = tokenizer({}, ("|SPEAKER|", "|NEWLINE|", "<0x00>", "<0x01>", "<0x02>", "<0x03>", "<0x04>"))
    words.bos_token = "<user>"
    text = text_settings(words, size)
    del text["num_key_value_heads"]
    config = transformers.FuyuConfig(
        text_config=text, patch_size=8, image_size=64, image_token_id=words.convert_tokens_to_ids("|SPEAKER|")
    )
    images = transformers.FuyuImageProcessor(size={"height": 64, "width": 64}, patch_size={"height": 8, "width": 8})
    return Made(config, transformers.FuyuProcessor(images, words), "|SPEAKER|")


def _codes() -> dict[str, Any]:
    return {
        "embed_dim": 8,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
    }


MAKERS: dict[str, Maker] = {make.__name__: make for make in (janus, chameleon, emu3, fuyu)}
