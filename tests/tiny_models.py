"""Tiny vision-language checkpoints with random weights: real architectures, real processors, real chat templates.

`save("llava", folder)` writes a checkpoint that `from_pretrained` reads; nothing is downloaded. The tokenizer knows the
256 bytes and the special tokens, without merges. Weights have unit gain, so that the context decides the next token: a
wrong position, mask or picture shows in the logits.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from icl.pictures import Picture
from icl.streams import StreamKey
from icl.types import Part, Prompt, Role, Turn

WIDTH, LAYERS, TOWER, WINDOW = 64, 3, 32, 24

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}SLOT{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</turn>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = ("<system>", "<user>", "<assistant>", "</turn>")

Made = tuple[Any, Any, str]
"""Config, processor, and what stands in a text for one picture."""


@dataclasses.dataclass(frozen=True)
class Size:
    """width, layers: of the language model. tower: width of the vision model. window: of sliding attention."""

    width: int = WIDTH
    layers: int = LAYERS
    tower: int = TOWER
    window: int = WINDOW


def save(name: str, folder: Path, size: Size = Size(), seed: int = 0) -> Path:
    """A checkpoint of the architecture `name` (a key of ARCHITECTURES) in `folder`."""
    config, processor, slot = ARCHITECTURES[name](size)
    processor.chat_template = TEMPLATE.replace("SLOT", slot)
    with torch.random.fork_rng():  # what the architecture draws itself: vectors and the like
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config).float().eval()
    draw_weights(model, seed)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def draw_weights(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        model.get_input_embeddings().weight.normal_(0, 1, generator=generator)


def picture(seed: int, size: tuple[int, int] | None = None) -> Picture:
    """A random picture whose (height, width) follows from the seed unless given."""
    draw = np.random.default_rng(seed)
    height, width = size or draw.choice([40, 56, 84, 120], 2)
    coarse = draw.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BILINEAR)
    return Picture.from_image(image, f"picture {seed}")


def turn(role: Role, *content: str | Picture, name: str = "") -> Turn:
    return Turn(role, tuple(Part(item, f"{name}.{i}" if name else "") for i, item in enumerate(content)))


def prompt(
    pictures: list[int], question: str = "colour?", query: str = "q", size: tuple[int, int] | None = None
) -> Prompt:
    """Demonstrations as turns, one picture each; the last picture is the query's. No picture: a question alone."""
    turns = []
    for seed in pictures[:-1]:
        turns += [turn("user", picture(seed, size), "what?", name=f"demo[{seed}]"), turn("assistant", f"shape {seed}")]
    shown = [picture(seed, size) for seed in pictures[-1:]]
    return Prompt((*turns, turn("user", *shown, question, name="query")), StreamKey(0, query))


def prompts() -> list[Prompt]:
    """Five prompts of different lengths and numbers of pictures, one without any, some pictures shared."""
    return [
        prompt([1, 2, 3]),
        prompt([4], "how many are there in it?"),
        prompt([5, 1, 6, 2], "x"),
        prompt([], "hello"),
        prompt([2, 7], "what?"),
    ]


def conversations(chosen: list[Prompt]) -> list[list[dict[str, Any]]]:
    """The prompts as the processors' own `apply_chat_template` takes them, pictures included."""
    return [
        [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if part.picture is None
                    else {"type": "image", "image": part.picture.open()}
                    for part in turn.parts
                ],
            }
            for turn in prompt.turns
        ]
        for prompt in chosen
    ]


def tokenizer(named: dict[str, str], more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = dict.fromkeys(["<pad>", "<eos>", *TURNS, *named.values(), *more])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left", extra_special_tokens=named
    )


def text_settings(words: PreTrainedTokenizerFast, size: Size, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 320,
        "hidden_size": size.width,
        "intermediate_size": 2 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    } | more


def tower_settings(size: Size, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": size.tower,
        "intermediate_size": 2 * size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    } | more


