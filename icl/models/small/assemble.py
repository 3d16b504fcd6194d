"""The checkpoint: language model, vision tower and learned parts, as transformers' `FastVlmForConditionalGeneration`.

timm's `tf_efficientnet_lite0` has the tensors of the package's network in the same order, so the tower is exact. LoRA
(Hu et al., ICLR 2022) is merged: W + scale B A. What was learned fits in one file of 6 MB.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icl import ModelError, safetensors, transformers
from icl.hub import hide_bars_of_logs, hide_transformers_progress
from icl.models.small.efficientnet import DEVIATION, MEAN, load_network
from icl.models.small.folder import LANGUAGE_MODEL

RESERVED_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN_ID = "<reponame>", "<image>", 4
"""A token of the vocabulary that no text of this project uses becomes the placeholder of an image."""


def read_language_model() -> tuple[Any, Any]:
    """(LlamaForCausalLM in float32, tokenizer). The model cannot be saved, because it was read from a GGUF file."""
    file = LANGUAGE_MODEL.checked_file()
    with hide_transformers_progress(), hide_bars_of_logs():
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def load_language_model() -> tuple[Any, Any]:
    """As `read_language_model`, with a copy of the model that can be saved and trained."""
    read, tokenizer = read_language_model()
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(plain_config(read)))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model.eval(), tokenizer


def plain_config(language_model: Any) -> dict[str, Any]:
    """The config without traces of the file that it was read from."""
    config: dict[str, Any] = language_model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version", "dtype"):
        config.pop(key, None)
    return config


SIDE, PLACES, WIDTH = 128, 16, 1280
"""An image of 128 x 128 pixels has 4 x 4 feature vectors of 1,280 numbers."""
LORA_SCALE = 2.0
TOWER = "model.vision_tower."
OTHER_CLASSES = "model.path: 'small' cannot be assembled with the installed versions of transformers and timm."
OTHER_WEIGHTS = (
    "model.path: small.safetensors is not what `python -m lab.small train` writes. Install the toolkit again."
)
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


def assemble(weights: Mapping[str, Tensor], out: Path) -> None:
    """Writes the checkpoint.

    Args:
        weights: What was learned: `projector.linear_{1,2}.{weight,bias}`, and `lora.{module}.lora_{A,B}`.
        out: An existing folder, which `AutoModelForImageTextToText.from_pretrained` then loads.

    Raises:
        ModelError: A package is absent or has other weights, or transformers or timm have other tensors.
    """
    language_model, tokenizer = read_language_model()
    config = transformers.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "tf_efficientnet_lite0",
            "do_pooling": False,
            "hidden_size": WIDTH,
            "model_args": {},
        },
        text_config=plain_config(language_model),
        image_token_index=IMAGE_TOKEN_ID,
        image_seq_length=PLACES,
        tie_word_embeddings=True,
        architectures=["FastVlmForConditionalGeneration"],
        dtype="bfloat16",
    )
    with torch.device("meta"):
        expected = transformers.FastVlmForConditionalGeneration(config).state_dict()
    del expected["lm_head.weight"]  # tied to the input embeddings
    state = merged_state(language_model.state_dict(), weights)
    state |= tower_state([name for name in expected if name.startswith(TOWER)])
    state |= {f"model.multi_modal_{name}": value for name, value in weights.items() if name.startswith("projector.")}
    _check_shapes(state, expected)
    safetensors.torch.save_file(state, out / "model.safetensors", {"format": "pt"})
    config.save_pretrained(out)
    end_of_line = tokenizer("\n", add_special_tokens=False).input_ids[0]
    transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, end_of_line],
        pad_token_id=tokenizer.eos_token_id,
    ).save_pretrained(out)
    _save_processor(tokenizer, out)
    for name in ("config.json", "generation_config.json"):  # so that equal content is equal to the byte
        text = json.loads((out / name).read_text(encoding="utf-8"))
        text.pop("transformers_version", None)
        (out / name).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def tower_state(names: Sequence[str]) -> dict[str, Tensor]:
    """The package's network under the names of timm's, in their common order, in float32."""
    tensors = [value for name, value in load_network().state_dict().items() if not name.startswith("_fc")]
    if len(tensors) != len(names):
        raise ModelError(f"{OTHER_CLASSES} Its vision tower has {len(names)} tensors instead of {len(tensors)}.")
    return dict(zip(names, tensors, strict=True))


def merged_state(language_model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The language model's weights with LoRA merged, by their names in the checkpoint, in bfloat16.

    The sums are in float64, so that their order, which differs between machines, does not change a rounded weight.

    Raises:
        ModelError: A matrix has no partner, no module or another shape.
    """
    merged = {name: value for name, value in language_model.items() if name != "lm_head.weight"}
    pairs = dict.fromkeys(name[: -len("_A")] for name in weights if name.startswith("lora."))
    for pair in pairs:
        key = f"{pair.removeprefix('lora.').removesuffix('.lora')}.weight"
        down, up = weights.get(f"{pair}_A"), weights.get(f"{pair}_B")
        if down is None or up is None:
            raise ModelError(f"{OTHER_WEIGHTS} It has no tensor {pair}_{'A' if down is None else 'B'}.")
        if key not in merged or merged[key].shape != (len(up), down.shape[-1]) or up.shape[-1] != len(down):
            raise ModelError(f"{OTHER_WEIGHTS} The product of {pair}_B and {pair}_A is not a change of {key}.")
        merged[key] = merged[key].double() + LORA_SCALE * up.double() @ down.double()
    return {name.replace("model.", "model.language_model.", 1): value.bfloat16() for name, value in merged.items()}


def _check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    shapes = {name: value.shape for name, value in state.items()}
    others = {name: value.shape for name, value in expected.items()}
    if wrong := sorted(name for name in {*shapes, *others} if shapes.get(name) != others.get(name)):
        raise ModelError(f"{OTHER_CLASSES} Tensors that differ: {', '.join(wrong[:3])}.")


def _save_processor(tokenizer: Any, out: Path) -> None:
    tokenizer.save_pretrained(out)
    file = out / "tokenizer.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    for token in text["added_tokens"]:
        token["content"] = IMAGE_TOKEN if token["content"] == RESERVED_TOKEN else token["content"]
    vocabulary = text["model"]["vocab"]
    text["model"]["vocab"] = {IMAGE_TOKEN if name == RESERVED_TOKEN else name: i for name, i in vocabulary.items()}
    file.write_text(json.dumps(text, ensure_ascii=False), encoding="utf-8")
    renamed = transformers.AutoTokenizer.from_pretrained(out)
    if renamed.convert_tokens_to_ids(IMAGE_TOKEN) != IMAGE_TOKEN_ID:
        raise ModelError(f"{OTHER_CLASSES} Its tokenizer does not have {RESERVED_TOKEN} as token {IMAGE_TOKEN_ID}.")
    images = transformers.CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=MEAN.reshape(-1).tolist(),
        image_std=DEVIATION.reshape(-1).tolist(),
    )
    processor = transformers.LlavaProcessor(
        images,
        renamed,
        patch_size=SIDE // 4,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(out)
