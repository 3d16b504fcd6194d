"""Parameters equal the published ones. Weights, KV cache, prefills and towers take what real models allocate."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import tiny_models
import torch
from live_storages import LiveStorages
from published_configs import qwen

from icl.errors import ModelError
from icl.models.hf.memory import (
    CONTEXT_BYTES,
    GIB,
    RESERVED_FRACTION,
    ModelShape,
    decode_copies,
    decoder_shape,
    kv_bytes_per_token,
    model_shape,
    prefill_bytes,
    row_bytes,
    tower_sizes,
    weights_bytes,
)
from icl.models.hf.model import HF


@lru_cache
def shape(name: str) -> ModelShape:
    if name == "LLaVA":
        from transformers import LlavaConfig

        return model_shape(LlavaConfig())
    return model_shape(qwen(name))


@pytest.mark.parametrize(
    ("name", "parameters", "kv_kib"),
    [("7B", 8_292_166_656, 56), ("32B", 33_452_718_336, 256), ("72B", 73_410_777_344, 320)],
)
def test_parameters_and_kv_cache_are_those_of_the_published_checkpoints(name, parameters, kv_kib) -> None:
    assert shape(name).parameters == parameters
    assert kv_bytes_per_token(shape(name)) == kv_kib * 1024


def rows(name: str, quantize: str, gigabytes: int, copies: float) -> int | None:
    """Rows of 8 demonstrations (3,200 tokens) and 32 new tokens; None if the weights do not fit."""
    sizes = shape(name)
    taken = CONTEXT_BYTES + weights_bytes(sizes, quantize) + 0.5 * GIB
    free = gigabytes * GIB * (1 - RESERVED_FRACTION) - taken
    prefill = prefill_bytes(sizes, 8192 // 3200, 3200)
    return max(0, int((free - prefill) // row_bytes(sizes, 3232, copies=copies))) if free > 0 else None


@pytest.mark.parametrize(
    ("name", "quantize", "gib", "now", "by_layer"),
    [
        ("LLaVA", "none", 13.2, (2, 9, 19), (4, 18, 37)),
        ("LLaVA", "nf4", 4.5, (5, 12, 22), (10, 24, 42)),
        ("7B", "none", 15.4, (15, 81, 168), (29, 155, 324)),
        ("7B", "nf4", 6.7, (40, 106, 193), (78, 204, 372)),
        ("7B", "int8", 9.4, (32, 98, 186), (63, 189, 357)),
        ("32B", "none", 62.3, (None, None, 7), (None, None, 14)),
        ("32B", "nf4", 20.5, (0, 14, 33), (0, 28, 66)),
        ("72B", "none", 136.7, (None, None, None), (None, None, None)),
        ("72B", "nf4", 42.7, (None, 0, 15), (None, 0, 30)),
        ("72B", "int8", 71.4, (None, None, 1), (None, None, 2)),
    ],
)
def test_rows_on_cards_of_24_48_and_80_gigabytes(name, quantize, gib, now, by_layer) -> None:
    layers = shape(name).layers
    assert round(weights_bytes(shape(name), quantize) / GIB, 1) == gib
    assert tuple(rows(name, quantize, card, 2) for card in (24, 48, 80)) == now
    assert tuple(rows(name, quantize, card, 1 + 1 / layers) for card in (24, 48, 80)) == by_layer


def test_scales_in_eight_bits_and_a_quantized_head_need_less() -> None:
    sizes = shape("7B")
    assert weights_bytes(sizes, "nf4", double_quant=True) < weights_bytes(sizes, "nf4") < weights_bytes(sizes, "int8")
    assert weights_bytes(sizes, "int8", double_quant=True) == weights_bytes(sizes, "int8")
    whole = model_shape(qwen("7B"), vision=True, head=True)
    assert whole.quantizable == sizes.quantizable + 3584 * 152064 + VISION_LINEAR


# per layer: qkv, proj and three matrices of the MLP; then the merger's two
VISION_LINEAR = 32 * (1280 * 3840 + 1280**2 + 3 * 1280 * 3420) + 5120 * 5120 + 5120 * 3584


def test_weights_and_cache_equal_those_of_a_model_in_memory() -> None:
    from transformers import AutoModelForImageTextToText, DynamicCache, LlavaConfig

    config = LlavaConfig(
        text_config={
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
        },
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        image_token_index=499,
    )  # fmt: skip
    model, sizes = AutoModelForImageTextToText.from_config(config).eval(), model_shape(config)
    cache = DynamicCache(config=config.text_config)
    with torch.inference_mode():
        model(input_ids=torch.ones(3, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert stored == 3 * 7 * kv_bytes_per_token(sizes, 4)
    elements = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    assert weights_bytes(sizes, element_bytes=4) == elements * 4


def config_of(kind: str, sizes: tuple[int, int, int, int, int, int]) -> Any:
    """A config of LLaVA or Qwen2.5-VL with a small vision tower.

    sizes: hidden size, inner size, layers, heads, key-value heads, vocabulary.
    """
    from transformers import LlavaConfig, Qwen2_5_VLConfig

    hidden, inner, num_layers, heads, kv_heads, vocabulary = sizes
    text = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": num_layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "llava":
        tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlavaConfig(
            text_config={"model_type": "llama", **text},
            vision_config={"model_type": "clip_vision_model", **tower},
            image_token_index=vocabulary - 1,
        )
    half = hidden // heads // 2
    sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    return Qwen2_5_VLConfig(
        text_config={**text, "tie_word_embeddings": False, "rope_parameters": rope},
        vision_config={
            "depth": 1, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": hidden,
        },
        tie_word_embeddings=False,
    )  # fmt: skip


def peak_of_prefill(
    config: Any, rows_read: int, width: int, *, attention: str, padded: bool, dtype: torch.dtype
) -> float:
    """Bytes that a prefill of a real model takes above weights and cache."""
    from transformers import AutoModelForImageTextToText, DynamicCache

    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    mask = torch.ones(rows_read, width, dtype=torch.long)
    mask[0, :5] = 0 if padded else 1
    cache = DynamicCache(config=config.text_config)
    with torch.inference_mode(), LiveStorages() as live:
        model(
            input_ids=torch.ones(rows_read, width, dtype=torch.long), attention_mask=mask,
            position_ids=torch.arange(width).expand(rows_read, -1), cache=cache, logits_to_keep=1,
        ).logits[:, -1].float()  # fmt: skip
    return live.peak - sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("kind", ["llava", "qwen"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "case",
    [  # inner size, heads, key-value heads, rows, width, padded, dtype
        (800, 4, 4, 4, 128, True, torch.float32),  # the MLP needs the most
        (320, 4, 2, 2, 512, True, torch.float32),  # attention does
        (320, 8, 2, 2, 512, False, torch.float32),
        (320, 4, 2, 2, 512, True, torch.bfloat16),
    ],
    ids=str,
)
def test_the_peak_of_a_prefill_is_that_of_live_storages(kind: str, attention: str, case: tuple[Any, ...]) -> None:
    inner, heads, kv_heads, rows_read, width, padded, dtype = case
    config = config_of(kind, (256, inner, 3, heads, kv_heads, 1000))
    measured = peak_of_prefill(config, rows_read, width, attention=attention, padded=padded, dtype=dtype)
    estimate = prefill_bytes(
        decoder_shape(config), rows_read, width, dtype.itemsize, padded=padded, attention=attention
    )
    assert estimate == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(("kind", "attention"), [("llava", "eager"), ("qwen", "sdpa")][: 1 + tiny_models.IS_WHOLE])
def test_the_peak_of_a_model_of_100_million_parameters(kind: str, attention: str) -> None:
    config = config_of(kind, (768, 2048, 8, 12, 2, 32000))
    measured = peak_of_prefill(config, 2, 512, attention=attention, padded=True, dtype=torch.float32)
    assert prefill_bytes(decoder_shape(config), 2, 512, 4, attention=attention) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_peak_of_a_step_whose_rows_change_is_that_of_its_rows(name: str, model_of: Callable[[str], HF]) -> None:
    hf, count = model_of(name), 32
    sizes = decoder_shape(hf.checkpoint.config)
    with torch.inference_mode():
        session = hf.open([tiny_models.prompt([*range(12 - i % 2)]) for i in range(count)])
        session.advance(torch.ones(count, dtype=torch.long))
        with LiveStorages() as live:
            for layer in session.cache.layers:
                live.follow(layer.keys)
                live.follow(layer.values)
            del layer
            session.retain(torch.arange(count - 1, -1, -1))
            session.advance(torch.ones(count, dtype=torch.long))
    assert count * row_bytes(sizes, session.width, 4, decode_copies(sizes)) == pytest.approx(live.peak, rel=0.1)


def test_sizes_that_differ_between_layers_count_by_the_largest() -> None:
    """As in Gemma 4, whose full layers have wider heads than its sliding ones."""
    import transformers

    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma4TextConfig(num_hidden_layers=2, head_dim=64, layer_types=layers)
    dims = {layer.head_dim for layer in config.per_layer_config}
    assert len(dims) > 1
    assert decoder_shape(config).head_dim == max(dims)


def test_sizes_by_layer_count_as_the_largest_and_a_missing_one_is_named() -> None:
    from types import SimpleNamespace

    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
    text = SimpleNamespace(**sizes, intermediate_size=[96, 128], num_key_value_heads=None)
    config = SimpleNamespace(text_config=text, get_text_config=lambda **_: text)
    assert decoder_shape(config) == ModelShape(2, 64, 128, 4, 4, 16, 100)
    del text.intermediate_size
    with pytest.raises(ModelError, match="SimpleNamespace has no usable 'intermediate_size'"):
        decoder_shape(config)


PATCH = 14
TINY, LARGE = (64, 160, 3, 2), (768, 3072, 12, 12)
"""Hidden size, inner size, layers, heads. The large tower has 85 to 115 million parameters."""


def tower_config(kind: str, sizes: tuple[int, int, int, int], side: int) -> Any:
    """LLaVA with a tower of CLIP or SigLIP, or Qwen2.5-VL. side: patches of a side of the image."""
    from transformers import LlavaConfig, Qwen2_5_VLConfig

    hidden, inner, layers, heads = sizes
    text = {
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99,
    }  # fmt: skip
    if kind == "qwen":
        rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}
        return Qwen2_5_VLConfig(
            text_config={
                **text, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "rope_parameters": rope,
            },
            vision_config={
                "depth": layers, "hidden_size": hidden, "intermediate_size": inner, "num_heads": heads,
                "out_hidden_size": 64, "fullatt_block_indexes": [1],
            },
        )  # fmt: skip
    tower = {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": side * PATCH, "patch_size": PATCH,
    }  # fmt: skip
    return LlavaConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": f"{kind}_vision_model", **tower},
        image_token_index=98,
    )


def peak_of_tower(config: Any, images: int, side: int, *, attention: str, dtype: torch.dtype) -> float:
    """Bytes that the tower of a real model takes above its weights."""
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    with no_init_weights():  # random numbers for 100 million weights take seconds
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    if config.model_type == "llava":
        pixels, more = torch.rand(images, 3, side * PATCH, side * PATCH), {}
    else:
        pixels = torch.rand(images * side**2, 3 * 2 * PATCH**2)
        more = {"image_grid_thw": torch.tensor([[1, side, side]] * images)}
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    with torch.inference_mode(), LiveStorages() as live:
        pixels = pixels.to(dtype, copy=True)
        model.model.get_image_features(pixels, return_dict=True, **more)
    return live.peak


@pytest.mark.parametrize(
    "case",
    [
        ("clip", TINY, 2, 16, torch.float32, "sdpa"),
        ("clip", TINY, 1, 16, torch.bfloat16, "eager"),
        ("siglip", TINY, 1, 16, torch.bfloat16, "sdpa"),
        ("siglip", TINY, 2, 16, torch.float32, "eager"),
        ("qwen", TINY, 2, 16, torch.float32, "sdpa"),
        ("qwen", TINY, 3, 24, torch.float32, "eager"),
        ("qwen", TINY, 1, 24, torch.bfloat16, "sdpa"),
        ("qwen", TINY, 1, 24, torch.bfloat16, "eager"),
        ("clip", LARGE, 1, 8, torch.float32, "sdpa"),
        ("qwen", LARGE, 1, 8, torch.float32, "eager"),
    ],
    ids=str,
)
def test_the_peak_of_a_vision_tower_is_that_of_live_storages(
    case: tuple[str, tuple[int, int, int, int], int, int, torch.dtype, str],
) -> None:
    kind, sizes, images, side, dtype, attention = case
    config, tokens = tower_config(kind, sizes, side), side**2 / (4 if kind == "qwen" else 1)
    measured = peak_of_tower(config, images, side, attention=attention, dtype=dtype)
    tower = tower_sizes(config)
    assert tower is not None
    sizes_of_pass = {"patches": side**2, "tokens": tokens, "token_values": 64, "element_bytes": dtype.itemsize}
    estimate = replace(tower, **sizes_of_pass, attention=attention).peak_bytes(images)
    assert estimate == pytest.approx(measured, rel=0.1)
