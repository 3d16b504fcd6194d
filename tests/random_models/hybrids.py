"""Architectures with caches of several kinds: an index of keys, state-space layers, layers without a cache."""

import transformers

from tests.random_models.common import Made, Maker, Size, text_settings, tokenizer, tower_settings
from tests.random_models.qwens import qwen3_5


def nemotron_h_omni(size: Size) -> Made:
    """State-space, attention and expert layers; a RADIO tower of any resolution."""
    names = {
        "image_token": "<image>",
        "video_token": "<video>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
    }
    words = tokenizer(names, ("<so_embedding>", "<so_start>", "<so_end>"))
    text = text_settings(words, size)
    del text["num_hidden_layers"]
    config = transformers.NemotronH_Omni_Reasoning_V3_Config(
        text_config={
            **text,
            "layers_block_type": ["linear_attention", "full_attention", "mlp", "moe"],
            "head_dim": size.width // 4,
            "ssm_state_size": 16,
            "mamba_num_heads": 4,
            "mamba_head_dim": size.width // 2,
            "n_groups": 2,
            "chunk_size": 16,
            "n_routed_experts": 4,
            "moe_intermediate_size": size.width,
            "moe_shared_expert_intermediate_size": size.width,
            "use_mamba_kernels": False,
        },
        vision_config={
            **tower_settings(size),
            "max_img_size": 128,
            "mlp_ratio": 2.0,
            "num_cls_tokens": 1,
            "num_registers": 1,
            "patch_dim": 3 * 8 * 8,
            "video_patch_dim": 2 * 3 * 8 * 8,
            "summary_idxs": [0],
            "video_temporal_patch_size": 2,
        },
        projector_hidden_size=size.width,
        vision_hidden_size=size.tower,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    images = transformers.NemotronH_Omni_Reasoning_V3ImageProcessor(
        patch_size=8, min_num_patches=16, max_num_patches=64
    )
    video = transformers.NemotronH_Omni_Reasoning_V3VideoProcessor(patch_size=8)
    sound = transformers.ParakeetFeatureExtractor()
    processor = transformers.NemotronH_Omni_Reasoning_V3Processor(images, video, words, sound)
    return Made(config, processor, "<image>")


def qwen4_exp(size: Size) -> Made:
    """Recurrent layers and attention with an index of keys, several residual streams, experts."""
    made = qwen3_5(size)
    config = made.config.to_dict()
    text = {name: value for name, value in config["text_config"].items() if name != "model_type"}
    own = {
        "layer_types": (["linear_attention", "indexed_attention", "linear_attention"] * size.layers)[: size.layers],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": size.width,
        "shared_expert_intermediate_size": size.width,
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4096,
        "indexer_compress_ratio": 1,
    }
    vision = {name: value for name, value in config["vision_config"].items() if name != "model_type"}
    ids = {name: value for name, value in config.items() if name.endswith("_token_id")}
    return made._replace(
        config=transformers.Qwen4ExpConfig(text_config={**text, **own}, vision_config=vision, **ids), published={}
    )


def glm5_next(size: Size) -> Made:
    """Recurrent layers and latent attention with an index of keys, several residual streams, experts."""
    names = {"image_token": "<|image|>", "video_token": "<|video|>"}
    words = tokenizer(names, ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"))
    config = transformers.Glm5NextConfig(
        text_config={
            **text_settings(words, size, num_key_value_heads=4),
            "moe_intermediate_size": size.width,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "v_head_dim": 16,
            "qk_nope_head_dim": 16,
            "mlp_layer_types": (["dense", "sparse"] * size.layers)[: size.layers],
            "layer_types": (["linear_attention", "indexed_attention"] * size.layers)[: size.layers],
            "indexer_types": ["full"] * size.layers,
            "index_topk": 4096,
            "index_head_dim": 16,
            "index_n_heads": 2,
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "hc_mult": 2,
        },
        vision_config={
            "depth": 2,
            "hidden_size": size.tower,
            "num_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "out_hidden_size": size.width,
            "intermediate_size": 2 * size.tower,
            "projection_intermediate_size": 2 * size.width,
        },
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_start_token_id=words.convert_tokens_to_ids("<|begin_of_image|>"),
        image_end_token_id=words.convert_tokens_to_ids("<|end_of_image|>"),
    )
    images = transformers.Glm5NextImageProcessor(patch_size=8, min_image_tokens=1, max_image_tokens=16)
    video = transformers.Glm5NextVideoProcessor(patch_size=8)
    slot = "<|begin_of_image|><|image|><|end_of_image|>"
    return Made(config, transformers.Glm5NextProcessor(images, words, video), slot)


MAKERS: dict[str, Maker] = {make.__name__: make for make in (nemotron_h_omni, qwen4_exp, glm5_next)}
