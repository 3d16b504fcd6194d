"""The checkpoint: language model, vision tower and learned parts, as transformers' `FastVlmForConditionalGeneration`.

timm's `tf_efficientnet_lite0` has the tensors of the package's network in the same order, so the tower is exact. LoRA
is merged. What was learned fits in one file of 6 MB; the rest comes from packages.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.small.drawings_data import PLACES, SIDE, WIDTH
from experiments.small.language_model import IMAGE_TOKEN, IMAGE_TOKEN_ID, RESERVED_TOKEN, load_language_model
from experiments.small.model import ALPHA, RANK, SmallModel
from retrievers.embedders.efficientnet import DEVIATION, MEAN, load_network

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '\nAnswer: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + "' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] != 'user' %}{{ '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\nAnswer:' }}{% endif %}"
)
"""Image and question, then "Answer:" and the answer on one line. A line break behind a tag would be dropped."""


def learned_weights(model: SmallModel) -> dict[str, Tensor]:
    """What training learned: the projector with its scales folded in, and the matrices of LoRA."""
    first, last = model.projector[0], model.projector[2]
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear):
        raise TypeError("the projector has two linear layers.")
    weights: dict[str, Tensor] = {
        "projector.linear_1.weight": first.weight / model.scale,
        "projector.linear_1.bias": first.bias,
        "projector.linear_2.weight": last.weight * model.norm,
        "projector.linear_2.bias": last.bias * model.norm,
    }
    for name, value in model.language_model.named_parameters():
        if ".lora_" in name:
            short = name.removeprefix("base_model.model.").replace(".default.weight", "")
            weights[f"lora.{short}"] = value
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in weights.items()}


def assemble(weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes the checkpoint.

    Args:
        weights: `learned_weights`.
        out: The folder, which `AutoModelForImageTextToText.from_pretrained` then loads.
    """
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    language_model, tokenizer = load_language_model()
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "tf_efficientnet_lite0",
            "do_pooling": False,
            "hidden_size": WIDTH,
            "model_args": {},
        },
        text_config=language_model.config.to_dict(),
        image_token_index=IMAGE_TOKEN_ID,
        image_seq_length=PLACES,
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config).eval()
    copy_tower(model.model.vision_tower.timm_model)
    state = merged_state(language_model.state_dict(), weights)
    state |= {
        f"model.multi_modal_projector.{name.removeprefix('projector.')}": value.float()
        for name, value in weights.items()
        if name.startswith("projector.")
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [name for name in missing if "vision_tower" not in name and name != "lm_head.weight"] + unexpected
    if wrong:
        raise RuntimeError(f"the classes of transformers have changed: {wrong[:3]} are missing or new.")
    end_of_line = tokenizer("\n", add_special_tokens=False).input_ids[0]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end_of_line]
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    model.to(torch.bfloat16).save_pretrained(out)
    _save_processor(tokenizer, out)


def copy_tower(timm_model: Any) -> None:
    """Copies the package's network into timm's, tensor by tensor in their common order."""
    ours = [(name, value) for name, value in load_network().state_dict().items() if not name.startswith("_fc")]
    theirs = [(name, value) for name, value in timm_model.state_dict().items() if not name.startswith("classifier")]
    if [value.shape for _, value in ours] != [value.shape for _, value in theirs]:
        raise RuntimeError("timm's tf_efficientnet_lite0 has other tensors than the package's network.")
    timm_model.load_state_dict({name: value for (name, _), (_, value) in zip(theirs, ours, strict=True)}, strict=False)


def merged_state(language_model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's weights with LoRA merged (W + alpha / r B A), by their names in the checkpoint."""
    merged = {name: value.float().clone() for name, value in language_model.items()}
    for name, down in weights.items():
        if name.startswith("lora.") and name.endswith("lora_A"):
            target = name.removeprefix("lora.").removesuffix(".lora_A")
            up = weights[f"lora.{target}.lora_B"]
            merged[f"{target}.weight"] += ALPHA / RANK * up.float() @ down.float()
    return {
        name.replace("model.", "model.language_model.", 1): value
        for name, value in merged.items()
        if name != "lm_head.weight"
    } | {"lm_head.weight": merged["model.embed_tokens.weight"]}


def _save_processor(tokenizer: Any, out: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    tokenizer.save_pretrained(out)
    file = out / "tokenizer.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    for token in text["added_tokens"]:
        token["content"] = IMAGE_TOKEN if token["content"] == RESERVED_TOKEN else token["content"]
    vocabulary = text["model"]["vocab"]
    text["model"]["vocab"] = {IMAGE_TOKEN if name == RESERVED_TOKEN else name: i for name, i in vocabulary.items()}
    file.write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    renamed = AutoTokenizer.from_pretrained(out)
    if renamed.convert_tokens_to_ids(IMAGE_TOKEN) != IMAGE_TOKEN_ID:
        raise RuntimeError(f"the tokenizer does not have {RESERVED_TOKEN} as token {IMAGE_TOKEN_ID}.")
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=MEAN.reshape(-1).tolist(),
        image_std=DEVIATION.reshape(-1).tolist(),
    )
    processor = LlavaProcessor(
        images,
        renamed,
        patch_size=SIDE // 4,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(out)