def llava(size: Size) -> Made:
    words = tokenizer({"image_token": "<image>"})
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower_settings(size, image_size=28, patch_size=7)),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_index=words.image_token_id,
        image_seq_length=16,
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = transformers.LlavaProcessor(
        images, words, patch_size=7, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return config, processor, "<image>"


def llava_onevision(size: Size) -> Made:
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower_settings(size), vision_use_head=False),
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_grid_pinpoints=grid,
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
    )
    images = transformers.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    video = transformers.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    processor = transformers.LlavaOnevisionProcessor(
        images, words, video, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    return config, processor, "<image>"


def idefics3(size: Size) -> Made:
    words = _idefics_tokenizer()
    config = transformers.Idefics3Config(
        vision_config=tower_settings(size),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return config, transformers.Idefics3Processor(images, words, image_seq_len=4), "<image>"


def smolvlm(size: Size) -> Made:
    words = _idefics_tokenizer()
    config = transformers.SmolVLMConfig(
        vision_config=tower_settings(size),
        text_config=transformers.LlamaConfig(**text_settings(words, size)),
        image_token_id=words.image_token_id,
        scale_factor=2,
    )
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    video = transformers.SmolVLMVideoProcessor()
    return config, transformers.SmolVLMProcessor(images, words, video, image_seq_len=4), "<image>"


def internvl(size: Size) -> Made:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(names)
    config = transformers.InternVLConfig(
        vision_config=tower_settings(size, image_size=(32, 32), patch_size=(8, 8)),
        text_config=transformers.Qwen2Config(**text_settings(words, size)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    video = transformers.InternVLVideoProcessor(size={"height": 32, "width": 32})
    return config, transformers.InternVLProcessor(images, words, video, image_seq_length=4), "<IMG_CONTEXT>"


def gemma3(size: Size) -> Made:
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


def qwen2_5_vl(size: Size) -> Made:
    words, slot = _qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(size, 32, 32, 16)}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_settings(words, size, rope_parameters=rope),
        vision_config=_qwen_tower(size, 7, intermediate_size=2 * size.tower, window_size=28, fullatt_block_indexes=[1]),
        **_qwen_ids(words),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=7, min_pixels=28 * 28, max_pixels=84 * 84)
    video = transformers.Qwen2VLVideoProcessor(patch_size=7)
    return config, transformers.Qwen2_5_VLProcessor(images, words, video), slot


def qwen3_5(size: Size) -> Made:
    words, slot = _qwen_tokenizer()
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
        "mrope_section": _sections(size, 32, 64, 64),
    }
    kinds = (["linear_attention", "full_attention", "linear_attention"] * size.layers)[: size.layers]
    text = text_settings(
        words,
        size,
        head_dim=size.width // 4,
        rope_parameters=rope,
        layer_types=kinds,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    config = transformers.Qwen3_5Config(
        text_config=text,
        vision_config=_qwen_tower(size, 8, intermediate_size=2 * size.tower, num_position_embeddings=64),
        **_qwen_ids(words),
    )
    images = transformers.Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=96 * 96)
    video = transformers.Qwen3VLVideoProcessor(patch_size=8)
    return config, transformers.Qwen3VLProcessor(images, words, video), slot


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    grid = tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    return tokenizer(named, ("<end_of_utterance>", "<global-img>", *grid))


def _qwen_tokenizer() -> tuple[PreTrainedTokenizerFast, str]:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    return tokenizer(named), "<|vision_start|><|image_pad|><|vision_end|>"


def _qwen_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return {f"{name}_id": words.convert_tokens_to_ids(getattr(words, name)) for name in names}


def _qwen_tower(size: Size, patch: int, **more: Any) -> dict[str, Any]:
    own = {"depth": 2, "hidden_size": size.tower, "num_heads": 2, "patch_size": patch, "out_hidden_size": size.width}
    return own | more


def _sections(size: Size, *shares: int) -> list[int]:
    return [size.width // share for share in shares]


ARCHITECTURES: dict[str, Callable[[Size], Made]] = {
    make.__name__: make for make in (llava, llava_onevision, idefics3, smolvlm, internvl, gemma3, qwen2_5_vl, qwen3_5)
}
