"""Architectures whose language model attends to images by cross-attention."""

import transformers

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer


def mllama(size: Size) -> Made:
    """Cross-attention layers, whose keys and values are those of the images; tiles; a mask of images for each token."""
    words = tokenizer({"image_token": "<|image|>"}, ("<|python_tag|>",))
    words.bos_token = "<user>"  # the processor adds one to a prompt without it
    text = text_settings(words, size, cross_attention_layers=[1], bos_token_id=words.bos_token_id)
    ratios = [[1, 1], [1, 2], [2, 1]]
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 2 * size.tower,
            "image_size": 28,
            "patch_size": 7,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": ratios,
        },
        text_config=text,
        image_token_index=words.image_token_id,
    )
    images = transformers.MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=2)
    return Made(config, transformers.MllamaProcessor(images, words), "<|image|>")


def idefics(size: Size) -> Made:
    """Gated cross-attention before the layers, as in Flamingo and OpenFlamingo; a mask of images for each token."""
    words = tokenizer({"image_token": "<image>"}, ("<fake_token_around_image>",))
    words.bos_token = "<user>"
    settings = text_settings(words, size, num_key_value_heads=4)
    del settings["num_key_value_heads"]
    config = transformers.IdeficsConfig(
        **settings,
        additional_vocab_size=0,
        cross_layer_interval=1,
        alpha_initializer="ones",
        vision_config={
            "embed_dim": size.tower,
            "intermediate_size": 2 * size.tower,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
        },
        perceiver_config={"use_resampler": False},
    )
    images = transformers.IdeficsImageProcessor(size={"height": 28, "width": 28})
    return Made(config, transformers.IdeficsProcessor(images, words, image_size=28), "<image>")


MAKERS: dict[str, Maker] = {make.__name__: make for make in (mllama, idefics)}
