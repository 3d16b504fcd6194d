"""Builders of classes without a row in the table of architectures: a tower of timm, models that also speak or read text
only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from tests.random_models.common import WORDS, Made, Maker, Size, merging_tower, sections, text_settings, tokenizer


def gemma3n(size: Size) -> Made:
    """A convolutional tower of timm; embeddings of each layer; several residual streams; shared keys and values."""
    # In the order of their ids: the vocabulary of images starts at the end of an image, that of sounds likewise.
    named = {
        "boi_token": "<start_of_image>",
        "boa_token": "<start_of_audio>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
    }
    words = tokenizer(named, unused=_TEXT_TOKENS)
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items()}
    images_from, sounds_from = ids["eoi_token_id"], ids["eoa_token_id"]
    text = text_settings(words, size, vocab_size=len(words), vocab_size_per_layer_input=images_from)
    config = transformers.Gemma3nConfig(
        text_config={
            **text,
            "intermediate_size": [2 * size.width] * size.layers,
            "head_dim": size.width // 4,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "layer_types": (["sliding_attention", "full_attention"] * size.layers)[: size.layers],
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0] * size.layers,
        },
        vision_config={"vocab_offset": images_from, "vocab_size": 2, "model_args": {"channel_multiplier": 0.125}},
        audio_config={
            "vocab_offset": sounds_from,
            "vocab_size": 2,
            "hidden_size": 32,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [8, 8],
        },
        **ids,
    )
    images = transformers.SiglipImageProcessor(
        size={"height": 256, "width": 256}
    )  # published: 768, which takes a CPU seconds
    sound = transformers.Gemma3nAudioFeatureExtractor()
    return Made(config, transformers.Gemma3nProcessor(sound, images, words), "<start_of_image>")


_TEXT_TOKENS = ("<bos>", "<start_of_turn>", "<end_of_turn>", *("\n" * count for count in range(1, 5)))
"""Tokens of the twin with ids below those of images; those that a twin adds later would have ids above."""


def qwen2_5_omni(size: Size) -> Made:
    """A model that reads images (the thinker) inside one that also speaks."""
    words, ids = _omni_tokenizer("index")
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": sections(size, 32, 32, 16)}
    tower = merging_tower(size, 14, intermediate_size=2 * size.tower, window_size=112, fullatt_block_indexes=[1])
    config = transformers.Qwen2_5OmniConfig(
        thinker_config={
            "text_config": text_settings(words, size, rope_parameters=rope),
            "vision_config": tower,
            "audio_config": {**_SOUND, "output_dim": size.width},
            **ids,
        },
        talker_config={
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "intermediate_size": 64,
            "embedding_size": size.width,
        },
        enable_audio_output=False,
    )
    return _omni(config, words, transformers.Qwen2_5OmniProcessor, 14)


def qwen3_omni_moe(size: Size) -> Made:
    """Qwen2.5-Omni with experts, and features of inner vision layers added in later layers."""
    words, ids = _omni_tokenizer("id")
    rope = {
        "rope_type": "default",
        "rope_theta": 1000000.0,
        "mrope_interleaved": True,
        "mrope_section": sections(size, 32, 32, 16),
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": size.width // 2}
    tower = merging_tower(size, 16, intermediate_size=2 * size.tower, deepstack_visual_indexes=[0])
    config = transformers.Qwen3OmniMoeConfig(
        thinker_config={
            "text_config": text_settings(words, size, head_dim=size.width // 4, rope_parameters=rope, **experts),
            "vision_config": tower,
            "audio_config": {**_SOUND, "output_dim": size.width, "downsample_hidden_size": 16},
            **ids,
        },
        enable_audio_output=False,
    )
    return _omni(config, words, transformers.Qwen3OmniMoeProcessor, 16)


_SOUND = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}


def _omni_tokenizer(ending: str) -> tuple[Any, dict[str, int]]:
    """The tokenizer, and the ids of the thinker's config. ending: of their names."""
    named = {
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_token": "<|AUDIO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    words = tokenizer(named)
    places = {f"{name}_token_{ending}": f"{name}_token" for name in ("image", "video", "audio")}
    places |= {f"{name}_{way}_token_id": f"{name}_{short}_token" for name, way, short in _OMNI_MARKERS}
    return words, {key: words.convert_tokens_to_ids(named[name]) for key, name in places.items()}


_OMNI_MARKERS = (
    ("vision", "start", "bos"),
    ("vision", "end", "eos"),
    ("audio", "start", "bos"),
    ("audio", "end", "eos"),
)
"""Names of markers in the config and in the tokenizer."""


def _omni(config: Any, words: Any, kind: Any, patch: int) -> Made:
    images = transformers.Qwen2VLImageProcessor(patch_size=patch, min_pixels=3136, max_pixels=12845056)
    video: Any = transformers.Qwen2VLVideoProcessor(patch_size=patch)
    listener = transformers.WhisperFeatureExtractor(feature_size=128)
    return Made(config, kind(images, video, listener, words), "<|vision_bos|><|IMAGE|><|vision_eos|>")


def florence2(size: Size) -> Made:
    """An encoder for prompts and a decoder for answers; reported, not run."""
    words = tokenizer({"image_token": "<image>"})
    text = {
        "vocab_size": WORDS,
        "d_model": size.width,
        "encoder_layers": size.layers,
        "decoder_layers": size.layers,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * size.width,
        "decoder_ffn_dim": 2 * size.width,
    }
    config = transformers.Florence2Config(
        text_config=transformers.BartConfig(**text).to_dict(),
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (16, 16, 32, 32),
            "num_heads": (1, 1, 2, 2),
            "num_groups": (1, 1, 2, 2),
            "projection_dim": size.width,
        },
        image_token_id=words.image_token_id,
    )
    images = transformers.CLIPImageProcessor(size={"height": 768, "width": 768}, do_center_crop=False)
    return Made(config, transformers.Florence2Processor(images, words), "<image>")


@dataclass
class Words:
    """A tokenizer in the place of a processor."""

    tokenizer: Any
    chat_template: str | None = None

    def save_pretrained(self, folder: Path) -> None:
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer.save_pretrained(folder)


def llama(size: Size) -> Made:
    """A language model that reads text only."""
    words = tokenizer({})
    return Made(transformers.LlamaConfig(**text_settings(words, size)), Words(words), "")


MAKERS: dict[str, Maker] = {make.__name__: make for make in (gemma3n, qwen2_5_omni, qwen3_omni_moe, florence2, llama)}
